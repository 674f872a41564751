"""Variants: a file of trained integers is of a stage that has trained them."""

import pytest

from jaxmini.compress.quantize import int8, observed, weights_only
from jaxmini.run.variants import require_trained

WIDE = int8(activation=observed(bits=16))


@pytest.mark.parametrize(
    ("variant", "scheme"),
    [
        ("float32", None),
        ("float16", int8()),
        ("int8", int8()),
        ("int16x8", WIDE),
        ("weights_only", weights_only()),
    ],
)
def test_what_was_trained_is_accepted(variant, scheme):
    require_trained(variant, "net", scheme)


@pytest.mark.parametrize(
    ("variant", "scheme", "message"),
    [
        ("int16x8", None, r"'net' as int16x8: the stage trains in float; .*quantize=int8\(\)"),
        ("weights_only", None, r"trains in float; export a stage with quantize=weights_only\(\)"),
        ("int8", weights_only(), r"by weights_only\(\); write it by .*variant='weights_only'"),
        ("weights_only", int8(), r"by int8\(\); write it by .*variant='int8'"),
        ("int8", WIDE, "trains activations of 16 bits, and such a file has 8"),
        ("int16x8", int8(), "trains activations of 8 bits, and such a file has 16"),
    ],
)
def test_what_was_not_is_refused(variant, scheme, message):
    with pytest.raises(ValueError, match=message):
        require_trained(variant, "net", scheme)
