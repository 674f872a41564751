"""What a process sets up before its first computation: compile cache, several processes, how it ends.

Several processes are found by jax itself under SLURM's ``srun`` and Open MPI, and with
``JAXMINI_NUM_PROCESSES=auto`` on a TPU slice or in Kubernetes. Anything else gives
``JAX_COORDINATOR_ADDRESS``, ``JAXMINI_NUM_PROCESSES`` and ``JAXMINI_PROCESS_ID``.
"""

import contextlib
import itertools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import jax
from jax.experimental import multihost_utils

from jaxmini import cpu

# What JAXMINI_CPU may say: jaxmini's convolutions and memory settings, the same with a line for each
# convolution that is compiled, or jax as it is.
FAST, EXPLAIN, PLAIN = "fast", "explain", "plain"

# Exit codes: of a whole run that failed a gate, that of a shell for Ctrl-C, and EX_TEMPFAIL of sysexits.h
# for "start me again".
GATE_FAILED, INTERRUPTED, PREEMPTED = 3, 130, 75

# Said of an error whose words do not tell where it is.
SHOWS_WHERE = "(JAXMINI_TRACEBACK=1 shows where)"
_PACKAGE = Path(__file__).parent.parent


def start() -> None:
    """Prepare this process; call it once, before anything touches a device.

    Raises:
        ValueError: the environment names several processes, but not all that is needed to find them; or
            JAXMINI_CPU says what it may not.
    """
    how = _cpu()
    _use_compile_cache()
    if _is_one_of_several():
        _initialise_distributed()
    if jax.default_backend() == "cpu" and how != PLAIN:
        cpu.keep_freed_memory()
        cpu.install(_explain if how == EXPLAIN else None)


def cache_folder() -> Path:
    """Where compiled programs and prepared data are kept between runs (``JAXMINI_CACHE_DIR``)."""
    return Path(os.environ.get("JAXMINI_CACHE_DIR", "~/.cache/jaxmini")).expanduser()


def expected_errors() -> tuple[type[BaseException], ...]:
    """What a person can mend: shown as one message, without a traceback (JAXMINI_TRACEBACK=1 shows it)."""
    from jaxmini.export.converter import ConversionError
    from jaxmini.run.loop import DivergedError, Preempted

    return (
        KeyboardInterrupt,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OSError,
        ImportError,
        ConversionError,
        DivergedError,
        Preempted,
    )


def fail(error: BaseException) -> int:
    """Say why a command could not do what it says; its exit code.

    One of several processes leaves at once instead, so that the others notice.
    """
    from jaxmini.run.loop import Preempted

    if os.environ.get("JAXMINI_TRACEBACK"):
        traceback.print_exception(error)
    print(f"jaxmini: {_message(error)}", file=sys.stderr)
    if isinstance(error, Preempted):  # in all processes alike: each can end in its own time
        return PREEMPTED
    code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    if jax.distributed.is_initialized():
        _leave_at_once(code)
    return code


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """For as long as it lasts, SIGTERM does not end this process but makes the answer given yes.

    Several processes must ask equally often; one that was told is enough, and all get the same answer.
    """
    if jax.distributed.is_initialized():  # jax has taken SIGTERM, and agrees on a step for all
        asked = itertools.count()
        yield lambda: multihost_utils.reached_preemption_sync_point(next(asked))
    elif threading.current_thread() is not threading.main_thread():  # where no signal can be taken
        yield lambda: False
    else:
        told = threading.Event()
        before = signal.signal(signal.SIGTERM, lambda *_: told.set())
        try:
            yield told.is_set
        finally:
            signal.signal(signal.SIGTERM, before)


def is_told(error: BaseException) -> bool:
    """Whether jaxmini raised the error, in words that say where it is; not Python, and no other library."""
    if error.__traceback__ is None:  # nobody has raised it yet
        return True
    (innermost,) = traceback.extract_tb(error.__traceback__, limit=-1)
    line = innermost.line or ""
    return Path(innermost.filename).is_relative_to(_PACKAGE) and line.startswith("raise ")


def words(error: BaseException) -> str:
    """What the error says; of a key that somebody else missed, that it is one."""
    if not isinstance(error, KeyError):
        return str(error) or type(error).__name__
    # A KeyError's own text is the repr of its message, or of the key.
    return str(error.args[0]) if error.args and is_told(error) else f"KeyError: {error}"


def _message(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command continues the run"
    # These kinds are what Python makes of a slip in a person's own code.
    slip = isinstance(error, TypeError | KeyError | AttributeError) and not is_told(error)
    return f"{words(error)} {SHOWS_WHERE}" if slip else words(error)


def _use_compile_cache() -> None:
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    folder = cache_folder() / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _cpu() -> str:
    how = os.environ.get("JAXMINI_CPU", FAST)
    if how not in (FAST, EXPLAIN, PLAIN):
        raise ValueError(f"JAXMINI_CPU is {how!r}, expected {FAST}, {EXPLAIN} or {PLAIN}")
    return how


def _explain(convolution: cpu.Lowered) -> None:
    print(f"convolution: {convolution}", file=sys.stderr, flush=True)


def _is_one_of_several() -> bool:
    # Only srun sets SLURM_STEP_NODELIST: a batch script without it is one process, whatever it asked for.
    slurm = "SLURM_STEP_NODELIST" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1
    mpi = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    tpu = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return slurm or mpi or tpu or os.environ.get("JAXMINI_NUM_PROCESSES", "1") != "1"


def _initialise_distributed() -> None:
    # An exception in one process must end it at once: in the normal way out it would wait for its peers,
    # which wait for it in a collective.
    sys.excepthook = _excepthook
    if os.environ.get("JAXMINI_NUM_PROCESSES", "auto") == "auto":
        jax.distributed.initialize()
        return
    needed = ("JAX_COORDINATOR_ADDRESS", "JAXMINI_NUM_PROCESSES", "JAXMINI_PROCESS_ID")
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise ValueError(f"JAXMINI_NUM_PROCESSES is set but {' and '.join(missing)} is not")
    jax.distributed.initialize(
        coordinator_address=os.environ["JAX_COORDINATOR_ADDRESS"],
        num_processes=_number("JAXMINI_NUM_PROCESSES"),
        process_id=_number("JAXMINI_PROCESS_ID"),
        coordinator_bind_address=os.environ.get("JAX_COORDINATOR_BIND_ADDRESS"),
        cluster_detection_method="deactivate",
    )


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdigit():
        raise ValueError(f"{name} is {text!r}, expected a number")
    return int(text)


def _excepthook(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    traceback.print_exception(kind, error, trace)
    _leave_at_once(1)


def _leave_at_once(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
