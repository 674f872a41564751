"""Contrastive losses: an anchor must find its other view among all the embeddings of the batch.

Rows of similarities are recomputed, a block at a time: memory grows with N, not with N^2.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmini.losses.loss import Loss, Signals, batch_mean, read
from jaxmini.state import Array, Batch, Metrics

MASKED = -1e30  # Finite: -inf - (-inf) would be NaN in a row without candidates.


class Contrast(NamedTuple):
    """What each anchor, or each example, scores.

    Attributes:
        nll: negative log-likelihood of the positive, float32 [N].
        nearest: 1 where the positive is nearer than every negative, float32 [N].
    """

    nll: Array
    nearest: Array


@dataclasses.dataclass(frozen=True)
class nt_xent(Loss):
    """NT-Xent of the signals ``view_0`` and ``view_1``; see :func:`nt_xent_loss`.

    Metrics: ``nt_xent`` and ``contrastive_accuracy``, how often the positive is the nearest.

    Raises:
        ValueError: ``temperature`` is not positive and finite, or ``block`` is below 1.
    """

    temperature: float = 0.2
    block: int = 512

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, signals: Signals, batch: Batch) -> tuple[Array, Metrics]:
        views = (read(signals, name, self) for name in ("view_0", "view_1"))
        contrast = nt_xent_rows(*views, self.temperature, block=self.block, mask=batch.get("mask"))
        value = batch_mean(contrast.nll, batch)
        accuracy = batch_mean(contrast.nearest, batch)
        return value, {"nt_xent": value, "contrastive_accuracy": accuracy}


@dataclasses.dataclass(frozen=True)
class info_nce(Loss):
    """InfoNCE of queries ``view_0`` against keys ``view_1``; see :func:`info_nce_loss`.

    Metrics: ``info_nce`` and ``contrastive_accuracy``, how often the positive is the nearest.

    Raises:
        ValueError: ``temperature`` is not positive and finite, or ``block`` is below 1.
    """

    temperature: float = 0.1
    symmetric: bool = False
    block: int = 512

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, signals: Signals, batch: Batch) -> tuple[Array, Metrics]:
        contrast = info_nce_rows(
            read(signals, "view_0", self),
            read(signals, "view_1", self),
            self.temperature,
            symmetric=self.symmetric,
            block=self.block,
            mask=batch.get("mask"),
        )
        value = batch_mean(contrast.nll, batch)
        accuracy = batch_mean(contrast.nearest, batch)
        return value, {"info_nce": value, "contrastive_accuracy": accuracy}


def nt_xent_loss(
    z0: Array, z1: Array, temperature: Array | float, *, block: int = 512, mask: Array | None = None
) -> Array:
    """Normalized-temperature cross-entropy over two views, float32 [].

    With the 2N embeddings normalised, ``s_ik = z_i . z_k / temperature`` and ``p(i)`` the other
    view of ``i``: ``1/2N sum_i [log sum_{k != i} exp(s_ik) - s_ip(i)]``. Chance: ``log(2N - 1)``.
    Differentiable in reverse mode, once, in the embeddings and the temperature.

    Args:
        z0: first views, any float dtype [N, D]; computed in float32.
        z1: second views [N, D], row for row the same examples.
        temperature: > 0, float or []; a traced value cannot be checked here.
        block: anchors whose similarities exist at once; has no influence on the result.
        mask: [N] in {0, 1}; examples at 0 are neither anchors nor negatives.

    Raises:
        ValueError: the views differ in shape or are not [N, D], or ``block`` is below 1.

    Source: Chen et al., A Simple Framework for Contrastive Learning (2020), equation 1; the code
    published with it returns twice this value.
    """
    return _mean(nt_xent_rows(z0, z1, temperature, block=block, mask=mask).nll, mask)


def nt_xent_rows(
    z0: Array, z1: Array, temperature: Array | float, *, block: int = 512, mask: Array | None = None
) -> Contrast:
    """NT-Xent of each example [N], the mean of its two anchors. Arguments as :func:`nt_xent_loss`.

    Masked examples have no influence on the others; their own rows mean nothing.
    """
    z0, z1, valid, temperature = _prepare(z0, z1, temperature, block, mask)
    z, count = jnp.concatenate([z0, z1]), len(z0)
    own = jnp.arange(2 * count)
    candidates = _Candidates(jnp.roll(own, count), excluded=own, valid=jnp.tile(valid, 2))
    anchors = _contrast(z / temperature, z, candidates, block)
    return jax.tree.map(lambda rows: jnp.mean(rows.reshape(2, count), axis=0), anchors)


def info_nce_loss(
    queries: Array,
    keys: Array,
    temperature: Array | float,
    *,
    symmetric: bool = False,
    block: int = 512,
    mask: Array | None = None,
) -> Array:
    """Cross-entropy of each query's own key among all the keys of the batch, float32 [].

    With normalised embeddings and ``s_ik = q_i . k_k / temperature``:
    ``1/N sum_i [log sum_k exp(s_ik) - s_ii]``. Chance: ``log N``. ``symmetric`` takes the mean with
    the loss of keys against queries, the form of CLIP. Gradients reach queries and keys.
    Differentiable in reverse mode, once, in the embeddings and the temperature.

    Args:
        queries: any float dtype [N, D]; computed in float32.
        keys: [N, D], row for row the queries' positives.
        temperature: > 0, float or []; a traced value cannot be checked here.
        symmetric: whether keys look for their queries too.
        block: anchors whose similarities exist at once; has no influence on the result.
        mask: [N] in {0, 1}; examples at 0 are neither anchors nor negatives.

    Raises:
        ValueError: queries and keys differ in shape or are not [N, D], or ``block`` is below 1.

    Source: van den Oord et al., Representation Learning with Contrastive Predictive Coding (2018),
    equation 4; symmetric: Radford et al., Learning Transferable Visual Models (2021), figure 3.
    """
    rows = info_nce_rows(queries, keys, temperature, symmetric=symmetric, block=block, mask=mask)
    return _mean(rows.nll, mask)


def info_nce_rows(
    queries: Array,
    keys: Array,
    temperature: Array | float,
    *,
    symmetric: bool = False,
    block: int = 512,
    mask: Array | None = None,
) -> Contrast:
    """InfoNCE of each example [N]. Arguments as :func:`info_nce_loss`.

    Masked examples have no influence on the others; their own rows mean nothing.
    """
    queries, keys, valid, temperature = _prepare(queries, keys, temperature, block, mask)
    own = jnp.arange(len(queries))
    candidates = _Candidates(own, excluded=jnp.full_like(own, -1), valid=valid)
    forward = _contrast(queries / temperature, keys, candidates, block)
    if not symmetric:
        return forward
    backward = _contrast(keys / temperature, queries, candidates, block)
    return jax.tree.map(lambda there, back: (there + back) / 2, forward, backward)


class _Candidates(NamedTuple):
    """Which keys a query is compared with.

    Attributes:
        positive: the key it must find, int [Q].
        excluded: a key it does not see (itself), int [Q]; -1 for none.
        valid: the keys that exist, bool [K].
    """

    positive: Array
    excluded: Array
    valid: Array


class _Block(NamedTuple):
    """Some of the queries [R, D] and their candidates [R]."""

    queries: Array
    positive: Array
    excluded: Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _contrast(queries: Array, keys: Array, candidates: _Candidates, block: int) -> Contrast:
    """Every query's cross-entropy among its candidate keys, by blocks of queries.

    The queries come divided by the temperature: autodiff gives its gradient outside, and the mask
    falls on finished logits (a masked logit divided by a temperature would spoil that gradient).
    """
    return _contrast_fwd(queries, keys, candidates, block)[0]


def _contrast_fwd(
    queries: Array, keys: Array, candidates: _Candidates, block: int
) -> tuple[Contrast, tuple]:
    def rows(part: _Block) -> tuple[Array, Array, Array]:
        negatives, _, score = _logits(part, keys, candidates.valid)
        hardest = jnp.max(negatives, axis=1)
        spread = jnp.sum(jnp.exp(negatives - hardest[:, None]), axis=1)
        # log(e^score + sum e^negatives) - score, without its cancellation when the score is high.
        return jax.nn.softplus(hardest + jnp.log(spread) - score), score, hardest

    parts = lax.map(rows, _blocks(_anchors(queries, candidates), block))
    nll, score, hardest = (part.reshape(-1)[: len(queries)] for part in parts)
    contrast = Contrast(nll, (score > hardest).astype(jnp.float32))
    return contrast, (queries, keys, candidates, nll, nll + score)


def _contrast_bwd(block: int, saved: tuple, cotangent: Contrast) -> tuple[Array, Array, None]:
    queries, keys, candidates, nll, lse = saved

    def rows(keys_gradient: Array, inputs: tuple) -> tuple[Array, Array]:
        part, nll, lse, weight = inputs
        negatives, positive, _ = _logits(part, keys, candidates.valid)
        # softmax - onehot: exp(negative - lse), and exp(-nll) - 1 at the positive.
        change = jnp.exp(negatives - lse[:, None])
        change = weight[:, None] * jnp.where(positive, jnp.expm1(-nll)[:, None], change)
        keys_gradient = keys_gradient + _einsum("rk,rd->kd", change, part.queries)
        return keys_gradient, _einsum("rk,kd->rd", change, keys)

    inputs = _blocks((_anchors(queries, candidates), nll, lse, cotangent.nll), block)
    keys_gradient, parts = lax.scan(rows, jnp.zeros_like(keys), inputs)
    return parts.reshape(-1, queries.shape[1])[: len(queries)], keys_gradient, None


_contrast.defvjp(_contrast_fwd, _contrast_bwd)


def _logits(part: _Block, keys: Array, valid: Array) -> tuple[Array, Array, Array]:
    """Negatives' logits, MASKED elsewhere [R, K]; where positives are [R, K]; their logits [R]."""
    logits = _einsum("rd,kd->rk", part.queries, keys)
    columns = jnp.arange(len(keys))[None, :]
    positive = columns == part.positive[:, None]
    negative = valid[None, :] & (columns != part.excluded[:, None]) & ~positive
    score = jnp.take_along_axis(logits, part.positive[:, None], axis=1)[:, 0]
    return jnp.where(negative, logits, MASKED), positive, score


