"""Tracing: what keeps a model from being traced is said with the module, the variable, and the way out."""

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_nets import Branches, Residual, pictures, start

from jaxmini.compress.quantize import calibrate, make_plan, quantize
from jaxmini.compress.quantize.tracing import differences, explained
from jaxmini.model import from_linen


class Inner(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(3, (3, 3), name="conv")(x)
        match self.kind:
            case "mask":
                return x[x > 0]
            case "if":
                return x if x.sum() > 0 else -x
            case "where":
                return jnp.nonzero(x)[0].astype(jnp.float32)
            case "numpy":
                return jnp.asarray(np.tanh(np.asarray(x)))
            case "index":
                return x[:, : int(x[0, 0, 0, 0])]


class Outer(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x):
        return Inner(self.kind, name="inner")(nn.relu(x))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mask", r"NonConcreteBooleanIndexError\): .* write jnp.where\(mask, x, 0.0\)"),
        ("if", r"TracerBoolConversionError\): write `if` on numbers as jnp.where"),
        ("where", r"ConcretizationTypeError\): .* a fixed size="),
        ("numpy", r"TracerArrayConversionError\): .* call jnp for np"),
        ("index", r"ConcretizationTypeError\): "),
    ],
)
def test_what_asks_for_numbers_is_told_by_its_module(kind, message):
    x, model = pictures(2, 4), from_linen(Outer(kind))
    variables = {
        "params": {"inner": {"conv": {"kernel": jnp.ones((3, 3, 3, 3)), "bias": jnp.ones(3)}}}
    }
    place = "quantize: the module Outer/inner computes a shape, or makes a choice, by numbers"
    for refused in (
        lambda: make_plan(model, variables, x),
        lambda: calibrate(quantize(model), variables, [x]),
    ):
        with pytest.raises(ValueError, match=f"^{place} .*{message}"):
            refused()


def test_the_variables_of_another_model_are_told_by_name():
    x, model = pictures(2), from_linen(Residual())
    other, own = start(from_linen(Branches()), x), start(model, x)
    with pytest.raises(
        ValueError,
        match=r"quantize: the variables are not those of the model for inputs \[2, 12, 12, 3\]: missing "
        r"batch_stats/BatchNorm_0/mean, .* and 12 more; params/head/bias has the shape \(4,\), and not "
        r"\(5,\); .*; unknown batch_stats/norm/mean, .* and 9 more: give it what its own init made",
    ) as error:
        make_plan(quantize(model), other, x)
    assert isinstance(error.value.__cause__, flax.errors.FlaxError)
    for given, message in (
        ({"params": {}}, "missing .* more: give it"),
        (own["params"], "missing .* and 14 more; unknown BatchNorm_0/bias, .* and 8 more: give it"),
        ({"params": own["params"]}, "missing batch_stats/BatchNorm_0/mean, .*and 3 more: give it"),
    ):
        with pytest.raises(ValueError, match=message):
            make_plan(model, given, x)


def test_inputs_of_another_shape_are_told_with_the_shape_they_ask_for():
    x, model = pictures(2), from_linen(Residual())
    variables = start(model, x)
    shapes = r"has the shape \(3, 3, 3, 8\), and not \(3, 3, 1, 8\)"
    with pytest.raises(ValueError, match=rf"inputs \[2, 12, 12, 1\]: params/stem/kernel {shapes}"):
        calibrate(quantize(model), variables, [x[..., :1]])


def test_variables_that_are_the_models_have_no_differences():
    x, model = pictures(2), from_linen(Residual())
    variables = start(model, x)
    assert differences(model, variables, x) == []
    more = {**variables, "other": {"count": jnp.zeros(2)}}
    assert differences(model, more, jax.ShapeDtypeStruct(x.shape, x.dtype)) == [
        "unknown other/count"
    ]
    with (
        pytest.raises(flax.errors.ScopeParamNotFoundError),
        explained("here", model, variables, x),
    ):
        raise flax.errors.ScopeParamNotFoundError("kernel", "/stem")
