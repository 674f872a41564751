"""Products: matrix products of two activations, as attention has them."""

import dataclasses

import numpy as np
from jax import lax

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
    _, (lhs_batch, rhs_batch) = op.params["dimension_numbers"]
    alone = grouping.program.shape(grouping.program.input)[0] == 1  # jnp.matmul drops such a batch
    if not alone and (lhs_batch[:1], rhs_batch[:1]) != ((0,), (0,)):
        refuse(
            op,
            "it multiplies activations of different examples",
            "keep the batch as the first axis of both operands and of the result, as "
            "jnp.einsum('bqd,bkd->bqk') does",
        )
    name = grouping.name(op, "matmul")
    grouping.add(Product(name, name, grouping.inputs(op), op.outputs, op))
