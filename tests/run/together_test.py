"""Together: two real processes save, restore and share one workdir as one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxmini.run import together

ROOT = Path(__file__).parents[2]

MEMBER = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
index, folder, address = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(
    address, 2, index, coordinator_bind_address=address, cluster_detection_method="deactivate"
)
from jaxmini.run import checkpoint, together
from jaxmini.run.log import Log
from jaxmini.run.workdir import Workdir

mesh = Mesh(np.array(jax.devices()), ("batch",))
whole, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
places = {"key": whole, "queue": rows, "step": whole}
make = lambda: {"key": jax.random.key(5), "queue": jnp.arange(8.0), "step": jnp.int32(3)}
state = jax.jit(make, out_shardings=places)()

with Workdir.open(folder, {"recipe": 1}) as workdir:
    assert together.told(7 + index) == 7
    log = Log(workdir.path)
    checkpoints = workdir.stage_folder("student") / "checkpoints"
    for step in (1, 2, 3):
        checkpoint.save(checkpoints, step, state, {"from": index})
    restored = checkpoint.restore_latest(checkpoints, state, print)
    assert (restored.step, restored.extra) == (3, {"from": 0})
    assert {name: leaf.sharding for name, leaf in restored.state.items()} == places
    apart = jax.jit(lambda a, b: jnp.abs(a["queue"] - b["queue"]).max(), out_shardings=whole)
    assert apart(state, restored.state).addressable_data(0) == 0
    workdir.mark_finished("student", {"steps": 3})
    assert workdir.finished("student") == {"steps": 3}
    log.figures("student", 3, {"accuracy": 0.5})
"""


def test_a_single_process_leads_and_waits_for_nobody():
    assert together.leads()
    together.meet("alone")
    together.agree(3, "never said")
    assert together.told(3) == 3


@pytest.mark.slow
def test_two_processes_act_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    members = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(index), str(tmp_path / "run"), address],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    said = [member.communicate(timeout=120)[0] for member in members]
    assert [member.returncode for member in members] == [0, 0]
    assert "student  3  test  accuracy 0.5000\n" in said[0]
    assert "accuracy" not in said[1]
    names = sorted(path.name for path in (tmp_path / "run").rglob("step_*"))
    assert names == ["step_2", "step_3"]
