"""AdaRound: for each weight, up or down is learned, so that its layer leaves what the float layer leaves.

The nearest integer is best for a weight alone; the weights of a channel are added up, and roundings that
make up for one another are better together (Nagel et al., 2020).
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmini.compress.quantize.frozen import Frozen, freeze
from jaxmini.compress.quantize.layerwise import Layer, Layerwise, outputs_of
from jaxmini.compress.quantize.leaves import (
    Leaves,
    UnreachableError,
    replaced,
    unfolded_kernel,
)
from jaxmini.compress.quantize.pictures import checked_batches
from jaxmini.compress.quantize.plan import Plan, Weighted
from jaxmini.compress.quantize.stored import floats_of
from jaxmini.model import Model, Variables
from jaxmini.state import Array

# The sigmoid is stretched to (-0.1, 1.1) and cut to [0, 1], so that a decision can be reached.
STRETCH = (-0.1, 1.1)
# A weight this near to the end of the grid makes its scale, and stays.
AT_END = 1e-3
PICTURES = 64  # that an error is computed of at a time


@dataclasses.dataclass(frozen=True)
class adaround:
    """Learned rounding of every kernel, layer by layer, on pictures without labels.

    For each layer, with everything before it rounded already, an ``h`` in 0..1 a weight is learned by Adam,
    the weight being ``floor(w / scale) + h`` steps. The loss is the squared difference from what the float
    layer leaves after its rectifier, plus ``regularization`` times ``1 - |2 h - 1|^beta``, whose beta falls
    by a cosine and drives each h to 0 or 1. Both are relative, channel by channel: the error to that of the
    nearest integers, the regularizer to the number of weights.

    A channel for which the nearest integers leave no more error on all pictures keeps them. A layer whose
    kernel is no variable of its own stays as it is: ``without_kernel(plan)`` tells which and why.

    Called with a model, its calibrated variables and batches of pictures, it returns the variables. Kernels
    are written back so that each folds to whole steps of its scale: ``freeze`` gives the integers learned.

    Attributes:
        steps: of Adam, a layer, at least 1.
        batch_size: pictures a step, at least 1.
        learning_rate: of Adam, > 0.
        regularization: weight of the regularizer, >= 0.
        beta: its exponent at the start and at the end.
        warmup: share of the steps without it, 0..1.
        seed: which pictures a step sees.

    Raises:
        ValueError: a field is out of range. When called, the model is not quantized or not calibrated, there
            are no pictures or they are not finite, or no kernel can be changed.

    Source: Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization (2020), equations
    21 to 25.
    """

    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 1e-2
    regularization: float = 1.0
    beta: tuple[float, float] = (20.0, 2.0)
    warmup: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if not (isinstance(value := getattr(self, name), int) and value >= 1):
                raise ValueError(
                    f"adaround: {name} is {value!r}, expected an integer of at least 1"
                )
        if not (0 < self.learning_rate < np.inf and 0 <= self.regularization < np.inf):
            raise ValueError(
                f"adaround: learning_rate {self.learning_rate} must be > 0, regularization "
                f"{self.regularization} >= 0, both finite"
            )
        if not (np.inf > self.beta[0] >= self.beta[1] > 1 and 0 <= self.warmup < 1):
            raise ValueError(
                f"adaround: expected beta {self.beta} to fall and stay above 1, and warmup {self.warmup} "
                "in 0..1"
            )

    def __call__(self, model: Model, variables: Variables, batches: Iterable[Array]) -> Variables:
        network = Layerwise(model, variables, checked_batches("adaround", model, batches))
        plan, missing = network.plan, without_kernel(network.plan)
        if len(missing) == len(plan.weighted):
            reasons = "; ".join(dict.fromkeys(missing.values())) or "there is no layer"
            raise ValueError(f"adaround: no layer has a kernel of its own: {reasons}")
        arrays, leaves = jax.tree.leaves(floats_of(variables)), Leaves(plan)
        key, changes, learned = jax.random.key(self.seed), {}, {}
        for index, layer in enumerate(network):
            if layer.group.name in missing:
                continue
            problem = problem_of(layer, plan.kernel(layer.group).limit)
            integers = learn(problem, self, jax.random.fold_in(key, index))
            learned[layer.group.name] = integers
            kernel = integers.astype(np.float64) * layer.frozen.scale
            network.settle(layer, kernel.astype(np.float32), layer.frozen.float_bias)
            leaf = leaves.kernel(layer.group)
            changes[leaf] = unfolded_kernel(layer.group, kernel, arrays[leaf], network.values)
        changed = replaced(variables, changes)
        _check_frozen(freeze(plan, changed), learned)
        return changed


@flax.struct.dataclass
class Problem:
    """What is learned of a layer, as a tree: programs take its arrays, and hold none of them.

    Attributes:
        group: of the plan.
        steps: the kernel in steps of its scale, float32 [..., O].
        nearest: those rounded and clipped, as ``freeze`` has them.
        scale, bias: as numbers, [O].
        limit: the greatest integer.
        inputs: of the rounded network, all pictures, [N, ..., I].
        targets: what the float layer leaves of its own inputs, after its rectifier.
    """

    group: Weighted = flax.struct.field(pytree_node=False)
    steps: Array
    nearest: Array
    scale: Array
    bias: Array
    limit: int = flax.struct.field(pytree_node=False)
    inputs: Array
    targets: Array

    def outputs(self, inputs: Array, integers: Array) -> Array:
        """What the layer leaves with these integers, or numbers between them, [B, ..., *channels]."""
        return _answers(self.group, integers * _row(self.scale, integers), self.bias, inputs)

    def error(self, inputs: Array, targets: Array, integers: Array) -> jax.Array:
        """Mean squared difference from the targets, a channel [O]."""
        apart = jnp.square(self.outputs(inputs, integers) - targets)
        return jnp.mean(apart.reshape(-1, len(self.scale)), 0)


def without_kernel(plan: Plan) -> Mapping[str, str]:
    """The layers that ``adaround`` leaves as they are, and why, by name."""
    leaves, found = Leaves(plan), {}
    for group in plan.weighted:
        try:
            leaves.kernel(group)
        except UnreachableError as error:
            found[group.name] = str(error)
    return found


def _check_frozen(frozen: Frozen, learned: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError if freezing gives other integers than those learned."""
    for name, integers in learned.items():
        if np.any(frozen.kernels[name].kernel != integers):
            raise ValueError(
                f"adaround: freezing {name!r} does not give the integers learned: training holds some of "
                "its weights: call calibrate(model, variables, batches) first, which lets them go"
            )


