"""The order shows every example once an epoch, can start anywhere, and pads evaluation batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.data.dataset import Split
from jaxmini.data.order import Order, batch_at, batches, evaluation_batches, permutation


def split(n):
    image = np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)
    return Split(np.tile(image, (1, 2, 2, 1)), (np.arange(n) % 7).astype(np.int32))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**64 - 1), st.integers(0, 5))
def test_an_epoch_shows_no_example_twice_and_drops_less_than_a_batch(n, size, seed, epoch):
    size = min(size, n)
    order = Order(n, size, seed)
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    epochs, ids = zip(*(order.at(step) for step in steps), strict=True)
    ids = np.concatenate(ids)
    assert set(epochs) == {epoch}
    assert len(np.unique(ids)) == len(ids) > n - size
    assert set(ids) <= set(range(n))


def test_order_is_numpys_philox_of_seed_and_epoch():
    expected = np.random.Generator(np.random.Philox(key=[3, 2])).permutation(10)
    np.testing.assert_array_equal(Order(10, 5, 3).at(5)[1], expected[5:])


@pytest.mark.parametrize(("a", "b"), [((9, 0), (9, 1)), ((9, 0), (8, 0))])
def test_seeds_and_epochs_differ(a, b):
    assert not np.array_equal(permutation(50, *a), permutation(50, *b))


def test_batches_started_anywhere_are_those_of_the_whole_run():
    whole = [batch for epoch in range(3) for batch in batches(split(23), 5, seed=7, epoch=epoch)]
    assert len(whole) == 12
    for step in (0, 3, 4, 11):
        again = batch_at(split(23), 5, 7, step)
        assert set(again) == {"image", "label", "id", "epoch"}
        for name, value in again.items():
            np.testing.assert_array_equal(value, whole[step][name])


def test_a_batch_holds_what_its_ids_say():
    data = split(23)
    batch = batch_at(data, 5, seed=1, step=9)
    np.testing.assert_array_equal(batch["image"], data.image[batch["id"]])
    np.testing.assert_array_equal(batch["label"], data.label[batch["id"]])
    np.testing.assert_array_equal(batch["epoch"], np.full(5, 2))
    dtypes = {name: value.dtype for name, value in batch.items()}
    assert dtypes == {"image": np.uint8, "label": np.int32, "id": np.int32, "epoch": np.int32}


@given(st.integers(1, 30), st.integers(1, 12))
def test_evaluation_shows_every_example_once_in_order(n, size):
    data = split(n)
    rows = list(evaluation_batches(data, size))
    joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    kept = joined["mask"] == 1
    assert all(row["image"].shape == (size, 2, 2, 1) for row in rows)
    np.testing.assert_array_equal(joined["id"][kept], np.arange(n))
    np.testing.assert_array_equal(joined["image"][kept], data.image)
    np.testing.assert_array_equal(joined["label"][kept], data.label)
    assert set(joined["label"][~kept]) | set(joined["id"][~kept]) <= {-1}
    assert set(joined["mask"]) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Order(4, 5, 0), "batch_size=5 is more than the 4 examples"),
        (lambda: Order(4, 0, 0), "batch_size=0, expected at least 1"),
        (lambda: Order(4, 2, 0).at(-1), "step=-1"),
        (lambda: Order(4, 2, -1).at(0), "seed=-1"),
        (lambda: list(evaluation_batches(split(3), 0)), "batch_size=0"),
    ],
)
def test_impossible_orders_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
