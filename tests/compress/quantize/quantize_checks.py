"""What must hold of every form a program may take: plan = model, integers = roundings, file = integers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quantize_nets import pictures, start

from jaxmini.compress.quantize import calibrate, freeze, make_plan, quantize, simulate
from jaxmini.compress.quantize.evaluate import Float, evaluate
from jaxmini.compress.quantize.grid import quantized
from jaxmini.compress.quantize.plan import INPUT
from jaxmini.export import integer_file
from jaxmini.model import from_linen


def plan_of(module, inputs=None, **settings):
    model, inputs = from_linen(module), pictures() if inputs is None else inputs
    types = jax.eval_shape(model.init, jax.random.key(0), inputs)
    return make_plan(model, types, inputs, **settings)


def refusal(module, inputs=None):
    """The message with which a module is refused."""
    with pytest.raises(ValueError, match="quantize: ") as error:
        plan_of(module, inputs)
    return str(error.value)


def net(module, inputs=None):
    """Model, quantized model, calibrated variables and inputs."""
    model, inputs = from_linen(module), pictures(6) if inputs is None else inputs
    variables = start(model, inputs[:1])
    twin = quantize(model)
    return model, twin, calibrate(twin, variables, [inputs]), inputs


def check(module, inputs=None, *, backend="litert", tolerance=5e-6, most=1):
    """Check that the plan is the model, the integers its roundings, and the file the integers.

    Args:
        tolerance: of the plan in float32, of a range of 1.
        most: steps between fake quantization and integers, where a tie is flipped.

    Returns:
        The plan, and the operators of the file.
    """
    model, twin, variables, inputs = net(module, inputs)
    floats = {name: tree for name, tree in variables.items() if name != "quant"}
    plan = make_plan(twin, variables, inputs)
    frozen = freeze(plan, variables)

    @jax.jit
    def compute(variables, floats, inputs):
        return (
            model.apply(floats, inputs)[0].astype(jnp.float32),
            plan.program(floats, inputs),
            evaluate(plan, Float(plan, floats), inputs),
            simulate(plan, frozen, inputs),
            quantized(twin.apply(variables, inputs)[0], frozen.grids[plan.output_site]),
        )

    results = map(np.asarray, compute(variables, floats, inputs))
    expected, program, folded, integers, fake = results
    for computed in (program, folded):
        assert np.abs(computed - expected).max() <= tolerance * np.ptp(expected)
    assert np.abs(integers.astype(int) - fake).max() <= most
    assert np.ptp(integers.astype(int)) > 100
    one = make_plan(twin, variables, inputs[:1])
    content, _ = integer_file(one, freeze(one, variables), backend)
    if not plan.reads_tokens:
        inputs = quantized(inputs, frozen.grids[INPUT])
    np.testing.assert_array_equal(run(content, inputs), integers)
    return plan, content


def run(content, inputs):
    """What a file answers to inputs, one by one, on XNNPACK."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(
        model_content=content
    )
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    answers = []
    for row in np.asarray(inputs):
        interpreter.set_tensor(source["index"], row[None])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(target["index"])[0].copy())
    return np.stack(answers)


def names(plan):
    return [group.name for group in plan.groups]


def trained(model, variables, inputs, target):
    """The variables after five steps, whose gradients are finite and which make the loss smaller."""
    tx = optax.sgd(0.02)

    @jax.jit
    def step(variables, opt_state):
        def loss_fn(params):
            logits, updates = model.apply({**variables, "params": params}, inputs, train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, target)
            return losses.mean(), updates

        (loss, updates), grads = jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])
        changes, opt_state = tx.update(grads, opt_state)
        params = optax.apply_updates(variables["params"], changes)
        return {**variables, **updates, "params": params}, opt_state, loss, grads

    opt_state, losses = tx.init(variables["params"]), []
    for _ in range(5):
        variables, opt_state, loss, grads = step(variables, opt_state)
        losses.append(float(loss))
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((grads, variables)))
    assert losses[-1] < losses[0]
    return variables
