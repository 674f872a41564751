"""What linen writes in one line, from the model to the file of either back end."""

import flax.linen as nn
import jax.numpy as jnp
import pytest
from quantize_checks import check

# A conversion through TensorFlow takes the ten seconds that TensorFlow takes to start.
BACKENDS = ["litert", pytest.param("jax2tf", marks=pytest.mark.slow)]
SIDES = ((0, 0), (1, 0), (0, 2), (0, 0))


class Heads(nn.Module):
    """A head whose channels have two axes, of tokens and of a vector, and a layer that sums over both."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (4, 4), 4, name="embed")(x).reshape(x.shape[0], -1, 6))
        x = nn.relu(nn.DenseGeneral((2, 3), name="split")(x))
        x = nn.DenseGeneral(6, axis=(-2, -1), name="merge")(x)
        return nn.DenseGeneral((2, 5), name="head")(x.mean(1))


class Shared(nn.Module):
    """One dense layer used twice on different grids, under jit and remat, and a tied transposed kernel."""

    @nn.compact
    def __call__(self, x):
        x = nn.jit(nn.Conv)(6, (3, 3), 3, name="embed")(x).mean((1, 2))
        dense = nn.remat(nn.Dense)(6, name="dense")
        x = dense(nn.relu(7.0 * dense(x)))
        kernel = self.param("tied", nn.initializers.normal(1.0), (6, 4))
        return nn.relu(x @ kernel) @ kernel.T


class Joined(nn.Module):
    """Pieces of different grids, joined, cut, padded with numbers, and joined again."""

    @nn.compact
    def __call__(self, x):
        a, b, c = (
            nn.Conv(n, (3, 3), 2, name=name)(x) for n, name in ((2, "a"), (3, "b"), (4, "c"))
        )
        x = jnp.concatenate([nn.relu(a), 20.0 * b, 0.1 * c], -1)
        first, second, third = jnp.split(x, (4, 6), -1)
        x = jnp.concatenate([third, jnp.pad(first, SIDES, constant_values=0.75)[:, 1:, :-2]], -1)
        return nn.Conv(2, (1, 1), name="last")(x) + second


NETS = {"heads": Heads(), "shared": Shared(), "joined": Joined()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NETS)
def test_the_file_computes_the_model(name, backend):
    check(NETS[name], backend=backend)
