"""The distillation step: a student learns from a frozen teacher on the same view (Hinton et al. 2015)."""

import optax

from jaxmini import axis
from jaxmini.losses.loss import LossLike, stop
from jaxmini.model import Model, Variables
from jaxmini.state import Array, Batch, Metrics, PyTree, State
from jaxmini.steps.update import Inputs, Step, images_as_they_are, train_forward, update


def distill(
    student: Model,
    teacher: Model,
    loss: LossLike,
    optimizer: optax.GradientTransformation,
    *,
    inputs: Inputs = images_as_they_are,
) -> Step:
    """A step that trains ``student`` towards ``teacher``.

    One view is shared by both networks. The loss gets the signals ``student`` and ``teacher``: outputs for
    the whole batch. ``frozen`` is the teacher's variables; it runs in inference mode and gets no gradient.
    """

    def step(state: State, frozen: PyTree, batch: Batch) -> tuple[State, Metrics]:
        images = inputs(state.key, batch, 0)
        target, _ = teacher.apply(frozen, images)
        target = stop(target)

        def objective(params: PyTree) -> tuple[Array, tuple[Variables, Metrics]]:
            logits, changed = train_forward(student, state, params, images)
            signals = axis.gather({"student": logits, "teacher": target})
            value, metrics = loss(signals, axis.gather(batch))
            return value, (changed, metrics)

        return update(state, objective, optimizer)

    return step
