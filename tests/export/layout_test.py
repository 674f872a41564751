import pytest

from jaxmini.export import Layout


def test_a_layout_leaves_types_to_the_variant():
    assert Layout().of("int8") == Layout(input="int8", output="int8")
    assert Layout().of("float16") == Layout(input="float32", output="float32")
    for variant, input in (("int8", "uint8"), ("int8", "float32"), ("float32", None)):
        assert Layout(input=input, output="float32", task_metadata=True).of(variant).task_metadata
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
        (
            {"task_metadata": True},
            "int8",
            "readers that know uint8 or float32 .* is 'int8' here: ask for input='uint8' or input='float32'$",
        ),
        (
            {"input": "uint8", "task_metadata": True},
            "int8",
            "readers that know float32 outputs, .* is 'int8' here: ask for output='float32'$",
        ),
        ({"task_metadata": True}, "int16x8", "is 'int16' here: leave it out$"),
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
