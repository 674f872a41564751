"""What is joined is compared piece by piece, each as often as it comes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.evaluate.operators import first_deviating, operator_parity
from jaxmini.export import Artifact, ParityError, integer_form, tflite
from jaxmini.export.origins import are_other, counts, moved, roots_of
from jaxmini.export.parity import check
from tests.export.conftest import make, quantized
from tests.export.tampering import edited, find


class Repeated(nn.Module):
    """Two branches, of which one is joined twice; the result is read, and returned through a sum."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        a, b = (nn.Conv(2, (3, 3), 2, name=name)(x) for name in "ab")
        joined = jnp.concatenate([a, b, a], -1)
        return nn.Dense(10, name="head")(joined.mean((1, 2)))


@pytest.fixture(scope="module")
def artifact(images: np.ndarray) -> Artifact:
    return make(quantized(Repeated()), images)


@pytest.fixture(scope="module")
def content(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("repeated") / "net.tflite"
    return tflite(artifact, path, variant="int8", backend="litert").path.read_bytes()


def joined_as(*order: int) -> Any:
    """An edit: the concatenation's inputs in another order."""

    def edit(model: Any, graph: Any) -> None:
        op = find(model, "CONCATENATION")
        op.inputs = np.asarray(op.inputs)[list(order)].copy()

    return edit


@pytest.mark.parametrize(("order", "found"), [((0, 1, 1), "32 a, 64 b"), ((0, 0, 1), "64 a, 32 b")])
def test_a_piece_that_comes_too_often_is_found(
    order: tuple[int, ...], found: str, artifact: Artifact, content: bytes, images: np.ndarray
):
    plan, frozen = integer_form(artifact)
    check(content, plan, frozen)
    tampered = edited(content, joined_as(*order))
    with pytest.raises(ParityError, match=f"joined of {found}, frozen 32 a, 32 b, 32 a"):
        check(tampered, plan, frozen)
    first = first_deviating(operator_parity(tampered, plan, frozen, images[:4]))
    assert (first.name, first.group) == ("CONCATENATION", None)


def test_runs_are_of_what_was_joined():
    a, b = ((7, 6),), ((3, 4),)
    assert moved([a, b, b], 14, whole=True) == ((7, 6), (3, 8))
    assert moved([moved([a, b], 10, whole=True)], 10, whole=True) == ((7, 6), (3, 4))
    assert moved([moved([a, b], 10, whole=True)], 5, whole=False) == ((7, None), (3, None))
    assert moved([a, a], 20, whole=False) == ((7, 20),)
    assert moved([], 3, whole=True) == ()
    assert roots_of(((7, 1), (3, 1), (7, 1))) == (7, 3)


def test_runs_are_compared_where_they_are_known():
    whole = ((7, 6), (3, 4), (7, 6))
    assert are_other(((7, 12), (3, 4)), whole)
    assert not are_other(whole, whole)
    assert not are_other(((7, None), (3, 4)), whole)
    assert not are_other(((7, 6),), ((7, 9),))  # a border may be of the operator
    assert counts(whole) == "6 a, 4 b, 6 a"
