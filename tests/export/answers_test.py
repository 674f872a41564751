"""Answers: a file that computes something else is told, with what differs and by how much."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress.quantize import float_island, int8
from jaxmini.compress.quantize.frozen import Frozen
from jaxmini.compress.quantize.plan import Plan
from jaxmini.export import Layout, answers, flatbuffer, integer_form, litert, parity
from jaxmini.export.converter import ConversionError
from jaxmini.export.integer import integer_file
from jaxmini.export.parity import ParityError
from tests.export.conftest import LABELS, make, quantized
from tests.export.masked import masked, planned
from tests.export.tampering import change, edited, find, set_code

IMAGE = jax.ShapeDtypeStruct((2, 3), np.dtype(np.float32))


def model(x: jax.Array) -> jax.Array:
    return jnp.tanh(x / 100) + 1


@pytest.fixture(scope="module")
def content() -> bytes:
    return litert.convert(model, IMAGE)


def tried(
    function: Callable, image: jax.ShapeDtypeStruct = IMAGE, outputs: tuple[str, ...] = ("logits",)
) -> answers.Trial:
    return answers.trial(function, image, outputs)


def test_the_file_of_the_model_passes(content: bytes):
    answers.check(content, tried(model), 1e-5)


def test_two_outputs_are_told_apart():
    def both(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return model(x), x[:, :1] * 2

    outputs = ("logits", "embedding")
    content = litert.convert(both, IMAGE, outputs)
    answers.check(content, tried(both, outputs=outputs), 1e-5)
    other = tried(lambda x: (model(x), x[:, :1]), outputs=outputs)
    with pytest.raises(ParityError, match="embedding: the largest difference") as error:
        answers.check(content, other, 1e-5)
    assert "logits:" not in str(error.value)


@pytest.mark.parametrize("tolerance", [1e-3, 2e-2])
def test_what_is_beyond_the_tolerance_is_named_with_its_size(content: bytes, tolerance: float):
    def moved(by: float) -> answers.Trial:
        return tried(lambda x: model(x) + jnp.where(x == x.max(), by, 0.0))

    largest = np.max(tried(model).answers["logits"])
    answers.check(content, moved(0.5 * tolerance * largest), tolerance)
    with pytest.raises(
        ParityError, match=r"logits: the largest difference is 0\.\d+, of the answer"
    ):
        answers.check(content, moved(2 * tolerance * largest), tolerance)


def test_another_shape_is_another_answer_whatever_the_tolerance(content: bytes):
    for tolerance in (1e-3, None):
        with pytest.raises(ParityError, match=r"the file answers \[2, 3\], the model \[2, 1\]"):
            answers.check(content, tried(lambda x: model(x)[:, :1]), tolerance)


def test_numbers_that_are_none_are_told_and_agree_with_their_like(content: bytes):
    undefined = tried(lambda x: model(x) * jnp.nan)
    for tolerance in (1e-3, None):
        with pytest.raises(ParityError, match="of the answer 1"):
            answers.check(content, undefined, tolerance)
    answers.check(content, tried(lambda x: 2 * model(x)), None)
    same = litert.convert(lambda x: jnp.log(x - 300), IMAGE)
    answers.check(same, tried(lambda x: jnp.log(x - 300)), 1e-3)


def test_answers_of_zero_agree_with_zero():
    content = litert.convert(lambda x: x * 0, IMAGE)
    answers.check(content, tried(lambda x: x * 0), 1e-3)
    with pytest.raises(ParityError, match="the largest difference is 0.1"):
        answers.check(content, tried(lambda x: x * 0 + 0.1), 1e-3)


def test_a_file_that_does_not_run_is_refused(content: bytes):
    with pytest.raises(ConversionError, match="the interpreter refuses the file"):
        answers.check(b"no file at all", tried(model), 1e-3)


def test_what_is_drawn_is_what_a_file_takes():
    tokens = jax.ShapeDtypeStruct((4, 50), np.dtype(np.int32))
    for array in tried(lambda t: t, tokens).inputs:
        assert (array.dtype, array.shape) == (np.int32, (4, 50))
        assert set(np.unique(array)) == {0, 1}
    pixels = jax.ShapeDtypeStruct((1, 99), np.dtype(np.uint8))
    first, second = tried(lambda x: x, pixels).inputs
    assert first.dtype == np.uint8
    assert first.max() > 200
    assert not np.array_equal(first, second)


class Bend(nn.Module):
    """Floats that no integer kernel computes; ``jumps`` where a number passes a bound."""

    jumps: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x > 0.1, 3 * jnp.sin(x), x) if self.jumps else jnp.sin(3 * x)


class Turning(nn.Module):
    """A square map that is turned, which no stored number but the permutation tells, and floats."""

    jumps: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(4, (3, 3), name="stem")(x).transpose(0, 2, 1, 3)
        x = Bend(self.jumps, name="bend")(nn.Conv(4, (3, 3), name="body")(x))
        return nn.Dense(len(LABELS), name="head")(x.reshape(x.shape[0], -1))


Form = tuple[bytes, Plan, Frozen]


def form(net: nn.Module, images: np.ndarray, layout: Layout) -> Form:
    artifact = make(quantized(net, int8(rules=(float_island("bend"),))), images)
    plan, frozen = integer_form(artifact, layout.batch)
    return integer_file(plan, frozen, "litert", layout)[0], plan, frozen


@pytest.fixture(scope="module")
def turning(images: np.ndarray) -> Form:
    return form(Turning(), images, Layout(input="int8"))


def test_an_integer_file_computes_its_islands_and_moves_its_numbers_rightly(turning: Form):
    answers.check_integers(*turning)


@pytest.mark.parametrize("input", ["uint8", "float32"])
def test_other_types_at_the_ends_and_more_pictures_are_looked_through(
    input: str, images: np.ndarray
):
    layout = Layout(input=input, output="float32", batch=2)
    answers.check_integers(*form(Turning(jumps=True), images, layout))


def not_turned(model: Any, graph: Any) -> None:
    permutation = graph.tensors[find(model, "TRANSPOSE").inputs[1]]
    for axis in (1, 2):
        change(model, permutation, axis, axis, np.int32)


def cosine(model: Any, graph: Any) -> None:
    set_code(model, find(model, "SIN"), flatbuffer.schema_module().BuiltinOperator.COS)


@pytest.mark.parametrize(
    ("edit", "named"),
    [(not_turned, r"a move, tfl\.transpose"), (cosine, "Turning/bend:island")],
)
def test_what_computes_otherwise_is_named_though_every_stored_number_is_right(
    edit: Callable, named: str, turning: Form
):
    content, plan, frozen = turning
    wrong = edited(content, edit)
    parity.check(wrong, plan, frozen)
    with pytest.raises(ParityError, match=rf"{named}: \d+ of 512 integers are off, the farthest"):
        answers.check_integers(wrong, plan, frozen)


def test_an_integer_file_that_does_not_run_is_refused(turning: Form):
    content, plan, frozen = turning
    unknown = flatbuffer.schema_module().BuiltinOperator.CUSTOM
    wrong = edited(content, lambda model, graph: set_code(model, find(model, "RESHAPE"), unknown))
    with pytest.raises(ConversionError, match="the interpreter refuses the file"):
        answers.check_integers(wrong, plan, frozen)


def test_tokens_are_drawn_of_all_that_the_tables_know_and_half_of_the_first():
    for drawn in answers._drawn((4, 50), np.dtype(np.int32), 11):
        assert drawn.dtype == np.int32
        assert set(np.unique(drawn)) == set(range(11))
        assert np.mean(drawn < 2) > 0.4
    assert answers._rows(masked()[1]) == 11


def test_a_file_that_asks_something_else_of_its_tokens_is_found():
    content, plan, frozen = masked()
    answers.check_integers(content, plan, frozen)
    later, _ = planned(
        lambda tokens: nn.combine_masks(later_than(tokens, 1), nn.make_causal_mask(tokens))
    )
    with pytest.raises(ParityError, match="a move, .*the farthest by 127"):
        answers.check_integers(content, later, frozen)


def later_than(tokens: jax.Array, word: int) -> jax.Array:
    return nn.make_attention_mask(tokens > word, tokens > word)
