"""Record: values to JSON and back, and what cannot be written down."""

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini import losses, models, record
from jaxmini.model import from_linen, with_head


@dataclasses.dataclass(frozen=True)
class Holder:
    loss: object


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
)


@given(plain)
def test_plain_values_come_back(value):
    text = json.dumps(record.describe(value))
    assert record.rebuild(json.loads(text)) == value


@pytest.mark.parametrize(
    "value",
    [
        losses.nt_xent(temperature=0.3),
        0.9 * losses.kl(temperature=4.0) + 0.1 * losses.cross_entropy(),
        models.small_resnet(10, widths=(8, 16)),
        models.mobilenet_v2(10, width=0.35),
        functools.partial(models.small_resnet, 10),
        jnp.bfloat16,
        nn.relu,
        float("inf"),
    ],
    ids=["loss", "sum", "resnet", "mobilenet", "partial", "dtype", "function", "infinity"],
)
def test_objects_come_back_equal(value):
    described = json.loads(json.dumps(record.describe(value)))
    rebuilt = record.rebuild(described)
    if isinstance(value, functools.partial):
        assert (rebuilt.func, rebuilt.args, rebuilt.keywords) == (
            value.func,
            value.args,
            value.keywords,
        )
    else:
        assert rebuilt == value


def test_a_model_comes_back_as_the_same_function():
    model = with_head(models.small_resnet(widths=(8,)), nn.Dense(3, dtype=jnp.bfloat16))
    described = json.loads(json.dumps(record.describe(model)))
    rebuilt = record.rebuild(described)
    x = np.ones((2, 8, 8, 1), np.float32)
    variables = model.init(jax.random.key(0), x)
    np.testing.assert_array_equal(model.apply(variables, x)[0], rebuilt.apply(variables, x)[0])
    assert record.describe(rebuilt) == described


def test_nested_models_are_written_once_each():
    model = from_linen(nn.Dense(2))
    for _ in range(6):
        model = with_head(model, nn.Dense(2))
    assert len(json.dumps(record.describe(model))) < 5000


def test_only_what_differs_from_the_defaults_is_written():
    assert record.describe(losses.nt_xent()) == {
        "call": "jaxmini.losses.contrastive:nt_xent",
        "fields": {},
    }


def test_a_lambda_is_refused_with_its_place():
    with pytest.raises(TypeError, match=r"stage\.loss.*top of a module"):
        record.describe(Holder(lambda signals, batch: 0), "stage")


def test_a_class_inside_a_function_is_refused():
    class Local:
        pass

    with pytest.raises(TypeError, match="cannot be found again"):
        record.describe(Local)


def test_an_array_is_recorded_by_digest_and_not_rebuilt():
    described = record.describe(np.arange(3))
    assert described["sha256"] != record.describe(np.arange(1, 4))["sha256"]
    with pytest.raises(ValueError, match="digest only"):
        record.rebuild(described)


def test_digest_ignores_the_order_of_fields():
    assert record.digest({"a": 1, "b": 2}) == record.digest({"b": 2, "a": 1})
    assert record.digest({"a": 1}) != record.digest({"a": 2})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere:Net", "nowhere:Net is not to be found, there is no module 'nowhere': import the"),
        ("nowhere.nets:Net", "nowhere.nets:Net .* no module 'nowhere': .* folder on PYTHONPATH"),
        ("jaxmini.nowhere:Net", "there is no module 'jaxmini.nowhere': import the file that"),
        ("jaxmini.losses:kll", r"jaxmini.losses \(.*\.py\) has no 'kll'; did you mean 'kl'\?: "),
        (
            "jaxmini.losses:kl.inner",
            "jaxmini.losses:kl.inner is not to be found, kl has no 'inner'",
        ),
    ],
)
def test_a_name_that_nothing_defines_is_told_with_what_can_be_done(name: str, said: str):
    with pytest.raises(record.UndefinedError, match=said) as caught:
        record.rebuild({"call": name, "fields": {}})
    assert isinstance(caught.value, ImportError)


def test_what_a_module_lacks_itself_is_not_taken_for_the_module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lacking.py").write_text("import nowhere_to_be_had\n")
    with pytest.raises(ImportError, match="No module named 'nowhere_to_be_had'") as caught:
        record.rebuild({"name": "lacking:Net"})
    assert not isinstance(caught.value, record.UndefinedError)
