import numpy as np
import pytest

from jaxmini.evaluate.deviation import CLASSES, Deviation, deviation


def test_every_difference_has_its_class():
    steps = np.arange(-10, 11)
    found = deviation(np.zeros(21, np.int8), steps.astype(np.int8))
    assert dict(zip(CLASSES, found.histogram, strict=True)) == {
        "0": 1,
        "1": 2,
        "2": 2,
        "3–4": 4,
        "5–8": 8,
        "more": 4,
    }
    assert (found.compared, found.differing, found.largest) == (21, 20, 10)


def test_the_whole_range_of_int8_does_not_overflow():
    found = deviation(np.array([[-128]], np.int8), np.array([127], np.int8))
    assert (found.largest, found.histogram[-1]) == (255, 1)


def test_parts_add_up():
    rng = np.random.default_rng(0)
    a, b = rng.integers(-128, 128, (2, 60), dtype=np.int8)
    assert deviation(a[:20], b[:20]) + deviation(a[20:], b[20:]) == deviation(a, b)
    assert Deviation() + deviation(a, b) == deviation(a, b)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="3 numbers, expected 2"):
        deviation(np.zeros(2, int), np.zeros(3, int))
    with pytest.raises(ValueError, match="not both integers"):
        deviation(np.zeros(2, int), np.zeros(2, np.float32))
