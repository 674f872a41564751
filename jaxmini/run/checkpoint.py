"""Checkpoints: a state on the disk, and the proof that what comes back is what was saved.

Orbax writes the arrays, but notices neither flipped bits nor changed dtypes. So a checkpoint has a
manifest with the SHA-256 of every file and every leaf, and only what it confirms is believed.
"""

import contextlib
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxmini.run import flat, sealed, together
from jaxmini.state import PyTree

# A step's folder holds what Orbax wrote and the manifest; its name appears when both are whole.
_ARRAYS, _MANIFEST, _FORMAT = "arrays", "manifest.json", 1
_STEP = re.compile(r"step_(\d+)(\.replaced)?")
_PARTIAL, _REPLACED, _REMOVED = ".partial", ".replaced", ".removed"
_SHOWN = 8
_UNSHARED = "the processes found different checkpoints; the workdir must be one that they share"


class CheckpointError(ValueError):
    """A checkpoint could not be written, does not fit, or none is intact."""


class Restored(NamedTuple):
    """What was saved: the state, its step, and the plain values beside it."""

    state: PyTree
    step: int
    extra: dict[str, Any]


class _Damaged(Exception):
    """A checkpoint is not what its manifest says; the text names the file and what differs."""


def save(
    folder: Path, step: int, state: PyTree, extra: Mapping[str, Any] | None = None, *, keep: int = 2
) -> None:
    """Write a checkpoint; when this returns it is on the disk and was read back.

    The step becomes the folder's newest: older intact ones are kept up to ``keep`` in all; damaged
    ones and newer ones (of a run that went back) are removed. Every process of a run calls it.

    Args:
        folder: of this state's checkpoints; made if missing.
        step: >= 0. A checkpoint of the same step is replaced.
        state: arrays of any dtype, typed PRNG keys among them; shards are gathered on the host.
        extra: plain JSON values to keep beside the state.
        keep: checkpoints to keep, >= 1.

    Raises:
        CheckpointError: the disk is full or cannot be written; older checkpoints are kept.
        TypeError: a leaf is not an array that jax can hold, or ``extra`` is not plain JSON.
        ValueError: step or keep is out of range, or the state holds no values.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"checkpoint: step {step} must be >= 0 and keep {keep} >= 1")
    extra = dict(extra or {})
    sealed.require_plain(extra, "extra")
    arrays = flat.to_host(state)
    path = folder.absolute() / f"step_{step}"
    partial = path.with_name(path.name + _PARTIAL)
    if together.leads():
        with _explained(path, partial):
            _sweep(folder)
            with _orbax() as orbax:
                orbax.save(partial / _ARRAYS, args=ocp.args.PyTreeSave(flat.pack(arrays)))
            _seal(partial, step, state, arrays, extra)
            _commit(partial, path)
            _retire(path, step, keep)
    together.meet(f"checkpoint {step}")


def restore_latest(folder: Path, target: PyTree, warn: Callable[[str], None]) -> Restored | None:
    """The newest intact checkpoint, None if there is none at all.

    Args:
        folder: of the checkpoints.
        target: arrays or ShapeDtypeStructs; structure, shapes and dtypes are compared strictly.
            A leaf goes to its target's sharding, to the default device where that has none.
        warn: told of each damaged checkpoint that is passed over, with the file and what differs.

    Raises:
        CheckpointError: the checkpoint is of another structure, or every one there is damaged.
    """
    reasons = []
    for step, path in _listed(folder):
        try:
            restored = _restore(path, step, target)
        except _Damaged as damage:
            reasons.append(str(damage))
            warn(f"the checkpoint of step {step} is damaged and not used: {damage}")
            continue
        together.agree(restored.step, _UNSHARED)
        return restored
    if reasons:
        raise CheckpointError(
            f"no checkpoint in {folder} is intact:\n  " + "\n  ".join(reasons) + "\n"
            "Bring the files back from a copy, or remove the folder to train from the start"
        )
    together.agree(-1, _UNSHARED)
    return None


def latest_step(folder: Path) -> int | None:
    """The newest step that has a checkpoint, read from the names alone; None if there is none."""
    return next((step for step, _ in _listed(folder)), None)


def _listed(folder: Path) -> list[tuple[int, Path]]:
    """Steps and their folders, newest first; a replaced one after the one that replaced it."""
    if not folder.is_dir():
        return []
    found = [(_STEP.fullmatch(path.name), path) for path in folder.absolute().iterdir()]
    ranked = [(int(m[1]), m[2] is None, path) for m, path in found if m]
    return [(step, path) for step, _, path in sorted(ranked, reverse=True)]


def _orbax() -> ocp.Checkpointer:
    """Orbax as one process uses it on its own: what it is given are host arrays, whole."""
    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


# A checkpoint's proof.


def _seal(
    path: Path, step: int, state: PyTree, arrays: dict[str, np.ndarray], extra: dict[str, Any]
) -> None:
    """Flush what Orbax wrote, write the manifest of it, and read all of it back."""
    leaves = flat.leaves(state)
    manifest = {
        "format": _FORMAT,
        "step": step,
        "leaves": {
            name: {
                "kind": flat.kind(leaf),
                "impl": flat.key_impl(leaf),
                "sha256": flat.digest(arrays[name]),
            }
            for name, leaf in leaves.items()
        },
        "files": {str(file.relative_to(path)): _file_digest(file) for file in _files(path)},
        "extra": extra,
    }
    for entry in (*_files(path), *(p for p in path.rglob("*") if p.is_dir())):
        sealed.sync(entry)
    sealed.write(path / _MANIFEST, manifest)
    try:
        _read_arrays(path, _proven(path, step), leaves)
    except _Damaged as damage:
        raise OSError(f"what was written does not read back: {damage}") from damage


def _files(path: Path) -> list[Path]:
    return sorted(file for file in (path / _ARRAYS).rglob("*") if file.is_file())


def _file_digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _proven(path: Path, step: int) -> dict[str, Any]:
    """The manifest, once it and every file it lists are what they were when written."""
    try:
        manifest = sealed.read(path / _MANIFEST)
    except (OSError, sealed.SealError) as error:
        raise _Damaged(str(error)) from error
    if (manifest["format"], manifest["step"]) != (_FORMAT, step):
        raise _Damaged(
            f"{path / _MANIFEST} is of format {manifest['format']} and step {manifest['step']}, "
            f"not {_FORMAT} and {step}"
        )
    for name, digest in manifest["files"].items():
        try:
            found = _file_digest(path / name)
        except OSError as error:
            raise _Damaged(f"{path / name} cannot be read: {error.strerror}") from error
        if found != digest:
            raise _Damaged(f"{path / name} was changed since it was written: its SHA-256 differs")
    return manifest


def _read_arrays(
    path: Path, manifest: dict[str, Any], like: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The leaves by path, each compared with its digest."""
    try:
        with _orbax() as orbax:
            packed = orbax.restore(path / _ARRAYS, args=ocp.args.PyTreeRestore())
        arrays = flat.unpack(packed, {name: like[name] for name in manifest["leaves"]})
    except (OSError, ValueError, KeyError) as error:
        raise _Damaged(f"{path / _ARRAYS} cannot be read: {error}") from error
    for name, array in arrays.items():
        if flat.digest(array) != manifest["leaves"][name]["sha256"]:
            raise _Damaged(f"{path / _ARRAYS}: state{name} has not the values that were saved")
    return arrays


