"""The sample: a made-up report for tests only, none of its figures was measured."""

import hashlib
import math

import numpy as np
import pytest

from jaxmini.run.report.content import (
    Agreement,
    Curve,
    FileResult,
    Layer,
    Link,
    Mistake,
    Report,
    StageResult,
    Verdict,
)
from jaxmini.run.report.pictures import png

STEPS = tuple(range(20, 1201, 20))
LABELS = tuple("0123456789")
CONFUSION_SEED = 7


def falling(metric: str, first: float, last: float, seed: int) -> Curve:
    """A curve that falls (or rises) from ``first`` to ``last`` with some noise."""
    noise = np.random.default_rng(seed).normal(size=len(STEPS))
    decay = [math.exp(-4 * step / STEPS[-1]) for step in STEPS]
    values = [
        last + (first - last) * (d + 0.06 * n * d)
        for d, n in zip(decay, noise.tolist(), strict=True)
    ]
    return Curve(metric, STEPS, tuple(values))


def stages() -> tuple[StageResult, ...]:
    """A chain on small digits: pretraining, a baseline, a teacher, two students and int8."""
    student = {"params": 71_834, "macs": 1_912_320, "steps": 1200}
    teacher = {"params": 1_228_682, "macs": 38_240_256, "steps": 1200}
    fine = "digits"
    return (
        StageResult(
            "pretrain", "contrastive", "digits", 0, 1_307_018, 38_322_176, 1200, 252.4,
            curves=(falling("nt_xent", 5.2, 1.31, 1), falling("top1_of_views", 0.05, 0.93, 2)),
            note="Unlabelled pictures only; two augmented views of each.",
        ),
        StageResult(
            "scratch", "supervised", fine, 144, **teacher, seconds=81.7, accuracy=0.9139,
            curves=(falling("cross_entropy", 2.3, 0.21, 3), falling("accuracy", 0.1, 0.914, 4)),
            note="The teacher’s network without pretraining, to tell what pretraining brought.",
        ),
        StageResult(
            "teacher", "supervised", fine, 144, **teacher, seconds=83.2, accuracy=0.9694,
            against="scratch",
            curves=(falling("cross_entropy", 1.9, 0.09, 5), falling("accuracy", 0.2, 0.969, 6)),
        ),
        StageResult(
            "student-labels", "supervised", fine, 144, **student, seconds=30.15, accuracy=0.8972,
            curves=(falling("cross_entropy", 2.3, 0.3, 7), falling("accuracy", 0.1, 0.897, 8)),
        ),
        StageResult(
            "student", "distill", "digits", 144, **student, seconds=96.0, accuracy=0.9639,
            against="student-labels",
            curves=(
                falling("kl", 1.4, 0.05, 9),
                falling("cross_entropy", 2.2, 0.14, 10),
                falling("accuracy", 0.15, 0.964, 11),
            ),
        ),
        StageResult(
            "int8", "quantize", "digits", 144, **student, seconds=41.8, accuracy=0.9611,
            against="student",
            curves=(falling("kl", 0.2, 0.06, 12), falling("accuracy", 0.9, 0.961, 13)),
        ),
    )  # fmt: skip


def layers() -> tuple[Layer, ...]:
    """A stem, four blocks with a shortcut and a head; the noise grows from layer to layer."""
    found = [Layer("Net/stem:conv", "CONV_2D", 27.6, 27.6, 0.0, 0)]
    for block in range(4):
        parts = {"expand:conv": 44.1, "depthwise:conv": 39.5, "project:conv": 33.8, ":add": 46.0}
        operators = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "ADD")
        for step, (part, operator) in enumerate(zip(parts, operators, strict=True)):
            name = f"Net/block{block}/{part}".replace("/:", ":")
            sqnr = 27.0 - 1.8 * block - 0.4 * step
            found.append(Layer(name, operator, sqnr, parts[part] - block, 0.0, 0))
    found[11] = Layer("Net/block2/project:conv", "CONV_2D", None, None, 0.0, 0)
    found[15] = Layer("Net/block3/project:conv", "CONV_2D", 19.1, 21.2, 0.00021, 2)
    found.append(Layer("Net:relu", "RELU", 18.7, math.inf))
    found.append(Layer("Net:mean", "MEAN", 18.2, 48.0, 0.0031, 1))
    found.append(Layer("Net/head/dense:dense", "FULLY_CONNECTED", 17.4, 24.9, 0.0, 0))
    return tuple(found)


