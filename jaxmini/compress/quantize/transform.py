"""Quantize: Model -> Model that trains in the integers it will run in; calibration of its ranges.

The forward pass of training is that of inference with every rounding of the integer file in it: BatchNorm
uses its running statistics, which stay as they are, and dropout is off (Jacob et al., 2018).
"""

import dataclasses
import functools
from collections.abc import Iterable

import jax
import numpy as np

from jaxmini.compress.quantize.assignment import Choices, assign, check, rule
from jaxmini.compress.quantize.calibration import Observe, gathered, settled
from jaxmini.compress.quantize.estimators import Estimator, Statistics, min_max
from jaxmini.compress.quantize.evaluate import evaluate
from jaxmini.compress.quantize.fake import FakeQuant, Train
from jaxmini.compress.quantize.grid import HIGH, LOW, Grid
from jaxmini.compress.quantize.islands import float_island
from jaxmini.compress.quantize.kernels import Kernel, per_channel
from jaxmini.compress.quantize.plan import Plan
from jaxmini.compress.quantize.program import trace
from jaxmini.compress.quantize.ranges import Ranges, check_sites, grids_of, trained, unseen
from jaxmini.compress.quantize.rules import group
from jaxmini.model import Model, Variables
from jaxmini.state import Array, PyTree

COLLECTION = "quant"


@dataclasses.dataclass(frozen=True)
class int8:
    """8-bit activations, one asymmetric grid a tensor; 8-bit kernels, one symmetric grid a channel.

    Attributes:
        momentum: of the moving average of ranges in training, 0..1; 1 leaves them as calibrated.
        estimator: what ``calibrate`` makes ranges with. Those of one that clips (``percentile``, ``mse``,
            ``entropy``) stay as calibrated, whatever the momentum: a batch shows its extremes only.
        kernel: one scale a channel or a tensor (``per_channel``, ``per_tensor``), its bits, its clip.
        rules: what parts of the network get in place of these two, by path; the first match decides.
            A ``float_island`` keeps its modules out of the integers.
    """

    momentum: float = 0.99
    estimator: Estimator = min_max()
    kernel: Kernel = per_channel()
    rules: tuple[rule | float_island, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"int8: momentum is {self.momentum}, expected 0..1")
        check(self.estimator, self.kernel, "int8")
        known = isinstance(self.rules, tuple) and all(
            isinstance(one, rule | float_island) for one in self.rules
        )
        if not known:
            raise TypeError(f"int8: rules are {self.rules!r}, expected a tuple as (rule(...),)")

    def __repr__(self) -> str:
        """The momentum, and what is not the usual."""
        fields = [f for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]
        shown = dict.fromkeys(["momentum", *(f.name for f in fields)])
        return f"int8({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    @property
    def choices(self) -> Choices:
        """What is chosen for the parts of a plan."""
        return Choices(
            self.estimator,
            self.kernel,
            tuple(one for one in self.rules if isinstance(one, rule)),
            tuple(one for one in self.rules if isinstance(one, float_island)),
        )


def quantize(model: Model, scheme: int8 = int8(), *, input_grid: Grid | None = None) -> Model:
    """The model with every tensor rounded as the integer file will round it, straight-through in training.

    ``init`` adds the collection ``quant`` of ranges, empty until ``calibrate`` or training has seen data.
    ``apply(..., train=True)`` updates them, and leaves every other collection as it is.

    Args:
        model: from one array to one array (logits), in float32. Its convolutions, BatchNorms and whatever
            else it is made of stay untouched: the traced program is quantized.
        input_grid: the grid of the input where it is known, as that of normalised pixels; else observed.

    Raises:
        ValueError: the model is quantized already. At ``init`` or ``apply``: it holds an operation that
            has no int8 form, or uses batch statistics in inference; or a rule of the scheme sets nothing.
    """
    if is_quantized(model):
        raise ValueError("quantize: the model is quantized already: quantize the float model, once")
    grid = None if input_grid is None else _checked(input_grid)
    # Only rules can be wrong for a model; without them init is recorded as it always was.
    checked = {"scheme": scheme} if scheme.rules else {}
    return Model(
        functools.partial(_init, model, grid, **checked),
        functools.partial(_apply, model, scheme, grid),
    )


def is_quantized(model: Model) -> bool:
    """Whether the model was made by ``quantize``."""
    return isinstance(model.apply, functools.partial) and model.apply.func is _apply


def make_plan(
    model: Model, variables: Variables, inputs: PyTree, input_grid: Grid | None = None
) -> Plan:
    """The plan of a model for inputs of one shape; only shapes and dtypes are read, and plans are kept.

    Args:
        model: a float model, or one that ``quantize`` made (its own input grid is taken then).
        variables: of that model; a collection ``quant`` is left out.
        inputs: [B, H, W, C], an array or a ShapeDtypeStruct.

    Raises:
        ValueError: as ``quantize``.
    """
    scheme = int8()
    if is_quantized(model):
        model, scheme, input_grid = model.apply.args
    grid = None if input_grid is None else _checked(input_grid)
    return _plan(model, scheme.choices, grid, variables, inputs)


