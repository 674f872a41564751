"""Native: LiteRT's interpreter as it is, and a trial of it in a process of its own.

Native code may crash on a damaged file, which no exception tells. As a script this module runs a file once,
or one after another, so it imports nothing but the interpreter.
"""

import atexit
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from typing import Any

# Long enough for any file that is worth timing; a damaged one may never end.
TRIAL_SECONDS = 300
RUNS, FAILS = b"runs\n", b"fails\n"  # what the process of trials says of a file
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
    """Run a file once on zeros, in another process.

    One process tries all files, to save its start. That a file fails is only believed of a process that has
    seen no other. What has run is not tried again, with more threads either: they share the same work.

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
    try:
        if not _LASTING.runs(content, options):
            _require_well_ended(content, where, options)
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"{where}: the interpreter did not finish one run in {TRIAL_SECONDS} s"
        ) from error
    _PASSED.add(trial)


class _Lasting:
    """A process that runs one file after another; it starts with the first, and ends with this one."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._parent = os.getpid()
        self._one_at_a_time = threading.Lock()

    def runs(self, content: bytes, options: list[str]) -> bool:
        """Whether a file runs there.

        Raises:
            subprocess.TimeoutExpired: it does not end.
        """
        with self._one_at_a_time:
            child, start = self._started(), time.monotonic()
            limit = threading.Timer(TRIAL_SECONDS, child.kill)
            limit.start()
            try:
                child.stdin.write(json.dumps([len(content), *options]).encode() + b"\n" + content)
                child.stdin.flush()
                said = child.stdout.readline()
            except BrokenPipeError:
                said = b""
            finally:
                limit.cancel()
            if not said:
                self.close()
                if time.monotonic() - start >= TRIAL_SECONDS:
                    raise subprocess.TimeoutExpired(child.args, TRIAL_SECONDS)
            return said == RUNS

    def close(self) -> None:
        """End the process; the next file starts another."""
        child, self._child = self._child, None
        if child is not None and self._parent == os.getpid():
            child.kill()
            child.communicate()

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._parent != os.getpid():  # a fork must not talk to its parent's process
            self._child, self._parent = None, os.getpid()
        if self._child is not None and self._child.poll() is not None:
            self.close()
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-P", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._child


_LASTING = _Lasting()
atexit.register(_LASTING.close)


def _require_well_ended(content: bytes, where: str, options: list[str]) -> None:
    command = [sys.executable, "-P", __file__, *options]
    child = subprocess.run(
        command, input=content, capture_output=True, timeout=TRIAL_SECONDS, check=False
    )
    if child.returncode < 0:
        names = {number.value: number.name for number in signal.Signals}
        raise ValueError(
            f"{where}: the interpreter crashes on the file ({names.get(-child.returncode)}); "
            "it is damaged, or holds what the kernels cannot run"
        )
    if child.returncode:
        said = child.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(f"{where}: the interpreter refuses the file: {''.join(said[-1:])}")


def _try(
    content: bytes, kernels: str, threads: str, keep_all: str, signature: str | None = None
) -> None:
    import numpy as np

    tried = interpreter(content, kernels, int(threads), keep_all == "1")
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


def _try_all() -> None:
    """Say of each file that comes whether it runs, until there are no more."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what kernels print is no answer
        while header := sys.stdin.buffer.readline():
            size, *options = json.loads(header)
            content = sys.stdin.buffer.read(size)
            try:
                _try(content, *options)
                said = RUNS
            except (ValueError, RuntimeError):
                said = FAILS
            answers.write(said)
            answers.flush()


if __name__ == "__main__":
    if sys.argv[1:]:
        _try(sys.stdin.buffer.read(), *sys.argv[1:])
    else:
        _try_all()
