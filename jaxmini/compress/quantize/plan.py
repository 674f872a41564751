"""Plan: how a program is cut into the pieces that an integer kernel computes, and which grid each lands on.

A piece (a group) is rounded once, at its end. The grid it lands on is a site; groups that only move
numbers stay on the site of what they move.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmini.compress.quantize.estimators import Estimator, min_max
from jaxmini.compress.quantize.fold import Affine
from jaxmini.compress.quantize.grid import BITS, WIDE, Grid
from jaxmini.compress.quantize.kernels import Kernel, per_channel
from jaxmini.compress.quantize.learned import Activation, observed
from jaxmini.compress.quantize.program import Literal, Op, Program, Value, read
from jaxmini.state import Array

INPUT = "input"


@dataclasses.dataclass(frozen=True)
class Clamp:
    """A rectifier fused into the group before it: numbers are held to [0, ``high``]."""

    high: float = np.inf

    def __call__(self, values: Array) -> Array:
        """The rectifier, with the derivative that jax.nn gives it (0 at 0)."""
        return jax.nn.relu(values) if np.isinf(self.high) else jax.nn.relu6(values)

    def __str__(self) -> str:
        return "relu" if np.isinf(self.high) else f"relu{self.high:g}"


@dataclasses.dataclass(frozen=True)
class Clip:
    """What the maxima and minima behind a group hold its numbers to: its grid need not reach further."""

    low: float = -np.inf
    high: float = np.inf

    def __call__(self, values: Array) -> Array:
        """The values held to [``low``, ``high``]; the derivative is 1 inside, the ends too, else 0."""
        inside = jnp.where(values < self.low, np.float32(self.low), values)
        return jnp.where(values > self.high, np.float32(self.high), inside)

    def after(self, name: str, end: float) -> "Clip":
        """This, and then the ``max`` or the ``min`` with a number."""
        end_of = max if name == "max" else min
        return Clip(end_of(self.low, end), end_of(self.high, end))

    def __str__(self) -> str:
        return f"within {self.low:g} to {self.high:g}"


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """What one integer kernel computes.

    Attributes:
        name: path of the module and what is computed, unique in the plan: ``Net/stem:conv``.
        site: name of the grid that the outputs lie on.
        inputs: operands that depend on the model's input, or are constants.
        outputs: the values it leaves.
        op: the operation it is named after.
    """

    name: str
    site: str
    inputs: tuple[Value, ...]
    outputs: tuple[int, ...]
    op: Op

    @property
    def in_float(self) -> bool:
        """Whether a file computes it in float, between integers and integers."""
        return False

    @property
    def held(self) -> tuple[Value | None, ...]:
        """What it reads besides its inputs, of the variables alone."""
        return ()

    def __str__(self) -> str:
        """What the group does beyond what its name says."""
        return ""


@dataclasses.dataclass(frozen=True, eq=False)
class Weighted(Group):
    """A convolution, matrix product or per-channel scaling; everything affine after it is folded into it.

    Attributes:
        kernel: the value of the kernel, None for a scaling (its kernel is one).
        chain: the per-channel additions and products that are folded.
        channels: shape of the output channels: (O,), or (heads, size) of a product with a 3-D kernel.
        clamp: the rectifier at its end.
        clip: what its readers hold its numbers to.
    """

    kernel: Value | None
    chain: tuple[Affine, ...]
    channels: tuple[int, ...]
    clamp: Clamp | None
    clip: Clip | None = None

    @property
    def held(self) -> tuple[Value | None, ...]:
        return (self.kernel, *(step.operand for step in self.chain))

    def kernel_array(self, values: Mapping[int, Array]) -> Array:
        """The kernel as the model holds it, [..., O]."""
        channels = math.prod(self.channels)
        if self.kernel is None:
            return jnp.ones((1, 1, 1, channels), jnp.float32)
        kernel = read(values, self.kernel)
        is_window = self.op.name == "conv_general_dilated"
        return kernel if is_window else kernel.reshape(-1, channels)

    def product(self, inputs: Array, kernel: Array, *, exactly: bool = False) -> Array:
        """Product of the inputs with a kernel [..., O]; ``exactly`` where a device knows faster ways."""
        precision = lax.Precision.HIGHEST if exactly else None
        if self.op.name == "conv_general_dilated":
            asked = {"precision": (precision, precision)} if exactly else {}
            return self.op.bind(inputs, kernel, **asked)[0]
        if self.op.name == "dot_general":
            rank = inputs.ndim - len(self.op.params["dimension_numbers"][0][0])
            flat = inputs.reshape(*inputs.shape[:rank], -1)
            outputs = jnp.matmul(flat, kernel, precision=precision)
            return outputs.reshape(*inputs.shape[:rank], *self.channels)
        return scaled(inputs, kernel)

    def biased(self, outputs: Array, bias: Array) -> Array:
        """What ``product`` gives plus a bias [O].

        That of a scaling is added to the picture it is computed as: converters fuse it there.
        """
        if self.kernel is None:
            picture = _picture(outputs.shape)
            return (outputs.reshape(picture) + bias.reshape(1, 1, 1, -1)).reshape(outputs.shape)
        rank = outputs.ndim - len(self.channels)
        return outputs + bias.reshape((1,) * rank + self.channels)

    def __str__(self) -> str:
        folded = ["fold " + " ".join(step.name for step in self.chain)] * bool(self.chain)
        return ", ".join([*folded, *_said(self.clamp, self.clip)])


@dataclasses.dataclass(frozen=True, eq=False)
class Elementwise(Group):
    """Sum, difference or product of two activations, or of one and a constant; a rectifier at its end."""

    clamp: Clamp | None
    clip: Clip | None = None

    def __str__(self) -> str:
        return ", ".join(_said(self.clamp, self.clip))


@dataclasses.dataclass(frozen=True, eq=False)
class Rectifier(Group):
    """A rectifier that has nothing to be fused into; it stays on the grid of its input."""

    clamp: Clamp


@dataclasses.dataclass(frozen=True, eq=False)
class Mean(Group):
    """Mean over axes other than the batch; ``shape`` is that of its output."""

    axes: tuple[int, ...]
    count: int
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class AveragePool(Group):
    """Average over windows of ``count`` numbers, zeros of the padding counted; stays on its input's grid."""

    count: int
    clamp: Clamp | None = None

    def window_sum(self, values: Array) -> Array:
        """Sum over each window of the values."""
        padding = self.op.params["padding"]
        if any(side for sides in padding for side in sides):
            # The kernel of a file leaves padding out of the average; an explicit pad is counted.
            values = lax.pad(values, jnp.float32(0), [(*sides, 0) for sides in padding])
        return lax.reduce_window(
            values,
            np.float32(0),
            lax.add,
            self.op.params["window_dimensions"],
            self.op.params["window_strides"],
            "VALID",
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Move(Group):
    """Numbers that move and do not change: reshape, max-pool, pad, concatenate; all on one grid.

    Attributes:
        settings: operands of the operation that follow the numbers moved (the 0 of a pad).
    """

    settings: tuple[np.ndarray, ...] = ()

    def move(self, *operands: Array) -> list[Array]:
        """Run the operation; one result an output."""
        return self.op.bind(*operands, *self.settings)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A quantized model as data: the program, its groups in order, its grids.

    Attributes:
        program: the traced model.
        output: the value that the groups leave as the model's output.
        groups: in the order they run.
        sites: the grids, by name; ``input`` is the first, but for a model of token numbers. None where only
            kernels are rounded.
        site_of: the site of each value between groups; of no grid where there is none.
        fixed: sites whose grid is given and not observed.
        ties: for a site that several groups share, the names of the others.
        weight_ops: the operations that depend on the variables alone.
        estimators: of the range of each observed site; ``min_max()`` where there is none.
        kernels: how each ``Weighted`` group's kernel is rounded, by its name; ``per_channel()`` where
            nothing is said.
        activations: how training moves the grid of each observed site; ``observed()`` where nothing is
            said.
    """

    program: Program
    output: int
    groups: tuple[Group, ...]
    sites: tuple[str, ...]
    site_of: Mapping[int, str]
    fixed: Mapping[str, Grid]
    ties: Mapping[str, tuple[str, ...]]
    weight_ops: tuple[Op, ...]
    estimators: Mapping[str, Estimator] = dataclasses.field(default_factory=dict)
    kernels: Mapping[str, Kernel] = dataclasses.field(default_factory=dict)
    activations: Mapping[str, Activation] = dataclasses.field(default_factory=dict)

    @property
    def observed(self) -> tuple[str, ...]:
        """The sites whose ranges are learned from data."""
        return tuple(site for site in self.sites if site not in self.fixed)

    @property
    def weighted(self) -> tuple[Weighted, ...]:
        """The groups that have a kernel."""
        return tuple(group for group in self.groups if isinstance(group, Weighted))

    @property
    def reads_tokens(self) -> bool:
        """Whether the input is numbers of tokens, int32, which lie on no grid."""
        return self.program.types[self.program.input].dtype == np.int32

    @property
    def rounds_kernels_alone(self) -> bool:
        """Whether activations stay float: there is no grid."""
        return not self.sites

    @property
    def islands(self) -> tuple[Group, ...]:
        """The groups that stay in float."""
        return tuple(group for group in self.groups if group.in_float)

    def estimator(self, site: str) -> Estimator:
        """What calibration makes a site's range with."""
        return self.estimators.get(site, min_max())

    def activation(self, site: str) -> Activation:
        """How training moves a site's grid."""
        return self.activations.get(site, observed())

    @property
    def is_wide(self) -> bool:
        """Whether activations are of 16 bits."""
        return any(choice.bits == WIDE for choice in self.activations.values())

    @property
    def constant_bits(self) -> int:
        """Of the constants that are added and multiplied, which kernels want as wide as activations."""
        return WIDE if self.is_wide else BITS

    @property
    def bias_type(self) -> np.dtype:
        """Of the biases: int64 where activations are of 16 bits."""
        return np.dtype(np.int64 if self.is_wide else np.int32)

    def kernel(self, group: Weighted) -> Kernel:
        """How a group's kernel is rounded."""
        return self.kernels.get(group.name, per_channel())

    def is_rectified(self, site: str) -> bool:
        """Whether a rectifier ends every group that computes what lies on a site."""
        makers = [
            g for g in self.groups if g.site == site and not isinstance(g, Move | AveragePool)
        ]
        return bool(makers) and all(getattr(group, "clamp", None) for group in makers)

    @property
    def output_site(self) -> str:
        return self.site_of[self.output]

    def is_constant(self, value: Value) -> bool:
        """Whether a group's operand is a constant (a literal, or of the variables alone)."""
        return isinstance(value, Literal) or value not in self.site_of

    def input_site(self, group: Group) -> str:
        """The site of a group's first operand that depends on the model's input."""
        return next(self.site_of[v] for v in group.inputs if not self.is_constant(v))

    def input_scale(self, group: Group, grids: Mapping[str, Grid]) -> Array | float | None:
        """The scale of the grid that a group's input lies on; None where that is float."""
        site = self.input_site(group)
        return grids[site].scale if site in self.sites else None

    def __str__(self) -> str:
        shape = self.program.shape
        lines = [
            f"plan {list(shape(self.program.input))} -> {list(shape(self.output))}: "
            f"{len(self.groups)} groups, {len(self.sites)} grids"
        ]
        rows = [(group.name, self._what(group), self._route(group)) for group in self.groups]
        wide = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
        lines += [f"  {name:{wide[0]}}  {what:{wide[1]}}  {route}" for name, what, route in rows]
        lines += [f"  tied: {site} = {' = '.join(others)}" for site, others in self.ties.items()]
        lines += [
            f"  given: {site}, scale {grid.scale:.8g}, zero point {grid.zero_point}"
            for site, grid in self.fixed.items()
        ]
        if self.islands:
            lines.append(f"  in float: {', '.join(group.name for group in self.islands)}")
        lines += [f"  input: {choice}" for choice in self._grid_choices(INPUT)]
        return "\n".join(lines)

    def _what(self, group: Group) -> str:
        """What a group does, and what it got that is not the usual."""
        return ", ".join(filter(None, (str(group), *self._choices(group))))

    def _choices(self, group: Group) -> Iterator[str]:
        if isinstance(group, Weighted) and (kernel := self.kernel(group)) != per_channel():
            yield str(kernel)
        if group.name == group.site:
            yield from self._grid_choices(group.site)

    def _grid_choices(self, site: str) -> Iterator[str]:
        if (estimator := self.estimator(site)) != min_max():
            yield str(estimator)
        if (activation := self.activation(site)) != observed():
            yield str(activation)

    def _route(self, group: Group) -> str:
        sources = ["constant" if self.is_constant(v) else self.site_of[v] for v in group.inputs]
        if set(sources) == {group.site}:
            return f"on {group.site}"
        kept = "" if group.site == group.name else f", on {group.site}"
        return "of " + " + ".join(dict.fromkeys(sources)) + kept


def _said(*ends: Clamp | Clip | None) -> list[str]:
    return [str(end) for end in ends if end is not None]


def scaled(inputs: Array, kernel: Array) -> Array:
    """Each channel times a number, as the depthwise 1x1 convolution that an integer file has for it.

    Args:
        inputs: [B, ..., C] of rank 2 to 4.
        kernel: [1, 1, 1, C].
    """
    outputs = lax.conv_general_dilated(
        inputs.reshape(_picture(inputs.shape)),
        kernel,
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=inputs.shape[-1],
    )
    return outputs.reshape(inputs.shape)


def _picture(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a picture that holds the numbers, the channels last."""
    return (*shape[:-1], *(1,) * (4 - len(shape)), shape[-1])
