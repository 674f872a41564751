import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.evaluate.fidelity import agreement, fidelity, mean_cosine, mean_kl


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def test_by_the_definitions():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 7, 5))
    p, q = softmax(a), softmax(b)
    found = fidelity(a, b)
    assert found.agreement == np.mean(a.argmax(1) == b.argmax(1))
    assert found.kl == pytest.approx(np.mean(np.sum(p * np.log(p / q), 1)))
    assert found.cosine == pytest.approx(
        np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])
    )
    assert found.max_difference == np.abs(a - b).max()


@given(st.integers(0, 2**32 - 1), st.floats(-1e4, 1e4), st.floats(0.01, 100))
def test_a_model_is_like_itself_whatever_the_shift(seed: int, shift: float, scale: float):
    logits = np.random.default_rng(seed).normal(size=(4, 6)) * scale
    assert agreement(logits, logits) == 1
    assert mean_kl(logits, logits + shift) == pytest.approx(0, abs=1e-6)
    assert mean_cosine(logits, scale * logits + shift) == pytest.approx(1)


def test_extreme_and_constant_logits_stay_finite():
    a, b = np.array([[1e4, -1e4]]), np.array([[-1e4, 1e4]])
    assert mean_kl(a, b) == pytest.approx(2e4)
    assert mean_cosine(np.zeros((1, 3)), np.ones((1, 3))) == 1
    assert mean_cosine(np.zeros((1, 2)), a) == 0


@pytest.mark.parametrize("measure", [fidelity, agreement, mean_kl, mean_cosine])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 3)), r"\[2, 3\] and \[3, 3\]"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "N >= 1"),
        (np.zeros(3), np.zeros(3), r"\[N, C\]"),
        (np.full((1, 2), np.nan), np.zeros((1, 2)), "finite"),
    ],
)
def test_bad_logits_are_refused(measure, a: np.ndarray, b: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        measure(a, b)
