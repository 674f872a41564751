"""Checkpoints: what comes back is what was saved, whatever is done to the files or the process."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmini.run import checkpoint, flat
from jaxmini.run.checkpoint import CheckpointError, latest_step, restore_latest, save
from jaxmini.state import State

ROOT = Path(__file__).parents[2]


def silent(text: str) -> None:
    raise AssertionError(f"nothing should be warned of, but: {text}")


def state_of(step: int, seed: int = 0) -> State:
    """A small state with every kind of leaf: floats, halves, integers, booleans, keys, an empty one."""
    noise = np.random.default_rng((seed, step))
    kernel = jnp.asarray(noise.normal(size=(3, 4)), jnp.float32)
    return State(
        step=jnp.int32(step),
        key=jax.random.key(seed),
        params={"kernel": kernel, "half": kernel.astype(jnp.bfloat16)},
        collections={"quant": {"weight": jnp.asarray(noise.integers(-128, 127, 5), jnp.int8)}},
        opt_state=(jnp.zeros([0, 2], jnp.float32), kernel * 2, {"masks": kernel > 0}),
        carry={"keys": jax.random.split(jax.random.key(step), 3)},
    )


def small_state(step: int) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(step).normal(size=100)
    return {"a": noise.astype(np.float32), "b": (10 * noise).astype(np.int8)}


def assert_same(state: State, expected: State) -> None:
    ours, theirs = flat.to_host(state), flat.to_host(expected)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    assert state.key.dtype == expected.key.dtype


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_state_comes_back_bit_for_bit(tmp_path):
    extra = {"seconds": 1.25, "best": float("inf"), "names": ["a", None], "nested": {"on": True}}
    save(tmp_path, 3, state_of(3), extra)
    restored = restore_latest(tmp_path, state_of(0), silent)
    assert_same(restored.state, state_of(3))
    assert (restored.step, restored.extra) == (3, extra)
    assert latest_step(tmp_path) == 3


def test_shapes_alone_are_target_enough(tmp_path):
    save(tmp_path, 3, state_of(3))
    target = jax.eval_shape(lambda: state_of(3).replace(opt_state=()))
    target = target.replace(opt_state=jax.eval_shape(lambda: state_of(3).opt_state))
    assert_same(restore_latest(tmp_path, target, silent).state, state_of(3))


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert restore_latest(tmp_path / "missing", state_of(0), silent) is None
    assert restore_latest(tmp_path, state_of(0), silent) is None
    assert latest_step(tmp_path / "missing") is None


def test_leaves_go_to_the_sharding_of_their_target(tmp_path):
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["batch"], []))
    tree = {"queue": jnp.arange(16.0), "key": jax.random.key(1), "step": jnp.int32(1)}
    save(tmp_path, 1, jax.device_put(tree, {"queue": rows, "key": whole, "step": whole}))

    target = {
        "queue": jax.ShapeDtypeStruct((16,), jnp.float32, sharding=rows),
        "key": jax.ShapeDtypeStruct((), tree["key"].dtype, sharding=whole),
        "step": jnp.int32(0),
    }
    state = restore_latest(tmp_path, target, silent).state
    assert state["queue"].sharding == rows
    assert state["key"].sharding == whole
    assert state["step"].committed is False  # or a jit over the mesh would refuse it
    np.testing.assert_array_equal(state["queue"], np.arange(16.0))


def test_a_restored_state_may_be_donated_and_a_saved_one_too(tmp_path):
    tree = {"a": jnp.arange(4096.0), "b": jnp.ones(4096)}
    double = jax.jit(lambda t: jax.tree.map(lambda x: x * 2, t), donate_argnums=0)
    save(tmp_path, 1, tree)
    double(tree)
    assert tree["a"].is_deleted()
    restored = restore_latest(tmp_path, jax.eval_shape(lambda: tree), silent).state
    np.testing.assert_array_equal(double(restored)["a"], 2 * np.arange(4096.0))


def test_the_last_two_are_kept(tmp_path):
    for step in (1, 2, 5, 9):
        save(tmp_path, step, state_of(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_5", "step_9"]
    save(tmp_path, 12, state_of(12), keep=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_12", "step_5", "step_9"]


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 4, state_of(4, seed=1), {"seed": 1})
    save(tmp_path, 4, state_of(4, seed=2), {"seed": 2})
    restored = restore_latest(tmp_path, state_of(0), silent)
    assert_same(restored.state, state_of(4, seed=2))
    assert [path.name for path in tmp_path.iterdir()] == ["step_4"]


def test_a_run_killed_while_replacing_has_the_replaced_one(tmp_path):
    save(tmp_path, 4, state_of(4))
    (tmp_path / "step_4").rename(tmp_path / "step_4.replaced")
    assert_same(restore_latest(tmp_path, state_of(0), silent).state, state_of(4))
    save(tmp_path, 4, state_of(4))
    assert [path.name for path in tmp_path.iterdir()] == ["step_4"]


def test_what_a_killed_process_left_is_not_listed_and_swept_away(tmp_path):
    save(tmp_path, 1, state_of(1))
    for name in ("step_2.partial", "step_0.removed"):
        shutil.copytree(tmp_path / "step_1", tmp_path / name)
    assert latest_step(tmp_path) == 1
    save(tmp_path, 2, state_of(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_1", "step_2"]


def test_going_back_past_a_damaged_checkpoint_keeps_only_intact_ones(tmp_path):
    for step in (10, 20):
        save(tmp_path, step, state_of(step))
    (tmp_path / "step_20" / "manifest.json").unlink()
    warnings = []
    assert restore_latest(tmp_path, state_of(0), warnings.append).step == 10
    save(tmp_path, 30, state_of(30))  # keeps 10, not the damaged 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_10", "step_30"]
    save(tmp_path, 15, state_of(15))  # a run that went back: 30 is of another future
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_10", "step_15"]


def test_one_flipped_bit_in_any_file_is_noticed(tmp_path):
    for step in (1, 2):
        save(tmp_path, step, small_state(step))
    noise = np.random.default_rng(0)
    files = files_of(tmp_path / "step_2")
    assert len(files) > 5
    for file in files:
        intact = file.read_bytes()
        for position in {0, len(intact) - 1, *noise.integers(0, len(intact), 2).tolist()}:
            damaged = bytearray(intact)
            damaged[position] ^= 1 << int(noise.integers(8))
            file.write_bytes(damaged)
            warnings = []
            assert restore_latest(tmp_path, small_state(0), warnings.append).step == 1
            (text,) = warnings
            assert str(file) in text
            assert "step 2" in text
        file.write_bytes(intact)
    assert restore_latest(tmp_path, small_state(0), silent).step == 2


def test_a_truncated_an_emptied_or_a_missing_file_is_noticed(tmp_path):
    for step in (1, 2):
        save(tmp_path, step, small_state(step))
    for file in files_of(tmp_path / "step_2"):
        intact = file.read_bytes()
        for content in (intact[:-1], b"", None):
            file.unlink() if content is None else file.write_bytes(content)
            warnings = []
            restored = restore_latest(tmp_path, small_state(0), warnings.append)
            np.testing.assert_array_equal(restored.state["a"], small_state(1)["a"])
            assert str(file) in warnings[0]
        file.write_bytes(intact)
    assert restore_latest(tmp_path, small_state(0), silent).step == 2


def test_a_checkpoint_under_another_steps_name_is_noticed(tmp_path):
    save(tmp_path, 1, state_of(1))
    (tmp_path / "step_1").rename(tmp_path / "step_7")
    with pytest.raises(CheckpointError, match="of format 1 and step 1, not 1 and 7"):
        restore_latest(tmp_path, state_of(0), [].append)


def test_values_that_orbax_reads_back_wrong_are_noticed(tmp_path, monkeypatch):
    save(tmp_path, 1, state_of(1))
    unpack = flat.unpack

    def wrong(packed, like):
        arrays = unpack(packed, like)
        arrays[".params['kernel']"][0, 0] += 1
        return arrays

    monkeypatch.setattr(flat, "unpack", wrong)
    with pytest.raises(CheckpointError, match=r"state\.params\['kernel'\] has not the values"):
        restore_latest(tmp_path, state_of(0), [].append)
    with pytest.raises(CheckpointError, match="what was written does not read back"):
        save(tmp_path, 2, state_of(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]


def test_all_damaged_is_an_error_with_every_reason(tmp_path):
    for step in (1, 2):
        save(tmp_path, step, state_of(step))
    (tmp_path / "step_1" / "manifest.json").write_text("{}")
    (data,) = (tmp_path / "step_2" / "arrays" / "d").iterdir()
    data.write_bytes(b"")
    warnings = []
    with pytest.raises(CheckpointError, match=r"(?s)no checkpoint .* is intact.*start") as error:
        restore_latest(tmp_path, state_of(0), warnings.append)
    assert len(warnings) == 2
    assert f"{data} was changed" in str(error.value)
    assert f"{tmp_path / 'step_1' / 'manifest.json'} was changed" in str(error.value)


def test_another_dtype_shape_or_structure_is_refused(tmp_path):
    save(tmp_path, 1, state_of(1))
    state = state_of(0)
    kernel = state.params["kernel"]
    half = state.replace(params={**state.params, "kernel": kernel.astype(jnp.bfloat16)})
    turned = state.replace(params={**state.params, "kernel": kernel.T})
    fewer = state.replace(params={"kernel": kernel})
    more = state.replace(carry={**state.carry, "queue": kernel})
    raw = state.replace(key=jax.random.key_data(state.key))
    other = state.replace(key=jax.random.key(0, impl="rbg"))
    for target, message in (
        (half, r"kernel'\]: saved float32\[3,4\], expected bfloat16\[3,4\]"),
        (turned, r"kernel'\]: saved float32\[3,4\], expected float32\[4,3\]"),
        (fewer, r"half'\]: saved bfloat16\[3,4\], expected none"),
        (more, r"queue'\]: saved not at all, expected float32\[3,4\]"),
        (raw, r"\.key: saved key<fry>\[\], expected uint32\[2\]"),
        (other, r"\.key: saved key<fry>\[\], expected key<rbg>\[\]"),
    ):
        with pytest.raises(CheckpointError, match=message) as error:
            restore_latest(tmp_path, target, silent)
        assert "another workdir" in str(error.value)


def test_many_differences_are_counted(tmp_path):
    save(tmp_path, 1, {f"leaf_{i}": jnp.zeros(i + 1) for i in range(20)})
    with pytest.raises(CheckpointError, match="and 12 more"):
        restore_latest(tmp_path, {f"leaf_{i}": jnp.zeros(i) for i in range(20)}, silent)


@pytest.mark.parametrize(
    ("state", "extra", "message"),
    [
        ({"a": 1.0}, {}, r"state\['a'\] is 1.0, not an array: try jnp.asarray"),
        ({"a": np.zeros(2)}, {}, "is float64, which jax would narrow"),
        ({"a": np.zeros(2, np.float32)}, {"accuracy": np.float32(1)}, "extra: .*float32"),
        ({"a": np.zeros(2, np.float32)}, {"shape": (1, 2)}, "JSON would change"),
        ({"a": np.zeros(2, np.float32)}, {1: "one"}, "JSON would change"),
    ],
)
def test_what_would_not_come_back_is_not_saved(tmp_path, state, extra, message):
    with pytest.raises(TypeError, match=message):
        save(tmp_path, 1, state, extra)
    assert not list(tmp_path.iterdir())


def test_numbers_out_of_range_are_refused(tmp_path):
    for step, keep in ((-1, 2), (1, 0)):
        with pytest.raises(ValueError, match=f"step {step} must be >= 0 and keep {keep} >= 1"):
            save(tmp_path, step, state_of(1), keep=keep)
    with pytest.raises(ValueError, match="no values"):
        save(tmp_path, 1, {"empty": {}})


def test_a_full_disk_is_explained_and_leaves_the_last_checkpoint(tmp_path):
    save(tmp_path, 1, {"a": jnp.zeros(10)})
    noise = jax.random.normal(jax.random.key(0), [100_000])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"(?s)step_2 could not be written.*make room"):
            save(tmp_path, 2, {"a": noise})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]
    save(tmp_path, 2, {"a": noise})
    assert restore_latest(tmp_path, {"a": noise}, silent).step == 2


def test_a_folder_that_may_not_be_written_is_explained(read_only):
    for folder in (read_only, read_only / "new"):
        with pytest.raises(CheckpointError, match=r"step_1 could not be written.*denied"):
            save(folder, 1, state_of(1))


# Imports once, then for each line it reads becomes a new process that saves one step after the other.
SAVER = """
import os, sys, warnings
from pathlib import Path
import numpy as np
from jaxmini.run import checkpoint
warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # no device is in use before the fork
for first in map(int, sys.stdin):
    if child := os.fork():
        os.waitpid(child, 0)
        print("ended", flush=True)
        continue
    for step in range(first, first + 1000):
        noise = np.random.default_rng(step).normal(size=5000).astype(np.float32)
        state = {"a": noise, "b": np.int32(step)}
        checkpoint.save(Path(sys.argv[1]), step, state, {"step": step})
        print(os.getpid(), step, flush=True)