def problem_of(layer: Layer, limit: int) -> Problem:
    """What ``learn`` solves for a layer."""
    group, frozen = layer.group, layer.frozen
    return Problem(
        group=group,
        steps=np.asarray(layer.kernel) / frozen.scale,
        nearest=frozen.kernel.astype(np.float32),
        scale=frozen.scale,
        bias=frozen.float_bias,
        limit=limit,
        inputs=jnp.concatenate(layer.rounded),
        targets=jnp.concatenate(
            [_answers(group, layer.kernel, layer.bias, batch) for batch in layer.inputs]
        ),
    )


def learn(problem: Problem, settings: adaround, key: jax.Array) -> np.ndarray:
    """The integers of a kernel, int8 [..., O]; of each channel the nearest ones where they are as good."""
    before = error_of(problem, problem.nearest)
    learned = np.asarray(_learned(problem, settings, before, key))
    after = error_of(problem, learned)
    return np.where(after < before, learned, problem.nearest).astype(np.int8)


def error_of(problem: Problem, integers: Array) -> np.ndarray:
    """Mean squared difference from the float layer over all pictures, a channel, float64 [O]."""
    count, total = len(problem.inputs), np.zeros(len(problem.scale))
    integers = np.asarray(integers, np.float32)
    for i in range(0, count, PICTURES):
        inputs, targets = problem.inputs[i : i + PICTURES], problem.targets[i : i + PICTURES]
        part = np.asarray(_error(problem, inputs, targets, integers), np.float64)
        total += part * (len(inputs) / count)
    return total


