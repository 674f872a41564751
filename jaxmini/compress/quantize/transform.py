"""Quantize: Model -> Model that trains in the integers it will run in; calibration of its ranges.

The forward pass of training is that of inference with every rounding of the integer file in it: BatchNorm
uses its running statistics, which stay as they are, and dropout is off (Jacob et al., 2018).
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import TypeAlias

import jax
import numpy as np

from jaxmini.compress.quantize.assignment import Choices, assign, check, rule
from jaxmini.compress.quantize.calibration import Observe, Seen, gathered, settled
from jaxmini.compress.quantize.estimators import Estimator, min_max
from jaxmini.compress.quantize.evaluate import evaluate
from jaxmini.compress.quantize.fake import FakeQuant, Train
from jaxmini.compress.quantize.float_runs import group_kernels
from jaxmini.compress.quantize.grid import BITS, WIDE, Grid
from jaxmini.compress.quantize.inputs import batches_of, check_array
from jaxmini.compress.quantize.islands import float_island
from jaxmini.compress.quantize.kernels import Kernel, per_channel
from jaxmini.compress.quantize.learned import Activation, observed
from jaxmini.compress.quantize.learning import Learn, Manner
from jaxmini.compress.quantize.norms import integer_norm
from jaxmini.compress.quantize.oscillation import monitoring
from jaxmini.compress.quantize.plan import Plan
from jaxmini.compress.quantize.program import trace
from jaxmini.compress.quantize.ranges import Ranges, check_sites, trained, unseen
from jaxmini.compress.quantize.rules import group
from jaxmini.compress.quantize.schedule import phases
from jaxmini.compress.quantize.stored import (
    LEARNED,
    RANGES,
    Stored,
    floats_of,
    fresh,
    in_force,
    kernel_starts,
)
from jaxmini.compress.quantize.straightening import straightened
from jaxmini.compress.quantize.weights_only import weights_only
from jaxmini.model import Model, Variables
from jaxmini.state import Array, PyTree


@dataclasses.dataclass(frozen=True)
class int8:
    """8-bit activations, one asymmetric grid a tensor; 8-bit kernels, one symmetric grid a channel.

    ``int8(activation=observed(bits=16))`` is W8A16: activations on symmetric grids of 16 bits, in a file
    of variant ``int16x8``. Fewer bits than 8, as ``lsq(bits=4)``, are for training and simulation.
    ``int8(activation=observed(symmetric=True))`` gives 8-bit activations zero point 0.

    Attributes:
        momentum: of the moving average of ranges in training, 0..1; 1 leaves them as calibrated.
        estimator: what ``calibrate`` makes ranges with. Those of one that clips (``percentile``, ``mse``,
            ``entropy``) stay as calibrated, whatever the momentum: a batch shows its extremes only.
        kernel: one scale a channel or a tensor (``per_channel``, ``per_tensor``), its bits, its clip.
        rules: what parts of the network get in place of these, by path; the first match decides. A
            ``float_island`` keeps its modules out of the integers, an ``integer_norm`` brings
            normalisations into them.
        activation: of how many bits grids are, and how training moves them: ``observed`` by the moving
            average, ``lsq``, ``lsq_plus``, ``learned_min_max``, ``tqt`` or ``pact`` (of rectified sites; the
            others stay observed) by gradients. Grids that are given are not moved.
        schedule: when activations are rounded in training, and when their grids freeze.
        oscillation: what is done about weights that oscillate between two integers: nothing,
            ``monitoring``, ``freezing`` or ``dampening``.
    """

    momentum: float = 0.99
    estimator: Estimator = min_max()
    kernel: Kernel = per_channel()
    rules: tuple[rule | float_island | integer_norm, ...] = ()
    activation: Activation = observed()
    schedule: phases = phases()
    oscillation: monitoring | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"int8: momentum is {self.momentum}, expected 0..1")
        check(self.estimator, self.kernel, "int8", self.activation)
        known = isinstance(self.rules, tuple) and all(
            isinstance(one, rule | float_island | integer_norm) for one in self.rules
        )
        if not known:
            raise TypeError(f"int8: rules are {self.rules!r}, expected a tuple as (rule(...),)")
        if not isinstance(self.schedule, phases):
            raise TypeError(f"int8: schedule is {self.schedule!r}, expected one as phases(100)")
        if not (self.oscillation is None or isinstance(self.oscillation, monitoring)):
            raise TypeError(
                f"int8: oscillation is {self.oscillation!r}, expected one as freezing()"
            )

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
            self.activation,
            tuple(one for one in self.rules if isinstance(one, float_island | integer_norm)),
        )

    @property
    def manner(self) -> Manner:
        """What is said of training as a whole."""
        return Manner(self.momentum, self.schedule, self.oscillation)

    @property
    def learns(self) -> bool:
        """Whether training decides on more than ranges."""
        parts = (self, *(one for one in self.rules if isinstance(one, rule)))
        return (
            any(getattr(part.activation, "learned", ()) for part in parts)
            or any(getattr(part.kernel, "learned", False) for part in parts)
            or self.schedule != phases()
            or self.oscillation is not None
        )


# What a model can be quantized by.
Scheme: TypeAlias = int8 | weights_only


def quantize(model: Model, scheme: Scheme = int8(), *, input_grid: Grid | None = None) -> Model:
    """The model with every tensor rounded as the integer file will round it, straight-through in training.

    ``init`` adds the collection ``quant`` of ranges, empty until ``calibrate`` or training has seen data.
    ``apply(..., train=True)`` updates them, and leaves every other collection as it is. What a scheme learns
    or counts besides is kept as ``stored`` says; ``params["quant"]`` is trained with the other parameters.
    With ``weights_only`` kernels are rounded and nothing else, and there are no ranges.

    Args:
        model: from one array to one array, pictures in float32 or token numbers in int32. Its convolutions,
            BatchNorms and whatever else it is made of stay untouched: the traced program is quantized. One
            that computes in bfloat16 or float16 becomes one that computes, and answers, in float32.
        scheme: ``int8`` or ``weights_only``.
        input_grid: the grid of the input where it is known, as that of normalised pixels; else observed.

    Raises:
        ValueError: the model is quantized already. At ``init`` or ``apply``: it holds an operation that
            has no int8 form, or uses batch statistics in inference; or a rule of the scheme sets nothing.
        TypeError: the model is no Model (of a linen module it is ``from_linen(module)``), the scheme none of
            those, or the grid no Grid.
    """
    if not isinstance(model, Model):
        raise TypeError(
            f"quantize: expected a Model, got {type(model).__name__}; of a linen module it is "
            "from_linen(module)"
        )
    if is_quantized(model):
        raise ValueError("quantize: the model is quantized already: quantize the float model, once")
    if not isinstance(scheme, Scheme):
        raise TypeError(
            f"quantize: the scheme is {scheme!r}, expected one as int8() or weights_only()"
        )
    if isinstance(scheme, weights_only) and input_grid is not None:
        raise ValueError(
            f"quantize: with weights_only the input stays float, and input_grid is {input_grid}: leave it "
            "out, or quantize with int8()"
        )
    grid = None if input_grid is None else _checked(input_grid)
    # Only rules and 16 bits can be wrong for a model; where nothing else asks for variables init is recorded
    # as it always was.
    wide = isinstance(scheme, int8) and scheme.activation.bits == WIDE
    asks = scheme.rules or scheme.learns or isinstance(scheme, weights_only) or wide
    checked = {"scheme": scheme} if asks else {}
    return Model(
        functools.partial(_init, model, grid, **checked),
        functools.partial(_apply, model, scheme, grid),
    )


def is_quantized(model: Model) -> bool:
    """Whether the model was made by ``quantize``."""
    return isinstance(model.apply, functools.partial) and model.apply.func is _apply


def is_weights_only(model: Model) -> bool:
    """Whether the model was made by ``quantize`` with ``weights_only``."""
    return is_quantized(model) and isinstance(model.apply.args[1], weights_only)


def make_plan(
    model: Model, variables: Variables, inputs: PyTree, input_grid: Grid | None = None
) -> Plan:
    """The plan of a model for inputs of one shape; only shapes and dtypes are read, and plans are kept.

    Args:
        model: a float model, or one that ``quantize`` made (its own input grid is taken then).
        variables: of that model; a collection ``quant`` is left out.
        inputs: [B, H, W, C], an array or a ShapeDtypeStruct.

    Raises:
        TypeError: the inputs are no array.
        ValueError: as ``quantize``, or the inputs have a size that is not known, or the variables are not
            this model's; names them.
    """
    scheme: Scheme = int8()
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

    With ``weights_only`` there are none: only the shapes of the first batch are read.

    Args:
        model: made by ``quantize``.
        variables: its variables; the ranges they hold are forgotten, and what was learned of them.
        batches: inputs as the model takes them, [B, H, W, C] float32; each is seen once.
        estimator: of every range, in place of what the model's scheme says. How training goes on from
            there is the scheme's.

    Raises:
        TypeError: a batch is no array.
        ValueError: the model is not quantized, there is no picture, an array was given for batches, the
            numbers at a site are not finite (names the site), an estimator clips all that a site holds, or is
            given for ``weights_only``.
    """
    if not is_quantized(model):
        raise ValueError("calibrate: the model has no ranges: give it quantize(model)")
    floats, (of, scheme, grid), known = floats_of(variables), model.apply.args, {}
    choices = _observing(scheme, estimator)
    observe = jax.jit(functools.partial(_observe, of, choices, grid))
    for number, batch in batches_of("calibrate", batches):
        plan = _plan(of, choices, grid, floats, batch)
        if plan.rounds_kernels_alone:  # no grid waits for numbers
            break
        known = gathered(plan, known, jax.device_get(observe(floats, batch)), number)
    observing, plan = plan, _plan(of, scheme.choices, grid, floats, batch)
    ranges = settled(observing, known, plan)
    first = _fresh(scheme, plan, floats)
    if first.starts:
        first = first._replace(starts=jax.jit(functools.partial(kernel_starts, plan))(floats))
    return _with_ranges(first.into(floats), ranges)


