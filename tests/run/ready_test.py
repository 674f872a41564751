"""Ready: what is refused before anything is trained."""

import sys

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxmini import data, losses, models
from jaxmini.compress import quantize
from jaxmini.data import Normalization
from jaxmini.export import Layout
from jaxmini.model import with_head
from jaxmini.run import gates, ready
from jaxmini.run.formats import Onnx, SavedModel, StableHLO
from jaxmini.run.stage import Contrastive, Distill, Export, Recipe, Stage, Supervised

DIGITS = data.digits()
NORMALIZATION = Normalization(0.0, 1.0)
BODY = models.small_resnet(stem_width=4, stem_stride=2, widths=(4,), strides=(1,))
NET = with_head(BODY, models.classifier(10))


class Sine(nn.Module):
    """A layer without an integer form."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return nn.Dense(10)(jax.numpy.sin(images.reshape(len(images), -1)))


class Wave(nn.Module):
    """That layer as a module of another, with running sums if they are asked for."""

    sums: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        inner = Sums if self.sums else Sine
        return nn.Dense(10)(inner(name="inner")(images))


class Sums(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return jax.numpy.cumsum(nn.Dense(10)(images.reshape(len(images), -1)), -1)


def supervised(**fields: object) -> Supervised:
    return Supervised(**{"name": "net", "data": DIGITS, "model": NET, "batch_size": 32, **fields})


def require(*stages: Stage, exports: tuple[Export, ...] = (), devices: int = 1) -> None:
    ready.require(Recipe(stages, exports), NORMALIZATION, devices)


def test_a_whole_chain_is_ready():
    pretrain = Contrastive(
        name="pretrain",
        data=data.unlabelled(DIGITS),
        model=with_head(BODY, models.projection_head(4, hidden=4)),
    )
    teacher = supervised(data=data.few_labels(DIGITS, 100), start=pretrain)
    int8 = Distill(
        name="int8",
        data=data.unlabelled(DIGITS),
        start=teacher,
        teacher=teacher,
        loss=losses.kl() + losses.cross_entropy(),
        quantize=quantize.int8(),
    )
    require(
        pretrain, teacher, int8, exports=(Export(int8), Export(int8, backend="litert")), devices=8
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"data": data.unlabelled(DIGITS)},
            "stage 'net': needs a label for every picture, but 1,297 of 1,297 have none",
        ),
        (
            {"batch_size": 20},
            "stage 'net': batch_size 20 does not divide among 8 devices; use a multiple of 8, 16 say",
        ),
        (
            {"batch_size": 4},
            "batch_size 4 does not divide among 8 devices; use a multiple of 8, 8 say",
        ),
        (
            {"data": data.few_labels(DIGITS, 24)},
            "stage 'net': batch_size 32 is more than the 24 pictures of digits, 24 labels",
        ),
        (
            {"model": with_head(BODY, models.classifier(7))},
            r"stage 'net': its model gives \(1, 7\) for one picture, and the 10 classes of digits need",
        ),
        ({"model": BODY}, r"its model gives \(1, 4\) for one picture"),
    ],
)
def test_a_stage_that_cannot_end_well(fields, message):
    with pytest.raises(ValueError, match=message):
        require(supervised(**fields), devices=8)


def test_a_label_that_is_no_class():
    image, label = np.zeros((40, 8, 8, 1), np.uint8), np.arange(40)
    source = data.arrays(image, label, image, label % 10, labels=tuple("0123456789"))
    with pytest.raises(ValueError, match=r"train: picture 10 has label 10, expected 0\.\.9"):
        require(supervised(data=source))


def test_a_test_split_without_labels_or_pictures():
    image, label = np.zeros((40, 8, 8, 1), np.uint8), np.arange(40) % 10
    names = tuple("0123456789")
    with pytest.raises(
        ValueError, match="stage 'net', test pictures: needs a label for every picture"
    ):
        require(supervised(data=data.arrays(image, label, image, labels=names)))
    with pytest.raises(ValueError, match="arrays, data of the last stage, has no test pictures"):
        require(supervised(data=data.arrays(image, label, labels=names)))


def test_a_gate_compares_what_was_measured_on_the_same_pictures():
    other = supervised(name="other", data=data.digits(test=400))
    last = supervised(name="last")
    file = Export(last, "float32", "litert")
    for below in (last, supervised(name="same")):
        recipe = Recipe(
            (other, below, last) if below != last else (other, last),
            (file,),
            gates=(gates.max_accuracy_drop(file, below, 1), gates.min_accuracy(other, 0.5)),
        )
        ready.require(recipe, NORMALIZATION, 1)
    held = (gates.max_accuracy_drop(file, other, 1),)
    with pytest.raises(
        ValueError, match="below stage 'other': its test pictures are not those of digits"
    ):
        ready.require(Recipe((other, last), (file,), gates=held), NORMALIZATION, 1)


def test_a_start_of_another_body():
    other = with_head(models.small_resnet(stem_width=4, widths=(6,)), models.classifier(10))
    with pytest.raises(ValueError, match="stage 'second' cannot start from 'net'"):
        require(supervised(), supervised(name="second", start=supervised(), model=other))


def test_a_net_without_an_integer_form_is_refused_before_it_is_trained():
    start = supervised(model=Sine())
    with pytest.raises(ValueError, match="sin"):
        require(start, supervised(name="int8", start=start, model=None, quantize=quantize.int8()))


@pytest.mark.parametrize(
    ("backend", "module"),
    [
        ("jax2tf", "tensorflow"),
        ("litert", "litert_converter"),
        ("litert", "ai_edge_litert"),
        ("jax2tf", "flatbuffers"),
    ],
)
def test_an_exporter_that_is_not_installed_names_its_extra(monkeypatch, backend, module):
    monkeypatch.setitem(sys.modules, module, None)
    stage = supervised(data=data.unlabelled(DIGITS))  # wrong too, and found later
    with pytest.raises(
        ImportError, match=rf"{module} is not installed.*tested with .*jaxmini\[{backend}\]"
    ):
        require(stage, exports=(Export(stage, "float32", backend),))


def layouts(**layout: object) -> tuple[tuple[Stage, ...], tuple[Export, ...]]:
    """A float and a quantized stage, and a file of each with that layout."""
    teacher = supervised(name="teacher")
    int8 = Distill(
        name="int8", data=DIGITS, start=teacher, teacher=teacher, quantize=quantize.int8()
    )
    asked = Layout(**layout)
    return (teacher, int8), (
        Export(teacher, "float32", "litert", layout=asked),
        Export(int8, backend="litert", layout=asked),
    )


def test_a_head_is_looked_for_in_float_and_quantized_networks():
    stages, exports = layouts(embedding="Classifier*")
    require(*stages, exports=exports)
    stages, exports = layouts(embedding="Clasifier")
    for export in exports:
        with pytest.raises(
            ValueError, match=r"'Clasifier' matches no module; near it: .*Classifier"
        ):
            require(*stages, exports=(export,))


def test_int4_without_narrow_kernels_is_refused():
    (teacher, int8), _ = layouts()
    export = Export(int8, backend="litert", layout=Layout(int4=True))
    with pytest.raises(ValueError, match="stage 'int8' has no kernel of at most 4 bits"):
        require(teacher, int8, exports=(export,))


@pytest.mark.parametrize("kind", [gates.micro, lambda file: gates.max_arena(file, 9)])
def test_a_gate_that_needs_tflite_micro_is_told_before_anything_is_trained(
    kind, monkeypatch: pytest.MonkeyPatch
):
    stage = supervised()
    file = Export(stage, "float32", backend="litert")
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    ready.require(Recipe((stage,), (file,)), NORMALIZATION, 1)
    with pytest.raises(ImportError, match=r"tflite_micro is not installed.*jaxmini\[micro\]"):
        ready.require(Recipe((stage,), (file,), gates=(kind(file),)), NORMALIZATION, 1)


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [(Onnx, "onnx", "onnx"), (Onnx, "onnxruntime", "onnx"), (SavedModel, "tensorflow", "jax2tf")],
)
def test_the_packages_of_other_formats_are_asked_for(monkeypatch, kind, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    stage = supervised(data=data.unlabelled(DIGITS))
    with pytest.raises(ImportError, match=rf"{module} is not installed.*jaxmini\[{extra}\]"):
        require(stage, exports=(kind(stage, "float32"),))


def test_a_net_without_a_form_in_onnx_is_refused_before_it_is_trained():
    stage = supervised(model=Sine())
    require(stage, exports=(StableHLO(stage), Export(stage, "float32")))
    with pytest.raises(ValueError, match=r"'sin' in the module Sine"):
        require(stage, exports=(Onnx(stage, "float32"),))


def test_a_float_island_must_have_a_form_in_onnx():
    scheme = quantize.int8(rules=(quantize.float_island("inner"),))
    for sums in (False, True):
        stage = supervised(model=Wave(sums))
        int8 = supervised(name="int8", model=None, start=stage, quantize=scheme)
        require(stage, int8, exports=(Export(int8),))
        if not sums:
            require(stage, int8, exports=(Onnx(int8),))
    with pytest.raises(
        ValueError, match=r"no form in an ONNX file \('cumsum' in the module Wave/inner"
    ):
        require(stage, int8, exports=(Onnx(int8),))


def test_rounded_kernels_need_no_form_of_what_stands_between_them():
    net = supervised(model=Sine(), data=data.few_labels(DIGITS, 100))
    weights = supervised(
        name="weights", model=None, data=net.data, start=net, quantize=quantize.weights_only()
    )
    require(net, weights, exports=(Export(weights, "weights_only", "litert"),))
    packed = Export(weights, "weights_only", "litert", layout=Layout(int4=True))
    with pytest.raises(ValueError, match=r"give it quantize=weights_only\(kernel=per_channel"):
        require(net, weights, exports=(packed,))


class Depthwise(nn.Module):
    """A net whose one convolution is depthwise."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = nn.Conv(8, (1, 1))(images)
        x = nn.relu(nn.Conv(8, (3, 3), feature_group_count=8, name="deep")(x))
        return nn.Dense(10)(x.mean((1, 2)))


