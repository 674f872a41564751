"""Native: LiteRT's interpreter as it is, and a trial of it in a process of its own.

Native code may crash on a damaged file, which no exception tells. As a script this module runs a file once,
so it imports nothing but the interpreter.
"""

import hashlib
import signal
import subprocess
import sys
import warnings
from typing import Any

# Long enough for any file that is worth timing; a damaged one may never end.
TRIAL_SECONDS = 300
# How the interpreter calls each implementation of the operators.
RESOLVERS = {
    "xnnpack": "AUTO",
    "optimized": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}
# The trials that this process has seen end well: digest of the file, kernels, whether all is kept, signature.
_PASSED: set[tuple[bytes, str, bool, str | None]] = set()


def interpreter(content: bytes, kernels: str, threads: int, keep_all: bool) -> Any:
    """The interpreter of a file's bytes, its tensors allocated.

    Args:
        content: of the file.
        kernels: a key of ``RESOLVERS``.
        threads: at least 1.
        keep_all: keep every tensor readable after a run; the delegate then runs operator by operator.

    Raises:
        ValueError, RuntimeError: the interpreter refuses the file.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*experimental_preserve_all_tensors", UserWarning)
        made = Interpreter(
            model_content=content,
            num_threads=threads,
            experimental_op_resolver_type=OpResolverType[RESOLVERS[kernels]],
            experimental_preserve_all_tensors=keep_all,
        )
    made.allocate_tensors()
    return made


def require_runs(
    content: bytes,
    where: str,
    kernels: str,
    threads: int = 1,
    keep_all: bool = False,
    signature: str | None = None,
) -> None:
    """Run a file once on zeros, in a process of its own.

    What has run is not tried again by this process, with more threads either: they share the same work.

    Args:
        content, kernels, threads, keep_all: as of ``interpreter``.
        where: how errors call the file.
        signature: which one is run; None is the first subgraph.

    Raises:
        ValueError: the interpreter refuses the file, crashes on it, or does not end.
    """
    trial = (hashlib.sha256(content).digest(), kernels, keep_all, signature)
    if trial in _PASSED:
        return
    options = [kernels, str(threads), str(int(keep_all))]
    options += [] if signature is None else [signature]
    _require_well_ended(content, where, [sys.executable, "-P", __file__, *options])
    _PASSED.add(trial)


def _require_well_ended(content: bytes, where: str, command: list[str]) -> None:
    try:
        child = subprocess.run(
            command, input=content, capture_output=True, timeout=TRIAL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"{where}: the interpreter did not finish one run in {TRIAL_SECONDS} s"
        ) from error
    if child.returncode < 0:
        names = {number.value: number.name for number in signal.Signals}
        raise ValueError(
            f"{where}: the interpreter crashes on the file ({names.get(-child.returncode)}); "
            "it is damaged, or holds what the kernels cannot run"
        )
    if child.returncode:
        said = child.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(f"{where}: the interpreter refuses the file: {''.join(said[-1:])}")


def _try(kernels: str, threads: str, keep_all: str, signature: str | None = None) -> None:
    import numpy as np

    tried = interpreter(sys.stdin.buffer.read(), kernels, int(threads), keep_all == "1")
    if signature is not None:
        runner = tried.get_signature_runner(signature)
        details = runner.get_input_details().items()
        runner(**{name: np.zeros(of["shape"], of["dtype"]) for name, of in details})
        return
    for tensor in tried.get_input_details():
        tried.set_tensor(tensor["index"], np.zeros(tensor["shape"], tensor["dtype"]))
    tried.invoke()
    for tensor in tried.get_output_details():
        tried.get_tensor(tensor["index"])


if __name__ == "__main__":
    _try(*sys.argv[1:])
