"""Benchmark: any .tflite file's cost and its time, on one thread and on several."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from jaxmini.evaluate import native
from jaxmini.evaluate.file_cost import FileCost, file_cost
from jaxmini.evaluate.interpreter import LITERT, Kernels, check_threads, known_kernels
from jaxmini.evaluate.runtime import Latency, latency
from jaxmini.export import flatbuffer


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A file's figures.

    Attributes:
        cost: what can be read off it.
        kernels: the implementation of the operators that ran.
        latencies: number of threads -> time of one run.
        warmup: runs before each clock started.
    """

    cost: FileCost
    kernels: Kernels
    latencies: dict[int, Latency]
    warmup: int


def benchmark(
    source: Path | str | bytes,
    *,
    threads: Iterable[int] = (1,),
    kernels: Kernels | str = Kernels.XNNPACK,
    warmup: int = 10,
    runs: int = 100,
) -> Benchmark:
    """Measure any file, also one that jaxmini did not write, on random numbers for each input.

    The file is run once in a process of its own first: a damaged one may crash the interpreter.

    Args:
        source: path or bytes of the file.
        threads: how many threads to time it with, each 1..1024.
        kernels: which implementation of the operators runs.
        warmup: runs before each clock starts.
        runs: measured runs, at least 1.

    Raises:
        ValueError: as ``file_cost`` and ``latency``, or the file crashes the interpreter; names the file.
        TypeError: a number of threads is no whole number.
    """
    threads, kernels = tuple(dict.fromkeys(threads)), known_kernels(kernels)
    if not threads:
        raise ValueError("benchmark: threads is empty; name at least one number, (1,) say")
    for count in threads:
        check_threads("benchmark", count)
    if runs < 1:
        raise ValueError(f"benchmark: runs is {runs}; it must be at least 1")
    content, where = flatbuffer.contents(source)
    cost = file_cost(source)
    if kernels in LITERT:  # TFLite-Micro's interpreter sees to it itself
        native.require_runs(content, where, kernels.value, max(threads))
    latencies = {
        count: latency(source, threads=count, kernels=kernels, warmup=warmup, runs=runs)
        for count in threads
    }
    return Benchmark(cost, kernels, latencies, warmup)
