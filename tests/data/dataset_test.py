"""A Split and a Dataset accept what they should, refuse the rest with a remedy, and know their content."""

import dataclasses

import numpy as np
import pytest

from jaxmini.data.dataset import Dataset, Split


def split(n=4, shape=(3, 5, 1), classes=2):
    image = np.arange(n * np.prod(shape)).astype(np.uint8).reshape(n, *shape)
    return Split(image, np.arange(n, dtype=np.int32) % classes)


def dataset(**changes):
    fields = {"name": "toy", "train": split(), "test": split(2), "labels": ("cat", "dog")}
    return Dataset(**{**fields, **changes})


LABEL = np.zeros(2, np.int32)


@pytest.mark.parametrize(
    ("image", "label", "error", "message"),
    [
        ([[1]], LABEL, TypeError, "list, expected a numpy array"),
        (np.zeros((2, 3, 3, 1)), LABEL, TypeError, r"float64.*np.round\(255 \* image\)"),
        (np.zeros((2, 3, 3), np.uint8), LABEL, ValueError, r"image\[\.\.\., None\]"),
        (np.zeros((2, 3, 8, 8), np.uint8), LABEL, ValueError, r"transpose\(0, 2, 3, 1\)"),
        (np.zeros((2, 8, 8, 4), np.uint8), LABEL, ValueError, "1 or 3"),
        (np.zeros((2, 0, 8, 1), np.uint8), LABEL, ValueError, r"\(2, 0, 8, 1\)"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0, 1], TypeError, "list, expected a numpy array"),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(2), TypeError, r"astype\(np.int32\)"),
        (np.zeros((3, 3, 3, 1), np.uint8), LABEL, ValueError, r"\(2,\), expected \(3,\)"),
    ],
)
def test_split_refuses_what_is_not_pictures_with_labels(image, label, error, message):
    with pytest.raises(error, match=message):
        Split(image, label)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": split(0)}, "training split holds no pictures"),
        ({"test": split(2, (3, 4, 1))}, r"\(3, 5, 1\), test pictures \(3, 4, 1\)"),
        ({"labels": ("cat", "cat")}, "repeat"),
        ({"labels": ("cat",)}, r"train: picture 1 has label 1, expected 0\.\.0"),
        ({"train": Split(split().image, np.full(4, -2, np.int32))}, "label -2"),
    ],
)
def test_dataset_refuses_parts_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        dataset(**changes)


def test_arrays_of_a_split_cannot_be_written_and_the_callers_stay_writable():
    image = np.zeros((2, 3, 3, 1), np.uint8)
    own = Split(image, LABEL)
    with pytest.raises(ValueError, match="read-only"):
        own.image[0] = 1
    image[0] = 1


def test_fingerprint_sees_every_part_and_nothing_else():
    base = dataset()
    pixel, label = base.train.image.copy(), base.train.label.copy()
    pixel[0, 0, 0, 0] ^= 1
    label[0] ^= 1
    others = [
        dataset(train=Split(pixel, base.train.label)),
        dataset(train=Split(base.train.image, label)),
        dataset(test=base.train),
        dataset(labels=("cat", "hog")),
        dataset(train=split(shape=(5, 3, 1)), test=split(2, (5, 3, 1))),
    ]
    prints = {each.fingerprint() for each in [base, *others]}
    assert len(prints) == 6
    assert dataset().fingerprint() == base.fingerprint()
    assert dataclasses.replace(base, name="renamed").fingerprint() == base.fingerprint()
    assert len(base.fingerprint()) == 16


def test_require_labels_names_the_place_and_the_number():
    partly = Split(split().image, np.array([0, -1, -1, 1], np.int32))
    with pytest.raises(ValueError, match=r"supervised: .* 2 of 4 have none.*sub-folder"):
        partly.require_labels("supervised")
    split().require_labels("supervised")
    assert (partly.labelled, partly.any_label, split().labelled) == (False, True, True)


def test_repr_is_short_and_says_what_it_is():
    assert repr(split()) == "Split(4 pictures 3x5x1)"
    assert repr(Split(split().image, np.full(4, -1, np.int32))).endswith("without labels)")
    assert len(repr(dataset())) < 120
