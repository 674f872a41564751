"""Kinds: what is no source, network, loss, optimizer, view, scheme or stage is refused where it stands."""

import re

import flax.linen as nn
import optax
import pytest

from jaxmini import data, losses, models, steps
from jaxmini.compress import quantize
from jaxmini.model import from_linen
from jaxmini.run.stage import Contrastive, Distill, PostTraining, Supervised

GOOD = {"name": "net", "data": data.digits(), "model": models.classifier(10)}
TEACHER = Supervised(**{**GOOD, "name": "teacher"})


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("data", "fashion_mnist", "data is 'fashion_mnist', expected a source, as data.digits()"),
        ("data", data.digits, "data is digits itself, which was not called, expected a source"),
        ("data", None, "data is None, expected a source"),
        ("model", "resnet18", "model is 'resnet18', expected a flax.linen module or a Model, as"),
        ("model", models.resnet18, "model is resnet18 itself, which was not called, expected"),
        ("model", nn.Dense, "model is Dense itself, which was not called, expected"),
        ("model", {"width": 4} | dict.fromkeys("abcdefghijklmnop", 0), "model is a dict, expected"),
        ("loss", "kl", "loss is 'kl', expected (signals, batch) -> (scalar, metrics), as losses."),
        ("loss", losses.kl, "loss is kl itself, which was not called, expected"),
        ("loss", None, "loss is None, expected (signals, batch)"),
        ("optimizer", 0.1, "optimizer is 0.1, expected total_steps -> optax."),
        ("optimizer", steps.adamw, "optimizer is adamw itself, which was not called, expected"),
        ("optimizer", optax.sgd(0.1), "optimizer is a GradientTransformation"),
        ("view", "shift", "view is 'shift', expected (key, image) -> image, as data.shift(1)"),
        (
            "quantize",
            "int8",
            "quantize is 'int8', expected quantize.int8(), quantize.weights_only()",
        ),
        ("quantize", quantize.int8, "quantize is int8 itself, which was not called, expected"),
        ("start", "teacher", "start is 'teacher', expected a stage: the value itself"),
        ("against", "teacher", "against is 'teacher', expected a stage: the value itself"),
        ("teacher", "teacher", "teacher is 'teacher', expected a stage: the value itself"),
        ("teacher", None, "teacher is None, expected a stage: the value itself"),
    ],
)
def test_what_is_no_such_thing_is_refused_with_an_example(field: str, value: object, said: str):
    with pytest.raises(TypeError, match=re.escape(f"stage 'net': {said}")):
        Distill(**{**GOOD, "teacher": TEACHER, field: value})


def own_loss(signals, batch):
    return signals["student"].mean(), {}


def test_what_people_write_themselves_is_as_good():
    class Pictures:
        def load(self):
            raise NotImplementedError

    stage = Supervised(
        name="own",
        data=Pictures(),
        model=from_linen(nn.Dense(10)),
        loss=own_loss,
        optimizer=lambda total_steps: optax.sgd(0.1),
        view=lambda key, image: image,
    )
    Contrastive(name="next", data=Pictures(), start=stage, loss=own_loss, against=stage)
    PostTraining(name="int8", data=Pictures(), start=stage)
