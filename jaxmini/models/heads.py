"""Heads: what is put on a body's features. A projector for pretraining, a classifier after it."""

import flax.linen as nn
import jax.numpy as jnp

from jaxmini.models.conv_bn import BatchNorm
from jaxmini.state import Array


class ProjectionHead(nn.Module):
    """Features [B, F] -> embeddings float32 [B, features]; BatchNorm and ReLU between the layers.

    Attributes:
        features: width of the embedding.
        hidden: width of the layers before it; None for that of the input.
        layers: number of dense layers; 1 is a linear map.
    """

    features: int = 128
    hidden: int | None = None
    layers: int = 2

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        x = x.astype(jnp.float32)
        hidden = x.shape[-1] if self.hidden is None else self.hidden
        for i in range(self.layers - 1):
            x = nn.Dense(hidden, use_bias=False, name=f"dense{i}")(x)
            x = BatchNorm(use_running_average=not train, name=f"bn{i}")(x)
            x = nn.relu(x)
        return nn.Dense(self.features, name=f"dense{self.layers - 1}")(x)


class Classifier(nn.Module):
    """Features [B, F] -> logits float32 [B, num_classes]: one dense layer."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        del train
        return nn.Dense(self.num_classes, name="dense")(x.astype(jnp.float32))


def projection_head(
    features: int = 128, *, hidden: int | None = None, layers: int = 2
) -> ProjectionHead:
    """The projector of SimCLR (Chen et al. 2020, section 4.2): nothing follows the last layer.

    Args:
        features: width of the embedding.
        hidden: width of the layers before it; None for that of the input.
        layers: number of dense layers, at least 1.

    Raises:
        ValueError: no layer.
    """
    if layers < 1:
        raise ValueError(f"projection_head: layers={layers}, expected at least 1")
    return ProjectionHead(features, hidden, layers)


def classifier(num_classes: int) -> Classifier:
    """A linear classifier, the head of a body that returns features."""
    return Classifier(num_classes)
