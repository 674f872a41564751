"""What a process sets up before its first computation: compile cache, several processes, how it fails.

Several processes are found from the environment: SLURM, Open MPI, a TPU pod or Kubernetes by jax itself,
anything else by ``JAX_COORDINATOR_ADDRESS`` with ``JAXMINI_NUM_PROCESSES`` and ``JAXMINI_PROCESS_ID``.
"""

import os
import sys
import traceback
from pathlib import Path
from types import TracebackType

import jax

from jaxmini.cpu.settings import keep_freed_memory


def start() -> None:
    """Prepare this process; call it once, before anything touches a device."""
    _use_compile_cache()
    if _is_one_of_several():
        _initialise_distributed()
    if jax.default_backend() == "cpu":
        keep_freed_memory()


def cache_folder() -> Path:
    """Where compiled programs and prepared data are kept between runs (``JAXMINI_CACHE_DIR``)."""
    return Path(os.environ.get("JAXMINI_CACHE_DIR", "~/.cache/jaxmini")).expanduser()


def expected_errors() -> tuple[type[Exception], ...]:
    """What a person can mend: shown as one message, without a traceback (JAXMINI_TRACEBACK=1 shows it)."""
    from jaxmini.run.loop import DivergedError

    return (ValueError, TypeError, KeyError, OSError, ImportError, DivergedError)


def fail() -> int:
    """Exit code of a failed command; among several processes, leave at once so that the others notice."""
    if _is_one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    return 1


def _use_compile_cache() -> None:
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    folder = cache_folder() / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _is_one_of_several() -> bool:
    several = int(os.environ.get("JAXMINI_NUM_PROCESSES", "1")) > 1
    slurm = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ
    mpi = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    tpu_pod = len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
    return several or slurm or mpi or tpu_pod


def _initialise_distributed() -> None:
    # An exception in one process must end it at once: in the normal way out it would wait for its peers,
    # which wait for it in a collective.
    sys.excepthook = _leave_at_once
    if "JAXMINI_NUM_PROCESSES" not in os.environ:
        jax.distributed.initialize()
        return
    missing = [n for n in ("JAX_COORDINATOR_ADDRESS", "JAXMINI_PROCESS_ID") if n not in os.environ]
    if missing:
        raise ValueError(f"JAXMINI_NUM_PROCESSES is set but {' and '.join(missing)} is not")
    address = os.environ["JAX_COORDINATOR_ADDRESS"]
    jax.distributed.initialize(
        coordinator_address=address,
        num_processes=int(os.environ["JAXMINI_NUM_PROCESSES"]),
        process_id=int(os.environ["JAXMINI_PROCESS_ID"]),
        coordinator_bind_address=os.environ.get("JAX_COORDINATOR_BIND_ADDRESS"),
        cluster_detection_method="deactivate",
    )


def _leave_at_once(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    traceback.print_exception(kind, error, trace)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
