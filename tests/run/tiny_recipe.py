"""Tiny: a chain with every kind of stage, seconds long."""

import flax.linen as nn
import jax

import jaxmini.data as data
import jaxmini.losses as losses
import jaxmini.models as models
from jaxmini.compress import quantize
from jaxmini.model import with_head
from jaxmini.recipe import Contrastive, Distill, Export, Recipe, Supervised
from jaxmini.run import gates
from jaxmini.steps import adamw, sgd


class Body(nn.Module):
    """Two convolutions with BatchNorm, the second beside a shortcut, and the mean over the picture."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        features = shortcut = nn.relu(self.norm(nn.Conv(8, (3, 3), strides=2)(images), train))
        features = self.norm(nn.Conv(8, (3, 3))(features), train)
        return nn.relu(features + shortcut).mean((1, 2))

    def norm(self, features: jax.Array, train: bool) -> jax.Array:
        return nn.BatchNorm(use_running_average=not train, momentum=0.9)(features)


def get_config() -> Recipe:
    pictures = data.unlabelled(data.digits())
    body = Body()

    pretrain = Contrastive(
        name="pretrain",
        data=pictures,
        model=with_head(body, models.projection_head(8, hidden=8)),
        loss=losses.nt_xent(temperature=0.2),
        view=data.small_pictures(area=(0.6, 1.0), jitter=0.5, noise=0.1),
        optimizer=adamw(1e-3),
        batch_size=32,
    )
    teacher = Supervised(
        name="teacher",
        data=data.few_labels(data.digits(), 200),
        model=with_head(body, models.classifier(10)),
        start=pretrain,
        optimizer=adamw(3e-2),
        epochs=6,
        batch_size=32,
    )
    student = Distill(
        name="student",
        data=pictures,
        model=with_head(body, models.classifier(10)),
        teacher=teacher,
        optimizer=adamw(1e-2),
        batch_size=32,
    )
    int8 = Distill(
        name="int8",
        data=pictures,
        start=student,
        teacher=teacher,
        quantize=quantize.int8(),
        optimizer=sgd(0.01, clip=1.0),
        batch_size=32,
    )
    file = Export(int8, "int8", "litert", name="tiny")
    return Recipe(
        stages=(pretrain, teacher, student, int8),
        exports=(file,),
        gates=(
            gates.max_bytes(file, 100_000),
            gates.all_integer(file),
            gates.max_accuracy_drop(file, below=student, points=100),
        ),
    )
