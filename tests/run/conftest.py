"""What the tests of runs share: runs in processes of their own, and a folder in which none may write."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

NOBODY = 65534
TIMEOUT = 300
HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".cache"
TINY = HERE / "tiny_recipe.py"
# Of a surrounding job, or of these tests' own eight devices.
FOREIGN = ("SLURM_", "OMPI_", "TPU_", "XLA_FLAGS", "PYTHONDONTWRITEBYTECODE", "JAXMINI_")

Start = Callable[..., subprocess.Popen]


@pytest.fixture(scope="session")
def start() -> Iterator[Start]:
    """Starts Python with these arguments and environment in a process of its own, on one CPU device."""
    children = []

    def start_child(*arguments: object, **variables: object) -> subprocess.Popen:
        kept = {name: v for name, v in os.environ.items() if not name.startswith(FOREIGN)}
        settings = {
            "JAX_COMPILATION_CACHE_DIR": CACHE / "jax",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0,
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": -1,
            "PYTHONPYCACHEPREFIX": CACHE / "python",
        }
        child = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=HERE.parent.parent,
            env=kept | {name: str(value) for name, value in (settings | variables).items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield start_child
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


class Ended(NamedTuple):
    """A process that has ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def run(start: Start) -> Callable[..., Ended]:
    """Starts Python as ``start`` does, and waits for its end."""

    def run_child(*arguments: object, **variables: object) -> Ended:
        child = start(*arguments, **variables)
        out, err = child.communicate(timeout=TIMEOUT)
        return Ended(child.returncode, out, err)

    return run_child


@pytest.fixture(scope="session")
def undisturbed(run: Callable[..., Ended], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run of the tiny recipe, to look at only."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    ended = run("-m", "jaxmini", "run", TINY, "--workdir", folder)
    assert ended.code == 0, ended
    return folder


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that this process may look into and not change, for as long as the test runs."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        if user == 0:  # who may write everywhere
            os.seteuid(NOBODY)
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)
            Path(folder).chmod(0o755)
