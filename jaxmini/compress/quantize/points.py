"""Points: places in a model where its author asks for a rounding, by a name of their own."""

from jax.ad_checkpoint import checkpoint_name

from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.program import Op
from jaxmini.compress.quantize.refusal import refuse
from jaxmini.state import Array

PREFIX = "quant_point:"


def quant_point(x: Array, name: str) -> Array:
    """The array itself; a plan rounds it there, and nothing that follows is folded into what made it.

    The group that computes it is called ``name`` after the module's path, so that a ``rule`` can say how it
    is rounded. It is the identity under jit, grad and vmap.

    Args:
        x: what an operation computes: not an input, nor numbers that were only moved.
        name: of letters, digits and underscores, one of its own in its module.

    Raises:
        ValueError: the name is not such a one.
        TypeError: it is no text.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"quant_point: name is {name!r}, expected a text of letters, digits and underscores"
        )
    if not name.isidentifier():
        raise ValueError(f"quant_point: name is {name!r}, expected letters, digits and underscores")
    return checkpoint_name(x, PREFIX + name)


def point(grouping: Grouping, op: Op) -> None:
    """Name the group that ends here; a name that is not a point's is passed over."""
    (source,) = grouping.inputs(op)
    grouping.take(op)
    if op.params["name"].startswith(PREFIX):
        _name(grouping, op, op.params["name"].removeprefix(PREFIX), source)
    grouping.merge(op, source)


def _name(grouping: Grouping, op: Op, name: str, source: int) -> None:
    group = next((group for group in grouping.groups if source in group.outputs), None)
    if group is None or group.name != group.site or grouping.partners(group.site):
        refuse(
            op,
            f"quant_point {name!r} marks numbers that lie on a grid they share",
            "put it right after the operation that computes them",
        )
    place, _, label = group.name.rpartition(":")
    if place != f"{op.path}/{name}":  # else it is computed a second time, and is marked already
        grouping.rename(group.name, grouping.unique(f"{op.path}/{name}:{label}"))
