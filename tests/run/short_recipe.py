"""Short: pretraining and training of one small net, a few steps each."""

import flax.linen as nn
import jax

import jaxmini.data as data
import jaxmini.losses as losses
import jaxmini.models as models
from jaxmini.model import with_head
from jaxmini.recipe import Contrastive, Recipe, Supervised
from jaxmini.run import gates
from jaxmini.steps import sgd


class Body(nn.Module):
    """One convolution, BatchNorm, and the mean over the picture."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        features = nn.Conv(8, (3, 3), strides=2)(images)
        features = nn.BatchNorm(use_running_average=not train, momentum=0.9)(features)
        return nn.relu(features).mean((1, 2))


def get_config() -> Recipe:
    body = Body()
    pretrain = Contrastive(
        name="pretrain",
        data=data.unlabelled(data.digits()),
        model=with_head(body, models.projection_head(8, hidden=8)),
        loss=losses.nt_xent(temperature=0.2),
        optimizer=sgd(0.05),
        epochs=0.25,
        batch_size=64,
    )
    teacher = Supervised(
        name="teacher",
        data=data.few_labels(data.digits(), 128),
        model=with_head(body, models.classifier(10)),
        start=pretrain,
        optimizer=sgd(0.05),
        epochs=4,
        batch_size=32,
    )
    return Recipe(stages=(pretrain, teacher), gates=(gates.min_accuracy(teacher, 0.0),))
