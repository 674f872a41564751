"""Content: all that a report says, as plain frozen values.

Whoever ran the chain fills them in; nothing here is computed, and what was not measured is None.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from jaxmini.near_miss import did_you_mean


@dataclasses.dataclass(frozen=True)
class Curve:
    """One metric over the steps of a stage: ``values[i]`` was logged at ``steps[i]``.

    Raises:
        ValueError: there are not as many values as steps.
    """

    metric: str
    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values):
            raise ValueError(
                f"curve {self.metric!r} has {len(self.steps)} steps and {len(self.values)} values; "
                "give one value a step"
            )


@dataclasses.dataclass(frozen=True)
class StageResult:
    """What one stage did and how good the network was that came out of it.

    Attributes:
        name: as the recipe calls it.
        kind: what the stage does: ``contrastive``, ``supervised``, ``distill``, ``quantize``.
        data: name of the data it was trained on.
        labels_used: how many labelled examples its loss was given; 0 for none.
        params: parameters of the network.
        macs: multiply-accumulate operations of one picture.
        steps: updates made.
        seconds: wall time of the training.
        accuracy: on the test split, in 0..1.
        against: name of the stage whose accuracy this one is to be compared with.
        curves: what was logged while it trained.
        note: one sentence for the reader.
    """

    name: str
    kind: str
    data: str
    labels_used: int | None = None
    params: int | None = None
    macs: int | None = None
    steps: int | None = None
    seconds: float | None = None
    accuracy: float | None = None
    against: str | None = None
    curves: tuple[Curve, ...] = ()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a gate was kept.

    Attributes:
        gate: its name: ``max_bytes``.
        of: name of the stage or file it was held against.
        measured: the figure, with its unit: ``71,872 bytes``.
        limit: what was asked of it: ``at most 100,000 bytes``.
        passed: whether it was kept.
    """

    gate: str
    of: str
    measured: str
    limit: str
    passed: bool


@dataclasses.dataclass(frozen=True)
class Layer:
    """How far one layer of an int8 file is from the same layer of the float network.

    A ratio is the power of the float network's numbers over that of the distance from them (SQNR),
    in dB: more is better, infinite is exact, and None stands for a layer that gives only zeros.

    Attributes:
        name: module and what it computes: ``Net/stem:conv``.
        operator: that computes it in the file: ``CONV_2D``; None if none does.
        sqnr: ratio of the file's own numbers, which every layer before has rounded too.
        alone: ratio where only this layer's kernel and output are rounded.
        differing: share of the file's numbers that are not those of the integer simulation of this
            layer on the file's own inputs, in 0..1; None if they were not compared.
        largest: by how many steps (LSB) at most.
    """

    name: str
    operator: str | None = None
    sqnr: float | None = None
    alone: float | None = None
    differing: float | None = None
    largest: int | None = None


@dataclasses.dataclass(frozen=True)
class FileResult:
    """An exported file, and what running it gave.

    Attributes:
        name: file name.
        variant: kind of numbers in it: ``float32``, ``int8``.
        backend: what wrote it: ``jax2tf``, ``litert``.
        bytes: its length.
        made_from: name of the stage whose network it holds.
        accuracy: of the file's own answers on the test split, in 0..1.
        agreement: share of test pictures on which file and network answer the same, in 0..1.
        latency_ms: median time of one picture.
        latency_spread: how far the 90th percentile of those times is above the 10th, in ms.
        ops: how many of each operation it holds.
        checks: what was compared, and the finding (``"56,250 compared, 0 differ"``).
        float_ops: how many of each operation read or give floats.
        micro: what hinders TFLite-Micro from running it, nothing if it does; None if it was not tried.
        arena_bytes: the least working memory it ran with there.
        layers: of an int8 file, in the order of the program.
        layers_note: on what the layers were measured, or why they were not.
    """

    name: str
    variant: str
    backend: str
    bytes: int
    made_from: str | None = None
    accuracy: float | None = None
    agreement: float | None = None
    latency_ms: float | None = None
    latency_spread: float | None = None
    ops: dict[str, int] = dataclasses.field(default_factory=dict)
    checks: dict[str, str] = dataclasses.field(default_factory=dict)
    float_ops: dict[str, int] | None = None
    micro: tuple[str, ...] | None = None
    arena_bytes: int | None = None
    layers: tuple[Layer, ...] = ()
    layers_note: str = ""


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A test picture that was answered wrongly.

    Attributes:
        index: of the picture in the test split.
        truth: index into ``Report.labels``.
        predicted: index into ``Report.labels``.
        confidence: probability given to the wrong answer, in 0..1.
        png: the picture (``pictures.png`` makes it of an array).
    """

    index: int
    truth: int
    predicted: int
    confidence: float
    png: bytes


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How alike two predictors answer: share of same first answers, mean KL(a || b) in nats."""

    a: str
    b: str
    top1: float | None = None
    kl: float | None = None


