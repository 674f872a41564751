"""Random variables for a module, made with NumPy: nothing is compiled, and no gamma or bias is zero."""

from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
import pytest

Draw = Callable[[nn.Module, jax.Array], dict]


@pytest.fixture
def draw() -> Draw:
    """``draw(module, inputs)``: variables of the right shapes; statistics' variances are positive."""

    def draw(module: nn.Module, inputs: jax.Array) -> dict:
        rng = np.random.default_rng(0)

        def leaf(path: tuple, shape: jax.ShapeDtypeStruct) -> np.ndarray:
            fan_in = max(1, np.prod(shape.shape[:-1]))
            values = rng.normal(size=shape.shape).astype(shape.dtype) / np.float32(fan_in**0.5)
            return 0.5 + np.abs(values) if path[-1].key in ("var", "scale") else values

        shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)
        return jax.tree_util.tree_map_with_path(leaf, shapes)

    return draw