def _observing(scheme: Scheme, estimator: Estimator | None) -> Choices:
    """What the scheme chooses, its estimators replaced by one if that is given."""
    choices = scheme.choices
    if estimator is not None:
        if choices.activation is None:
            raise ValueError(
                f"calibrate: activations stay float, so there is no range for {estimator} to make: leave "
                "it out"
            )
        choices = Choices(estimator, scheme.kernel, islands=choices.islands)
    check(choices.estimator, choices.kernel, "calibrate")
    return choices


def _fresh(scheme: Scheme, plan: Plan, floats: Variables) -> Stored:
    """What the scheme keeps besides ranges, before any data."""
    return fresh(
        plan,
        floats,
        counts=scheme.manner.counts,
        remembers=scheme.oscillation is not None,
        holds=scheme.schedule.freeze is not None,
    )


def _plan(
    model: Model, choices: Choices, grid: Grid | None, variables: Variables, inputs: PyTree
) -> Plan:
    check_array("quantize: the model's input", inputs)
    leaves, tree = jax.tree.flatten((floats_of(variables), inputs))
    types = tuple((tuple(leaf.shape), np.dtype(leaf.dtype)) for leaf in leaves)
    kernels_alone = choices.activation is None
    plan = _grouped(model, tree, types, grid, choices.islands, kernels_alone)
    return plan if choices == int8().choices else assign(plan, choices)


