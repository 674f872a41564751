from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxmini.evaluate.benchmark import benchmark
from jaxmini.evaluate.file_cost import file_cost
from jaxmini.evaluate.interpreter import LITERT, Kernels
from jaxmini.evaluate.runtime import latency, tflite_integers, tflite_predict
from tests.evaluate.conftest import without_metadata
from tests.export.single import pair
from tests.export.tampering import edited, find


@pytest.mark.parametrize("kernels", LITERT)
def test_a_file_of_another_converter_is_measured(kernels: Kernels, integer_path: Path):
    content = without_metadata(integer_path.read_bytes())
    found = benchmark(content, threads=(1, 2), kernels=kernels, warmup=1, runs=7)
    assert found.cost == file_cost(content)
    assert list(found.latencies) == [1, 2]
    for timed in found.latencies.values():
        assert 0 < timed.low <= timed.median <= timed.high
        assert timed.runs == 7


def test_the_input_is_of_the_file_s_own_kind(float_path: Path, integer_path: Path):
    assert latency(without_metadata(float_path.read_bytes()), runs=3, warmup=0).median > 0
    assert latency(without_metadata(integer_path.read_bytes()), runs=3, warmup=0).median > 0


def test_the_same_number_of_threads_is_timed_once(integer_path: Path):
    assert list(benchmark(integer_path, threads=(1, 1), runs=2).latencies) == [1]


def test_bad_arguments_are_refused_before_anything_runs(tmp_path: Path):
    missing = tmp_path / "missing.tflite"
    for threads, said in (((0,), "it must be at least 1"), ((1, 0), "is 0"), ((), "is empty")):
        with pytest.raises(ValueError, match=f"benchmark: threads .*{said}"):
            benchmark(missing, threads=threads)
    with pytest.raises(TypeError, match="benchmark: threads is '2', expected a whole number"):
        benchmark(missing, threads=("2",))
    with pytest.raises(ValueError, match="runs is 0"):
        benchmark(missing, runs=0)
    with pytest.raises(ValueError, match="'xnpack' are unknown"):
        benchmark(missing, kernels="xnpack")
    with pytest.raises(FileNotFoundError):
        benchmark(missing)


def test_a_negative_warmup_is_refused(integer_path: Path):
    with pytest.raises(ValueError, match="warmup is -1"):
        latency(integer_path, warmup=-1)


def no_second_term(model: Any, graph: Any) -> None:
    # XNNPACK reads it without a look: what lies there decides whether it crashes or sees that it cannot run.
    find(model, "ADD").inputs[1] = -1


def no_stride(model: Any, graph: Any) -> None:
    find(model, "CONV_2D").builtinOptions.strideW = 0


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (no_second_term, r"crashes on the file \(SIG|refuses the file: "),
        (no_stride, "refuses the file: .*stride"),
    ],
)
def test_a_file_that_kills_the_interpreter_is_a_message(
    tamper: Callable, message: str, integer_path: Path, tmp_path: Path
):
    path = tmp_path / "deadly.tflite"
    path.write_bytes(edited(integer_path.read_bytes(), tamper))
    with pytest.raises(ValueError, match=rf"deadly\.tflite: the interpreter ({message})"):
        benchmark(path, runs=1)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.9])
def test_a_file_cut_short_is_refused(part: float, integer_path: Path, tmp_path: Path):
    content, path = integer_path.read_bytes(), tmp_path / "cut.tflite"
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=r"cut\.tflite: "):
        benchmark(path)


@pytest.mark.parametrize("kernels", LITERT)
def test_a_file_of_several_inputs_and_outputs_is_measured(kernels: Kernels):
    found = benchmark(pair(), kernels=kernels, warmup=1, runs=3)
    assert found.latencies[1].median > 0
    assert found.cost.ops[0].count == 2


def test_answers_of_several_inputs_are_not_compared():
    for asked in (tflite_predict, tflite_integers):
        with pytest.raises(ValueError, match="has 2 inputs; one is expected"):
            asked(pair())


def test_a_file_with_a_loop_is_measured(loops: bytes):
    found = benchmark(loops, threads=(1,), warmup=1, runs=2)
    assert found.latencies[1].median > 0
    assert found.cost.counted_once == ("WHILE", "IF")
