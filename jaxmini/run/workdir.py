"""Workdir: the one folder of a run, held by one run at a time and by one recipe for good.

It holds ``recipe.json``, a folder a stage under ``stages/``, and whatever else the run writes.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jaxmini.run import sealed, together
from jaxmini.run.difference import difference

_LOCK, _TRASH = ".lock", ".trash"
_RECIPE, _STAGES, _FINISHED = "recipe.json", "stages", "finished.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SHOWN = 12


class WorkdirError(ValueError):
    """The folder cannot be this run's: in use, of another recipe, not a workdir, or not writable."""


@dataclasses.dataclass(frozen=True)
class Workdir:
    """A run's folder, open: a context manager that lets go of it at the end.

    Attributes:
        path: the folder.
    """

    path: Path
    _lock: int | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def open(cls, path: Path, recipe_record: dict[str, Any], *, fresh: bool = False) -> Self:
        """Make the folder, or take up the run that was begun in it.

        The folder is locked until ``close`` or the end of the process, however that comes. Every
        process of a run calls this; process 0 holds the lock.

        Args:
            path: the folder; made if missing.
            recipe_record: plain JSON that says all of what the run computes.
            fresh: delete what an earlier run left in the folder.

        Raises:
            WorkdirError: another process runs in it; it is of another recipe (lists the differing
                fields); it holds files that are not a run's; it cannot be written.
            TypeError: the record is not plain JSON.
        """
        sealed.require_plain(recipe_record, "the record of the recipe")
        path = path.absolute()
        lock = None
        if together.leads():
            with _explained(path):
                lock = _prepare(path, recipe_record, fresh)
        together.meet("workdir")
        return cls(path, lock)

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def stage_folder(self, name: str) -> Path:
        """The stage's own folder, made if missing.

        Raises:
            ValueError: the name cannot name a folder.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"stage name {name!r}: use letters, digits, _ . and - (it names a folder)"
            )
        folder = self.path / _STAGES / name
        with _explained(self.path):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finished(self, name: str) -> dict[str, Any] | None:
        """What ``mark_finished`` was given for the stage, None if it has not finished.

        Raises:
            WorkdirError: the file was changed since it was written.
        """
        file = self.stage_folder(name) / _FINISHED
        try:
            content = sealed.read(file)
        except FileNotFoundError:
            return None
        except sealed.SealError as error:
            raise WorkdirError(f"{error}; remove it to finish the stage again") from error
        if content["stage"] != name:
            raise WorkdirError(f"{file} is of stage {content['stage']!r}, not {name!r}; remove it")
        return content["result"]

    def mark_finished(self, name: str, result: dict[str, Any]) -> None:
        """Record, at once or not at all, that the stage is done. Process 0 writes.

        Raises:
            TypeError: the result is not plain JSON.
        """
        sealed.require_plain(result, f"the result of stage {name!r}")
        file = self.stage_folder(name) / _FINISHED
        if together.leads():
            with _explained(self.path):
                sealed.write(file, {"stage": name, "result": result})
        together.meet(f"stage {name} finished")


def _prepare(path: Path, record: dict[str, Any], fresh: bool) -> int:
    """Lock the folder and see that it is this recipe's; the lock's descriptor."""
    if path.exists() and not path.is_dir():
        raise WorkdirError(f"workdir {path} is a file; give the path of a folder")
    _require_ours(path)
    path.mkdir(parents=True, exist_ok=True)
    lock = _take_lock(path)
    try:
        _empty_trash(path)
        if fresh:
            _throw_away(path)
        _claim(path, record)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _require_ours(path: Path) -> None:
    found = {entry.name for entry in path.iterdir()} if path.exists() else set()
    foreign = sorted(found - {_LOCK, _TRASH, f".{_RECIPE}.partial"})
    if foreign and _RECIPE not in found:
        shown = ", ".join(foreign[:4]) + (
            f" and {len(foreign) - 4} more" if len(foreign) > 4 else ""
        )
        raise WorkdirError(
            f"{path} is not a workdir of jaxmini: it holds {shown} and no {_RECIPE}; "
            "give a new or empty folder"
        )


def _take_lock(path: Path) -> int:
    """Lock the folder for this process; the kernel unlocks it when the process ends."""
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 1000, 0).decode() or "another process"
        os.close(lock)
        raise WorkdirError(
            f"workdir {path} is in use by {holder}; wait for its end, stop it, or give another workdir"
        ) from error
    now = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()} since {now}".encode(), 0)
    return lock


def _throw_away(path: Path) -> None:
    """Delete all by renaming first, the recipe last: a kill in between leaves a workdir."""
    trash = path / _TRASH
    trash.mkdir(exist_ok=True)
    entries = [entry for entry in path.iterdir() if entry.name not in (_LOCK, _TRASH)]
    for number, entry in enumerate(sorted(entries, key=lambda entry: entry.name == _RECIPE)):
        entry.rename(trash / str(number))
    _empty_trash(path)


def _empty_trash(path: Path) -> None:
    if (path / _TRASH).exists():
        shutil.rmtree(path / _TRASH)


def _claim(path: Path, record: dict[str, Any]) -> None:
    try:
        begun = sealed.read(path / _RECIPE)["recipe"]
    except FileNotFoundError:
        sealed.write(path / _RECIPE, {"recipe": record})
        return
    except sealed.SealError as error:
        raise WorkdirError(f"{error}; give another workdir, or start over with --fresh") from error
    lines = difference(begun, record)
    if lines:
        more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        raise WorkdirError(
            f"workdir {path} was begun with another recipe. It and the one given differ in\n  "
            + "\n  ".join(lines[:_SHOWN] + more)
            + "\nGive another workdir, or start over in this one with --fresh"
        )


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WorkdirError(
            f"workdir {path} cannot be used: {error}; "
            "see to its permissions and room, or give another workdir"
        ) from error
