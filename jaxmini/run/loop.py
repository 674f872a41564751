"""The one loop. It knows nothing of what is trained: a placed step, a state, batches by number."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jaxmini.run import checkpoint
from jaxmini.run.log import Log
from jaxmini.state import Metrics, PyTree, State
from jaxmini.steps.placement import Placed


class DivergedError(RuntimeError):
    """The loss or a gradient stopped being a finite number."""


class Preempted(RuntimeError):
    """The run was told to stop, and did after saving; the same command continues it."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When things happen, in steps: a run's results do not depend on any of these but ``total``."""

    total: int
    log_every: int
    save_every: int
    evaluate_every: int

    def is_due(self, done: int, every: int) -> bool:
        """Whether it is time after ``done`` steps; after the last one it always is."""
        return done % every == 0 or done == self.total


def train(
    name: str,
    placed: Placed,
    state: State,
    frozen: PyTree,
    pictures: str,
    batch_at: Callable[[int], dict[str, np.ndarray]],
    schedule: Schedule,
    evaluate: Callable[[State], dict[str, float]],
    folder: Path,
    log: Log,
    told_to_stop: Callable[[], bool] = lambda: False,
) -> tuple[State, float]:
    """Run the steps that are left, from the newest good checkpoint if there is one.

    Args:
        name: the stage's.
        placed: the step on its devices.
        state: the state before the first step; not used where a checkpoint is found.
        frozen: what does not change, a teacher's variables say.
        pictures: name and digest of all that batches are of; a checkpoint of others is refused.
        batch_at: host batch number k of the run.
        schedule: how many steps, and when to log, save and evaluate.
        evaluate: figures of a state on the test split, as ``{"accuracy": ...}``; may be empty.
        folder: where this stage's checkpoints go.
        log: told of everything.
        told_to_stop: asked after every step; once it says yes, the step is saved and the loop left.

    Returns:
        The state after the last step, and the seconds all its steps took, before an interruption too.

    Raises:
        ValueError: the checkpoint is of other pictures, or does not say of which.
        DivergedError: a loss or gradient is not finite; the checkpoints before it are kept.
        Preempted: told to stop.
    """
    started, before = time.perf_counter(), 0.0
    restored = checkpoint.restore_latest(folder / "checkpoints", state, warn=log.event)
    if restored is not None:
        _require_same_pictures(name, restored, pictures, folder)
        state, before = restored.state, restored.extra["seconds"]
        log.event(f"{name}: resuming at step {restored.step:,} of {schedule.total:,}")
    first = int(state.step)
    log.truncate(name, first)
    state, frozen = placed.replicate(state), placed.replicate(frozen)
    pending: list[Metrics] = []
    since = time.perf_counter()
    for done in range(first + 1, schedule.total + 1):
        batch = batch_at(done - 1)
        state, metrics = placed.step(state, frozen, placed.shard(batch))
        pending.append(metrics)

        stopping = told_to_stop()
        saving = stopping or schedule.is_due(done, schedule.save_every)
        evaluating = schedule.is_due(done, schedule.evaluate_every)
        if saving or evaluating or schedule.is_due(done, schedule.log_every):
            figures = _fetch(name, pending, done, folder)
            speed = len(pending) * len(batch["image"]) / (time.perf_counter() - since)
            log.progress(name, done, schedule.total, figures, speed)
            pending, since = [], time.perf_counter()

        if saving or evaluating:
            current = placed.fetch(state)
            if not _is_finite(current):
                raise _diverged(name, f"a parameter is not finite after step {done}", folder)
            if evaluating:
                log.figures(name, done, evaluate(current))
            if saving:
                seconds = before + time.perf_counter() - started
                extra = {"seconds": seconds, "pictures": pictures}
                checkpoint.save(folder / "checkpoints", done, current, extra)
            since = time.perf_counter()

        if stopping:
            raise Preempted(
                f"stage {name!r} was told to stop and saved step {done}; the same command continues it"
            )
    return placed.fetch(state), before + time.perf_counter() - started


def _require_same_pictures(
    name: str, restored: checkpoint.Restored, pictures: str, folder: Path
) -> None:
    """Refuse to go on from a state that has learned from other pictures, or from who knows which."""
    begun = restored.extra.get("pictures")
    if begun is None:  # the artifact would name pictures that nobody has compared
        raise ValueError(
            f"stage {name!r} has a checkpoint of step {restored.step:,} that does not say on which pictures "
            f"it was begun, as those before they did: remove {folder / 'checkpoints'} to train the stage "
            "from its start, or start over with --fresh"
        )
    if begun != pictures:
        raise ValueError(
            f"stage {name!r} was begun on {begun}, and its data are now {pictures}: bring those pictures "
            "back, or start over with --fresh"
        )


def _fetch(name: str, pending: list[Metrics], done: int, folder: Path) -> dict[str, float]:
    """The mean of each metric since the last time, refusing any that is not finite."""
    fetched = jax.device_get(pending)
    for offset, metrics in enumerate(fetched):
        for key in ("loss", "grad_norm"):
            if not math.isfinite(metrics[key]):
                step = done - len(fetched) + offset + 1
                raise _diverged(name, f"{key} is {metrics[key]} at step {step}", folder)
    return {key: float(np.mean([metrics[key] for metrics in fetched])) for key in fetched[0]}


def _is_finite(state: State) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.variables)))


def _diverged(name: str, finding: str, folder: Path) -> DivergedError:
    kept = checkpoint.latest_step(folder / "checkpoints")
    return DivergedError(
        f"stage {name!r} diverged: {finding}. "
        + (f"The checkpoint of step {kept} is kept. " if kept is not None else "")
        + "Lower optimizer.learning_rate, or set optimizer.clip"
    )
