import numpy as np
import pytest

from jaxmini.export.distance import compare


def test_by_hand():
    expected = np.array([[0, 5, -3], [7, 7, 100]], np.int8)
    answers = np.array([[0, 6, -3], [7, 9, -100]], np.int8)
    distance = compare(expected, answers)
    assert distance.largest == 200  # no overflow of int8
    assert distance.share == 0.5
    assert distance.histogram == {0: 3, 1: 1, 2: 1, 200: 1}
    assert distance.agreement == 0.5


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((2, 4), int), "not alike"),
        (np.zeros((0, 3), int), np.zeros((0, 3), int), "not alike"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), "not integers"),
    ],
)
def test_bad_logits_are_refused(a: np.ndarray, b: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        compare(a, b)
