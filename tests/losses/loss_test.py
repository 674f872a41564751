"""The algebra of losses: weights, sums, and what they report."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.losses.loss import Loss, Sum, Weighted, batch_mean, read, stop


@dataclasses.dataclass(frozen=True)
class square(Loss):
    scale: float = 1.0

    def __call__(self, signals, batch):
        value = self.scale * batch_mean(read(signals, "student", self) ** 2, batch)
        return value, {"square": value}


def absolute(signals, batch):
    value = batch_mean(jnp.abs(signals["student"]), batch)
    return value, {"absolute": value}


SIGNALS = {"student": jnp.array([1.0, -2.0, 3.0])}
SQUARE, ABSOLUTE = 14 / 3, 2.0


def value_of(loss):
    return float(loss(SIGNALS, {})[0])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (3 * square(), 3 * SQUARE),
        (square() * 0.5, 0.5 * SQUARE),
        (2 * (3 * square()), 6 * SQUARE),
        (square() + square(2.0), 3 * SQUARE),
        (square() + absolute, SQUARE + ABSOLUTE),
        (absolute + square(), SQUARE + ABSOLUTE),
        (0.9 * square() + 0.1 * square(2.0) + absolute, 1.1 * SQUARE + ABSOLUTE),
        (2 * (square() + absolute), 2 * (SQUARE + ABSOLUTE)),
    ],
)
def test_weights_and_sums_are_those_of_arithmetic(loss, expected):
    assert value_of(loss) == pytest.approx(expected, rel=1e-6)


def test_value_is_a_float32_scalar():
    value, _ = (0.5 * square() + absolute)(SIGNALS, {})
    assert value.shape == ()
    assert value.dtype == jnp.float32


def test_sum_is_flat_and_keeps_the_order_of_its_terms():
    a, b, c = square(1.0), square(2.0), square(3.0)
    assert (a + b) + c == a + (b + c) == Sum((a, b, c))


def test_terms_report_their_own_unweighted_value():
    _, metrics = (10.0 * square() + 0.0 * Weighted(1.0, absolute))(SIGNALS, {})
    assert float(metrics["square"]) == pytest.approx(SQUARE)
    assert float(metrics["absolute"]) == pytest.approx(ABSOLUTE)


def test_terms_of_one_name_are_told_apart():
    _, metrics = (square(1.0) + absolute + square(2.0))(SIGNALS, {})
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {"square": SQUARE, "absolute": ABSOLUTE, "square_2": 2 * SQUARE}
    )


def test_nested_sums_lose_no_metric():
    _, metrics = (square(1.0) + 2 * (square(2.0) + square(3.0)))(SIGNALS, {})
    assert sorted(float(value) for value in metrics.values()) == pytest.approx(
        [SQUARE, 2 * SQUARE, 3 * SQUARE]
    )


def test_pythons_sum_adds_losses():
    assert sum([square(1.0), square(2.0)]) == Sum((square(1.0), square(2.0)))


def test_doubling_a_weight_doubles_the_gradient():
    """mmrazor's CRD loss accepted a weight and ignored it."""

    def gradient(loss):
        return jax.grad(lambda student: loss({"student": student}, {})[0])(SIGNALS["student"])

    np.testing.assert_array_equal(gradient(4 * square()), 2 * gradient(2 * square()))


def test_losses_print_compare_and_are_replaced_by_field():
    loss = 0.5 * square(scale=3.0)
    assert repr(loss) == "Weighted(weight=0.5, loss=square(scale=3.0))"
    assert loss == 0.5 * square(3.0) != 0.5 * square(2.0)
    assert dataclasses.replace(loss.loss, scale=2.0) == square(2.0)
    assert len({square(1.0), square(1.0), square(2.0)}) == 2


def test_a_loss_without_a_formula_says_so():
    with pytest.raises(NotImplementedError, match="Loss does not say"):
        Loss()({}, {})


@pytest.mark.parametrize("weight", [math.inf, math.nan])
def test_a_weight_is_finite(weight):
    with pytest.raises(ValueError, match=rf"square\(.*its weight is {weight}, expected a finite"):
        weight * square()


def test_missing_signal_names_loss_signal_and_what_there_is():
    with pytest.raises(KeyError) as error:
        square()({"studnet": jnp.zeros(3), "teacher": jnp.zeros(3)}, {})
    message = str(error.value)
    for part in ("square", "'student'", "studnet, teacher", "; did you mean 'studnet'?"):
        assert part in message


def test_mean_without_a_mask_is_the_mean():
    assert float(batch_mean(jnp.array([1, 2, 6], jnp.int32), {})) == 3.0


@pytest.mark.parametrize("garbage", [0.0, 1e30, np.inf, np.nan])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32, jnp.bool_])
def test_padded_rows_have_no_influence_on_the_mean(garbage, dtype):
    mask = jnp.array([1, 0, 1, 0]).astype(dtype)
    rows = jnp.array([1.0, garbage, 4.0, garbage])
    value, gradient = jax.value_and_grad(lambda rows: batch_mean(rows, {"mask": mask}))(rows)
    assert float(value) == 2.5
    np.testing.assert_array_equal(gradient, [0.5, 0.0, 0.5, 0.0])


def test_mean_of_a_fully_padded_batch_is_zero_with_zero_gradient():
    """0 / 0 on a fully masked batch: LMOps#38, trl#5885."""
    value, gradient = jax.value_and_grad(lambda rows: batch_mean(rows, {"mask": jnp.zeros(3)}))(
        jnp.ones(3)
    )
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros(3))


def test_stop_lets_no_gradient_back():
    np.testing.assert_array_equal(
        jax.grad(lambda x: jnp.sum(stop(x) ** 2))(jnp.ones(3)), np.zeros(3)
    )
