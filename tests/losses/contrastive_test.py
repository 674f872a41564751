"""Contrastive losses against float64 loops over the published formulas, and their published defects."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.losses.contrastive import (
    info_nce,
    info_nce_loss,
    info_nce_rows,
    nt_xent,
    nt_xent_loss,
    nt_xent_rows,
)

symmetric_info_nce_loss = functools.partial(info_nce_loss, symmetric=True)
LOSSES = [nt_xent_loss, info_nce_loss, symmetric_info_nce_loss]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=["nt_xent", "info_nce", "symmetric"])


def unit(rows):
    return rows / np.sqrt(np.maximum((rows**2).sum(axis=1, keepdims=True), 1e-12))


def nt_xent_reference(z0, z1, temperature):
    z, count = unit(np.concatenate([z0, z1])), len(z0)
    total = 0.0
    for i in range(2 * count):
        others = [z[i] @ z[k] / temperature for k in range(2 * count) if k != i]
        total += np.logaddexp.reduce(others) - z[i] @ z[(i + count) % (2 * count)] / temperature
    return total / (2 * count)


def info_nce_reference(queries, keys, temperature):
    queries, keys, total = unit(queries), unit(keys), 0.0
    for i, query in enumerate(queries):
        total += np.logaddexp.reduce([query @ key / temperature for key in keys])
        total -= query @ keys[i] / temperature
    return total / len(queries)


def symmetric_info_nce_reference(z0, z1, temperature):
    there = info_nce_reference(z0, z1, temperature)
    return (there + info_nce_reference(z1, z0, temperature)) / 2


REFERENCES = {
    nt_xent_loss: nt_xent_reference,
    info_nce_loss: info_nce_reference,
    symmetric_info_nce_loss: symmetric_info_nce_reference,
}


def finite_differences(function, arguments, step=1e-5):
    """Central differences of a float64 function in each argument."""
    gradients = []
    for position, argument in enumerate(arguments):
        gradient = np.zeros_like(argument)
        for index in np.ndindex(argument.shape):
            ends = []
            for sign in (1, -1):
                moved = np.array(argument)
                moved[index] += sign * step
                ends.append(function(*arguments[:position], moved, *arguments[position + 1 :]))
            gradient[index] = (ends[0] - ends[1]) / (2 * step)
        gradients.append(gradient)
    return gradients


def views(seed, count=5, width=4):
    """Two views that resemble each other, float32 [2, count, width]."""
    random = np.random.default_rng(seed)
    base = random.normal(size=(count, width))
    return np.float32(base + 0.5 * random.normal(size=(2, count, width)))


@functools.partial(jax.jit, static_argnums=0, static_argnames="block")
def value_and_gradients(loss, z0, z1, temperature, block=512, mask=None):
    """The value and its gradients to both views and the temperature."""
    function = functools.partial(loss, block=block, mask=mask)
    temperature = jnp.asarray(temperature, jnp.float32)
    return jax.value_and_grad(function, (0, 1, 2))(z0, z1, temperature)


def assert_same(got, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, expected)


@every_loss
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(1, 3), (2, 2), (5, 4)]),
    block=st.sampled_from([2, 512]),
    temperature=st.floats(0.05, 5.0),
)
def test_value_and_gradients_equal_the_formula(loss, seed, shape, block, temperature):
    z0, z1 = views(seed, *shape)
    value, gradients = value_and_gradients(loss, z0, z1, temperature, block=block)
    arguments = [np.float64(z0), np.float64(z1), np.float64(np.float32(temperature))]
    assert value == pytest.approx(REFERENCES[loss](*arguments), rel=1e-5, abs=1e-6 / temperature)
    assert_same(
        gradients,
        tuple(finite_differences(REFERENCES[loss], arguments)),
        rtol=1e-4,
        atol=1e-5 * max(1.0, temperature**-2),
    )


@every_loss
def test_precision_holds_where_the_positive_wins_by_far(loss):
    """log-sum-exp minus the positive's logit would be rounding noise here, and its gradient 0."""
    z = np.float32(np.concatenate([np.eye(4), -np.eye(1, 4)]))
    value, gradients = value_and_gradients(loss, z, z, 0.025)
    # Examples 0 and 4 are opposite and add nothing (e^-80) to one another.
    views = 2 if loss is nt_xent_loss else 1
    negatives = np.array([3, 4, 4, 4, 3]) * views
    assert value == pytest.approx(np.mean(np.log1p(negatives * np.exp(-40.0))), rel=1e-4)
    assert all(jnp.abs(gradient).max() > 0 for gradient in gradients)


