"""Sources without files: the bundled digits, one's own arrays, and the functions Source -> Source."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.data.sources import arrays, digits, few_labels, unlabelled


def toy(counts, test=3):
    label = np.repeat(np.arange(len(counts)), counts)
    image = np.arange(len(label), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return arrays(image, label, image[:test], label[:test])


def test_digits_are_scikit_learns_rescaled_and_split_once_for_all():
    from sklearn.datasets import load_digits

    data = digits().load()
    assert (len(data.train), len(data.test), data.train.shape) == (1297, 500, (8, 8, 1))
    images = np.concatenate([data.train.image, data.test.image])[..., 0]
    assert set(np.unique(images)) == {round(255 * v / 16) for v in range(17)}
    reference = load_digits()
    rows = {(v.tobytes(), k) for v, k in zip(reference.images, reference.target, strict=True)}
    labels = np.concatenate([data.train.label, data.test.label])
    own = {(np.round(v / 255 * 16).tobytes(), k) for v, k in zip(images, labels, strict=True)}
    assert own == rows
    assert data.fingerprint() == "8002922e39507e46"
    assert np.bincount(data.test.label).min() > 35


@pytest.mark.parametrize("test", [0, 1797, -1])
def test_digits_refuse_an_impossible_split(test):
    with pytest.raises(ValueError, match=rf"test={test} .*1\.\.1796"):
        digits(test=test).load()


def test_arrays_need_only_pictures():
    data = arrays(np.zeros((2, 3, 3, 1), np.uint8)).load()
    assert (data.labels, len(data.test), data.train.any_label) == ((), 0, False)
    assert "zeros" not in repr(arrays(np.zeros((2, 3, 3, 1), np.uint8)))


def test_arrays_name_classes_as_far_as_the_labels_reach():
    assert toy([1, 2, 3]).load().labels == ("0", "1", "2")
    with pytest.raises(TypeError, match=r"train_label.*float64.*argmax"):
        arrays(np.zeros((2, 3, 3, 1), np.uint8), np.eye(2)).load()


@given(st.lists(st.integers(1, 20), min_size=2, max_size=5), st.data())
def test_few_labels_keeps_n_examples_every_class_in_proportion(counts, draw):
    n = draw.draw(st.integers(len(counts), sum(counts)))
    whole, data = toy(counts).load(), few_labels(toy(counts), n).load()
    kept = np.bincount(data.train.label, minlength=len(counts))
    assert kept.sum() == n
    assert np.all(kept >= 1)
    assert np.all(kept <= counts)
    exact = n * np.array(counts) / sum(counts)
    if np.all(exact >= 1):
        assert np.all(np.abs(kept - exact) < 1)
    np.testing.assert_array_equal(data.test.image, whole.test.image)
    ids = data.train.image.ravel()  # a toy picture's one pixel is its number
    np.testing.assert_array_equal(data.train.label, whole.train.label[ids])
    assert np.all(np.diff(ids.astype(int)) > 0)


def test_few_labels_depends_on_the_seed_and_grows_by_adding():
    def ids(n, seed):
        return set(few_labels(toy([40, 40]), n, seed).load().train.image.ravel().tolist())

    assert ids(10, 0) == ids(10, 0) != ids(10, 1)
    assert ids(10, 0) < ids(20, 0)
    assert few_labels(toy([40, 40]), 10).load().name == "arrays, 10 labels"


@pytest.mark.parametrize("n", [2, 13])
def test_few_labels_refuses_fewer_than_classes_and_more_than_all(n):
    with pytest.raises(ValueError, match=rf"n={n}, expected 3 .*12"):
        few_labels(toy([2, 4, 6]), n).load()


def test_few_labels_of_pictures_without_labels_is_refused():
    with pytest.raises(ValueError, match=r"few_labels of arrays, no labels: needs a label"):
        few_labels(unlabelled(toy([2, 2])), 2).load()


def test_unlabelled_keeps_every_picture_and_the_test_labels():
    whole, data = toy([3, 4]).load(), unlabelled(toy([3, 4])).load()
    np.testing.assert_array_equal(data.train.image, whole.train.image)
    assert set(data.train.label) == {-1}
    np.testing.assert_array_equal(data.test.label, whole.test.label)
    assert data.labels == whole.labels


def test_sources_print_compare_and_pickle():
    source = few_labels(digits(), 30)
    assert repr(source) == "few_labels(source=digits(test=500), n=30, seed=0)"
    assert pickle.loads(pickle.dumps(source)) == source
