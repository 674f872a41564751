import pytest

from jaxmini.export import Layout


def test_a_layout_leaves_types_to_the_variant():
    assert Layout().of("int8") == Layout(input="int8", output="int8")
    assert Layout().of("float16") == Layout(input="float32", output="float32")
    assert Layout(input="uint8", batch=3).of("int8") == Layout(
        input="uint8", output="int8", batch=3
    )


@pytest.mark.parametrize(
    ("layout", "variant", "message"),
    [
        ({"input": "int8"}, "float32", "input of a file of variant 'float32' is float32 or uint8"),
        ({"output": "int8"}, "float16", "output of a file of variant 'float16' is float32"),
        ({"output": "uint8"}, "int8", "output of a file of variant 'int8' is int8 or float32"),
        ({"int4": True}, "dynamic_int8", "int4=True stores integer kernels"),
    ],
)
def test_what_a_variant_cannot_have_is_refused(layout: dict, variant: str, message: str):
    with pytest.raises(ValueError, match=message):
        Layout(**layout).of(variant)


@pytest.mark.parametrize("batch", [0, -1, 1025, 2.0, True, "4"])
def test_impossible_batches_are_refused(batch: object):
    with pytest.raises(ValueError, match="expected an integer 1..1024"):
        Layout(batch=batch)


def test_an_empty_pattern_is_refused():
    with pytest.raises(ValueError, match="embedding is an empty pattern"):
        Layout(embedding="")