def test_int4_of_depthwise_kernels_alone_is_refused():
    def ask(pattern: str) -> None:
        rule = quantize.rule(pattern, kernel=quantize.per_channel(bits=4))
        net = supervised(model=Depthwise())
        int8 = supervised(name="int8", model=None, start=net, quantize=quantize.int8(rules=(rule,)))
        require(net, int8, exports=(Export(int8, backend="litert", layout=Layout(int4=True)),))

    with pytest.raises(ValueError, match=r"\(Depthwise/deep:conv\) are of depthwise conv"):
        ask("deep")
    ask("Dense_0")


class Orthogonal(nn.Module):
    """Logits of the orthogonal factor of a matrix made of the picture."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        matrix = nn.Dense(9)(images.reshape(len(images), -1)).reshape(-1, 3, 3)
        return nn.Dense(10)(jax.numpy.linalg.qr(matrix)[0].reshape(-1, 9))


def test_a_float_net_of_operations_that_xla_alone_has_is_refused_before_it_is_trained():
    stage = supervised(model=Orthogonal())
    require(stage, exports=(StableHLO(stage),))
    for variant in ("float32", "float16", "dynamic_int8"):
        with pytest.raises(
            ValueError, match=rf"stage 'net': its export net-{variant}.*without a TFLite form: .*Qr"
        ):
            require(stage, exports=(Export(stage, variant, "litert"),))