@every_loss
@pytest.mark.parametrize("temperature", [0.005, 0.01])
def test_low_temperatures_do_not_overflow(loss, temperature):
    """exp without its maximum overflows in float32 above 88: Inf-CLIP's ring."""
    z0, z1 = views(0)
    value, gradients = value_and_gradients(loss, z0, z1, temperature)
    arguments = [np.float64(z0), np.float64(z1), np.float64(np.float32(temperature))]
    assert value == pytest.approx(REFERENCES[loss](*arguments), rel=1e-5, abs=1e-4)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@every_loss
def test_the_mask_falls_after_the_temperature(loss):
    """A logit of -inf divided by the temperature has a NaN derivative in it: Automodel#3850."""
    z0, z1 = views(1)
    mask = jnp.array([1.0, 1.0, 0.0, 1.0, 0.0])
    _, (_, _, gradient) = value_and_gradients(loss, z0, z1, 0.1, mask=mask)
    assert np.isfinite(gradient)
    assert gradient != 0


@every_loss
@pytest.mark.parametrize("temperature", [0.01, 0.2])
@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((5, 4)),
        np.ones((5, 4)),
        np.full((5, 4), 1e4),
        np.full((5, 4), 1e-20),
        np.eye(5, 4) * 1e4,
        np.outer([1, -1, 1, -1, 1], [3, 4, 0, 0]),
        np.outer([0, 1e4, 1e-8, -1, 1e-30], [1, 0, 0, 0]),
    ],
    ids=["zero", "same", "large", "tiny", "orthogonal", "opposite", "mixed"],
)
def test_value_and_gradients_are_finite_at_degenerate_embeddings(loss, rows, temperature):
    """z / norm is NaN at 0, and so is the gradient of z / max(norm, eps)."""
    rows = np.float32(rows)
    value, gradients = value_and_gradients(loss, rows, rows, temperature)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_chance_level_counts_the_negatives():
    """Negatives that are not all there: lightning-bolts#179, tensorflow/similarity#258."""
    same = jnp.ones((6, 3))
    assert nt_xent_loss(same, same, 0.1) == pytest.approx(np.log(11), rel=1e-6)
    assert info_nce_loss(same, same, 0.1) == pytest.approx(np.log(6), rel=1e-6)


def test_one_example_has_no_negatives_and_no_loss():
    """A mask of log(1e-45) = -103 loses to a positive at -200: a published DCL port."""
    z, _ = views(2, count=1, width=3)
    for loss in LOSSES:
        value, gradients = value_and_gradients(loss, z, -z, 0.005)
        assert value == 0.0
        assert_same(gradients, jax.tree.map(jnp.zeros_like, gradients))


@every_loss
@pytest.mark.parametrize("garbage", [0.0, 1.0, 1e30, np.nan])
def test_padded_rows_have_no_influence(loss, garbage):
    z0, z1 = views(3)
    expected = value_and_gradients(loss, z0, z1, 0.1)
    order = np.array([0, 5, 1, 2, 6, 3, 4])  # the padding is not only at the end
    padding = np.full((2, 4), garbage, np.float32)
    padded = [np.concatenate([z, padding])[order] for z in (z0, z1)]
    mask = jnp.asarray(order < 5, jnp.float32)
    value, gradients = value_and_gradients(loss, *padded, 0.1, block=3, mask=mask)
    kept = [gradient[order < 5] for gradient in gradients[:2]]
    assert_same((value, (*kept, gradients[2])), expected)
    for gradient in gradients[:2]:
        np.testing.assert_array_equal(gradient[order >= 5], np.zeros((2, 4)))


