"""Answers: what a file answers to random pictures, beside the model it was made from.

A converter may write something else than the model without a word; running both tells. Of an integer file,
whose stored numbers ``parity`` compares, that is asked of its float islands, and of all that only moves.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxmini.compress.quantize.frozen import Frozen
from jaxmini.compress.quantize.islands import Island
from jaxmini.compress.quantize.lookup import Lookup
from jaxmini.compress.quantize.plan import Plan
from jaxmini.export import edges, flatbuffer
from jaxmini.export.converter import ConversionError
from jaxmini.export.parity import ParityError
from jaxmini.export.replay import Replay

RUNS = 2  # of a batch of the file each
FEWEST = 2  # tokens that any table should know
# By the variant: the largest difference, as a part of the largest answer. Roundings of activations as the
# file runs have no bound that would tell anything; there only shapes and finite numbers are asked for.
TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "weights_only": 1e-3, "dynamic_int8": None}
SMALLEST = 1e-6  # a difference that is none, where all answers are next to zero
# The share of an island's integers that may be further than one step from the model's: where the model
# jumps, a rounding decides.
JUMPS = 0.01


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
    drawn = _drawn(inputs.shape, inputs.dtype)
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


def check_integers(content: bytes, plan: Plan, frozen: Frozen) -> None:
    """Check where an integer file moves numbers to, and what its float islands compute.

    The file runs on random inputs; each move and each island is computed again from what the file read there.
    Its other operators have the trained numbers (``parity``); ``evaluate.operator_parity`` compares them.

    Args:
        content: of a .tflite file that holds the frozen network, whatever its types at the ends.
        plan: of the file's batch.
        frozen: the integers and grids it was exported from.

    Raises:
        ParityError: an island or a move leaves something else; names it, how many integers are off, how far.
        ConversionError: the interpreter refuses the file.
    """
    whole = flatbuffer.read(content)
    core = edges.core(whole)
    replay = Replay(core, plan, frozen, only=Island)
    again = replay if plan.is_wide else jax.jit(replay)
    steps: dict[int, list[np.ndarray]] = {}
    for tensors in _tensors(content, whole, replay.tensors, _rows(plan)):
        for index, expected in again(tensors).items():
            apart = expected.astype(np.int32).ravel() - tensors[index].astype(np.int32).ravel()
            steps.setdefault(index, []).append(np.abs(np.asarray(apart)))
    islands = {
        op.outputs[0]: group.name for group, op in replay.pairs if op and isinstance(group, Island)
    }
    lines = [
        f"  {name}: it was not reached" for index, name in islands.items() if index not in steps
    ]
    lines += [
        _off(
            islands.get(index, f"a move, {core.tensors[index].name}"),
            np.stack(apart),
            index in islands,
        )
        for index, apart in steps.items()
    ]
    if told := [line for line in lines if line]:
        raise ParityError(
            "the file does not compute the network, so the converter wrote an operator that does something "
            "else; nothing was written. Try the other back end:\n" + "\n".join(told)
        )


def _off(where: str, steps: np.ndarray, in_float: bool) -> str | None:
    """How far integers are from those expected; None where only roundings in float differ."""
    off = int(np.count_nonzero(steps > in_float))
    if off <= (JUMPS * steps.size if in_float else 0):
        return None
    return f"  {where}: {off} of {steps.size} integers are off, the farthest by {steps.max()}"


def _tensors(
    content: bytes, file: flatbuffer.File, indices: Iterable[int], rows: int
) -> Iterator[dict[int, np.ndarray]]:
    """Some tensors of a file, by index, of each of its runs on random inputs; XNNPACK runs nothing."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    stored = file.tensors[file.inputs[0]]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*experimental_preserve_all_tensors", UserWarning)
            interpreter = Interpreter(
                model_content=content,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                experimental_preserve_all_tensors=True,
            )
        interpreter.allocate_tensors()
        for inputs in _drawn(stored.shape, stored.dtype, rows):
            interpreter.set_tensor(file.inputs[0], inputs)
            interpreter.invoke()
            yield {index: interpreter.get_tensor(index) for index in indices}
    except (ValueError, RuntimeError) as error:
        raise ConversionError(f"the interpreter refuses the file: {error}") from error


def _rows(plan: Plan) -> int:
    """The number of tokens that every table has a row for."""
    tables = [group.inputs[0] for group in plan.groups if isinstance(group, Lookup)]
    return min((plan.program.shape(table)[0] for table in tables), default=FEWEST)


def _drawn(shape: tuple[int, ...], dtype: np.dtype, rows: int = FEWEST) -> tuple[np.ndarray, ...]:
    """Random inputs of a file: any integers of 8 or 16 bits, pixels 0..255 as floats, tokens below ``rows``.

    Every other token is one of the first two, as padding is.
    """
    rng = np.random.default_rng(0)
    if dtype == np.int32:
        limits = [np.where(rng.random(shape) < 0.5, min(FEWEST, rows), rows) for _ in range(RUNS)]
        return tuple(rng.integers(0, limit, dtype=np.int32) for limit in limits)
    low, high = 0, 256
    if dtype in (np.int8, np.int16):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max + 1
    return tuple(rng.integers(low, high, shape).astype(dtype) for _ in range(RUNS))


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