def calibrate(
    model: Model,
    variables: Variables,
    batches: Iterable[Array],
    estimator: Estimator | None = None,
) -> Variables:
    """The variables with ranges made of what the float model computes on ``batches``.

    Args:
        model: made by ``quantize``.
        variables: its variables; the ranges they hold are forgotten.
        batches: inputs as the model takes them, [B, H, W, C] float32; each is seen once.
        estimator: of every range, in place of what the model's scheme says. How training goes on from
            there is the scheme's.

    Raises:
        ValueError: the model is not quantized, there is no batch, the numbers at a site are not finite
            (names the site), or an estimator clips all that a site holds.
    """
    if not is_quantized(model):
        raise ValueError("calibrate: the model has no ranges: give it quantize(model)")
    floats, (of, scheme, grid), known = _without_ranges(variables), model.apply.args, {}
    choices = scheme.choices
    if estimator is not None:
        choices = Choices(estimator, scheme.kernel, islands=choices.islands)
    check(choices.estimator, choices.kernel, "calibrate")
    observe, plan = jax.jit(functools.partial(_observe, of, choices, grid)), None
    for number, batch in enumerate(batches):
        plan = _plan(of, choices, grid, floats, batch)
        known = gathered(plan, known, jax.device_get(observe(floats, batch)), number)
    if plan is None:
        raise ValueError("calibrate: there are no batches to see")
    return {**variables, COLLECTION: settled(plan, known)}


def _plan(
    model: Model, choices: Choices, grid: Grid | None, variables: Variables, inputs: PyTree
) -> Plan:
    leaves, tree = jax.tree.flatten((_without_ranges(variables), inputs))
    types = tuple((tuple(leaf.shape), np.dtype(leaf.dtype)) for leaf in leaves)
    plan = _grouped(model, tree, types, grid, choices.islands)
    return plan if choices == int8().choices else assign(plan, choices)


@functools.lru_cache(maxsize=64)
def _grouped(
    model: Model,
    tree: jax.tree_util.PyTreeDef,
    types: tuple,
    grid: Grid | None,
    islands: tuple[float_island, ...],
) -> Plan:
    leaves = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in types]
    variables, inputs = jax.tree.unflatten(tree, leaves)
    return group(trace(model, variables, inputs), grid, islands)


def _init(
    model: Model, grid: Grid | None, key: jax.Array, inputs: PyTree, *, scheme: int8 = int8()
) -> Variables:
    variables = model.init(key, inputs)
    if COLLECTION in variables:
        raise ValueError(
            "quantize: a part of the model is quantized already: quantize the whole, once"
        )
    return {**variables, COLLECTION: unseen(_plan(model, scheme.choices, grid, variables, inputs))}


def _apply(
    model: Model,
    scheme: int8,
    grid: Grid | None,
    variables: Variables,
    inputs: PyTree,
    *,
    train: bool = False,
    key: jax.Array | None = None,
) -> tuple[Array, Variables]:
    floats, ranges = _without_ranges(variables), _ranges(variables)
    plan = _plan(model, scheme.choices, grid, floats, inputs)
    if not train or scheme.momentum == 1:
        hooks = FakeQuant(plan, floats, grids_of(plan, ranges))
        return evaluate(plan, hooks, inputs), {COLLECTION: ranges} if train else {}
    check_sites(plan, ranges)
    hooks = Train(plan, floats, ranges)
    outputs = evaluate(plan, hooks, inputs)
    return outputs, {COLLECTION: trained(plan, ranges, hooks.seen, scheme.momentum)}


def _observe(
    model: Model, choices: Choices, grid: Grid | None, variables: Variables, inputs: PyTree
) -> dict[str, list[Statistics]]:
    plan = _plan(model, choices, grid, variables, inputs)
    hooks = Observe(plan, variables)
    evaluate(plan, hooks, inputs)
    return hooks.seen


def _without_ranges(variables: Variables) -> Variables:
    return {name: tree for name, tree in variables.items() if name != COLLECTION}


def _ranges(variables: Variables) -> Ranges:
    if COLLECTION in variables:
        return variables[COLLECTION]
    raise ValueError(
        f"quantize: the variables hold {sorted(variables)} and no {COLLECTION!r}: take it from init of "
        "the quantized model, then calibrate"
    )


def _checked(grid: Grid) -> Grid:
    scale, zero_point = np.float32(grid.scale), int(grid.zero_point)
    if not (scale > 0 and LOW <= zero_point <= HIGH and zero_point == grid.zero_point):
        raise ValueError(f"{grid}: expected a scale > 0 and an integer zero point in {LOW}..{HIGH}")
    return Grid(scale, np.int32(zero_point))
