from jaxmini.evaluate.benchmark import Benchmark
from jaxmini.evaluate.file_cost import FileCost, OpCost
from jaxmini.evaluate.interpreter import Kernels
from jaxmini.evaluate.parity import Answers, FileParity
from jaxmini.evaluate.runtime import Latency
from jaxmini.inspection.tables import benchmark_text, parity_text


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
