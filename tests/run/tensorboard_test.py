"""TensorBoard: what is written is on the disk at once; a missing package is named with its extra."""

import sys
import types
from typing import Any

import pytest

from jaxmini.run.tensorboard import Events, open_events


class Writer:
    """In the place of clu's, whose import takes TensorFlow's ten seconds."""

    def __init__(self, told: list[Any], folder: str = "") -> None:
        self.told = told
        told.append(folder)

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        self.told.append((step, scalars))

    def flush(self) -> None:
        self.told.append("flush")

    def close(self) -> None:
        self.told.append("close")


def test_each_step_is_flushed_and_the_file_closed():
    told: list[Any] = []
    events = Events(Writer(told))
    events.write(3, {"loss": 0.5})
    events.write(7, {"loss": 0.25})
    events.close()
    assert told == ["", (3, {"loss": 0.5}), "flush", (7, {"loss": 0.25}), "flush", "close"]


def test_the_folder_is_given_as_clu_takes_it(tmp_path, monkeypatch):
    told: list[Any] = []
    clu = types.ModuleType("clu")
    clu.metric_writers = types.SimpleNamespace(SummaryWriter=lambda folder: Writer(told, folder))
    monkeypatch.setitem(sys.modules, "clu", clu)
    open_events(tmp_path)
    assert told == [str(tmp_path)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorFlow's own parts
def test_tensorboard_reads_what_clu_wrote(tmp_path):
    events = open_events(tmp_path)
    events.write(3, {"loss": 0.5})
    events.write(7, {"loss": 0.25})
    events.close()

    import tensorflow as tf

    (file,) = tmp_path.glob("events.out.tfevents.*")
    found = [
        (event.step, value.tag, float(tf.make_ndarray(value.tensor)))
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    ]
    assert found == [(3, "loss", 0.5), (7, "loss", 0.25)]


@pytest.mark.parametrize("missing", ["tensorflow", "clu"])
def test_what_is_missing_is_named_with_its_extra(tmp_path, monkeypatch, missing):
    for name in [name for name in sys.modules if name.split(".")[0] == "clu"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"need {missing}.*pip install 'jaxmini\[tensorboard\]'"):
        open_events(tmp_path)
