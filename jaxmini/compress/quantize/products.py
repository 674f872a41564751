"""Products: matrix products of two activations, as attention has them."""

import dataclasses

import numpy as np
from jax import lax

from jaxmini.compress.quantize.examples import example_axes
from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.plan import Group
from jaxmini.compress.quantize.program import Op
from jaxmini.compress.quantize.refusal import refuse
from jaxmini.state import Array


@dataclasses.dataclass(frozen=True, eq=False)
class Product(Group):
    """A product of activations, one of matrices for each index of the axes that both have."""

    def product(self, first: Array, second: Array, dtype: type = np.float32) -> Array:
        """The product, added up in ``dtype``.

        One without common axes (jnp.matmul drops a batch of one) gets one: converters know it as a product
        with a kernel otherwise.
        """
        (lhs, rhs), (lhs_batch, rhs_batch) = self.op.params["dimension_numbers"]
        precision = self.op.params["precision"]
        if lhs_batch:
            numbers = ((lhs, rhs), (lhs_batch, rhs_batch))
            return lax.dot_general(first, second, numbers, precision, dtype)
        numbers = (([axis + 1 for axis in lhs], [axis + 1 for axis in rhs]), ((0,), (0,)))
        return lax.dot_general(first[None], second[None], numbers, precision, dtype)[0]


def product(grouping: Grouping, op: Op) -> None:
    """Group a dot_general whose two operands depend on the model's input."""
    alone = grouping.program.shape(grouping.program.input)[0] == 1  # jnp.matmul drops such a batch
    if not alone and not _keeps_examples_apart(grouping, op):
        refuse(
            op,
            "it multiplies activations of different examples",
            "let both operands have the axis of the examples in common, as jnp.einsum('bqd,bkd->bqk') does",
        )
    name = grouping.name(op, "matmul")
    grouping.add(Product(name, name, grouping.inputs(op), op.outputs, op))


def _keeps_examples_apart(grouping: Grouping, op: Op) -> bool:
    """Whether the examples of one operand meet those of their own in the other."""
    _, (lhs_batch, rhs_batch) = op.params["dimension_numbers"]
    axes = example_axes(grouping.program)
    first, second = (axes[value] for value in op.inputs)
    if (
        first is None or second is None
    ):  # it cannot be told: as models write it, the first axis is theirs
        first = second = 0
    return (first, second) in zip(lhs_batch, rhs_batch, strict=True)
