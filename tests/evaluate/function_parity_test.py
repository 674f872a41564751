"""Function parity: functions beside files of every type that do not say who wrote them."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.evaluate import function_parity
from jaxmini.evaluate.interpreter import LITERT, Kernels
from jaxmini.evaluate.operators import first_deviating
from jaxmini.evaluate.runtime import tflite_integers, tflite_predict
from jaxmini.export import Artifact, Layout, flatbuffer, predict, tflite
from jaxmini.inspection.tables import function_parity_text
from tests.evaluate.conftest import Plain, without_metadata
from tests.export.conftest import NORMALIZATION
from tests.export.single import SHAPE, pair, single
from tests.export.tampering import change, edited, find

NUMBERS = np.linspace(-2, 2, 80, dtype=np.float32).reshape(5, *SHAPE[1:])


@pytest.fixture(scope="module")
def foreign(integer_path: Path) -> bytes:
    return without_metadata(integer_path.read_bytes())


def test_a_float_file_beside_a_function_of_pixels(
    float_artifact: Artifact, float_path: Path, pictures: np.ndarray
):
    content = without_metadata(float_path.read_bytes())
    found = function_parity(predict(float_artifact), content, pictures)
    assert (found.inputs, found.step, list(found.answers)) == (20, None, list(LITERT))
    for apart in found.answers.values():
        assert (apart.deviation, apart.mean_steps, apart.agreement) == (None, None, 1.0)
        assert 0 < apart.mean < apart.largest < 1e-4


def test_an_integer_file_beside_a_linen_module_of_normalised_pictures(
    float_artifact: Artifact, foreign: bytes, integer_path: Path, pictures: np.ndarray
):
    """The file's own grids take the numbers in and out, as they do for the pixels of the same pictures."""
    function = functools.partial(Plain().apply, float_artifact.variables)
    inputs = np.asarray(NORMALIZATION(jnp.asarray(pictures)))
    found = function_parity(function, foreign, inputs, batch_size=7, operator_inputs=3)
    expected = np.asarray(function(inputs))
    step = float(flatbuffer.read(foreign).tensors[flatbuffer.read(foreign).outputs[0]].scale[0])
    assert found.step == step
    for kernels, apart in found.answers.items():
        logits = tflite_predict(integer_path, kernels=kernels)(pictures)
        assert apart.largest == pytest.approx(np.abs(logits - expected).max(), rel=1e-4)
        assert apart.mean == pytest.approx(np.abs(logits - expected).mean(), rel=1e-4)
        assert apart.agreement == np.mean(logits.argmax(-1) == expected.argmax(-1))
        assert apart.deviation.compared == 200
        assert abs(apart.deviation.largest - apart.largest / step) <= 0.5001
        assert abs(apart.mean_steps - apart.mean / step) <= 0.5001
    assert (found.base, found.operator_inputs) == (Kernels.REFERENCE, 3)
    assert set(found.operators) == {Kernels.XNNPACK, Kernels.OPTIMIZED}
    for operators in found.operators.values():
        assert [op.name for op in operators] == [op.name for op in flatbuffer.read(foreign).ops]
        assert all(op.deviation.compared for op in operators)


@pytest.mark.parametrize("layout", [{}, {"input": "uint8"}, {"input": "float32"}])
def test_integers_of_the_files_own_type_are_compared_as_they_are(
    layout: dict, integer_artifact: Artifact, pictures: np.ndarray, tmp_path: Path
):
    path = tmp_path / "net.tflite"
    shape = Layout(batch=3, **layout)
    tflite(integer_artifact, path, variant="int8", backend="litert", layout=shape)
    content = without_metadata(path.read_bytes())
    own = tflite_integers(path, kernels="reference")
    found = function_parity(own, content, pictures, kernels=("xnnpack", "reference"))
    exact = found.answers[Kernels.REFERENCE]
    assert (exact.largest, exact.mean_steps, exact.agreement) == (0.0, 0.0, 1.0)
    assert exact.deviation.histogram[0] == 200
    # The same kernels deviate from each other in their answers if and only if they do in an operator.
    other = function_parity(
        own, content, pictures, kernels=("xnnpack", "reference"), operator_inputs=20
    )
    deviates = other.answers[Kernels.XNNPACK].deviation.largest > 0
    assert deviates <= (first_deviating(other.operators[Kernels.XNNPACK]) is not None)


