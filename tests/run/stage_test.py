"""Stage: what a recipe cannot say, and what it is told instead."""

import math
import re

import jax
import numpy as np
import pytest

from jaxmini import data, models
from jaxmini.compress import quantize
from jaxmini.data import Normalization
from jaxmini.export import Layout
from jaxmini.run import gates
from jaxmini.run.formats import Onnx
from jaxmini.run.recording import record_of
from jaxmini.run.stage import (
    Contrastive,
    Distill,
    Export,
    Inputs,
    PostTraining,
    Recipe,
    Supervised,
)

DIGITS = data.digits()
NET = models.classifier(10)
PRETRAIN = Contrastive(name="pretrain", data=DIGITS, model=NET)
TEACHER = Supervised(name="teacher", data=DIGITS, model=NET)


def said(message: str) -> str:
    return ".*".join(map(re.escape, message.split("...")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a/b"}, "stage name 'a/b': use letters, digits, - and _"),
        ({"name": ""}, "stage name ''"),
        ({"model": None}, "stage 'net' has neither a model nor a stage to start from"),
        ({"quantize": quantize.int8()}, "stage 'net' quantizes: give it a trained stage as start"),
        ({"epochs": 0}, "stage 'net': epochs must be positive and finite, got 0"),
        ({"epochs": math.nan}, "stage 'net': epochs must be positive and finite, got nan"),
        ({"epochs": math.inf}, "stage 'net': epochs must be positive and finite, got inf"),
        ({"epochs": "2"}, "stage 'net': epochs must be positive and finite, got '2'"),
        ({"batch_size": 0}, "stage 'net': batch_size must be positive, an integer; got 0"),
        ({"batch_size": 16.0}, "stage 'net': batch_size must be positive, an integer; got 16.0"),
        ({"seed": -1}, "stage 'net': seed is -1, expected an integer, 0 to 2**63 - 1"),
        ({"seed": 2**63}, "stage 'net': seed is 9223372036854775808, expected an integer"),
        ({"seed": 0.5}, "stage 'net': seed is 0.5, expected an integer"),
    ],
)
def test_a_stage_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=said(message)):
        Supervised(**{"name": "net", "data": DIGITS, "model": NET, **fields})


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"start": None, "model": NET}, ValueError, "quantizes: give it a trained stage as start"),
        ({"quantize": None}, ValueError, "'int8' trains nothing and quantizes nothing"),
        ({"pictures": 0}, ValueError, "stage 'int8': pictures is 0, expected 1 or more"),
        ({"pictures": math.inf}, ValueError, "stage 'int8': pictures is inf, expected 1 or more"),
        (
            {"methods": [quantize.adaround()]},
            TypeError,
            "expected a tuple as (quantize.adaround(),)",
        ),
        ({"methods": ("adaround",)}, TypeError, "stage 'int8': methods are ('adaround',)"),
    ],
)
def test_post_training_that_cannot_be(fields, error, message):
    with pytest.raises(error, match=said(message)):
        PostTraining(**{"name": "int8", "data": DIGITS, "start": TEACHER, **fields})


def test_post_training_is_recorded_with_its_methods():
    methods = (quantize.equalize(), quantize.adaround(steps=7))
    stage = PostTraining(name="int8", data=DIGITS, start=TEACHER, methods=methods)
    described = record_of(Recipe((TEACHER, stage)))["stages"]["int8"]["methods"]
    assert [one["fields"] for one in described] == [{}, {"steps": 7}]


def test_embeddings_neither_teach_nor_are_exported():
    with pytest.raises(
        ValueError, match="'student' learns from 'pretrain', whose outputs are embeddings"
    ):
        Distill(name="student", data=DIGITS, model=NET, teacher=PRETRAIN)
    with pytest.raises(ValueError, match="export of stage 'pretrain': its outputs are embeddings"):
        Export(PRETRAIN, "float32", "litert")


def test_a_float_stage_is_not_exported_as_int8():
    with pytest.raises(
        ValueError, match=said("'teacher' as int8: the stage trains in float;...int8()")
    ):
        Export(TEACHER, "int8")


def test_a_file_has_the_bits_that_its_stage_trains():
    wide = quantize.int8(activation=quantize.observed(bits=16))
    stages = {
        bits: Supervised(name=f"net{bits}", data=DIGITS, start=TEACHER, quantize=scheme)
        for bits, scheme in (
            (8, quantize.int8()),
            (16, wide),
            (4, quantize.int8(activation=quantize.lsq(bits=4))),
        )
    }
    assert Export(stages[16], "int16x8", "litert").file_name == "net16-int16x8-litert.tflite"
    for bits, variant in ((8, "int16x8"), (16, "int8"), (4, "int8"), (4, "int16x8")):
        with pytest.raises(
            ValueError, match=said(f"'net{bits}' as {variant}: the stage trains...of {bits} bits")
        ):
            Export(stages[bits], variant, "litert")
    with pytest.raises(ValueError, match=said("'net16' as int8:...such a file has 8")):
        Onnx(stages[16])
    with pytest.raises(ValueError, match=said("'teacher' as int16x8: the stage trains in float")):
        Export(TEACHER, "int16x8")


def test_an_export_is_called_by_stage_variant_and_backend_unless_named():
    assert Export(TEACHER, "float32", "litert").file_name == "teacher-float32-litert.tflite"
    assert Export(TEACHER, "float32", name="small").file_name == "small.tflite"


