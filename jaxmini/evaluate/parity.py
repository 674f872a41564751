"""Parity: an artifact beside a file made from it: stored numbers, answers of all kernels, operators."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from jaxmini.compress.quantize.frozen import Frozen
from jaxmini.compress.quantize.plan import INPUT
from jaxmini.compress.quantize.simulation import simulator
from jaxmini.compress.quantize.transform import is_quantized, is_weights_only, make_plan
from jaxmini.evaluate.accuracy import of_labelled, one_each, predict_all
from jaxmini.evaluate.deviation import Deviation, deviation
from jaxmini.evaluate.fidelity import agreement
from jaxmini.evaluate.interpreter import LITERT, Kernels, known_kernels, require_ends
from jaxmini.evaluate.operators import OperatorParity, operator_parities
from jaxmini.evaluate.runtime import tflite_integers, tflite_predict
from jaxmini.export import edges, flatbuffer, float_kernels
from jaxmini.export.artifact import Artifact, predict
from jaxmini.export.integer import integer_form, pixels
from jaxmini.export.parity import Parity, differing
from jaxmini.export.weights_only import weights_only_form

BATCH = 64  # pictures at a time through the network
OPERATOR_IMAGES = 16


@dataclasses.dataclass(frozen=True)
class Stored:
    """The numbers that a file of trained integers stores, beside the trained ones.

    Attributes:
        compared: how many of each kind.
        differences: a line for each number or list of numbers that differs; empty for a faithful file.
    """

    compared: Parity
    differences: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Answers:
    """One kind of kernels' answers beside the network's, on the same pictures.

    Attributes:
        agreement: share of the pictures with the same first class, 0..1.
        accuracy: share of the labelled pictures answered rightly, 0..1; None without labels.
        largest_difference: of two logits.
        deviation: of the integers; None for a file of float logits.
        operators: every operator of an integer file beside the simulation of it.
    """

    agreement: float
    accuracy: float | None
    largest_difference: float
    deviation: Deviation | None
    operators: tuple[OperatorParity, ...] = ()


@dataclasses.dataclass(frozen=True)
class FileParity:
    """A file beside the artifact it was made from.

    Attributes:
        images, labelled: how many pictures were answered, and how many of them have a label.
        operator_images: with how many of them operators were compared.
        accuracy: of the network itself: the integer simulation for an int8 file, else the float one.
        stored: the numbers in the file; None for a file of a float network.
        answers: of the file, by kernels.
    """

    images: int
    labelled: int
    operator_images: int
    accuracy: float | None
    stored: Stored | None
    answers: Mapping[Kernels, Answers]

    @property
    def is_faithful(self) -> bool:
        """Whether every stored number is the trained one (nothing is known of a float file's)."""
        return self.stored is None or not self.stored.differences


def file_parity(
    artifact: Artifact,
    source: Path | str | bytes,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    operator_images: int = OPERATOR_IMAGES,
    kernels: Iterable[Kernels | str] = LITERT,
) -> FileParity:
    """Compare a file with the artifact it should be, in every way there is.

    The file is run once in a process of its own first: a damaged one may crash the interpreter.

    Args:
        artifact: the trained network; of an int8 file a quantized one.
        source: path or bytes of a file that ``jaxmini.export.tflite`` wrote.
        images: uint8 [N, H, W, C], N >= 1.
        labels: integers [N], -1 where there is none; None where none has one.
        operator_images: how many of the images operators are compared with, at least 1.
        kernels: which implementations of the operators are run.

    Raises:
        TypeError: not an artifact.
        ValueError: not such a file, one that the interpreter refuses or crashes on, one of another input
            or of other classes, an int8 file beside a network that is not quantized, or labels that are not
            one integer a picture.
    """
    if not isinstance(artifact, Artifact):
        raise TypeError(
            f"file_parity: expected an Artifact, got {type(artifact).__name__}; "
            "function_parity compares any function with any file"
        )
    _, where = flatbuffer.contents(source)
    file = flatbuffer.read(source)
    _require_fitting(file, where, artifact, images)
    labels = None if labels is None else one_each("file_parity", labels, len(images))
    if operator_images < 1:
        raise ValueError(f"file_parity: operator_images is {operator_images}; at least 1 is needed")
    kinds = tuple(dict.fromkeys(map(known_kernels, kernels)))
    if not kinds:
        raise ValueError("file_parity: no kernels are named; at least one kind is needed")
    if not _computes_integers(file):
        expected = predict_all(predict(artifact), images, BATCH)
        found = _compared(source, expected, images, labels, kinds)
        return dataclasses.replace(found, stored=_stored(artifact, file))
    plan, frozen = integer_form(artifact, file.tensors[file.inputs[0]].shape[0])
    whole = _compared(source, _simulated(artifact, frozen, images), images, labels, kinds)
    looked = images[:operator_images]
    operators = operator_parities(source, plan, frozen, looked, kernels=kinds)
    answers = {
        kind: dataclasses.replace(found, operators=operators[kind])
        for kind, found in whole.answers.items()
    }
    stored = Stored(*differing(file, plan, frozen))
    return dataclasses.replace(whole, operator_images=len(looked), stored=stored, answers=answers)


def _compared(
    source: Path | str | bytes,
    expected: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray | None,
    kinds: tuple[Kernels, ...],
) -> FileParity:
    """The answers of kernels beside those expected: float logits, or int8 of a file of integers."""
    answers = {kind: _answers(source, kind, expected, images) for kind in kinds}
    return FileParity(
        images=len(images),
        labelled=0 if labels is None else int(np.count_nonzero(labels >= 0)),
        operator_images=0,
        accuracy=of_labelled(expected, labels),
        stored=None,
        answers={
            kind: dataclasses.replace(found, accuracy=of_labelled(logits, labels))
            for kind, (found, logits) in answers.items()
        },
    )


def _answers(
    source: Path | str | bytes, kernels: Kernels, expected: np.ndarray, images: np.ndarray
) -> tuple[Answers, np.ndarray]:
    """One kind of kernels beside what is expected, without accuracy; and its answers themselves."""
    apart, step = None, 1.0
    if expected.dtype.name in edges.INTEGERS:
        found = tflite_integers(source, kernels=kernels)(images)
        apart = deviation(expected, found)
        step = float(_integer_output(flatbuffer.read(source)).scale[0])
    else:
        found = tflite_predict(source, kernels=kernels)(images)
    largest = float(np.max(np.abs(found.astype(np.float64) - expected)))
    return Answers(agreement(expected, found), None, step * largest, apart), found


def _stored(artifact: Artifact, file: flatbuffer.File) -> Stored | None:
    """The integers of a file that computes in float, where they are trained ones."""
    if not is_weights_only(artifact.model):
        return None
    plan, frozen = weights_only_form(artifact, file.tensors[file.inputs[0]].shape[0])
    return Stored(*float_kernels.differing(file, plan, frozen))


def _simulated(artifact: Artifact, frozen: Frozen, images: np.ndarray) -> np.ndarray:
    """What the integer file should answer, int8 or int16 [N, classes]."""
    batch = min(BATCH, len(images))
    plan = make_plan(artifact.model, artifact.variables, artifact.input_spec(batch))
    integers = pixels(images, frozen.grids[INPUT], artifact.normalization)
    dtype = frozen.grids[plan.output_site].dtype
    return predict_all(simulator(plan, frozen), integers, batch).astype(dtype)


def _integer_output(file: flatbuffer.File) -> flatbuffer.Tensor:
    """The output of the integer network in a file; that of a file of floats is what it is."""
    inner = edges.core(file)
    return inner.tensors[inner.outputs[0]]


def _computes_integers(file: flatbuffer.File) -> bool:
    return _integer_output(file).dtype.name in edges.INTEGERS


def _require_fitting(
    file: flatbuffer.File, where: str, artifact: Artifact, images: np.ndarray
) -> None:
    require_ends(file, where)
    stored, answered = (file.tensors[indices[0]] for indices in (file.inputs, file.outputs))
    if stored.shape[1:] != artifact.input_shape:
        raise ValueError(
            f"{where}: takes {list(stored.shape)}, the artifact pictures {list(artifact.input_shape)}"
        )
    if artifact.labels and answered.shape[1:] != (len(artifact.labels),):
        raise ValueError(
            f"{where}: answers {list(answered.shape)}, the artifact {len(artifact.labels)} classes"
        )
    if _computes_integers(file) and not is_quantized(artifact.model):
        raise ValueError(
            f"{where}: computes in {_integer_output(file).dtype}, and the artifact's network was trained in "
            "float: give the artifact of the stage that trained in integers"
        )
    if images.dtype != np.uint8 or images.shape[1:] != artifact.input_shape or not len(images):
        raise ValueError(
            "file_parity: expected uint8 pictures "
            f"[N, {', '.join(map(str, artifact.input_shape))}], N >= 1, "
            f"got {images.dtype}{list(images.shape)}"
        )