def test_a_changed_kernel_is_seen(integer_artifact: Artifact, foreign: bytes, pictures: np.ndarray):
    def tamper(model: Any, graph: Any) -> None:
        change(model, graph.tensors[find(model, "CONV_2D", 1).inputs[1]], slice(0, 30), 127)

    function = predict(integer_artifact)
    whole = function_parity(function, foreign, pictures, kernels=["xnnpack"])
    found = function_parity(function, edited(foreign, tamper), pictures, kernels=["xnnpack"])
    assert whole.answers[Kernels.XNNPACK].deviation.largest <= 2
    assert found.answers[Kernels.XNNPACK].deviation.largest > 4
    assert found.operators == {}


@pytest.mark.parametrize("function", [np.abs, jax.jit(jnp.abs)])
def test_a_file_of_one_operator_beside_what_it_computes(function: Callable):
    found = function_parity(function, single("ABS", grid=(0.02, -3)), NUMBERS)
    for apart in found.answers.values():
        assert apart.agreement is None  # not a list of classes
        assert apart.deviation.largest <= 1
        assert apart.largest <= 0.0201
    exact = function_parity(function, single("ABS", np.float32), NUMBERS, operator_inputs=0)
    assert exact.operators == {}
    assert [apart.largest for apart in exact.answers.values()] == [0.0] * 3


def test_a_file_of_several_inputs_and_outputs_is_compared_output_by_output():
    """The file is the magnitudes of two arrays, each by an operator of its own."""
    both, kinds = (NUMBERS, -NUMBERS), ("xnnpack", "reference")
    first = function_parity(lambda x, _: np.abs(x), pair(), both, output=0, kernels=kinds)
    assert [apart.deviation.largest <= 1 for apart in first.answers.values()] == [True, True]
    other = function_parity(lambda _, y: np.abs(y), pair(), both, output=1, kernels=kinds)
    assert [apart.largest for apart in other.answers.values()] == [0.0, 0.0]
    assert [apart.deviation for apart in other.answers.values()] == [None, None]
    for found in (first, other):
        integers, floats = found.operators[Kernels.XNNPACK]
        assert integers.deviation.compared == 4 * NUMBERS[0].size
        assert floats.deviation is None
    wrong = function_parity(lambda x, _: x, pair(), both, output=0, kernels=kinds)
    assert wrong.answers[Kernels.XNNPACK].largest == pytest.approx(4.0, abs=0.03)


def test_beyond_the_grid_no_file_can_answer():
    """Where the file says its largest, the distance in numbers is told and none in steps."""
    found = function_parity(lambda x: 100 * np.abs(x), single("ABS", grid=(0.02, 5)), NUMBERS[:1])
    apart = found.answers[Kernels.REFERENCE]
    assert apart.largest > 100
    assert apart.deviation.largest <= 122


