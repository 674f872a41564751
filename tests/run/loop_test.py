"""Loop: the same end however often it is stopped, and a stop at the first number that is none."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxmini import steps
from jaxmini.losses import cross_entropy
from jaxmini.model import from_linen
from jaxmini.run import checkpoint, loop
from jaxmini.run.log import Log
from jaxmini.run.loop import DivergedError, Preempted, Schedule
from jaxmini.state import State
from jaxmini.steps import placement
from jaxmini.steps.placement import Placed

TOTAL, BATCH = 24, 8
MODEL = from_linen(nn.Dense(3))
OPTIMIZER = optax.sgd(0.1, momentum=0.9)
PLACED = placement.jit(steps.supervised(MODEL, cross_entropy(), OPTIMIZER), jax.devices()[:1])
PICTURES = "noise 0123456789abcdef"
SCHEDULE = Schedule(TOTAL, log_every=4, save_every=6, evaluate_every=12)


def batch_at(step: int, broken_from: int = TOTAL) -> dict[str, np.ndarray]:
    random = np.random.default_rng(step)
    image = random.normal(size=(BATCH, 5)).astype(np.float32)
    if step >= broken_from:
        image[3, 2] = np.nan
    return {"image": image, "label": random.integers(0, 3, BATCH).astype(np.int32)}


def begin() -> State:
    variables = MODEL.init(jax.random.key(1), jnp.zeros((1, 5)))
    return steps.start(OPTIMIZER, jax.random.key(2), variables)


def train(
    folder: Path,
    schedule: Schedule = SCHEDULE,
    batches: Callable[[int], dict[str, np.ndarray]] = batch_at,
    told_to_stop: Callable[[], bool] = lambda: False,
    placed: Placed = PLACED,
    pictures: str = PICTURES,
) -> tuple[State, str]:
    """The last state, and what was said."""
    said = io.StringIO()
    state, seconds = loop.train(
        "net",
        placed,
        begin(),
        {},
        pictures,
        batches,
        schedule,
        lambda state: {"accuracy": float(state.step)},
        folder,
        Log(folder, stream=said),
        told_to_stop,
    )
    assert seconds > 0
    return state, said.getvalue()


def leaves(state: State) -> list[bytes]:
    state = state.replace(key=jax.random.key_data(state.key))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    state, _ = train(tmp_path_factory.mktemp("straight"))
    assert int(state.step) == TOTAL
    return leaves(state)


class Killed(BaseException):
    """As if the process had ended: nothing catches it."""


@settings(max_examples=6)
@example([0, 23, 7, 7])
@given(st.lists(st.integers(0, TOTAL - 1), min_size=1, max_size=4))
def test_killed_before_any_batches_it_ends_the_same(straight, tmp_path_factory, moments):
    folder = tmp_path_factory.mktemp("killed")
    for moment in moments:

        def batches(step: int, moment: int = moment) -> dict[str, np.ndarray]:
            if step == moment:
                raise Killed
            return batch_at(step)

        try:
            train(folder, batches=batches)
        except Killed:
            continue
    state, _ = train(folder)
    assert leaves(state) == straight


@settings(max_examples=6)
@given(*(st.integers(1, TOTAL + 3),) * 3)
def test_when_it_logs_saves_and_evaluates_changes_nothing(straight, tmp_path_factory, a, b, c):
    state, _ = train(tmp_path_factory.mktemp("schedule"), Schedule(TOTAL, a, b, c))
    assert leaves(state) == straight


def test_a_finished_run_trains_no_further(straight, tmp_path):
    train(tmp_path)
    state, said = train(tmp_path, batches=lambda step: pytest.fail("it asked for a batch"))
    assert leaves(state) == straight
    assert "net: resuming at step 24 of 24" in said


def test_the_log_holds_every_step_once_after_a_resume(tmp_path):
    def batches(step: int) -> dict[str, np.ndarray]:
        if step == 16:
            raise Killed
        return batch_at(step)

    with pytest.raises(Killed):
        train(tmp_path, batches=batches)
    train(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trained = [record["step"] for record in records if record["split"] == "train"]
    assert trained == [4, 6, 8, 12, 16, 18, 20, 24]
    tested = {r["step"]: r["metrics"] for r in records if r["split"] == "test"}
    assert tested == {12: {"accuracy": 12.0}, 24: {"accuracy": 24.0}}


def test_a_damaged_checkpoint_is_said_and_the_one_before_used(straight, tmp_path):
    train(tmp_path)
    file = tmp_path / "checkpoints" / f"step_{TOTAL}" / "manifest.json"
    file.write_text(file.read_text().replace('"seconds"', '"secondz"'))
    state, said = train(tmp_path)
    assert "the checkpoint of step 24 is damaged and not used" in said
    assert "net: resuming at step 18 of 24" in said
    assert leaves(state) == straight


@pytest.mark.parametrize("broken_from", [0, 5, 6, 13, TOTAL - 1])
def test_a_loss_that_is_no_number_stops_it(tmp_path, broken_from):
    with pytest.raises(DivergedError) as caught:
        train(tmp_path, batches=lambda step: batch_at(step, broken_from))
    message = str(caught.value)
    assert f"stage 'net' diverged: loss is nan at step {broken_from + 1}." in message
    assert "learning_rate" in message
    kept = broken_from // 6 * 6
    assert ("is kept" in message) == (kept > 0)
    restored = checkpoint.restore_latest(tmp_path / "checkpoints", begin(), warn=pytest.fail)
    assert kept == 0 if restored is None else restored.step == kept
    if restored is not None:
        assert f"The checkpoint of step {kept} is kept" in message
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(restored.state.params))


def test_parameters_that_are_no_numbers_are_neither_evaluated_nor_saved(tmp_path):
    endless = steps.supervised(MODEL, cross_entropy(), optax.sgd(np.inf, momentum=0.9))
    placed = placement.jit(endless, jax.devices()[:1])  # its first loss and gradient are finite
    with pytest.raises(DivergedError, match="a parameter is not finite after step 1"):
        train(tmp_path, Schedule(TOTAL, 1, 1, 1), placed=placed)
    assert checkpoint.latest_step(tmp_path / "checkpoints") is None
    assert "test" not in (tmp_path / "metrics.jsonl").read_text()


def test_told_to_stop_it_saves_the_step_it_is_at(straight, tmp_path):
    answers = iter([False] * 9 + [True])
    with pytest.raises(Preempted, match="stage 'net' was told to stop and saved step 10"):
        train(tmp_path, told_to_stop=lambda: next(answers))
    assert checkpoint.latest_step(tmp_path / "checkpoints") == 10
    state, said = train(tmp_path)
    assert "net: resuming at step 10 of 24" in said
    assert leaves(state) == straight


def test_the_seconds_before_a_stop_count(tmp_path):
    answers = iter([False] * 9 + [True])
    with pytest.raises(Preempted):
        train(tmp_path, told_to_stop=lambda: next(answers))
    restored = checkpoint.restore_latest(tmp_path / "checkpoints", begin(), warn=pytest.fail)
    before = restored.extra["seconds"]
    assert before > 0
    extra = restored.extra | {"seconds": before + 1000}
    checkpoint.save(tmp_path / "checkpoints", 10, restored.state, extra)
    train(tmp_path)
    restored = checkpoint.restore_latest(tmp_path / "checkpoints", begin(), warn=pytest.fail)
    assert restored.extra["seconds"] > before + 1000


def stop_at_10(folder: Path) -> None:
    answers = iter([False] * 9 + [True])
    with pytest.raises(Preempted):
        train(folder, told_to_stop=lambda: next(answers))


def test_a_checkpoint_of_other_pictures_is_refused_and_kept(straight, tmp_path):
    stop_at_10(tmp_path)
    log = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(
        ValueError,
        match=f"stage 'net' was begun on {PICTURES}, and its data are now noise 1: bring those pictures "
        "back, or start over with --fresh",
    ):
        train(tmp_path, pictures="noise 1")
    assert (tmp_path / "metrics.jsonl").read_bytes() == log
    state, said = train(tmp_path)
    assert "net: resuming at step 10 of 24" in said
    assert leaves(state) == straight


def test_a_checkpoint_that_does_not_say_of_which_pictures_is_refused(straight, tmp_path):
    stop_at_10(tmp_path)
    checkpoints = tmp_path / "checkpoints"
    restored = checkpoint.restore_latest(checkpoints, begin(), warn=pytest.fail)
    checkpoint.save(checkpoints, 10, restored.state, {"seconds": 1.0})
    with pytest.raises(
        ValueError, match=f"step 10 that does not say on which .*remove {checkpoints} to train"
    ):
        train(tmp_path)
    shutil.rmtree(checkpoints)
    state, _ = train(tmp_path)
    assert leaves(state) == straight
