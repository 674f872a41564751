"""The pictures of a page: a run's test split, a folder's by class name, or random ones and why."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxmini import data
from jaxmini.data import UNLABELLED
from jaxmini.demo import network
from jaxmini.demo.examples import examples


@pytest.fixture(scope="module")
def digits_net(integer_path: Path) -> network.Network:
    return network.read(integer_path)


def draw(path: Path, size: tuple[int, int], level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).save(path)


def test_those_of_the_run_are_spread_over_its_test_split(digits_net: network.Network, run: Path):
    test = data.digits().load().test
    found = examples(digits_net, run, None, 50)
    np.testing.assert_array_equal(found.image, test.image[::10])
    np.testing.assert_array_equal(found.label, test.label[::10])
    assert found.origin == "the test split of digits"
    assert not found.why_random
    assert len(examples(digits_net, run, None, 9999).image) == len(test)


def test_outside_a_run_they_are_random_and_say_why(digits_net: network.Network, tmp_path: Path):
    found = examples(digits_net, tmp_path, None, 7)
    assert (found.image.shape, found.image.dtype) == ((7, 8, 8, 1), np.uint8)
    assert set(found.label) == {UNLABELLED}
    assert found.origin == "random pictures"
    assert found.why_random == f"no test split: {tmp_path} is not the folder of a run"


def test_a_folder_s_pictures_are_resized_and_numbered_by_class_name(
    digits_net: network.Network, run: Path, tmp_path: Path
):
    for name, level in (("7", 70), ("3", 30)):
        for index in range(2):
            draw(tmp_path / name / f"{index}.png", (20, 30), level)
    found = examples(digits_net, run, tmp_path, 10)
    assert found.image.shape == (4, 8, 8, 1)
    np.testing.assert_array_equal(found.label, [3, 3, 7, 7])
    np.testing.assert_array_equal(found.image[:, 0, 0, 0], [30, 30, 70, 70])
    assert found.origin == f"the folder {tmp_path.name}"


def test_loose_pictures_have_no_label(digits_net: network.Network, run: Path, tmp_path: Path):
    draw(tmp_path / "one.png", (8, 8), 9)
    np.testing.assert_array_equal(examples(digits_net, run, tmp_path, 10).label, [UNLABELLED])


def test_a_test_folder_is_preferred(digits_net: network.Network, run: Path, tmp_path: Path):
    for split, level in (("train", 1), ("test", 2)):
        for name in "01":
            draw(tmp_path / split / name / "a.png", (8, 8), level)
    assert set(examples(digits_net, run, tmp_path, 10).image.ravel()) == {2}


def test_a_class_that_the_file_does_not_know_is_refused(
    digits_net: network.Network, run: Path, tmp_path: Path
):
    for name in ("1", "22"):
        draw(tmp_path / name / "a.png", (8, 8), 0)
    with pytest.raises(
        ValueError, match=r"22: int8.tflite has no class of this name; did you mean '2'"
    ):
        examples(digits_net, run, tmp_path, 10)


def test_a_missing_folder_and_no_pictures_are_refused(
    digits_net: network.Network, run: Path, tmp_path: Path
):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        examples(digits_net, run, tmp_path / "none", 10)
    with pytest.raises(ValueError, match="no pictures found"):
        examples(digits_net, run, tmp_path, 10)
    with pytest.raises(ValueError, match="the number of pictures is 0"):
        examples(digits_net, run, None, 0)
