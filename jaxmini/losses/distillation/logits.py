"""Distillation of logits: the student's distribution over the classes imitates the teacher's.

No label is read, so any picture can be distilled.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxmini.losses.loss import Loss, Signals, batch_mean, read, stop
from jaxmini.state import Array, Batch, Metrics


@dataclasses.dataclass(frozen=True)
class kl(Loss):
    """Tempered KL divergence of a student signal from a teacher signal; see :func:`kl_divergence`.

    Metrics: ``kl`` (its factor temperature^2 included) and ``agreement``, how often both have the
    same top-1.

    Raises:
        ValueError: ``temperature`` is not positive and finite, or both signals are the same one.
    """

    temperature: float = 4.0
    student: str = "student"
    teacher: str = "teacher"

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"kl: temperature={self.temperature} must be positive and finite")
        if self.student == self.teacher:
            raise ValueError(f"kl: student and teacher are both the signal {self.student!r}")

    def __call__(self, signals: Signals, batch: Batch) -> tuple[Array, Metrics]:
        student, teacher = read(signals, self.student, self), read(signals, self.teacher, self)
        value = batch_mean(kl_divergence(student, teacher, self.temperature), batch)
        same = jnp.argmax(student, axis=-1) == jnp.argmax(teacher, axis=-1)
        return value, {"kl": value, "agreement": batch_mean(same, batch)}


def kl_divergence(student: Array, teacher: Array, temperature: Array | float) -> Array:
    """``T^2 KL(softmax(teacher / T) || softmax(student / T))`` of each row, float32 [B].

    Summed over the classes; the caller takes the mean over examples. T^2 keeps the size of the
    gradient when T changes. The gradient to the teacher is zero.

    Args:
        student: logits, any float dtype [B, C]; computed in float32.
        teacher: logits [B, C].
        temperature: T > 0, float or []; a traced value cannot be checked here.

    Raises:
        ValueError: the logits differ in shape.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network (2015), section 2.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"kl_divergence: student {student.shape} and teacher {teacher.shape} must have one "
            "shape [B, C]: do both have the same classes?"
        )
    temperature = jnp.asarray(temperature, jnp.float32)
    log_q = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
    log_p = jax.nn.log_softmax(stop(teacher).astype(jnp.float32) / temperature)
    p = jnp.exp(log_p)
    # A class the teacher rules out adds nothing, even if the student does too: 0 * (-inf + inf).
    return temperature**2 * jnp.sum(jnp.where(p > 0, p * (log_p - log_q), 0.0), axis=-1)