@every_loss
def test_the_content_of_padding_does_not_change_one_bit(loss):
    z = views(4)
    mask = jnp.array([1.0, 1.0, 1.0, 0.0, 0.0])
    other = z.copy()
    other[:, 3:] = np.inf
    results = [value_and_gradients(loss, *embeddings, 0.1, mask=mask) for embeddings in (z, other)]
    jax.tree.map(np.testing.assert_array_equal, *results)


@every_loss
def test_a_fully_padded_batch_gives_zero(loss):
    value, gradients = value_and_gradients(loss, *views(5), 0.1, mask=jnp.zeros(5))
    assert value == 0.0
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, np.zeros(g.shape)), gradients)


@every_loss
def test_a_mask_of_ones_is_no_mask(loss):
    z0, z1 = views(6)
    for mask in (jnp.ones(5), jnp.ones(5, bool), jnp.ones(5, jnp.int32)):
        results = (value_and_gradients(loss, z0, z1, 0.1, mask=m) for m in (mask, None))
        assert_same(*results)


@every_loss
@pytest.mark.parametrize("block", [1, 3, 9])
def test_the_size_of_a_block_changes_nothing(loss, block):
    """Blocks that do not divide the batch: open_clip 357bd97."""
    z0, z1 = views(7)
    expected = value_and_gradients(loss, z0, z1, 0.1)
    assert_same(value_and_gradients(loss, z0, z1, 0.1, block=block), expected)


@every_loss
def test_the_order_of_the_examples_changes_nothing(loss):
    """A self-mask or a positive on the wrong column: solo-learn#206, Spijkervet/SimCLR#30."""
    z0, z1 = views(8)
    order = np.array([3, 1, 4, 0, 2])
    value, gradients = value_and_gradients(loss, z0, z1, 0.1)
    shuffled = value_and_gradients(loss, z0[order], z1[order], 0.1)
    assert_same(shuffled, (value, (gradients[0][order], gradients[1][order], gradients[2])))


@pytest.mark.parametrize("loss", [nt_xent_loss, symmetric_info_nce_loss])
def test_the_order_of_the_views_changes_nothing(loss):
    """A gradient through one side of the similarity only: vissl#123."""
    z0, z1 = views(9)
    value, (first, second, temperature) = value_and_gradients(loss, z0, z1, 0.1)
    swapped = value_and_gradients(loss, z1, z0, 0.1)
    assert_same(swapped, (value, (second, first, temperature)))


@every_loss
def test_the_length_of_an_embedding_changes_nothing(loss):
    z0, z1 = views(10)
    lengths = np.array([[1e-3], [1.0], [7.0], [100.0], [1e6]], np.float32)
    assert_same(loss(z0 * lengths, z1 / lengths, 0.1), loss(z0, z1, 0.1))


@every_loss
def test_temperature_matters(loss):
    """A temperature that is ignored: solo-learn#294."""
    z0, z1 = views(11)
    assert abs(loss(z0, z1, 0.1) - loss(z0, z1, 1)) > 0.1


@every_loss
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_embeddings_are_computed_in_float32(loss, dtype):
    z0, z1 = (jnp.asarray(z, dtype) for z in views(12))
    value, gradients = value_and_gradients(loss, z0, z1, 0.05)
    full = [z.astype(jnp.float32) for z in (z0, z1)]
    expected_value, expected = value_and_gradients(loss, *full, 0.05)
    assert value.dtype == jnp.float32
    assert value == expected_value
    assert gradients[0].dtype == dtype
    rounded = [gradient.astype(dtype) for gradient in expected[:2]]
    jax.tree.map(np.testing.assert_array_equal, list(gradients[:2]), rounded)


