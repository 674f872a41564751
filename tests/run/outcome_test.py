"""Outcome: what a stage starts from, what it leaves behind, and that it is made once."""

import dataclasses
import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxmini import data, losses, steps
from jaxmini.compress import quantize
from jaxmini.evaluate.parity import file_parity
from jaxmini.export import artifact as artifacts
from jaxmini.export import tflite
from jaxmini.model import Model, Variables, with_head
from jaxmini.run.log import Log
from jaxmini.run.loop import Preempted
from jaxmini.run.outcome import Outcome, Surroundings, complete, logits_of, transfer
from jaxmini.run.stage import Contrastive, Distill, PostTraining, Stage, Supervised
from jaxmini.run.workdir import Workdir
from jaxmini.steps import placement

DIGITS = data.digits(test=100)
NORMALIZATION = data.Normalization(51 / 255, 0.4)


class Flat(nn.Module):
    """Two dense layers on the pixels."""

    features: int = 6

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return nn.relu(nn.Dense(self.features)(images.reshape(images.shape[0], 64)))


def net(features: int = 6, outputs: int = 10) -> Model:
    return with_head(Flat(features), nn.Dense(outputs))


def supervised(**fields: object) -> Supervised:
    options = {"data": DIGITS, "model": net(), "optimizer": steps.sgd(0.05), "batch_size": 64}
    return Supervised(**{"name": "net", "epochs": 0.5, **options, **fields})


def initial(model: Model, seed: int = 0) -> Variables:
    return model.init(jax.random.key(seed), jnp.zeros((1, 8, 8, 1)))


def equal(left: Variables, right: Variables) -> bool:
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), left, right)
    return all(jax.tree.leaves(same))


@pytest.fixture
def around(tmp_path: Path) -> Surroundings:
    workdir = Workdir.open(tmp_path / "run", {})
    place = functools.partial(placement.jit, devices=jax.devices()[:1])
    yield Surroundings(workdir, Log(workdir.path), place, NORMALIZATION)
    workdir.close()


def finish(around: Surroundings, *stages: Stage) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    for stage in stages:
        outcomes[stage.name] = complete(stage, outcomes, around)
    return outcomes


def test_a_start_of_the_same_shapes_is_copied_whole():
    fresh, trained = initial(net(), 0), initial(net(), 1)
    stage = supervised(start=supervised(name="start"))
    assert equal(transfer(fresh, trained, stage), trained)


def test_a_start_with_another_head_gives_its_body():
    fresh, trained = initial(net(outputs=10), 0), initial(net(outputs=4), 1)
    started = transfer(fresh, trained, supervised(start=supervised(name="start")))
    assert equal(started["params"]["body"], trained["params"]["body"])
    assert equal(started["params"]["head"], fresh["params"]["head"])


def test_ranges_of_a_quantized_start_stay_behind():
    fresh, trained = initial(net(), 0), initial(net(), 1)
    stage = supervised(start=supervised(name="start"))
    assert equal(transfer(fresh, trained | {"quant": {"range": np.ones(2)}}, stage), trained)


def test_what_a_quantized_start_has_learned_stays_behind():
    fresh, trained = initial(net(), 0), initial(net(), 1)
    stage = supervised(start=supervised(name="start"))
    learned = {**trained["params"], "quant": {"kernels": {"net": np.ones(2)}}}
    kept = {"params": learned, "quant_kernels": {"net": np.ones(2)}}
    assert equal(transfer(fresh, trained | kept, stage), trained)


@pytest.mark.parametrize("start", [net(features=5), Flat(10)], ids=["another body", "no head"])
def test_a_start_of_another_body_is_refused(start):
    stage = supervised(name="second", start=supervised(name="first", model=start))
    trained = initial(stage.start.float_model())
    with pytest.raises(
        ValueError, match="stage 'second' cannot start from 'first': .* one body, or"
    ):
        transfer(initial(net()), trained, stage)


def test_a_stage_starts_where_its_start_ended(around):
    first = supervised(name="first")
    # A learning rate too small for any change in float32.
    second = supervised(name="second", start=first, optimizer=steps.sgd(1e-30, weight_decay=0.0))
    outcomes = finish(around, first, second)
    ours, theirs = (outcomes[name].artifact.variables for name in ("first", "second"))
    assert equal(ours, theirs)
    assert not equal(ours, initial(net()))


def test_a_stage_that_is_done_is_read_back_and_not_trained(around, capsys):
    stage = supervised(data=data.few_labels(DIGITS, 70))
    (made,) = finish(around, stage).values()
    assert "finished" not in capsys.readouterr().out
    (read,) = finish(around, stage).values()
    assert capsys.readouterr().out == "net: finished by an earlier run\n"
    assert equal(made.artifact.variables, read.artifact.variables)
    assert made.artifact.fingerprint() == read.artifact.fingerprint()
    assert read.result == made.result


