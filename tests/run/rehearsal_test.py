"""Rehearsal: what cannot be trained is told before anything is, and by the name of its part."""

import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxmini import data, losses, models
from jaxmini.compress import quantize
from jaxmini.data import Normalization
from jaxmini.losses.loss import Signals
from jaxmini.model import with_head
from jaxmini.run import chain, ready
from jaxmini.run.stage import Contrastive, Distill, PostTraining, Recipe, Stage, Supervised
from jaxmini.state import Array, Batch, Metrics

DIGITS = data.digits()
NORMALIZATION = Normalization(51 / 255, 0.3)
BODY = models.small_resnet(stem_width=4, stem_stride=2, widths=(4,), strides=(1,))
NET = with_head(BODY, models.classifier(10))


class Wide(nn.Module):
    """More parameters than a machine holds."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return nn.Dense(10)(nn.Dense(2**40)(images.reshape(len(images), -1)))


class Untrainable(nn.Module):
    """Answers, and fails where it is trained."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        if train:
            raise RuntimeError("no way to train")
        return nn.Dense(10)(images.reshape(len(images), -1))


def squares(signals: Signals, batch: Batch) -> tuple[Array, Metrics]:
    """A plain function that can be trained by."""
    aim = jax.nn.one_hot(batch["label"], 10)
    return jnp.mean(jnp.square(signals["student"] - aim)), {}


def towards_the_teacher(signals: Signals, batch: Batch) -> tuple[Array, Metrics]:
    return jnp.mean(jnp.square(signals["student"] - signals["teacher"])), {}


def of_labels(signals: Signals, batch: Batch) -> tuple[Array, Metrics]:
    return jnp.mean(signals["student"][:, 0] - batch["labels"]), {}


def alone(signals: Signals, batch: Batch) -> Array:
    return jnp.mean(signals["student"])


def of_examples(signals: Signals, batch: Batch) -> tuple[Array, Metrics]:
    return jnp.mean(signals["student"], axis=1), {}


def counted(signals: Signals, batch: Batch) -> tuple[Array, Metrics]:
    return jnp.sum(jnp.argmax(signals["student"], axis=1)), {}


def broken(signals: Signals, batch: Batch) -> tuple[Array, Metrics]:
    raise AssertionError


def a_view(key: Array, image: Array) -> Array:
    return image @ jnp.zeros((9, 9))


def a_rate(total_steps: int) -> optax.GradientTransformation:
    raise LookupError(f"no rate for {total_steps} steps")


def no_optimizer(total_steps: int) -> None:
    """Returns nothing, as a function without its return does."""


def supervised(**fields: object) -> Supervised:
    return Supervised(**{"name": "net", "data": DIGITS, "model": NET, "batch_size": 32, **fields})


def require(*stages: Stage) -> None:
    ready.require(Recipe(stages), NORMALIZATION, 1)


def test_stages_of_every_kind_and_scheme_can_be_trained():
    pretrain = Contrastive(
        name="pretrain",
        data=data.unlabelled(DIGITS),
        model=with_head(BODY, models.projection_head(4, hidden=4)),
        view=data.small_pictures(),
    )
    net = supervised(start=pretrain, loss=0.5 * losses.cross_entropy() + squares)
    after = PostTraining(name="after", data=data.unlabelled(DIGITS), start=net)
    stages = [pretrain, net, after]
    for name, scheme in {
        "int8": quantize.int8(),
        "learned": quantize.int8(activation=quantize.lsq(), oscillation=quantize.dampening()),
        "weights": quantize.weights_only(),
    }.items():
        stages += [Distill(name=name, data=DIGITS, start=net, teacher=after, quantize=scheme)]
    require(*stages)


def test_nothing_is_computed():
    require(supervised(model=Wide(), loss=squares))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            towards_the_teacher,
            "its loss failed with KeyError: 'teacher'; signals: student; batch: epoch, id, image, label",
        ),
        (
            of_labels,
            "KeyError: 'labels'; signals: ...label; did you mean 'label'? (JAXMINI_TRACEBACK=1",
        ),
        (
            losses.kl(),
            "its loss failed with KeyError: kl reads the signal 'teacher', which this step does not "
            "provide; it provides student",
        ),
        (losses.cross_entropy() + towards_the_teacher, "its loss failed with KeyError: 'teacher'"),
        (alone, "its loss returns float32[], expected (scalar, metrics): return value, {}"),
        (
            of_examples,
            "its loss returns (float32[32], dict), expected a scalar first: of one value an example",
        ),
        (counted, "its loss returns (int32[], dict), expected a float first"),
        (broken, "stage 'net': its loss failed with AssertionError"),
    ],
)
def test_a_loss_that_cannot_be_trained_by(loss, message):
    with pytest.raises(ValueError, match=said(message)):
        require(supervised(loss=loss))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": Untrainable()}, "its model failed with RuntimeError: no way to train"),
        ({"view": a_view}, "its view failed with TypeError: ...got (1,) and (9,)"),
        ({"optimizer": a_rate, "epochs": 2}, "its optimizer failed with LookupError: ...80 steps"),
        ({"optimizer": no_optimizer}, "its optimizer failed with AttributeError: ...init"),
    ],
)
def test_a_part_that_fails_is_named(fields, message):
    with pytest.raises(ValueError, match=said(f"stage 'net': {message}")):
        require(supervised(**{"loss": squares, **fields}))


def test_a_stage_of_integers_is_tried_too():
    net = supervised()
    int8 = supervised(
        name="int8", model=None, start=net, quantize=quantize.int8(), loss=losses.kl()
    )
    with pytest.raises(ValueError, match="stage 'int8': its loss failed with KeyError: kl reads"):
        require(net, int8)


def test_classes_of_a_teacher_that_are_not_the_students():
    names = tuple("abcdefghijkl")
    image, label = (getattr(DIGITS.load().train, name) for name in ("image", "label"))
    many = data.arrays(image, label, image, label, labels=names)
    teacher = supervised(
        name="teacher", data=many, model=with_head(BODY, models.classifier(len(names)))
    )
    student = Distill(name="student", data=DIGITS, model=NET, teacher=teacher, batch_size=32)
    with pytest.raises(
        ValueError, match=said("stage 'student': its loss failed with ValueError: ...(32, 12)")
    ):
        require(teacher, student)


def test_the_last_stage_is_tried_before_the_first_is_trained(tmp_path: Path):
    recipe = Recipe(
        (supervised(batch_size=64), supervised(name="last", batch_size=64, loss=of_labels))
    )
    with pytest.raises(ValueError, match="stage 'last': its loss failed with KeyError: 'labels'"):
        chain.run(recipe, tmp_path / "run", title="t", command="c")
    assert not (tmp_path / "run").exists()


def said(message: str) -> str:
    return ".*".join(map(re.escape, message.split("...")))