def _restore(path: Path, step: int, target: PyTree) -> Restored:
    manifest = _proven(path, step)
    leaves = flat.leaves(target)
    _require_fit(path, manifest["leaves"], leaves)
    arrays = _read_arrays(path, manifest, leaves)
    placed = [
        flat.place(arrays[name], like, manifest["leaves"][name]["impl"])
        for name, like in leaves.items()
    ]
    state = jax.tree.unflatten(jax.tree.structure(target), placed)
    return Restored(state, step, manifest["extra"])


def _require_fit(path: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a checkpoint of another structure, shape or dtype: Orbax would cast silently."""
    kinds = {name: leaf["kind"] for name, leaf in saved.items()}
    expected = {name: flat.kind(leaf) for name, leaf in wanted.items()}
    differing = [
        f"state{name}: saved {kinds.get(name, 'not at all')}, expected {expected.get(name, 'none')}"
        for name in {**expected, **kinds}
        if kinds.get(name) != expected.get(name)
    ]
    if not differing:
        return
    lines = differing[:_SHOWN]
    if len(differing) > _SHOWN:
        lines.append(f"and {len(differing) - _SHOWN} more")
    raise CheckpointError(
        f"checkpoint {path} does not fit this state:\n  " + "\n  ".join(lines) + "\n"
        "The model, optimizer or dtype changed since it was saved: go back to those, "
        "or take another workdir"
    )


# Folders.


@contextlib.contextmanager
def _explained(path: Path, partial: Path) -> Iterator[None]:
    """Turn a failed write into an error with place and remedy, leaving no half behind."""
    try:
        yield
    except (OSError, ValueError) as error:  # Orbax raises ValueError where tensorstore cannot write
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint {path} could not be written: {error}\nThe checkpoints before it are kept: "
            "make room on the disk or let this user write there, then start the run again to resume"
        ) from error


def _sweep(folder: Path) -> None:
    """Make the folder, and remove what a killed process left half written or half removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in (*folder.glob(f"step_*{_PARTIAL}"), *folder.glob(f"step_*{_REMOVED}")):
        shutil.rmtree(left)


def _commit(partial: Path, path: Path) -> None:
    """Give a whole checkpoint its name. One that it replaces stays listed until it has."""
    if path.exists():
        replaced = path.with_name(path.name + _REPLACED)
        if replaced.exists():
            _remove(replaced)
        path.rename(replaced)
    partial.rename(path)
    sealed.sync(path.parent)


def _retire(saved: Path, step: int, keep: int) -> None:
    kept = 1
    for other_step, path in _listed(saved.parent):
        if path == saved:
            continue
        if other_step < step and kept < keep and _is_intact(path, other_step):
            kept += 1
        else:
            _remove(path)


def _is_intact(path: Path, step: int) -> bool:
    try:
        _proven(path, step)
    except _Damaged:
        return False
    return True


def _remove(path: Path) -> None:
    """Unlist, then delete: a process killed in between leaves nothing half deleted listed."""
    unlisted = path.with_name(path.name + _REMOVED)
    path.rename(unlisted)
    shutil.rmtree(unlisted)