def test_other_pictures_than_those_it_was_finished_on_are_refused(around):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (70, 8, 8, 1), np.uint8)
    label = (np.arange(70) % 10).astype(np.int32)
    finish(around, supervised(data=data.arrays(image, label, image, label)))
    image = image.copy()
    image[5, 2, 3] ^= 1
    with pytest.raises(
        ValueError, match="stage 'net' was finished on arrays .*, and its data are now"
    ):
        finish(around, supervised(data=data.arrays(image, label, image, label)))


def draw(folder: Path, seed: int) -> None:
    """Forty pictures of one class, in place of those that are there."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(40):
        pixels = random.integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def test_a_stage_that_was_begun_on_other_pictures_is_refused_and_goes_on_with_its_own(
    around, tmp_path
):
    pictures = tmp_path / "trees"
    draw(pictures / "ash", 0)
    draw(pictures / "oak", 1)
    source = data.folder(pictures, channels=1)
    stage = supervised(data=source, model=net(outputs=2), batch_size=8, epochs=2)
    (whole,) = finish(around, stage).values()

    asked, other = iter(range(1000)), Workdir.open(tmp_path / "other", {})
    stopping = dataclasses.replace(
        around, workdir=other, log=Log(other.path), told_to_stop=lambda: next(asked) == 5
    )
    with pytest.raises(Preempted, match="saved step 6"):
        complete(stage, {}, stopping)
    begun = dataclasses.replace(stopping, told_to_stop=lambda: False)
    was = source.load().fingerprint()
    draw(pictures / "oak", 2)
    now = source.load().fingerprint()
    with pytest.raises(
        ValueError,
        match=f"stage 'net' was begun on trees {was}, and its data are now trees {now}: bring those "
        "pictures back, or start over with --fresh",
    ):
        complete(stage, {}, begun)
    draw(pictures / "oak", 1)
    resumed = complete(stage, {}, begun)
    other.close()
    assert equal(resumed.artifact.variables, whole.artifact.variables)


def test_a_result_says_what_was_used_and_reached(around):
    few = supervised(name="few", data=data.few_labels(DIGITS, 70), epochs=2)
    taught = Distill(
        name="taught",
        data=data.unlabelled(DIGITS),
        model=net(),
        teacher=few,
        loss=losses.kl(),
        optimizer=steps.sgd(0.05),
        batch_size=64,
        epochs=0.25,
    )
    outcomes = finish(around, few, taught)
    few_result, taught_result = (outcomes[name].result for name in ("few", "taught"))
    assert few_result.kind == "supervised"
    assert few_result.labels_used == 70
    assert few_result.steps == 2
    assert few_result.params == 64 * 6 + 6 + 60 + 10
    assert few_result.macs == 64 * 6 + 60
    assert taught_result.labels_used == 0
    assert taught_result.steps == round(0.25 * (1697 // 64))
    assert {curve.metric for curve in taught_result.curves} >= {"train loss", "test accuracy"}

    test = DIGITS.load().test
    for outcome in outcomes.values():
        right = logits_of(outcome, test.image).argmax(-1) == test.label
        assert outcome.result.accuracy == pytest.approx(float(right.mean()))


def test_an_artifact_says_what_it_was_made_from(around):
    first, second = (
        supervised(name="first"),
        supervised(name="second", start=supervised(name="first")),
    )
    outcomes = finish(around, first, second)
    made = artifacts.load(around.workdir.stage_folder("second") / "artifact")
    assert made.provenance["stage"] == "second"
    assert made.provenance["data"] == f"digits {DIGITS.load().fingerprint()}"
    assert made.provenance["from first"] == outcomes["first"].artifact.fingerprint()
    assert made.labels == tuple("0123456789")
    assert made.input_shape == (8, 8, 1)


def test_pretraining_leaves_embeddings(around):
    stage = Contrastive(
        name="pretrain",
        data=data.unlabelled(DIGITS),
        model=net(outputs=4),
        optimizer=steps.sgd(0.01),
        batch_size=64,
        epochs=0.1,
    )
    (outcome,) = finish(around, stage).values()
    assert outcome.artifact.labels == ()
    assert outcome.result.accuracy is None
    assert outcome.result.labels_used == 0


def test_post_training_applies_its_methods_and_trains_nothing(around, capsys):
    start = supervised(name="start")
    fields = {
        "data": data.unlabelled(DIGITS),
        "start": start,
        "quantize": quantize.int8(kernel=quantize.per_channel(bits=3)),
        "pictures": 60,
    }
    plain = PostTraining(name="plain", **fields)
    methods = (quantize.adaround(steps=20, batch_size=20), quantize.correct_bias())
    int8 = PostTraining(name="int8", **fields, methods=methods)
    outcomes = finish(around, start, plain, int8)
    assert "int8: correct_bias() on 60 pictures" in capsys.readouterr().out
    variables = {name: outcome.artifact.variables for name, outcome in outcomes.items()}
    assert equal(variables["plain"]["params"], variables["start"]["params"])
    assert not equal(variables["int8"]["params"], variables["start"]["params"])
    assert equal(variables["int8"]["quant"], variables["plain"]["quant"])
    result = outcomes["int8"].result
    assert (result.steps, result.labels_used, result.curves) == (0, 0, ())
    assert result.kind == "quantize + posttraining"
    assert result.accuracy >= outcomes["plain"].result.accuracy
    assert finish(around, start, int8)["int8"].result == result


def test_what_methods_found_without_training_is_in_the_file(around, tmp_path):
    start = supervised(name="start")
    methods = (quantize.adaround(steps=20, batch_size=20), quantize.correct_bias())
    int8 = PostTraining(
        name="int8",
        data=data.unlabelled(DIGITS),
        start=start,
        quantize=quantize.int8(kernel=quantize.per_channel(bits=4)),
        pictures=60,
        methods=methods,
    )
    artifact = finish(around, start, int8)["int8"].artifact
    path = tflite(artifact, tmp_path / "int8.tflite", variant="int8", backend="litert").path
    images = DIGITS.load().test.image
    found = file_parity(artifact, path, images, kernels=("xnnpack",))
    assert found.is_faithful
    assert found.stored.compared.kernel_integers == 64 * 6 + 6 * 10
    assert found.answers["xnnpack"].deviation.largest == 0
    assert found.answers["xnnpack"].agreement == 1.0


def test_a_quantized_stage_is_calibrated_before_its_first_step(around):
    start = supervised(name="start")
    still = steps.sgd(1e-30, weight_decay=0.0)
    scheme = quantize.int8(momentum=1.0)  # ranges stay as they were calibrated
    int8 = supervised(name="int8", model=None, start=start, quantize=scheme, optimizer=still)
    outcomes = finish(around, start, int8)
    float_net, integer_net = outcomes["start"].artifact, outcomes["int8"].artifact
    assert outcomes["int8"].result.kind == "quantize + supervised"
    assert equal(float_net.variables["params"], integer_net.variables["params"])

    train = DIGITS.load().train
    pictures = NORMALIZATION(jnp.asarray(train.image[:1700]))
    expected = quantize.calibrate(integer_net.model, float_net.variables, [pictures])["quant"]
    for seen, wanted in zip(
        jax.tree.leaves(integer_net.variables["quant"]), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(seen, wanted, rtol=1e-6)
    answers = [logits_of(outcome, train.image[:500]).argmax(-1) for outcome in outcomes.values()]
    assert np.mean(answers[0] == answers[1]) > 0.95


# Everything that training in integers can learn, count and remember.
LEARNED = quantize.int8(
    activation=quantize.lsq(),
    kernel=quantize.lsq_per_channel(bits=4),
    schedule=quantize.phases(start=3, freeze=18),
    oscillation=quantize.freezing(momentum=0.2, threshold=0.15),
)


def test_a_net_learns_its_integers_from_its_own_float_self_and_may_be_stopped(around, tmp_path):
    """Self-distillation: teacher and start are one float stage. Stopped and continued, it ends the same."""
    start = supervised(name="start", epochs=2)
    common = {"data": DIGITS, "teacher": start, "start": start, "batch_size": 64}
    tuned = Distill(name="int4", quantize=LEARNED, optimizer=steps.sgd(0.02, clip=1.0), **common)
    outcomes = finish(around, start, tuned)
    whole = outcomes["int4"].artifact.variables
    assert any(np.any(leaf) for leaf in jax.tree.leaves(whole["params"]["quant"]))
    assert int(whole["quant_schedule"]["step"]) == 26
    agreed = [logits_of(o, DIGITS.load().test.image).argmax(-1) for o in outcomes.values()]
    assert np.mean(agreed[0] == agreed[1]) > 0.75  # four bits, six features

    asked = iter(range(1000))
    other = Workdir.open(tmp_path / "other", {})
    stopping = dataclasses.replace(
        around, workdir=other, log=Log(other.path), told_to_stop=lambda: next(asked) == 12
    )
    with pytest.raises(Preempted, match="saved step 13"):
        complete(tuned, {"start": outcomes["start"]}, stopping)
    resumed = complete(
        tuned,
        {"start": outcomes["start"]},
        dataclasses.replace(stopping, told_to_stop=lambda: False),
    )
    other.close()
    assert equal(resumed.artifact.variables, whole)

    after = supervised(
        name="after", model=None, start=tuned, optimizer=steps.sgd(1e-30, weight_decay=0.0)
    )
    floats = complete(after, outcomes, around).artifact.variables
    assert equal(floats, quantize.floats_of(whole))
