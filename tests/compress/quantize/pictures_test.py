"""Pictures: batches are looked at once, and what quantizes nothing is refused by the method's name."""

import jax.numpy as jnp
import numpy as np
import pytest
from quantize_functions import alone, model_of

from jaxmini.compress.quantize import quantize
from jaxmini.compress.quantize.pictures import checked_batches

FLOAT = model_of(alone(lambda x: x))
MODEL = quantize(FLOAT)
PICTURES = np.ones((3, 4, 4, 1), np.float32)


def test_batches_are_taken_once_and_empty_ones_are_left_out():
    made = []

    def batches():
        for count in (2, 0, 1):
            made.append(count)
            yield PICTURES[:count]

    kept = checked_batches("adaround", MODEL, batches())
    assert [len(batch) for batch in kept] == [2, 1]
    assert made == [2, 0, 1]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_batch_with_a_number_that_is_none_is_counted(number):
    odd = PICTURES.copy()
    odd[1, 2, 3, 0] = number
    with pytest.raises(ValueError, match="adaround: the numbers of batch 1 are not finite"):
        checked_batches("adaround", MODEL, [jnp.asarray(PICTURES), jnp.asarray(odd)])


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (FLOAT, [PICTURES], "equalize: the model is not quantized: give it quantize"),
        (MODEL, PICTURES, r"equalize: got one array, .*write \[images\]"),
        (MODEL, jnp.asarray(PICTURES), "equalize: got one array"),
        (MODEL, [], "equalize: there are no pictures to see"),
        (MODEL, [PICTURES[:0]], "equalize: there are no pictures to see"),
    ],
)
def test_what_quantizes_nothing_is_refused(model, batches, message):
    with pytest.raises(ValueError, match=message):
        checked_batches("equalize", model, batches)