FILE = single("ABS", grid=(0.02, -3))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"inputs": NUMBERS[:, :1]}, r"takes \[N, 2, 2, 4\], N >= 1; got float32\[5, 1, 2, 4\]"),
        ({"inputs": NUMBERS[0]}, r"takes \[N, 2, 2, 4\], N >= 1; got float32\[2, 2, 4\]"),
        ({"inputs": NUMBERS[:0]}, r"N >= 1; got float32\[0, 2, 2, 4\]"),
        ({"inputs": np.float32(3)}, r"N >= 1; got float32\[\]"),
        ({"inputs": NUMBERS.astype(np.int32)}, "input takes int8, or real .*; got int32"),
        ({"inputs": NUMBERS * np.nan}, "the inputs are not all finite"),
        (
            {"source": pair()},
            "2 outputs, which of them the function gives; output=... names one: 0:",
        ),
        ({"source": pair(), "output": 2}, r"not output=2; output=... .* 1: '' \[N, 2, 2, 4\]"),
        ({"source": pair(), "output": 1}, r"takes (\[N, 2, 2, 4\](, )?){2}, N >= 1; got float32"),
        (
            {"source": pair(), "output": 1, "inputs": (NUMBERS, NUMBERS[:4])},
            r"takes .*; got float32\[5, 2, 2, 4\], float32\[4, 2, 2, 4\]",
        ),
        ({"output": 1}, "has 1 outputs, not output=1"),
        ({"inputs": (NUMBERS, NUMBERS)}, r"takes \[N, 2, 2, 4\], N >= 1; got float32.*, float32"),
        ({"source": b"GIF89a and more"}, "not a .tflite file"),
        ({"source": FILE[:100]}, "model bytes: "),
        ({"function": lambda x: x[:, 0]}, r"gives \[5, 2, 4\] for 5 inputs; .* \[N, 2, 2, 4\]"),
        ({"function": lambda x: x[:1]}, r"gives \[1, 2, 2, 4\] for 5 inputs"),
        ({"function": lambda x: x + np.inf}, "the function: the answer to input 0 is not"),
        ({"kernels": ()}, "no kernels are named"),
        ({"kernels": ["xnpack"]}, "did you mean 'xnnpack'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"operator_inputs": -1}, "operator_inputs is -1"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict, message: str):
    given = {"function": np.abs, "source": FILE, "inputs": NUMBERS} | changed
    with pytest.raises(ValueError, match=message):
        function_parity(**given)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("abs", "expected a function of the inputs, got str"),
        (lambda x: (x, {}), "gives tuple, expected one array; for the first of several, lambda"),
        (lambda x: {"logits": x}, "gives dict, expected one array"),
    ],
)
def test_what_is_no_function_of_one_array_is_refused(function: Any, message: str):
    with pytest.raises(TypeError, match=message):
        function_parity(function, FILE, NUMBERS)


def test_a_file_that_kills_the_interpreter_is_a_message(foreign: bytes, pictures: np.ndarray):
    def tamper(model: Any, graph: Any) -> None:
        find(model, "ADD").inputs[1] = -1

    with pytest.raises(ValueError, match="the interpreter (crashes on|refuses) the file"):
        function_parity(lambda x: x, edited(foreign, tamper), pictures)


def test_a_file_with_a_loop_beside_its_function(loops: bytes):
    kernel = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)

    def function(rows: np.ndarray) -> np.ndarray:
        for _ in range(3):
            rows = np.tanh(rows @ kernel)
        return np.where(rows.sum() > 0, rows @ kernel, -rows)

    rows = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    found = function_parity(function, loops, rows, batch_size=1)
    assert all(apart.largest < 1e-5 for apart in found.answers.values())
    names = [op.name for op in found.operators[Kernels.XNNPACK]]
    assert ("WHILE" in names, "IF" in names) == (True, True)


def test_labels_tell_how_often_the_function_and_the_file_are_right(
    float_artifact: Artifact, foreign: bytes, integer_path: Path, pictures: np.ndarray
):
    labels = np.arange(len(pictures)) % 10
    labels[3:] = np.asarray(predict(float_artifact)(pictures)).argmax(-1)[3:]
    labels[5] = -1
    found = function_parity(
        predict(float_artifact), foreign, pictures, labels, kernels=("xnnpack",), operator_inputs=0
    )
    has = labels >= 0
    assert (found.labelled, has.sum()) == (19, 19)
    expected = np.asarray(predict(float_artifact)(pictures)).argmax(-1)
    assert found.accuracy == np.mean(expected[has] == labels[has])
    answered = tflite_predict(integer_path, kernels="xnnpack")(pictures).argmax(-1)
    assert found.answers[Kernels.XNNPACK].accuracy == np.mean(answered[has] == labels[has])
    assert "of 19 with a label" in function_parity_text("net", found)
    with pytest.raises(ValueError, match="function_parity: expected labels of 20 examples"):
        function_parity(predict(float_artifact), foreign, pictures, labels[:4])
    with pytest.raises(
        ValueError, match=r"labels are for lists of classes.* answers \[N, 2, 2, 4\]"
    ):
        function_parity(np.abs, single("ABS", np.float32), NUMBERS, np.zeros(5, int))