def _einsum(subscripts: str, a: Array, b: Array) -> Array:
    # Full float32: accelerators would round the factors, and 1 / temperature magnifies it.
    return jnp.einsum(subscripts, a, b, precision=lax.Precision.HIGHEST)


def _anchors(queries: Array, candidates: _Candidates) -> _Block:
    return _Block(queries, candidates.positive, candidates.excluded)


def _blocks(tree: tuple, block: int) -> tuple:
    """Leaves [Q, ...] as [blocks, R, ...] with R <= block, zeros behind the last row.

    A row of zeros is harmless: its cross-entropy is finite and its cotangent zero.
    """
    count = len(jax.tree.leaves(tree)[0])
    blocks = -(-count // block)
    rows = -(-count // blocks)

    def cut(leaf: Array) -> Array:
        padding = [(0, blocks * rows - count)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, padding).reshape(blocks, rows, *leaf.shape[1:])

    return jax.tree.map(cut, tree)


def _unit(z: Array, valid: Array) -> Array:
    """Rows of length 1, float32, and rows of zeros where the example is not valid.

    The floor is inside the root: z / max(norm, eps) has a NaN gradient at z = 0.
    """
    z = jnp.where(valid[:, None], z.astype(jnp.float32), 0.0)
    return z * lax.rsqrt(jnp.maximum(jnp.sum(z * z, axis=1, keepdims=True), 1e-12))


def _mean(rows: Array, mask: Array | None) -> Array:
    return batch_mean(rows, {} if mask is None else {"mask": mask.astype(jnp.float32)})


def _prepare(
    z0: Array, z1: Array, temperature: Array | float, block: int, mask: Array | None
) -> tuple[Array, Array, Array, Array]:
    """Both views as unit rows, which examples are valid (bool [N]), the temperature as float32."""
    if z0.ndim != 2 or z0.shape != z1.shape:
        raise ValueError(f"expected two views [N, D] of one shape, got {z0.shape} and {z1.shape}")
    if not (isinstance(block, int) and block >= 1):
        raise ValueError(f"block={block} must be an integer of at least 1 (512 is a good size)")
    valid = jnp.ones(len(z0), bool) if mask is None else mask.astype(bool)
    return _unit(z0, valid), _unit(z1, valid), valid, jnp.asarray(temperature, jnp.float32)


def _check(loss: "nt_xent | info_nce") -> None:
    name = type(loss).__name__
    if not 0 < loss.temperature < math.inf:
        raise ValueError(f"{name}: temperature={loss.temperature} must be positive and finite")
    if not (isinstance(loss.block, int) and loss.block >= 1):
        raise ValueError(
            f"{name}: block={loss.block} must be an integer of at least 1 (512 is a good size)"
        )