@jax.jit
def _error(problem: Problem, inputs: Array, targets: Array, integers: Array) -> jax.Array:
    return problem.error(inputs, targets, integers)


@functools.partial(jax.jit, static_argnames="group")
def _answers(group: Weighted, kernel: Array, bias: Array, inputs: Array) -> jax.Array:
    values = outputs_of(group, inputs, kernel, bias)
    return values if group.clamp is None else group.clamp(values)


@functools.partial(jax.jit, static_argnames="settings")
def _learned(problem: Problem, settings: adaround, before: Array, key: jax.Array) -> jax.Array:
    optimizer, count = optax.adam(settings.learning_rate), len(problem.inputs)
    before = jnp.where(before > 0, before, 1.0)
    size = min(settings.batch_size, count)

    def loss(logits: Array, chosen: Array, step: Array) -> Array:
        inputs, targets = problem.inputs[chosen], problem.targets[chosen]
        error = problem.error(inputs, targets, _soft(problem, logits))
        return jnp.sum(error / before) + _regularizer(settings, logits, step)

    def update(step: Array, carry: tuple) -> tuple:
        logits, state = carry
        chosen = jax.random.randint(jax.random.fold_in(key, step), (size,), 0, count)
        gradient = jax.grad(loss)(logits, chosen, step)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            change, state = optimizer.update(gradient, state)
        return optax.apply_updates(logits, change), state

    logits = _first_logits(problem.steps)
    logits, _ = jax.lax.fori_loop(0, settings.steps, update, (logits, optimizer.init(logits)))
    return _soft(problem, jnp.where(_rectified(logits) >= 0.5, jnp.inf, -jnp.inf))


def _soft(problem: Problem, logits: Array) -> jax.Array:
    """Steps between the integers, or integers where the logits are infinite."""
    steps = jnp.floor(problem.steps) + _rectified(logits)
    at_end = jnp.abs(problem.steps) > problem.limit - AT_END
    return jnp.where(at_end, problem.nearest, jnp.clip(steps, -problem.limit, problem.limit))


def _rectified(logits: Array) -> jax.Array:
    low, high = STRETCH
    return jnp.clip(jax.nn.sigmoid(logits) * (high - low) + low, 0, 1)


def _first_logits(steps: Array) -> jax.Array:
    """Those at which every weight is what it is in the float network."""
    low, high = STRETCH
    share = (steps - jnp.floor(steps) - low) / (high - low)
    return jnp.log(share) - jnp.log1p(-share)


def _regularizer(settings: adaround, logits: Array, step: Array) -> jax.Array:
    """``1 - |2 h - 1|^beta``, the mean over the weights of a channel, summed over channels."""
    begin = settings.warmup * settings.steps
    gone = jnp.clip((jnp.float32(step) - begin) / (settings.steps - begin), 0, 1)
    first, last = settings.beta
    beta = last + (first - last) * 0.5 * (1 + jnp.cos(gone * jnp.pi))
    away = jnp.abs(2 * _rectified(logits) - 1)
    # 0 ** beta has no derivative that is a number.
    power = jnp.where(away > 0, jnp.where(away > 0, away, 1) ** beta, 0)
    rows = (1 - power).reshape(-1, logits.shape[-1])
    return settings.regularization * jnp.where(gone > 0, 1.0, 0.0) * jnp.sum(rows.mean(0))


def _row(channels: Array, kernel: Array) -> Array:
    return jnp.reshape(channels, (1,) * (kernel.ndim - 1) + (-1,))
