"""Products: matrix products of two activations, as attention has them."""

import dataclasses

import numpy as np

from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.plan import Group
from jaxmini.compress.quantize.program import Op
from jaxmini.compress.quantize.refusal import refuse


@dataclasses.dataclass(frozen=True, eq=False)
class Product(Group):
    """A product of activations, one of matrices for each index of the axes that both have."""


def product(grouping: Grouping, op: Op) -> None:
    """Group a dot_general whose two operands depend on the model's input."""
    (_, _), (lhs_batch, rhs_batch) = op.params["dimension_numbers"]
    if 0 not in lhs_batch or lhs_batch.index(0) != 0 or rhs_batch[0] != 0:
        refuse(
            op,
            "it multiplies activations of different examples",
            "keep the batch as the first axis of both operands and of the result, as "
            "jnp.einsum('bqd,bkd->bqk') does",
        )
    name = grouping.name(op, "matmul")
    grouping.add(Product(name, name, grouping.inputs(op), op.outputs, op))
