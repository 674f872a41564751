"""TFDS offline: prepared once from the original files, then read without TensorFlow."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxmini.data.dataset import Dataset, Split
from jaxmini.data.tfds import DATA_DIR, _read_arrays, _write_arrays, tfds
from tests.data.harm import harmed

REAL = os.environ.get(DATA_DIR)
needs_files = pytest.mark.skipif(not REAL, reason=f"{DATA_DIR} is not set: no original files")

LOAD = """
import json, sys
from jaxmini.data import tfds
data = tfds("fashion_mnist").load()
report = {
    "fingerprint": data.fingerprint(), "labels": data.labels, "tensorflow": "tensorflow" in sys.modules,
    "sizes": [len(data.train), len(data.test)], "counts": [int(x) for x in data.train.label[:2000]],
}
import numpy as np
np.save(sys.argv[1], np.concatenate([data.test.image.reshape(10000, -1), data.test.label[:, None]], 1))
print(json.dumps(report))
"""


def run(program, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def report(process):
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def rows(images, labels):
    """Every picture with its label as one row, in an order of their own."""
    table = np.concatenate([images.reshape(len(images), -1), labels[:, None]], 1).astype(np.int32)
    return table[np.lexsort(table.T)]


@needs_files
@pytest.mark.slow
def test_fashion_mnist_offline_is_the_published_files_and_cached_without_tensorflow(tmp_path):
    cold = report(run(LOAD, str(tmp_path / "cold.npy"), JAXMINI_CACHE_DIR=str(tmp_path / "cache")))
    warm = report(run(LOAD, str(tmp_path / "warm.npy"), JAXMINI_CACHE_DIR=str(tmp_path / "cache")))
    assert (cold["tensorflow"], warm["tensorflow"]) == (True, False)
    assert cold["fingerprint"] == warm["fingerprint"] == "084e1bc4efa6005d"
    assert cold["sizes"] == [60_000, 10_000]
    assert cold["labels"][9] == "Ankle boot"
    assert np.bincount(cold["counts"]).min() > 150
    folder = Path(REAL) / "fashion_mnist"
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(10_000, 784)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    own = np.load(tmp_path / "cold.npy")
    np.testing.assert_array_equal(rows(own[:, :-1], own[:, -1]), rows(images, labels))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "tfds('fashion_mnits')",
            "no dataset 'fashion_mnits' in the catalogue; did you mean 'fashion_mnist'",
        ),
        (
            "tfds('coco')",
            "expected an image classification dataset with the features image and label",
        ),
        ("tfds('mnist')", "lacks t10k-images-idx3-ubyte.gz, .*train-labels-idx1-ubyte.gz.*unset"),
    ],
)
def test_what_cannot_be_read_offline_says_what_to_do(tmp_path, source, message):
    process = run(
        f"from jaxmini.data import tfds; {source}.load()",
        JAXMINI_DATA_DIR=str(tmp_path / "empty"),
        JAXMINI_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert process.returncode == 1
    import re

    assert re.search(message, process.stderr.splitlines()[-1]), process.stderr[-2000:]


def test_without_tfds_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXMINI_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ModuleNotFoundError, match=r"tensorflow.*pip install 'jaxmini\[tfds\]'"):
        tfds("fashion_mnist").load()


def toy():
    image = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
    split = Split(image, np.arange(3, dtype=np.int32))
    return Dataset("toy", split, split.take(np.arange(1)), ("a", "b", "c"))


def test_the_cache_gives_back_what_was_written(tmp_path):
    file = tmp_path / "new" / "toy.npz"
    _write_arrays(file, toy())
    again = _read_arrays(file)
    assert (again.fingerprint(), again.name, again.labels) == (
        toy().fingerprint(),
        "toy",
        toy().labels,
    )
    assert [path.name for path in file.parent.iterdir()] == ["toy.npz"]


def test_a_cache_that_is_not_what_was_written_is_refused(tmp_path):
    file = tmp_path / "toy.npz"
    _write_arrays(file, toy())
    with np.load(file) as stored:
        arrays = dict(stored)
    arrays["train_label"] = arrays["train_label"][::-1].copy()
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=r"toy\.npz: its content is not what was written.*delete"):
        _read_arrays(file)


def test_a_damaged_cache_is_refused_by_name_or_is_what_was_written(tmp_path):
    file = tmp_path / "toy.npz"
    _write_arrays(file, toy())
    intact = file.read_bytes()
    refusals = []
    for content in harmed(intact, every=5):
        file.write_bytes(content)
        try:
            again = _read_arrays(file)
        except ValueError as error:
            refusals.append(str(error))
        else:  # what was flipped says nothing: the time of a member, say
            assert (again.name, again.labels) == ("toy", toy().labels)
            assert again.fingerprint() == toy().fingerprint()
    assert len(refusals) > len(intact) / 5
    for message in refusals:
        assert message.startswith(f"{file}: ")
        assert message.endswith("; delete the file, it will be made again")


def test_each_source_has_a_cache_file_of_its_own(monkeypatch, tmp_path):
    """Split expressions that differ only in signs must not share one."""
    monkeypatch.setenv("JAXMINI_CACHE_DIR", str(tmp_path))
    sources = [tfds("x", train="train[:80%]"), tfds("x", train="train[80%:]"), tfds("x", size=8)]
    written = []

    def prepare(source, cache, offline):
        written.append(source)
        return toy()

    monkeypatch.setattr(sys.modules["jaxmini.data.tfds"], "_prepare", prepare)
    for source in sources:
        source.load()
    assert written == sources
    assert len(list((tmp_path / "arrays").iterdir())) == 3