"""


def test_kill_9_at_any_moment_leaves_a_right_newest_checkpoint(tmp_path):
    noise = np.random.default_rng(0)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SAVER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    saved, target = 0, {"a": jnp.zeros(5000), "b": jnp.int32(0)}
    with subprocess.Popen(command, env=environment, **pipes) as children:
        for _ in range(5):
            children.stdin.write(f"{saved + 1}\n")
            children.stdin.flush()
            child, saved = map(int, children.stdout.readline().split())
            time.sleep(noise.uniform(0.0, 0.3))
            os.kill(child, signal.SIGKILL)
            while (line := children.stdout.readline()) != "ended\n":
                saved = int(line.split()[1])
            restored = restore_latest(tmp_path, target, silent)
            assert restored.step >= saved
            assert restored.extra == {"step": restored.step} == {"step": int(restored.state["b"])}
            expected = np.random.default_rng(restored.step).normal(size=5000).astype(np.float32)
            np.testing.assert_array_equal(restored.state["a"], expected)
            saved = restored.step
        children.stdin.close()


def test_a_save_stopped_before_any_of_its_renames_loses_nothing(tmp_path, monkeypatch):
    """Every order of events of a kill: the process ends just before its n-th rename or deletion."""
    for step in (1, 2, 3):
        save(tmp_path / "begun", step, state_of(step))

    class Killed(BaseException):
        pass

    def kill_at(number, function):
        def counted(*args, **kwargs):
            kill_at.calls += 1
            if kill_at.calls == number:
                raise Killed
            return function(*args, **kwargs)

        return counted

    stopped = 0
    for number in range(1, 8):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "begun", folder)
        kill_at.calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", kill_at(number, Path.rename))
            patch.setattr(checkpoint.shutil, "rmtree", kill_at(number, shutil.rmtree))
            try:
                save(folder, 3, state_of(3, seed=5), keep=1)
            except Killed:
                stopped += 1
        restored = restore_latest(folder, state_of(0), silent)
        assert restored.step == 3
        assert_same(
            restored.state, state_of(3, seed=int(restored.state.key != jax.random.key(0)) * 5)
        )
        save(folder, 4, state_of(4))
        kept = {path.name.removesuffix(".replaced") for path in folder.iterdir()}
        assert kept == {"step_3", "step_4"}
    assert stopped == 6
