"""Placement: how far a training's parameters are apart when it runs on other devices, or placed otherwise.

    python -m benchmarks.placement

Each kind of step makes three updates on real pictures, with a random view, under `jit` over a mesh and under
`pmap`, on 1, 2, 4 and 8 virtual CPU devices. A cell is the largest difference from `jit` on one device, over
all parameters, statistics and ranges, each relative to the largest number of its array. What is left is that
float32 adds up in another order; a wrong gradient is off by a factor.
"""

import functools
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax

from benchmarks import page
from jaxmini import data, losses, models, steps
from jaxmini.compress import quantize
from jaxmini.model import Variables, from_linen, with_head
from jaxmini.run.report.table import Column, Table
from jaxmini.state import Array, PyTree
from jaxmini.steps import placement
from jaxmini.steps.update import Step

BATCH, UPDATES = 16, 3
TOLERANCE = 1e-4
DEVICES = (1, 2, 4, 8)
KINDS = ("contrastive", "distillation", "quantized", "learned")
NORMALIZATION = data.Normalization(0.5, 0.25)
# Scales that gradients move, a schedule and oscillations, all at once.
LEARNED = quantize.int8(
    activation=quantize.lsq_plus(),
    kernel=quantize.lsq_per_channel(bits=4),
    rules=(quantize.rule("*stem*", activation=quantize.pact(l2=0.01)),),
    schedule=quantize.phases(start=1, freeze=2),
    oscillation=quantize.dampening(strength=0.01),
)
SMALLEST = 1e-2  # an array of smaller numbers is compared as if its largest were this


class Training(NamedTuple):
    """A step, and what it starts from."""

    step: Step
    optimizer: optax.GradientTransformation
    variables: Variables
    frozen: PyTree


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every kind of step everywhere; 1 where the parameters are further apart than is tolerated."""
    options = page.parser("placement", __doc__.splitlines()[0]).parse_args(arguments)
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    kinds, devices = (KINDS[:1], DEVICES[:2]) if options.quick else (KINDS, DEVICES)
    found = {
        (kind, name): [apart(kind, name, number) for number in devices]
        for kind in kinds
        for name in placement.PLACEMENTS
    }
    largest = max(error for errors in found.values() for error in errors)
    counts = [f"{number} device{'s' * (number > 1)}" for number in devices]
    shown = page.Page(
        name="placement",
        title="One training, however it is placed",
        method=page.method(__doc__),
        table=Table(
            (
                Column("step"),
                Column("placed by"),
                *(Column(count, is_quantity=True) for count in counts),
            ),
            (
                tuple(
                    (kind, name, *(f"{error:.1e}" for error in errors))
                    for (kind, name), errors in found.items()
                ),
            ),
        ),
        findings=(f"At most {largest:.1e}; {TOLERANCE:.0e} is tolerated.",),
    )
    page.show(shown, page.given(arguments), write=options.write)
    return 0 if largest < TOLERANCE else 1


def apart(kind: str, name: str, devices: int) -> float:
    """How far the numbers after the updates are from those of one device under ``jit``."""
    expected, got = reference(kind), after_updates(kind, name, devices)
    return max(
        np.abs(got[path] - number).max() / max(np.abs(number).max(), SMALLEST)
        for path, number in expected.items()
    )


@functools.cache
def reference(kind: str) -> dict[str, np.ndarray]:
    """The numbers after the updates on one device under ``jit``."""
    return after_updates(kind, "jit", 1)


def after_updates(kind: str, name: str, devices: int) -> dict[str, np.ndarray]:
    """Every number that the updates change, by its path."""
    training = case(kind)
    placed = placement.PLACEMENTS[name](training.step, jax.devices()[:devices])
    started = steps.start(training.optimizer, jax.random.key(2), training.variables)
    state, frozen = placed.replicate(started), placed.replicate(training.frozen)
    for batch in batches():
        state, metrics = placed.step(state, frozen, placed.shard(batch))
    if not (np.isfinite(metrics["loss"]) and int(state.step) == UPDATES):
        raise RuntimeError(f"{kind} under {name} on {devices} devices made no {UPDATES} updates")
    leaves, _ = jax.tree_util.tree_flatten_with_path((state.params, state.collections))
    return {jax.tree_util.keystr(path): np.asarray(leaf, np.float64) for path, leaf in leaves}


@functools.cache
def case(kind: str) -> Training:
    """A kind of step, on real pictures and small real nets."""
    images = NORMALIZATION(batches()[0]["image"])
    optimizer = steps.sgd(0.05)(UPDATES)
    net = functools.partial(
        models.small_resnet, stem_width=8, stem_stride=1, widths=(8,), zero_gamma=False
    )
    key = jax.random.key(0)
    if kind == "contrastive":
        model = with_head(net(), models.projection_head(8))
        step = steps.contrastive(model, losses.nt_xent(temperature=0.5), optimizer, inputs=inputs)
        return Training(step, optimizer, jax.jit(model.init)(key, images), {})
    student, teacher = from_linen(net(10)), from_linen(net(10, blocks=2))
    variables = jax.jit(student.init)(key, images)
    frozen = jax.jit(teacher.init)(jax.random.key(1), images)
    loss = 0.9 * losses.kl(temperature=2.0) + 0.1 * losses.cross_entropy()
    if kind in ("quantized", "learned"):
        scheme = quantize.int8() if kind == "quantized" else LEARNED
        student = quantize.quantize(student, scheme)
        variables = quantize.calibrate(student, variables, [images])
    step = steps.distill(student, teacher, loss, optimizer, inputs=inputs)
    return Training(step, optimizer, variables, frozen)


def batches() -> list[dict[str, np.ndarray]]:
    """The updates' batches, as the host has them."""
    split = data.digits().load().train
    return [data.batch_at(split, BATCH, seed=0, step=step) for step in range(UPDATES)]


def inputs(key: Array, batch: dict[str, Array], view_index: int) -> Array:
    """A random view that compiles fast."""
    pictures = (batch["image"], batch["id"], batch["epoch"])
    return data.apply_views(data.shift(2), NORMALIZATION, key, view_index, *pictures)


if __name__ == "__main__":
    sys.exit(main())
