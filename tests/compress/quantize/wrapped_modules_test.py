"""Modules that linen wraps, repeats or steps through time: recurrent cells, norms of kernels, of vectors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from quantize_checks import check, plan_of

from jaxmini.export.flatbuffer import read

# A conversion through TensorFlow takes the ten seconds that TensorFlow takes to start.
BACKENDS = ["litert", pytest.param("jax2tf", marks=pytest.mark.slow)]
SEQUENCES = jax.random.normal(jax.random.key(1), (4, 3, 4))
CELLS = {"lstm": nn.LSTMCell, "optimized lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}


class Recurrent(nn.Module):
    """The last state of a recurrent cell; its biases are not 0, as trained ones."""

    cell: type[nn.Module]

    @nn.compact
    def __call__(self, x):
        cell = self.cell(5, bias_init=nn.initializers.normal(1.0))
        return nn.Dense(3, name="head")(nn.RNN(cell, name="rnn")(x)[:, -1])


class WeightNorms(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.WeightNorm(nn.Conv(6, (3, 3), 3, name="conv"))(x))
        return nn.WeightNorm(nn.Dense(3, name="head"))(x.mean((1, 2)))


class RematScan(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), 3, name="stem")(x).mean((1, 2))
        return nn.Dense(3, name="head")(
            nn.remat_scan(nn.Dense, lengths=(2, 2))(4, name="layers")(x)
        )


class Normalized(nn.Module):
    """Vectors of length 1.

    Attributes:
        epsilon: what keeps the square root from 0; None divides by the norm itself.
    """

    epsilon: float | None

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name="embed")(nn.relu(nn.Conv(4, (3, 3), 3, name="conv")(x)).mean((1, 2)))
        if self.epsilon is None:
            return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        return x / jnp.sqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + self.epsilon)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", CELLS)
def test_the_file_of_a_recurrent_cell_computes_it(cell, backend):
    """The plan is made for a batch, the file for one example: the first carry must not tell them apart."""
    plan, content = check(Recurrent(CELLS[cell]), SEQUENCES, backend=backend)
    assert not plan.islands
    assert {"FULLY_CONNECTED", "LOGISTIC", "TANH"} <= read(content).op_counts.keys()


@pytest.mark.parametrize("cell", CELLS)
def test_a_recurrent_plan_has_the_same_grids_for_every_batch(cell):
    sites = [plan_of(Recurrent(CELLS[cell]), SEQUENCES[:batch]).observed for batch in (1, 2, 4)]
    assert sites[0] == sites[1] == sites[2]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("module", [WeightNorms(), RematScan()], ids=["weight norm", "remat scan"])
def test_the_file_of_wrapped_modules_computes_them(module, backend):
    plan, content = check(module, backend=backend)
    assert not plan.islands
    # A kernel's norm is part of the kernel, and repeated layers are a layer after another.
    layers = {"CONV_2D": 1, "MEAN": 1, "FULLY_CONNECTED": 1 + 4 * isinstance(module, RematScan)}
    assert read(content).op_counts == layers


@pytest.mark.parametrize(
    ("epsilon", "operators"), [(1e-6, {"SQRT", "DIV"}), (None, {"L2_NORMALIZATION"})]
)
def test_a_vector_divided_by_its_length_is_an_island_of_floats(epsilon, operators):
    """Converters have an operator for it, of which int8 has a fixed grid: it must stay inland."""
    plan, content = check(Normalized(epsilon))
    assert [island.name for island in plan.islands] == ["Normalized:norm"]
    assert {"DEQUANTIZE", "QUANTIZE", *operators} <= read(content).op_counts.keys()