def test_a_layout_the_variant_cannot_have_is_refused():
    with pytest.raises(ValueError, match="is float32 or uint8, not 'int8'"):
        Export(TEACHER, "float32", layout=Layout(input="int8"))


def test_a_layout_of_another_format_is_refused():
    with pytest.raises(
        ValueError, match=r"a layout is that of a \.tflite file, and .*\.onnx is none"
    ):
        Onnx(TEACHER, "float32", layout=Layout(batch=4))


def test_a_recipe_holds_every_stage_before_its_use_once():
    student = Distill(name="student", data=DIGITS, model=NET, teacher=TEACHER)
    with pytest.raises(ValueError, match="a recipe needs at least one stage"):
        Recipe(())
    with pytest.raises(ValueError, match="two stages are called 'teacher'"):
        Recipe((TEACHER, TEACHER))
    with pytest.raises(
        ValueError, match="stage 'student' uses stage 'teacher', which is not among"
    ):
        Recipe((student, TEACHER))
    with pytest.raises(
        ValueError, match="an export uses stage 'teacher', which is not in the recipe"
    ):
        Recipe((PRETRAIN,), (Export(TEACHER, "float32"),))
    compared = Supervised(name="other", data=DIGITS, model=NET, against=TEACHER)
    with pytest.raises(ValueError, match="stage 'other' uses stage 'teacher'"):
        Recipe((compared,))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"stages": TEACHER},
            "Recipe: stages is Supervised, expected a tuple of stages: Recipe(stages=(stage,))",
        ),
        ({"stages": [TEACHER]}, "Recipe: stages is list, expected a tuple of stages"),
        ({"stages": (TEACHER, "student")}, "Recipe: stages holds str, expected a tuple of stages"),
        (
            {"exports": Export(TEACHER, "float32")},
            "Recipe: exports is Export, expected a tuple of exports: Recipe(exports=(export,))",
        ),
        (
            {"gates": gates.min_accuracy(TEACHER, 0.5)},
            "Recipe: gates is min_accuracy, expected a tuple of gates: Recipe(gates=(gate,))",
        ),
    ],
)
def test_a_recipe_is_made_of_tuples(fields, message):
    with pytest.raises(TypeError, match=said(message)):
        Recipe(**{"stages": (TEACHER,), **fields})


def test_a_stage_without_a_model_has_that_of_its_start():
    tuned = Supervised(name="tuned", data=DIGITS, start=TEACHER)
    again = Supervised(name="again", data=DIGITS, start=tuned)
    assert again.float_model().apply.args == TEACHER.float_model().apply.args == (NET,)
    assert again.needs == (tuned,)


def test_a_quantizing_stage_takes_pixels_on_the_grid_of_the_normalization():
    net = models.small_resnet(10, stem_width=4, stem_stride=2, widths=(4,), strides=(1,))
    start = Supervised(name="start", data=DIGITS, model=net)
    int8 = Supervised(name="int8", data=DIGITS, start=start, quantize=quantize.int8())
    normalization = Normalization(mean=51 / 255, std=0.3)
    variables = jax.eval_shape(
        int8.network(normalization).init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32),
    )
    assert "quant" in variables
    assert start.network(normalization).apply.args == (net,)


def test_inputs_are_keyed_by_example_and_epoch_not_by_place_in_the_batch():
    inputs = Inputs(data.gaussian_noise(0.5), Normalization(0.0, 1.0))
    batch = {
        "image": np.full((3, 4, 4, 1), 100, np.uint8),
        "id": np.array([7, 8, 7], np.int32),
        "epoch": np.array([0, 0, 1], np.int32),
    }
    key = jax.random.key(3)
    seen = np.asarray(inputs(key, batch, 0))
    turned = np.asarray(inputs(key, {name: value[::-1] for name, value in batch.items()}, 0))
    np.testing.assert_array_equal(seen, turned[::-1])
    other_view = np.asarray(inputs(key, batch, 1))
    assert len({array.tobytes() for array in (*seen, *other_view)}) == 6


WEIGHTS = Distill(
    name="weights",
    data=DIGITS,
    start=TEACHER,
    teacher=TEACHER,
    quantize=quantize.weights_only(),
)


def test_a_stage_of_rounded_kernels_is_exported_as_such():
    file = Export(WEIGHTS, "weights_only", "litert", layout=Layout(int4=True))
    assert file.file_name == "weights-weights_only-litert.tflite"
    record = record_of(Recipe((TEACHER, WEIGHTS), (file,)))
    assert "weights_only" in str(record["stages"]["weights"]["quantize"])
    with pytest.raises(ValueError, match=said("quantizes by weights_only(); write it by Export")):
        Export(WEIGHTS)
    with pytest.raises(ValueError, match=said("quantizes by weights_only(); write it by Export")):
        Onnx(WEIGHTS)
    with pytest.raises(
        ValueError, match=said("export it by Export(stage, variant='weights_only')")
    ):
        Onnx(WEIGHTS, "float32")
    with pytest.raises(
        ValueError,
        match=said("'teacher' as weights_only: the stage trains in float;...weights_only()"),
    ):
        Export(TEACHER, "weights_only")
    with pytest.raises(ValueError, match="is float32 or uint8, not 'int8'"):
        Export(WEIGHTS, "weights_only", layout=Layout(input="int8"))


def test_the_network_of_such_a_stage_reads_floats():
    network = WEIGHTS.network(Normalization(0.4, 0.3))
    assert network.apply.args[1:] == (quantize.weights_only(), None)