@functools.lru_cache(maxsize=64)
def _grouped(
    model: Model,
    tree: jax.tree_util.PyTreeDef,
    types: tuple,
    grid: Grid | None,
    islands: tuple[float_island | integer_norm, ...],
    kernels_alone: bool,
) -> Plan:
    leaves = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in types]
    variables, inputs = jax.tree.unflatten(tree, leaves)
    program = straightened(trace(model, variables, inputs))
    return group_kernels(program, islands) if kernels_alone else group(program, grid, islands)


def _init(
    model: Model, grid: Grid | None, key: jax.Array, inputs: PyTree, *, scheme: Scheme = int8()
) -> Variables:
    check_array("quantize: the model's input", inputs)
    variables = model.init(key, inputs)
    if RANGES in variables:
        raise ValueError(
            "quantize: a part of the model is quantized already: quantize the whole, once"
        )
    if LEARNED in variables.get("params", {}):
        raise ValueError(
            f"quantize: a module of the model is called {LEARNED!r}, the name of what quantization "
            "learns: give it another"
        )
    plan = _plan(model, scheme.choices, grid, variables, inputs)
    return _with_ranges(_fresh(scheme, plan, variables).into(variables), unseen(plan))


def _apply(
    model: Model,
    scheme: Scheme,
    grid: Grid | None,
    variables: Variables,
    inputs: PyTree,
    *,
    train: bool = False,
    key: jax.Array | None = None,
) -> tuple[Array, Variables]:
    floats = floats_of(variables)
    plan = _plan(model, scheme.choices, grid, floats, inputs)
    ranges = {} if plan.rounds_kernels_alone else _ranges(variables)
    if not train or (scheme.momentum == 1 and not scheme.learns):
        hooks = FakeQuant(plan, floats, *in_force(plan, variables))
        return evaluate(plan, hooks, inputs), _with_ranges({}, ranges) if train else {}
    check_sites(plan, ranges)
    if scheme.learns:
        stored = Stored.of(variables)
        stored.check(plan)
        hooks = Learn(plan, floats, ranges, stored, scheme.manner)
        return evaluate(plan, hooks, inputs), hooks.updates()
    hooks = Train(plan, floats, ranges)
    outputs = evaluate(plan, hooks, inputs)
    return outputs, {RANGES: trained(plan, ranges, hooks.seen, scheme.momentum)}


