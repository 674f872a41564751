"""State: arrays alone, which saving, jit and a change of one part leave whole."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.state import State


def state() -> State:
    params, statistics = {"w": jnp.arange(3.0)}, {"mean": jnp.ones(2)}
    return State(
        jnp.int32(4), jax.random.key(7), params, {"batch_stats": statistics}, {"m": jnp.zeros(3)}
    )


def test_its_variables_are_what_a_model_takes():
    made = state()
    assert made.variables == {"params": made.params, **made.collections}
    moved = made.replace(params={"w": jnp.zeros(3)})
    np.testing.assert_array_equal(moved.variables["params"]["w"], np.zeros(3))
    np.testing.assert_array_equal(made.variables["params"]["w"], np.arange(3))
    assert moved.key is made.key


def test_every_leaf_is_an_array_so_that_it_can_be_saved_and_traced_once():
    leaves, structure = jax.tree.flatten(state())
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert len(leaves) == 5
    traces = []

    @jax.jit
    def step(made: State) -> State:
        traces.append(made)
        return made.replace(step=made.step + 1)

    made = step(step(jax.tree.unflatten(structure, leaves)))
    assert (int(made.step), len(traces)) == (6, 1)
    np.testing.assert_array_equal(jax.random.key_data(made.key), jax.random.key_data(state().key))


def test_what_an_objective_carries_is_nobody_elses():
    first, second = state(), state()
    assert first.carry == {}
    assert first.carry is not second.carry
