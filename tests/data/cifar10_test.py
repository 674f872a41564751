"""CIFAR-10 offline: the container decodes to the published pixels, or is refused."""

import hashlib
import os
import zipfile

import numpy as np
import pytest

from jaxmini.data.cifar10 import CONTAINER, _decode, cifar10
from jaxmini.data.tfds import DATA_DIR
from tests.data.harm import harmed

REAL = os.environ.get(DATA_DIR)
needs_files = pytest.mark.skipif(not REAL, reason=f"{DATA_DIR} is not set: no CIFAR-10 container")


@needs_files
def test_the_container_is_the_subset_it_says_and_is_decoded_once():
    data = cifar10().load()
    assert data.name == "cifar10 (20,000 + 5,000 of 60,000 pictures)"
    digests = [
        hashlib.sha256(split.image.tobytes()).hexdigest() for split in (data.train, data.test)
    ]
    assert digests == [
        "b895a6ae7ad1c76b7167a64462e57819200e8cd6e3186f621a42ee371d90e124",
        "6639eba0818a4803e228b7e3653c74503d97ff7d0525c92fd92eff246c3a7d23",
    ]
    assert set(np.bincount(data.train.label)) == {2000}
    assert set(np.bincount(data.test.label)) == {500}
    assert data.labels[:2] == ("airplane", "automobile")
    assert cifar10().load() is data


def encode(image):
    """The container's planes of uint8 pictures [N, H, W, 3]."""
    red, green, blue = np.moveaxis(image, -1, 0)
    planes = np.stack([green, red - green, blue - green])
    planes = np.diff(planes, axis=3, prepend=planes.dtype.type(0))
    return np.diff(planes, axis=2, prepend=planes.dtype.type(0))


def test_decoding_undoes_the_differences(tmp_path, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), np.uint8)
    path = tmp_path / "few.npz"
    np.savez(path, residual=encode(image), label=np.uint8([1, 0, 1]), classes=np.array(["a", "b"]))
    monkeypatch.setitem(CONTAINER, "few.npz", hashlib.sha256(image.tobytes()).hexdigest())
    split, classes = _decode(path)
    np.testing.assert_array_equal(split.image, image)
    assert (split.label.tolist(), classes) == ([1, 0, 1], ("a", "b"))
    monkeypatch.setitem(CONTAINER, "few.npz", "0" * 64)
    with pytest.raises(ValueError, match=r"few\.npz: its pixels have SHA-256 .*expected 000"):
        _decode(path)


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]
)
def test_a_damaged_container_is_refused_by_name_or_decodes_right(
    tmp_path, monkeypatch, compression
):
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), np.uint8)
    arrays = {
        "residual": encode(image),
        "label": np.uint8([1, 0, 1]),
        "classes": np.array(["a", "b"]),
    }
    path = tmp_path / "few.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.save(member, array)
    monkeypatch.setitem(CONTAINER, "few.npz", hashlib.sha256(image.tobytes()).hexdigest())
    intact = path.read_bytes()
    refusals = []
    for content in harmed(intact, every=5):
        path.write_bytes(content)
        try:
            split, classes = _decode(path)
        except ValueError as error:
            refusals.append(str(error))
        else:
            np.testing.assert_array_equal(split.image, image)
            assert (split.label.tolist(), classes) == ([1, 0, 1], ("a", "b"))
    assert len(refusals) > len(intact) / 5
    for message in refusals:
        assert message.startswith(f"{path}: ")
        assert message.endswith("replace it")


def test_offline_without_files_says_which_are_expected(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_DIR, str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"train20000\.npz and test5000\.npz nor cifar-10-binary.*unset"
    ):
        cifar10().load()