def _observe(
    model: Model, choices: Choices, grid: Grid | None, variables: Variables, inputs: PyTree
) -> dict[str, list[Seen]]:
    plan = _plan(model, choices, grid, variables, inputs)
    hooks = Observe(plan, variables)
    evaluate(plan, hooks, inputs)
    return hooks.seen


def _with_ranges(variables: Variables, ranges: Ranges) -> Variables:
    """Variables with the collection of ranges, if there is any."""
    return {**variables, RANGES: ranges} if ranges else variables


def _ranges(variables: Variables) -> Ranges:
    if RANGES in variables:
        return variables[RANGES]
    raise ValueError(
        f"quantize: the variables hold {sorted(variables)} and no {RANGES!r}: take it from init of "
        "the quantized model, then calibrate"
    )


def _checked(grid: Grid) -> Grid:
    if not isinstance(grid, Grid):
        raise TypeError(
            f"quantize: input_grid is {grid!r}, expected a Grid, Grid(scale=0.1, zero_point=3) say"
        )
    scale, zero_point = np.float32(grid.scale), int(grid.zero_point)
    inside = grid.low <= zero_point <= grid.high and zero_point == grid.zero_point
    if grid.bits not in (BITS, WIDE) or not (scale > 0 and inside):
        raise ValueError(
            f"{grid}: expected a scale > 0 and an integer zero point in {grid.low}..{grid.high}, of "
            f"{BITS} bits, or of {WIDE}"
        )
    return Grid(scale, np.int32(zero_point), grid.bits)
