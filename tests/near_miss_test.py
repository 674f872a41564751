"""A near miss is offered; a name that is near none has nothing said for it."""

import pytest

from jaxmini.near_miss import did_you_mean


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("relu66", "; did you mean 'relu6'?"),
        ("Relu", "; did you mean 'relu'?"),
        ("softplus", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_the_nearest_is_offered(name: object, said: str):
    assert did_you_mean(name, {"relu": 1, "relu6": 2, "tanh": 3}) == said