def files() -> tuple[FileResult, ...]:
    """The student in float32 and in int8, the latter by both back ends."""
    checks = {
        "kernel integers": "71,360 compared, 0 differ",
        "scales and zero points": "118 compared, 0 differ",
        "integer simulation": "360 pictures, bit for bit",
    }
    ops = {"CONV_2D": 9, "DEPTHWISE_CONV_2D": 6, "ADD": 4, "MEAN": 1, "FULLY_CONNECTED": 1}
    return (
        FileResult(
            "student-float32.tflite", "float32", "jax2tf", 298_544, "student", 0.9639, 1.0, 0.412,
            0.021, ops, {"outputs": "360 compared, largest difference 2.1e-06"},
        ),
        FileResult(
            "int8-jax2tf.tflite", "int8", "jax2tf", 79_616, "int8", 0.9611, 1.0, 0.139, 0.008,
            ops | {"QUANTIZE": 1, "DEQUANTIZE": 1}, checks, {"QUANTIZE": 1, "DEQUANTIZE": 1},
            layers=layers(), layers_note="on 16 test pictures",
        ),
        FileResult(
            "int8-litert.tflite", "int8", "litert", 81_208, "int8", 0.9611, 1.0, 0.142, 0.011,
            ops, checks, {}, layers_note="not measured: it is a sample",
        ),
    )  # fmt: skip


def gates() -> tuple[Verdict, ...]:
    """Three gates that were passed, and one that was not."""
    bound, drop = "at most 90,000 bytes", "at most 0.3 points below student"
    first, second = "int8-jax2tf.tflite", "int8-litert.tflite"
    slower = ("1.022 times int8-jax2tf.tflite", "at most 1.02 times int8-jax2tf.tflite")
    return (
        Verdict("max_bytes", first, "79,616 bytes", bound, passed=True),
        Verdict("max_accuracy_drop", first, "0.28 points below student", drop, passed=True),
        Verdict("max_bytes", second, "81,208 bytes", bound, passed=True),
        Verdict("max_latency_ratio", second, *slower, passed=False),
    )


def confusion() -> tuple[tuple[int, ...], ...]:
    """36 pictures of each digit, 14 of them answered wrongly."""
    counts = 36 * np.eye(10, dtype=int)
    mistakes = [(8, 1)] * 4 + [(9, 3)] * 2 + [(3, 5)] * 2 + [(1, 8), (4, 7), (9, 5), (5, 9), (2, 1)]
    for truth, answer in [*mistakes, (7, 4)]:
        counts[truth, truth] -= 1
        counts[truth, answer] += 1
    return tuple(map(tuple, counts.tolist()))


def mistakes(number: int = 12) -> tuple[Mistake, ...]:
    """Noise in the place of pictures."""
    random = np.random.default_rng(CONFUSION_SEED)
    pairs = [(8, 1), (9, 3), (3, 5), (8, 1), (1, 8), (4, 7)]
    found = []
    for index in range(number):
        picture = np.clip(random.normal(60, 50, (8, 8, 1)), 0, 255).astype(np.uint8)
        picture[1:7, 2 + index % 4] = 230
        truth, answer = pairs[index % len(pairs)]
        found.append(Mistake(17 + 23 * index, truth, answer, 0.97 - 0.04 * index, png(picture)))
    return tuple(found)


def provenance() -> tuple[Link, ...]:
    """The chain of the stages and files above."""
    made = {
        "digits": (),
        "pretrain": ("digits",),
        "scratch": ("digits",),
        "teacher": ("pretrain", "digits"),
        "student-labels": ("digits",),
        "student": ("teacher", "digits"),
        "student-float32.tflite": ("student",),
        "int8": ("teacher", "student"),
        "int8-jax2tf.tflite": ("int8",),
        "int8-litert.tflite": ("int8",),
    }
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in made}
    return tuple(Link(name, digests[name], sources) for name, sources in made.items())


@pytest.fixture(scope="session")
def sample() -> Report:
    """The whole report."""
    return Report(
        title="Sample: digits",
        command="launch/local.sh configs/digits.py --student.epochs=30",
        created="2030-01-31T12:00:00+00:00",
        machine={"processor": "a sample processor", "cores": "2", "memory": "8.0 GB"},
        versions={"jaxmini": "0.1.0", "jax": "0.10.2", "flax": "0.12.8", "python": "3.11.7"},
        recipe={
            "stages": [
                {"name": "pretrain", "loss": {"nt_xent": {"temperature": 0.2}}, "epochs": 20},
                {"name": "student", "loss": {"kl": {"temperature": 4.0}}, "epochs": 30},
            ],
            "exports": ["float32", "int8"],
        },
        stages=stages(),
        files=files(),
        labels=LABELS,
        mistakes=mistakes(),
        confusion=confusion(),
        confusion_of="int8-jax2tf.tflite",
        fidelity=(
            Agreement("teacher", "student", 0.9722, 0.0471),
            Agreement("student", "int8", 0.9944, 0.00312),
            Agreement("int8", "int8-jax2tf.tflite", 1.0, 4.2e-9),
            Agreement("teacher", "int8-jax2tf.tflite", 0.9694),
        ),
        provenance=provenance(),
        gates=gates(),
    )
