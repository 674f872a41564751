"""Frozen: every number of the quantized network as it will stand in a file, settled once, in NumPy.

The integer simulation and the exporters read this tree and nothing else: a scale computed twice may
differ in its last bit.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize import grid as grids
from jaxmini.compress.quantize.grid import Grid

if TYPE_CHECKING:
    from jaxmini.compress.quantize.plan import Plan


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenKernel:
    """A kernel with everything folded into it.

    Attributes:
        kernel: int8 in [-127, 127], [..., O] (HWIO of a convolution, [K, O] of a matrix).
        scale: float32 [O].
        bias: int32 [O], on the grid ``input_scale * scale``.
        input_scale: float32 [], scale of the grid of its input.
    """

    kernel: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    input_scale: np.ndarray

    @property
    def float_kernel(self) -> np.ndarray:
        """The numbers that the integers of the kernel stand for, float32 [..., O]."""
        return self.kernel.astype(np.float32) * self.scale

    @property
    def float_bias(self) -> np.ndarray:
        """The numbers that the integers of the bias stand for, float32 [O]."""
        return (self.bias.astype(np.float64) * self.input_scale * self.scale).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenConstant:
    """An operand that does not depend on the input: int8 ``values`` on ``grid``."""

    values: np.ndarray
    grid: Grid

    @property
    def float_values(self) -> np.ndarray:
        return np.asarray(grids.dequantized(self.values, self.grid))


@dataclasses.dataclass(frozen=True, eq=False)
class Frozen:
    """The integers and grids of a quantized network.

    Attributes:
        grids: the grid of each site of the plan.
        kernels: the kernel of each ``Weighted`` group, by the group's name.
        constants: the constant operands of the other groups, by ``constant_name(group name, position)``.
    """

    grids: dict[str, Grid]
    kernels: dict[str, FrozenKernel]
    constants: dict[str, FrozenConstant]
