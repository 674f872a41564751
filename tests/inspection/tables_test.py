from jaxmini.evaluate.benchmark import Benchmark
from jaxmini.evaluate.deviation import Deviation
from jaxmini.evaluate.file_cost import FileCost, OpCost
from jaxmini.evaluate.function_parity import Apart, FunctionParity
from jaxmini.evaluate.interpreter import Kernels
from jaxmini.evaluate.operators import OperatorParity
from jaxmini.evaluate.parity import Answers, FileParity
from jaxmini.evaluate.runtime import Latency
from jaxmini.inspection.tables import benchmark_text, function_parity_text, parity_text


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_multiplications_left_out_are_told():
    ops = (OpCost("LSTM", 2, None), OpCost("ADD", 1, 0))
    timed = {1: Latency(0.5, 0.4, 0.6, 30)}
    measured = Benchmark(FileCost(0, 0, 1234, 0, 9, ops), Kernels.XNNPACK, timed, warmup=7)
    said = words(benchmark_text("net.tflite", measured))
    assert ["LSTM", "2", "–"] in said
    assert ["ADD", "1", "0"] in said
    assert ["multiplications", "of", "LSTM", "are", "not", "counted"] in said
    assert ["1", "thread", "0.500", "ms", "0.400", "ms", "0.600", "ms", "30"] in said
    assert ["7", "runs", "before", "each", "clock", "started"] in said


def test_a_float_file_has_no_steps():
    answers = {kernels: Answers(0.5, 0.25, 1e-3, None) for kernels in Kernels}
    said = parity_text("net.tflite", "noise", FileParity(4, 4, 0, 0.75, None, answers))
    assert "LSB" not in said
    assert "stored" not in said
    assert ["trained", "network", "–", "75.00%", "–"] in words(said)
    assert ["reference", "50.00%", "25.00%", "0.00100"] in words(said)


def test_a_function_s_parity_tells_steps_where_the_file_has_some():
    apart = Apart(0.5, 0.125, 0.25, Deviation((3, 1, 0, 0, 0, 0), 2), None)
    rounded = (
        OperatorParity(0, "CONV_2D", None, Deviation((8, 0, 0, 0, 0, 0), 0)),
        OperatorParity(1, "MEAN", None, Deviation((7, 1, 0, 0, 0, 0), 1)),
        OperatorParity(2, "DEQUANTIZE", None, None),
    )
    found = FunctionParity(
        1234, 0.5, {Kernels.XNNPACK: apart}, 2, Kernels.REFERENCE, {Kernels.XNNPACK: rounded}
    )
    said = function_parity_text("net.tflite", found)
    assert said.startswith("net.tflite on 1,234 inputs, 1 LSB is 0.500")
    assert ["xnnpack", "–", "2", "LSB", "0.250", "LSB", "3", "1"] in [
        line[:8] for line in words(said)
    ]
    assert "operators of xnnpack beside those of reference on 2 inputs" in said
    assert "the first deviation is at operator 1 MEAN: by at most 1 LSB" in said


def test_a_function_s_parity_with_a_float_file_is_in_its_numbers():
    apart = Apart(0.5, 0.125, None, None, 0.75)
    found = FunctionParity(4, None, {Kernels.OPTIMIZED: apart}, 0, Kernels.OPTIMIZED, {})
    said = function_parity_text("net.tflite", found)
    assert "LSB" not in said
    assert ["optimized", "75.00%", "0.500", "0.125"] in words(said)
    assert "operators" not in said