def temporary_mebibytes(pairs):
    views = [jax.ShapeDtypeStruct((pairs, 128), jnp.float32)] * 2
    temperature = jax.ShapeDtypeStruct((), jnp.float32)
    compiled = value_and_gradients.lower(nt_xent_loss, *views, temperature).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def test_memory_grows_with_the_batch_and_not_with_its_square():
    """Blocks without recomputation keep every logit for the backward pass: open_clip#1214."""
    half, whole = temporary_mebibytes(4096), temporary_mebibytes(8192)
    assert whole <= 100  # the matrix alone would be 1024
    assert whole < 2.2 * half


@pytest.mark.parametrize("rows", [nt_xent_rows, info_nce_rows])
def test_the_loss_is_the_mean_of_its_rows(rows):
    z0, z1 = views(15)
    loss = {nt_xent_rows: nt_xent_loss, info_nce_rows: info_nce_loss}[rows]
    assert rows(z0, z1, 0.1).nll.shape == (5,)
    assert loss(z0, z1, 0.1) == pytest.approx(float(jnp.mean(rows(z0, z1, 0.1).nll)), rel=1e-6)


def test_nearest_says_whether_the_positive_wins():
    z0 = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
    z1 = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    np.testing.assert_array_equal(info_nce_rows(z0, z1, 0.1).nearest, [1, 1, 0])
    # The third pair's first view looks for (-1, 0) and meets both others; its second view too.
    np.testing.assert_array_equal(nt_xent_rows(z0, z1, 0.1).nearest, [1, 1, 0])


def test_collapsed_embeddings_have_no_accuracy():
    same = jnp.ones((4, 3))
    for rows in (nt_xent_rows, info_nce_rows):
        np.testing.assert_array_equal(rows(same, same, 0.1).nearest, np.zeros(4))


@pytest.mark.parametrize(
    ("loss", "function"),
    [
        (nt_xent(temperature=0.3, block=2), functools.partial(nt_xent_loss, temperature=0.3)),
        (info_nce(temperature=0.3, block=2), functools.partial(info_nce_loss, temperature=0.3)),
        (
            info_nce(temperature=0.3, symmetric=True),
            functools.partial(symmetric_info_nce_loss, temperature=0.3),
        ),
    ],
    ids=["nt_xent", "info_nce", "symmetric"],
)
def test_losses_are_their_array_functions_on_the_two_views(loss, function):
    z0, z1 = views(16)
    mask = jnp.array([1.0, 0.0, 1.0, 1.0, 1.0])
    value, metrics = loss({"view_0": z0, "view_1": z1}, {"mask": mask})
    assert value == pytest.approx(float(function(z0, z1, mask=mask)), rel=1e-5)
    assert set(metrics) == {type(loss).__name__, "contrastive_accuracy"}
    assert metrics[type(loss).__name__] == value
    assert 0 <= metrics["contrastive_accuracy"] <= 1


@pytest.mark.parametrize("loss", [nt_xent, info_nce])
@pytest.mark.parametrize("temperature", [0, -0.1, float("nan"), float("inf")])
def test_a_temperature_must_be_positive(loss, temperature):
    with pytest.raises(ValueError, match=f"{loss.__name__}: temperature={temperature}"):
        loss(temperature=temperature)


@pytest.mark.parametrize("loss", [nt_xent, info_nce])
@pytest.mark.parametrize("block", [0, 1.5, float("nan"), float("inf")])
def test_a_block_holds_at_least_one_row(loss, block):
    with pytest.raises(ValueError, match=f"{loss.__name__}: block={block} must be an integer"):
        loss(block=block)


@every_loss
def test_array_functions_refuse_what_does_not_fit(loss):
    z = jnp.ones((4, 3))
    with pytest.raises(
        ValueError, match=r"two views \[N, D\] of one shape, got \(4, 3\) and \(3, 3\)"
    ):
        loss(z, z[:3], 0.1)
    with pytest.raises(ValueError, match=r"two views \[N, D\]"):
        loss(z[None], z[None], 0.1)
    with pytest.raises(ValueError, match="block=0"):
        loss(z, z, 0.1, block=0)


def test_a_missing_view_is_named():
    with pytest.raises(KeyError, match=r"nt_xent reads the signal 'view_1'.*it provides view_0"):
        nt_xent()({"view_0": jnp.ones((2, 3))}, {})