@dataclasses.dataclass(frozen=True)
class Link:
    """One thing of the chain of provenance: its digest, and the names of what it was made from."""

    name: str
    digest: str
    made_from: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """The whole of a finished run.

    Attributes:
        title: name of the run.
        command: what was typed to start it.
        created: date and time, ISO 8601.
        machine: what it ran on (``{"processor": ..., "cores": ...}``).
        versions: of the packages that have an influence.
        recipe: the record of the recipe, JSON values only.
        stages: in the order they ran.
        files: in the order they were written.
        labels: names of the classes.
        mistakes: pictures to show, the most telling first.
        confusion: ``[truth][predicted]`` counts on the test split, or empty.
        confusion_of: name of the stage or file that ``confusion`` and ``mistakes`` are of.
        fidelity: pairs of predictors that were compared.
        provenance: what was made from what.
        gates: what was asked of the figures, and whether they kept it.

    Raises:
        ValueError: a name is used twice; the confusion matrix or a mistake does not fit the labels.
        KeyError: something refers to a stage or link that is not there.
    """

    title: str
    command: str = ""
    created: str = ""
    machine: dict[str, str] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    stages: tuple[StageResult, ...] = ()
    files: tuple[FileResult, ...] = ()
    labels: tuple[str, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    confusion_of: str = ""
    fidelity: tuple[Agreement, ...] = ()
    provenance: tuple[Link, ...] = ()
    gates: tuple[Verdict, ...] = ()

    def __post_init__(self) -> None:
        stages = _unique("stage", (stage.name for stage in self.stages))
        links = _unique("link", (link.name for link in self.provenance))
        files = _unique("file", (file.name for file in self.files))
        for stage in self.stages:
            _known(stage.against, stages, f"stage {stage.name!r} is compared against")
        for file in self.files:
            _known(file.made_from, stages, f"file {file.name!r} is made from")
        for link in self.provenance:
            for source in link.made_from:
                _known(source, links, f"link {link.name!r} is made from")
        for verdict in self.gates:
            _known(verdict.of, [*stages, *files], f"gate {verdict.gate!r} is of")
        self._check_labels()

    def _check_labels(self) -> None:
        classes = len(self.labels)
        if self.confusion and {len(self.confusion), *map(len, self.confusion)} != {classes}:
            raise ValueError(
                f"the confusion matrix must be {classes} by {classes}, a row and a column for each "
                f"of the labels; its rows have the lengths {list(map(len, self.confusion))}"
            )
        for mistake in self.mistakes:
            if not (0 <= mistake.truth < classes and 0 <= mistake.predicted < classes):
                raise ValueError(
                    f"mistake {mistake.index}: truth {mistake.truth} and predicted "
                    f"{mistake.predicted} must be indices into the {classes} labels"
                )

    def stage(self, name: str | None) -> StageResult | None:
        """The stage of that name; None for None."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def file(self, name: str) -> FileResult | None:
        """The file of that name."""
        return next((file for file in self.files if file.name == name), None)


def _unique(what: str, names: Iterable[str]) -> list[str]:
    seen: list[str] = []
    for name in names:
        if name in seen:
            raise ValueError(f"two {what}s of a report are called {name!r}; give each its own name")
        seen.append(name)
    return seen


def _known(name: str | None, names: list[str], where: str) -> None:
    if name is None or name in names:
        return
    there = ", ".join(names) + did_you_mean(name, names)
    raise KeyError(f"{where} {name!r}, which is not there; there are {there}")
