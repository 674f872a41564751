import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.evaluate.accuracy import accuracy, confusion, predict_all

LOGITS = np.array([[0.1, 0.9, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], np.float32)


def test_accuracy_and_confusion_by_hand():
    labels = np.array([1, 0, 2, 2])
    assert accuracy(LOGITS, labels) == 0.75
    np.testing.assert_array_equal(confusion(LOGITS, labels, 3), [[1, 0, 0], [0, 1, 0], [1, 0, 1]])


@given(st.integers(1, 30), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_confusion_sums_to_the_labels_and_its_diagonal_is_accuracy(n: int, classes: int, seed: int):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, classes)), rng.integers(0, classes, n)
    counts = confusion(logits, labels, classes)
    np.testing.assert_array_equal(counts.sum(1), np.bincount(labels, minlength=classes))
    assert np.trace(counts) / n == pytest.approx(accuracy(logits, labels))


@given(st.integers(1, 20), st.integers(1, 25))
def test_predict_all_does_not_depend_on_the_batch_size(n: int, batch_size: int):
    images = np.arange(n * 4, dtype=np.uint8).reshape(n, 2, 2, 1)
    sizes = set()

    def predict(batch: np.ndarray) -> np.ndarray:
        sizes.add(len(batch))
        return batch.reshape(len(batch), -1).astype(np.float32)

    np.testing.assert_array_equal(predict_all(predict, images, batch_size), images.reshape(n, 4))
    assert len(sizes) == 1  # a compiled predict is compiled once


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 3, 0], r"label 3 of example 2 is not in 0\.\.2"),
        ([0, -1, 0, 0], "unlabelled"),
        ([0, 1, 2], r"labels \[N\]"),
        ([0.0, 1.0, 2.0, 0.0], "must be integers"),
    ],
)
def test_bad_labels_are_refused(labels: list, message: str):
    with pytest.raises(ValueError, match=message):
        accuracy(LOGITS, np.array(labels))
    with pytest.raises(ValueError, match=message):
        confusion(LOGITS, np.array(labels), 3)


def test_bad_logits_are_refused():
    broken = LOGITS.copy()
    broken[1, 2] = np.nan
    with pytest.raises(ValueError, match="example 1 are not finite"):
        accuracy(broken, np.zeros(4, int))
    with pytest.raises(ValueError, match="not of 5 classes"):
        confusion(LOGITS, np.zeros(4, int), 5)
    with pytest.raises(ValueError, match="N >= 1"):
        accuracy(LOGITS[:0], np.zeros(0, int))


def test_predict_all_refuses_what_it_cannot_run():
    images = np.zeros((3, 2, 2, 1), np.uint8)
    with pytest.raises(ValueError, match="batch_size is 0"):
        predict_all(lambda x: x, images, 0)
    with pytest.raises(ValueError, match="no images"):
        predict_all(lambda x: x, images[:0])
    with pytest.raises(ValueError, match=r"logits \[1, 2\] for 3 images"):
        predict_all(lambda x: np.zeros((1, 2)), images)
