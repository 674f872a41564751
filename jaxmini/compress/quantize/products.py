"""Products: matrix products of two activations, as attention has them.

XNNPACK computes one as it does a layer, its second matrix in place of the kernel, if that has no zero point;
LiteRT's own kernel, which has the others, takes many times as long. So the operand that can lie on a grid
with zero point 0 gets one, and comes second in the file.
"""

import dataclasses

import numpy as np
from jax import lax

from jaxmini.compress.quantize.examples import example_axes
from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.learned import observed
from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.plan import INPUT, Group, Plan
from jaxmini.compress.quantize.program import Op
from jaxmini.compress.quantize.refusal import refuse
from jaxmini.state import Array


@dataclasses.dataclass(frozen=True, eq=False)
class Product(Group):
    """A product of activations, one of matrices for each index of the axes that both have.

    Attributes:
        as_kernel: which operand, 0 or 1, takes the place of the kernel.
    """

    as_kernel: int = 1

    def product(self, first: Array, second: Array, dtype: type = np.float32) -> Array:
        """The product, added up in ``dtype``.

        One without common axes (jnp.matmul drops a batch of one) gets one: converters know it as a product
        with a kernel otherwise.
        """
        (lhs, rhs), (lhs_batch, rhs_batch) = self.op.params["dimension_numbers"]
        alone = not lhs_batch
        if alone:
            first, second = first[None], second[None]
            lhs, rhs = ([axis + 1 for axis in axes] for axes in (lhs, rhs))
            lhs_batch = rhs_batch = (0,)
        precision = self.op.params["precision"]
        if self.as_kernel:
            numbers = ((lhs, rhs), (lhs_batch, rhs_batch))
            result = lax.dot_general(first, second, numbers, precision, dtype)
        else:
            numbers = ((rhs, lhs), (rhs_batch, lhs_batch))
            result = lax.dot_general(second, first, numbers, precision, dtype)
            common, own = len(rhs_batch), second.ndim - len(rhs_batch) - len(rhs)
            result = _exchanged(result, common, own)
        return result[0] if alone else result


def as_written(plan: Plan, group: Group, numbers: Array) -> Array:
    """What a group leaves, its axes in the order in which the operator of a file writes them."""
    if not isinstance(group, Product) or group.as_kernel:
        return numbers
    common, own, _ = _axes(plan, group)
    return _exchanged(numbers, common, own)


def as_planned(plan: Plan, group: Group, numbers: Array) -> Array:
    """What the operator of a file has written for a group, of any shape, as the plan has it."""
    shape = plan.program.shape(group.outputs[0])
    if not isinstance(group, Product) or group.as_kernel:
        return numbers.reshape(shape)
    common, own, others = _axes(plan, group)
    written = (*shape[:common], *shape[common + own :], *shape[common : common + own])
    return _exchanged(numbers.reshape(written), common, others)


def _axes(plan: Plan, group: Product) -> tuple[int, int, int]:
    """Of a product's result: the axes that both operands have, those of the first and of the second alone."""
    (lhs, rhs), (batch, _) = group.op.params["dimension_numbers"]
    first, second = (len(plan.program.shape(value)) for value in group.inputs)
    return len(batch), first - len(batch) - len(lhs), second - len(batch) - len(rhs)


def _exchanged(numbers: Array, common: int, own: int) -> Array:
    """Numbers whose ``own`` axes that follow the first ``common`` ones are moved to the end."""
    axes = range(numbers.ndim)
    order = (*axes[:common], *axes[common + own :], *axes[common : common + own])
    return numbers.transpose(order)


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


def arranged(plan: Plan) -> Plan:
    """The plan with an operand in place of the kernel, in every product, that can have zero point 0."""
    groups = tuple(
        dataclasses.replace(group, as_kernel=next(iter(_centrable(plan, group)), 1))
        if isinstance(group, Product)
        else group
        for group in plan.groups
    )
    turned = dataclasses.replace(plan, groups=groups)
    activations = dict.fromkeys(centred(turned), observed(symmetric=True))
    return dataclasses.replace(turned, activations=activations)


def centred(plan: Plan) -> set[str]:
    """The observed sites that get zero point 0, as a product has them in place of its kernel."""
    products = [group for group in plan.groups if isinstance(group, Product)]
    sites = {plan.site_of[g.inputs[g.as_kernel]] for g in products if _centrable(plan, g)}
    return sites & set(plan.observed)


def _centrable(plan: Plan, group: Product) -> list[int]:
    """The operands of a product that can take the place of the kernel at no cost, the second first.

    The first can where its axes are wanted last: converters exchange the operands of a product whose result
    they see turned.
    """
    places = (1, 0) if _is_read_turned(plan, group) else (1,)
    return [p for p in places if _has_centre(plan, plan.site_of[group.inputs[p]])]


def _is_read_turned(plan: Plan, group: Product) -> bool:
    """Whether what alone reads a product puts the second operand's axes before those of the first."""
    (result,) = group.outputs
    readers = [g for g in plan.groups if result in g.inputs]
    if result == plan.output or [reader.op.name for reader in readers] != ["transpose"]:
        return False
    common, own, _ = _axes(plan, group)
    order = [axis for axis in readers[0].op.params["permutation"] if axis >= common]
    return all(axis >= common + own for axis in order[: len(order) - own])


def _has_centre(plan: Plan, site: str) -> bool:
    """Whether a site's zero point is 0 or may be chosen, and is not of numbers that are all positive."""
    if site not in plan.observed:
        return site in plan.fixed and int(plan.fixed[site].zero_point) == 0
    of_masks = {group.site for group in plan.groups if isinstance(group, Mask)}
    return site != INPUT and site not in of_masks and not plan.is_rectified(site)


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
