"""Refusal: an error says the operation, its module and the way out."""

import dataclasses

import jax.numpy as jnp
import pytest
from jax import lax
from quantize_functions import alone, op_of, program_of

from jaxmini.compress.quantize.program import Op
from jaxmini.compress.quantize.refusal import (
    REMEDIES,
    check_answers,
    check_batch_statistics,
    check_conv,
    check_float32,
    refuse,
)
from jaxmini.compress.quantize.rules import RULES


def op(name: str, path: str = "Net/block") -> Op:
    return Op(name, path, (), (), None, {})


def said(*arguments) -> str:
    with pytest.raises(ValueError, match="^quantize: ") as error:
        refuse(*arguments)
    return str(error.value)


def test_an_operation_is_named_with_its_module_and_its_own_remedy():
    text = said(op("erf"))
    assert text.startswith(
        "quantize: the operation 'erf' has no int8 form ('erf' in the module Net/block): "
    )
    assert "nn.gelu(x, approximate=True)" in text
    assert text.endswith(", or declare it a float_island('block')")


def test_without_a_module_there_is_nothing_to_declare():
    assert said(op("sin", "")).endswith(
        "('sin' in the model): compute it outside the quantized model, or replace it"
    )
    assert "float_island" not in said(op("sin", "Net"))


def test_a_reason_and_a_remedy_go_before_the_usual_ones():
    assert said(op("exp"), "it is odd", "be even") == (
        "quantize: it is odd ('exp' in the module Net/block): be even, or declare it a "
        "float_island('block')"
    )


def test_no_remedy_names_an_operation_that_always_has_a_form():
    """Where a rule takes an operation under conditions, it says itself what else can be done."""
    assert set(REMEDIES) & set(RULES) <= {"max", "min"}


def said_of(function, shape=(2, 4, 4, 3), path="Net") -> str:
    """What is said of the first sum or maximum of a function of inputs alone."""
    program = program_of(alone(function), shape)
    found = next(op for op in program.ops if op.name.startswith("reduce_"))
    with pytest.raises(ValueError, match="inference computes statistics over the batch") as error:
        check_batch_statistics(dataclasses.replace(found, path=path), program)
    return str(error.value)


def test_statistics_over_the_batch_are_batch_norms_where_they_look_it():
    for likely in (
        said_of(lambda x: x - x.mean((0, 1, 2), keepdims=True)),
        said_of(lambda x: x - x.mean(0, keepdims=True), (2, 4)),
        said_of(lambda x: x - x.max(0, keepdims=True), path="Net/BatchNorm_0"),
    ):
        assert likely.endswith("statistics, nn.BatchNorm(use_running_average=not train)")


def test_what_is_no_batch_norm_is_not_told_of_one():
    for other in (
        said_of(lambda x: lax.cond(x.sum() > 0, lambda y: y, lambda y: -y, x)),
        said_of(lambda x: lax.dynamic_slice_in_dim(x, x.sum().astype(int), 2, 1)),
        said_of(lambda x: x - x.mean(0, keepdims=True)),
        said_of(lambda x: x - x.max((0, 1, 2), keepdims=True), path="Net/block"),
    ):
        assert "BatchNorm" not in other
        assert other.endswith(
            "leave the first axis out, x.sum((1, 2, 3)) of pictures in place of x.sum()"
        )


def test_statistics_of_each_example_alone_are_taken():
    program = program_of(alone(lambda x: x - x.max(1, keepdims=True)))
    check_batch_statistics(op_of(program, "reduce_max"), program)


def test_other_numbers_than_float32_are_told_apart_from_questions():
    program = program_of(
        alone(lambda x: jnp.where(x > 0, x, x.astype(jnp.int32).astype(jnp.float32)))
    )
    with pytest.raises(ValueError, match="it asks a question of numbers that the model computes"):
        check_float32(op_of(program, "gt"), program)
    with pytest.raises(ValueError, match="it computes in int32.*build the model in float32"):
        check_float32(op_of(program, "convert_element_type"), program)
    check_float32(op_of(program, "select_n"), program)


def convolution(layout, groups=1):
    def function(params, x):
        return lax.conv_general_dilated(
            x, params["w"], (1, 1), "SAME", dimension_numbers=layout, batch_group_count=groups
        )

    return op_of(program_of(function, (2, 4, 4, 4), w=(4, 4, 4, 4)), "conv_general_dilated")


@pytest.mark.parametrize(
    "layout", [("NCHW", "OIHW", "NCHW"), ("NHWC", "OIHW", "NHWC"), ("NHWC", "HWIO", "NCHW")]
)
def test_layouts_of_other_frameworks_are_refused(layout):
    with pytest.raises(ValueError, match=r"its layout is .*NHWC with HWIO kernels"):
        check_conv(convolution(layout))


def test_linens_layout_is_taken_and_groups_of_the_batch_are_not():
    check_conv(convolution(("NHWC", "HWIO", "NHWC")))
    with pytest.raises(ValueError, match="it groups the batch.*feature_group_count"):
        check_conv(convolution(("NHWC", "HWIO", "NHWC"), groups=2))


@pytest.mark.parametrize("axes", [3, 0])
def test_a_convolution_along_other_than_one_or_two_axes_is_refused(axes):
    shape, names = (2, *[4] * axes, 4), "DHW"[:axes]

    def function(params, x):
        layout = (f"N{names}C", f"{names}IO", f"N{names}C")
        return lax.conv_general_dilated(
            x, params["w"], (1,) * axes, [(0, 0)] * axes, dimension_numbers=layout
        )

    program = program_of(function, shape, w=(*[2] * axes, 4, 4))
    with pytest.raises(
        ValueError, match=f"along {axes} axes.*one or two: make the others examples"
    ):
        check_conv(op_of(program, "conv_general_dilated"))


def test_a_mask_made_of_the_input_is_told_with_what_can_be_done():
    program = program_of(alone(lambda x: x * (x > 0).astype(jnp.float32)))
    cast = op_of(program, "convert_element_type")
    with pytest.raises(ValueError, match=r"as a mask of padding.*of constants.*weights_only\(\)"):
        check_answers(cast, program)
    check_answers(op_of(program, "mul"), program)


def test_yes_and_no_may_be_inside_an_island():
    program = program_of(alone(lambda x: jnp.where(x > 0, x, 0.0)))
    check_float32(op_of(program, "gt"), program, answers=True)


def test_what_no_island_can_hold_is_not_sent_there():
    with pytest.raises(ValueError, match="^quantize: it is odd .*: be even$"):
        refuse(op("exp"), "it is odd", "be even", in_float=False)
