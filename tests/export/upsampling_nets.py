"""Networks with a transposed convolution: from pictures to pictures, and to classes behind a mean."""

import flax.linen as nn
import jax

from tests.export.conftest import LABELS


class Upsampling(nn.Module):
    """Attributes: ``kernel`` and ``stride`` of the transposed convolution; ``classes``: end in logits."""

    kernel: int = 3
    stride: int = 2
    classes: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(nn.Conv(4, (3, 3), 2, name="stem")(x))
        window, steps = (self.kernel,) * 2, (self.stride,) * 2
        x = nn.ConvTranspose(5, window, steps, padding="SAME", name="up")(x)
        return nn.Dense(len(LABELS), name="head")(nn.relu(x).mean((1, 2))) if self.classes else x
