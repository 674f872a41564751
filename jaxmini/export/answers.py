"""Answers: what a file that computes in float answers to random pictures, beside the model it was made from.

A converter may write something else than the model without a word; running both tells.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxmini.export.converter import ConversionError
from jaxmini.export.parity import ParityError

RUNS = 2  # of a batch of the file each
# By the variant: the largest difference, as a part of the largest answer. Roundings of activations as the
# file runs have no bound that would tell anything; there only shapes and finite numbers are asked for.
TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "weights_only": 1e-3, "dynamic_int8": None}
SMALLEST = 1e-6  # a difference that is none, where all answers are next to zero


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """Arrays that were drawn, and what the model answers to them, by the name of the output."""

    inputs: tuple[np.ndarray, ...]
    answers: Mapping[str, np.ndarray]


def trial(
    function: Callable[[jax.Array], Any], inputs: jax.ShapeDtypeStruct, outputs: tuple[str, ...]
) -> Trial:
    """What the model answers to inputs that are drawn.

    Args:
        function: inputs -> the answer, or a tuple of as many as there are outputs.
        inputs: pixels 0..255, uint8 or float32, or int32 numbers of tokens, of which 0 and 1 are drawn.
        outputs: names of the answers.
    """
    rng, high = np.random.default_rng(0), 2 if inputs.dtype == np.int32 else 256
    drawn = tuple(rng.integers(0, high, inputs.shape).astype(inputs.dtype) for _ in range(RUNS))
    with jax.default_matmul_precision("highest"):  # accelerators may shorten factors otherwise
        run = jax.jit(function)
        found = [jax.tree.leaves(jax.device_get(run(array))) for array in drawn]
    columns = zip(outputs, zip(*found, strict=True), strict=True)
    return Trial(drawn, {name: np.stack(answers) for name, answers in columns})


def check(content: bytes, tried: Trial, tolerance: float | None) -> None:
    """Check that a file answers as the model does.

    Args:
        content: of a .tflite file.
        tried: of the model.
        tolerance: the largest difference, as a part of the largest answer; None for any.

    Raises:
        ParityError: it does not; names the output, the largest difference, and the answers it is of.
        ConversionError: the interpreter refuses the file.
    """
    try:
        found = _found(content, tried.inputs)
    except (ValueError, RuntimeError) as error:
        raise ConversionError(f"the interpreter refuses the file: {error}") from error
    lines = [
        _difference(found[name], answers, tolerance) for name, answers in tried.answers.items()
    ]
    told = [f"  {name}: {line}" for name, line in zip(tried.answers, lines, strict=True) if line]
    if told:
        raise ParityError(
            "the file does not compute the model, so the converter wrote an operator that does something "
            "else; nothing was written. Try the other back end:\n" + "\n".join(told)
        )


def _difference(found: np.ndarray, expected: np.ndarray, tolerance: float | None) -> str | None:
    """What is wrong with the answers of a file; None where nothing is."""
    if found.shape != expected.shape:
        return f"the file answers {list(found.shape[1:])}, the model {list(expected.shape[1:])}"
    alike = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        apart = np.where(alike, 0, np.abs(found.astype(np.float64) - expected))
    largest = np.max(np.abs(expected), initial=0, where=np.isfinite(expected))
    if (apart <= (np.inf if tolerance is None else tolerance * largest + SMALLEST)).all():
        return None
    place = np.unravel_index(np.argmax(apart), apart.shape)
    return (
        f"the largest difference is {apart[place]:.6g}, of the answer {found[place]:.6g} where the model's "
        f"is {expected[place]:.6g}; its largest is {largest:.6g}"
    )


def _found(content: bytes, inputs: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    """The answers of every signature of a file, by the name of the output."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    answers: dict[str, list[np.ndarray]] = {}
    for signature in interpreter.get_signature_list():
        run = interpreter.get_signature_runner(signature)
        (name,) = run.get_input_details()
        for array in inputs:
            for output, answer in run(**{name: array}).items():
                answers.setdefault(output, []).append(answer)
    return {output: np.stack(found) for output, found in answers.items()}
