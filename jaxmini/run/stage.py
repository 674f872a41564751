"""Stages and recipes: what a person writes down, as frozen values that refer to one another.

A stage trains one model on one set of pictures. Stages name the stages they start from or learn from as
values, so the chain is the expression itself.
"""

import dataclasses
import math
import types
import typing
from typing import Any, Literal

import flax.linen as nn
import numpy as np
import optax

from jaxmini import steps
from jaxmini.compress import quantize as quantization
from jaxmini.data import Normalization, Source, View, apply_views, identity
from jaxmini.export.layout import USUAL, Layout
from jaxmini.losses import Loss, nt_xent
from jaxmini.losses import cross_entropy as cross_entropy_loss
from jaxmini.losses import kl as kl_loss
from jaxmini.model import Model, as_model
from jaxmini.near_miss import did_you_mean
from jaxmini.run.kinds import require_kinds
from jaxmini.run.report.content import Report, Verdict
from jaxmini.run.variants import require_trained
from jaxmini.state import Array, Batch
from jaxmini.steps.update import Step

# Of a field that recipes did not always have: the record of those without it stays what it was.
RECORDED_IF_SET = types.MappingProxyType({"recorded": "if set"})


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a network sees of a batch: a view of each picture, normalised. Keyed by seed, id and epoch."""

    view: View
    normalization: Normalization

    def __call__(self, key: Array, batch: Batch, view_index: int) -> Array:
        return apply_views(
            self.view,
            self.normalization,
            key,
            view_index,
            batch["image"],
            batch["id"],
            batch["epoch"],
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """What every kind of stage has.

    Attributes:
        name: unique in its recipe; also its folder's name and how overrides address it.
        data: where the pictures come from.
        model: a linen module or a Model; None for the one of ``start``.
        start: the stage whose variables this one starts from (its body, where the heads differ).
        loss: ``(signals, batch) -> (scalar, metrics)``.
        optimizer: ``total_steps -> optax.GradientTransformation``.
        epochs: passes over the training pictures; a fraction is fine.
        batch_size: pictures an update.
        view: the augmentation.
        quantize: train in the integers the file will run in, or in kernels that it stores as integers
            (``weights_only``); None trains in float.
        against: the stage that does the same without what this one adds, for the closing table.
        seed: of initialisation, order and views.
        note: one line for the report.
    """

    name: str
    data: Source
    model: Model | nn.Module | None = None
    start: "Stage | None" = None
    loss: Any = None
    optimizer: Any = steps.adamw(1e-3)
    epochs: float = 1
    batch_size: int = 128
    view: View = identity()
    quantize: quantization.int8 | quantization.weights_only | None = None
    against: "Stage | None" = None
    seed: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        if not self.name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(
                f"stage name {self.name!r}: use letters, digits, - and _ (it names a folder)"
            )
        require_kinds(self, Stage)
        if self.model is None and self.start is None:
            raise ValueError(f"stage {self.name!r} has neither a model nor a stage to start from")
        if self.quantize is not None and self.start is None:
            raise ValueError(f"stage {self.name!r} quantizes: give it a trained stage as start")
        if not (isinstance(self.epochs, int | float) and 0 < self.epochs < math.inf):
            raise ValueError(
                f"stage {self.name!r}: epochs must be positive and finite, got {self.epochs!r}"
            )
        if not (isinstance(self.batch_size, int) and self.batch_size > 0):
            raise ValueError(
                f"stage {self.name!r}: batch_size must be positive, an integer; got {self.batch_size!r}"
            )
        if not (isinstance(self.seed, int) and 0 <= self.seed < 2**63):
            raise ValueError(
                f"stage {self.name!r}: seed is {self.seed!r}, expected an integer, 0 to 2**63 - 1"
            )

    def float_model(self) -> Model:
        """The stage's model before any quantization."""
        return self.start.float_model() if self.model is None else as_model(self.model)

    def network(self, normalization: Normalization) -> Model:
        """The Model this stage trains; one of integers takes raw pixels on its input grid."""
        model = self.float_model()
        if self.quantize is None:
            return model
        if isinstance(self.quantize, quantization.weights_only):
            return quantization.quantize(model, self.quantize)
        pixels = quantization.Grid(
            np.float32(normalization.scale), np.int32(normalization.zero_point)
        )
        return quantization.quantize(model, self.quantize, input_grid=pixels)

    def step(
        self, model: Model, optimizer: optax.GradientTransformation, normalization: Normalization
    ) -> Step:
        """The stage's update, as a pure function."""
        raise NotImplementedError

    @property
    def needs(self) -> tuple["Stage", ...]:
        """The stages whose outcome this one uses."""
        return () if self.start is None else (self.start,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive(Stage):
    """Pretraining on unlabelled pictures: two views of a picture belong together."""

    loss: Loss = nt_xent()
    labelled = False

    def step(
        self, model: Model, optimizer: optax.GradientTransformation, normalization: Normalization
    ) -> Step:
        return steps.contrastive(
            model, self.loss, optimizer, inputs=Inputs(self.view, normalization)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervised(Stage):
    """Training on labels."""

    loss: Loss = cross_entropy_loss()
    labelled = True

    def step(
        self, model: Model, optimizer: optax.GradientTransformation, normalization: Normalization
    ) -> Step:
        return steps.supervised(
            model, self.loss, optimizer, inputs=Inputs(self.view, normalization)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distill(Stage):
    """Training a student towards a frozen teacher that sees the same view.

    With ``start`` the teacher itself and ``quantize`` a scheme, a net learns its integers from its own
    float weights, without labels.
    """

    teacher: Stage
    loss: Loss = kl_loss()
    labelled = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.teacher, Contrastive):
            raise ValueError(
                f"stage {self.name!r} learns from {self.teacher.name!r}, whose outputs are embeddings: "
                "give a stage with logits as teacher, a Supervised one that starts from it, say"
            )

    def step(
        self, model: Model, optimizer: optax.GradientTransformation, normalization: Normalization
    ) -> Step:
        teacher = self.teacher.network(normalization)
        return steps.distill(
            model, teacher, self.loss, optimizer, inputs=Inputs(self.view, normalization)
        )

    @property
    def needs(self) -> tuple[Stage, ...]:
        return (*super().needs, self.teacher)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PostTraining(Stage):
    """Quantization without labels and without training: calibration, then each method in its order.

    Its loss, optimizer, epochs, batch size and view are not used.

    Attributes:
        quantize: by default with ranges that average the extremes of batches, as training does: those of
            one strange picture would cost all others their steps (``benchmarks.accuracy`` has both).
        methods: of ``quantize.equalize()``, ``adaround()``, ``correct_bias()``, or one's own
            ``(model, variables, batches) -> variables``.
        pictures: of the training split, the first ones, that the methods see.
    """

    quantize: quantization.int8 | quantization.weights_only | None = quantization.int8(
        estimator=quantization.moving_average()
    )
    methods: tuple[quantization.Method, ...] = ()
    pictures: int = 512
    labelled = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantize is None:
            raise ValueError(
                f"stage {self.name!r} trains nothing and quantizes nothing: give it quantize=int8()"
            )
        if not (isinstance(self.pictures, int) and self.pictures > 0):
            raise ValueError(
                f"stage {self.name!r}: pictures is {self.pictures!r}, expected 1 or more, an integer"
            )
        if not (isinstance(self.methods, tuple) and all(map(callable, self.methods))):
            raise TypeError(
                f"stage {self.name!r}: methods are {self.methods!r}, expected a tuple as "
                "(quantize.adaround(),)"
            )


@dataclasses.dataclass(frozen=True)
class Export:
    """A file to write from a stage: ``name.tflite``.

    Attributes:
        stage: whose outcome is exported.
        variant: ``int8`` needs a stage that quantizes by ``int8``, ``int16x8`` one that does so with
            activations of 16 bits, ``weights_only`` one by ``weights_only``; the others take a stage that
            trains in float.
        backend: the converter, ``jax2tf`` (through TensorFlow) or ``litert`` (without).
        name: of the file; the stage's name and the variant by default.
        layout: other types of input and output, more pictures a run, int4 kernels and the like.

    The formats that derive from it are in ``jaxmini.run.formats``.
    """

    stage: Stage
    variant: Literal["float32", "float16", "dynamic_int8", "weights_only", "int8", "int16x8"] = (
        "int8"
    )
    backend: Literal["jax2tf", "litert"] = "jax2tf"
    name: str | None = None
    layout: Layout = dataclasses.field(default=USUAL, metadata=RECORDED_IF_SET)

    ending = ".tflite"
    # Whether the file itself says what it is made of, and whether it is timed; gates ask before a run.
    tells_operations = True
    is_timed = True

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in ("variant", "backend"):
            _require_one_of(typing.get_args(hints[field]), getattr(self, field), field, self)
        self._check_layout()
        if isinstance(self.stage, Contrastive):
            raise ValueError(
                f"export of stage {self.stage.name!r}: its outputs are embeddings, and a file gives "
                "logits; export a Supervised or Distill stage that starts from it"
            )
        require_trained(self.variant, self.stage.name, self.stage.quantize)

    def _check_layout(self) -> None:
        self.layout.of(self.variant)
        if self.layout != USUAL and self.ending != Export.ending:
            raise ValueError(
                f"export of stage {self.stage.name!r}: a layout is that of a .tflite file, and "
                f"{self.file_name} is none; leave it out, or give it to an Export(...)"
            )

    @property
    def file_name(self) -> str:
        parts = [self.stage.name, self.variant]
        parts += [self.backend] * (self.ending != f".{self.backend}")
        return f"{self.name or '-'.join(dict.fromkeys(parts))}{self.ending}"


def _require_one_of(known: tuple[str, ...], name: str, field: str, export: Export) -> None:
    if name not in known:
        there = ", ".join(known) + did_you_mean(name, known)
        raise ValueError(
            f"export of stage {export.stage.name!r}: unknown {field} {name!r}; there are {there}"
        )


@dataclasses.dataclass(frozen=True)
class Gate:
    """What a finished run is held to; the kinds there are live in ``jaxmini.run.gates``."""

    def judge(self, report: Report) -> Verdict:
        """Whether the report's figures keep the gate."""
        raise NotImplementedError

    @property
    def uses(self) -> tuple[Stage | Export, ...]:
        """The stages and exports it speaks of."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return tuple(value for value in values if isinstance(value, Stage | Export))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A chain of stages, the files made from it, and what these are held to.

    Attributes:
        stages: in the order they run; each may use those before it.
        exports: the files to write and measure at the end.
        normalization: of all the chain's networks; measured on the first stage's pictures if None.
        gates: what the measured figures of these stages and exports must keep.
    """

    stages: tuple[Stage, ...]
    exports: tuple[Export, ...] = ()
    normalization: Normalization | None = None
    gates: tuple[Gate, ...] = ()

    def __post_init__(self) -> None:
        for field, kind in (("stages", Stage), ("exports", Export), ("gates", object)):
            _require_tuple(field, getattr(self, field), kind)
        seen: list[Stage] = []
        for stage in self.stages:
            if stage.name in {other.name for other in seen}:
                raise ValueError(
                    f"two stages are called {stage.name!r}; names must be unique in a recipe"
                )
            for needed in (*stage.needs, *([stage.against] if stage.against else [])):
                if needed not in seen:
                    raise ValueError(
                        f"stage {stage.name!r} uses stage {needed.name!r}, which is not among the recipe's "
                        "stages before it; add it there"
                    )
            seen.append(stage)
        if not seen:
            raise ValueError("a recipe needs at least one stage")
        self._check_exports()
        for gate in self.gates:
            _require_own(gate, self)

    def _check_exports(self) -> None:
        names = [export.file_name for export in self.exports]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two exports write {name}; give one of them another name")
        for export in self.exports:
            if export.stage not in self.stages:
                raise ValueError(
                    f"an export uses stage {export.stage.name!r}, which is not in the recipe"
                )


def _require_tuple(field: str, values: object, kind: type) -> None:
    """See that a field of a recipe is a tuple of its kind, which one value without a comma is not."""
    is_tuple = isinstance(values, tuple)
    others = [value for value in values if not isinstance(value, kind)] if is_tuple else [values]
    if others:
        found = f"{'holds' if is_tuple else 'is'} {type(others[0]).__name__}"
        raise TypeError(
            f"Recipe: {field} {found}, expected a tuple of {field}: Recipe({field}=({field[:-1]},))"
        )


def _require_own(gate: Gate, recipe: Recipe) -> None:
    """See that a gate speaks of the recipe's own stages and exports."""
    if not isinstance(gate, Gate):
        raise TypeError(f"a gate of the recipe is {gate!r}; gates are made by jaxmini.run.gates")
    stages = {stage.name: stage for stage in recipe.stages}
    exports = {export.file_name: export for export in recipe.exports}
    for used in gate.uses:
        what, name, own = (
            ("stage", used.name, stages)
            if isinstance(used, Stage)
            else ("export", used.file_name, exports)
        )
        if used != own.get(name):
            why = "differs from the recipe's" if name in own else "is not among the recipe's"
            raise ValueError(
                f"gate {type(gate).__name__} uses {what} {name!r}, which {why}; give it the value itself, "
                f"one of: {', '.join(own) or 'there are none'}"
            )
