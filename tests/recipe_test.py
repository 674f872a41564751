"""Recipe: config files, overrides by name, and every way to get one wrong."""

import dataclasses
import re
import sys
from pathlib import Path

import pytest

from jaxmini import data, losses, models, recipe, record, steps
from jaxmini.compress import quantize
from jaxmini.evaluate.cost import cost
from jaxmini.export import Layout
from jaxmini.recipe import Contrastive, Distill, Export, Recipe, RecipeError, Supervised, override
from jaxmini.run import gates

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))
ONE_STAGE = """
from jaxmini import data, models
from jaxmini.recipe import Recipe, Supervised


def get_config():
    return Recipe((Supervised(name="net", data=data.digits(), model=models.classifier(10)),))
"""


def chain() -> Recipe:
    net = models.small_resnet(10, widths=(8,))
    pictures = data.digits()
    teacher = Supervised(
        name="teacher", data=pictures, model=net, optimizer=steps.sgd(0.1), epochs=2
    )
    student = Distill(name="student", data=pictures, model=net, teacher=teacher)
    int8 = Distill(
        name="int8", data=pictures, start=student, teacher=teacher, quantize=quantize.int8()
    )
    file = Export(int8)
    held = (
        gates.max_bytes(file, 9_000),
        gates.max_accuracy_drop(file, below=student, points=1),
        gates.only_ops(file, ("ADD",)),
    )
    return Recipe((teacher, student, int8), (file,), gates=held)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_can_be_recorded(path: Path):
    config = recipe.load(path)
    assert config.recipe.stages
    assert config.text
    assert recipe.record_of(config.recipe)


def test_the_quickstart_s_student_is_ten_times_smaller_than_its_teacher():
    (quickstart,) = (path for path in CONFIGS if path.stem == "quickstart")
    stages = {stage.name: stage for stage in recipe.load(quickstart).recipe.stages}
    teacher, student = (
        cost(stages[name].float_model(), (8, 8, 1)).params for name in ("teacher", "student")
    )
    assert teacher >= 10 * student


def test_an_override_reaches_every_stage_that_refers_to_the_changed_one():
    changed = override(chain(), "teacher.epochs=3")
    teacher, student, int8 = changed.stages
    assert teacher.epochs == 3
    assert student.teacher is teacher
    assert int8.teacher is teacher
    assert int8.start is student
    assert changed.exports[0].stage is int8
    assert changed.gates[0].export is changed.exports[0]
    assert changed.gates[1].below is student
    assert chain().stages[0].epochs == 2


@pytest.mark.parametrize(
    ("assignment", "stage", "read", "value"),
    [
        ("teacher.optimizer.learning_rate=1e-2", 0, lambda s: s.optimizer.learning_rate, 0.01),
        ("teacher.batch_size=1e2", 0, lambda s: s.batch_size, 100),
        ("teacher.epochs=0.5", 0, lambda s: s.epochs, 0.5),
        ("teacher.optimizer.clip=1", 0, lambda s: s.optimizer.clip, 1.0),
        ("teacher.optimizer.clip=none", 0, lambda s: s.optimizer.clip, None),
        ("student.loss.temperature=2", 1, lambda s: s.loss.temperature, 2.0),
        ("student.note=hello = world", 1, lambda s: s.note, "hello = world"),
        ("student.data.test=400", 1, lambda s: s.data.test, 400),
        ("student.model.num_classes=7", 1, lambda s: s.model.num_classes, 7),
        ("student.model.stages.0.width=12", 1, lambda s: s.model.stages[0].width, 12),
    ],
)
def test_values_are_read_as_the_type_of_their_field(assignment, stage, read, value):
    assert read(override(chain(), assignment).stages[stage]) == value
    assert type(read(override(chain(), assignment).stages[stage])) is type(value)


def test_an_export_is_overridden_by_position():
    changed = override(chain(), "exports.0.backend=litert")
    assert changed.exports[0].backend == "litert"
    assert all(gate.export is changed.exports[0] for gate in changed.gates)


def test_a_layout_is_overridden_by_field():
    changed = override(
        override(chain(), "exports.0.layout.input=uint8"), "exports.0.layout.batch=4"
    )
    assert changed.exports[0].layout == Layout(input="uint8", batch=4)
    with pytest.raises(RecipeError, match=r"exports.0.layout.input expects .*got 'int4'"):
        override(chain(), "exports.0.layout.input=int4")


def test_a_renamed_stage_or_export_is_renamed_in_gates():
    changed = override(override(chain(), "student.name=small"), "exports.0.name=file")
    assert changed.gates[1].below.name == "small"
    assert changed.gates[1].export.file_name == "file.tflite"


@pytest.mark.parametrize(
    ("assignment", "read", "value"),
    [
        ("gates.0.limit=1e4", lambda held: held[0].limit, 10_000),
        ("gates.1.points=0.5", lambda held: held[1].points, 0.5),
        ("gates.2.allowed=ADD, CONV_2D", lambda held: held[2].allowed, ("ADD", "CONV_2D")),
    ],
)
def test_a_gate_is_overridden_by_position(assignment, read, value):
    changed = override(chain(), assignment)
    assert read(changed.gates) == value
    assert changed.stages == chain().stages


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("studnet.epochs=2", "no stage 'studnet'.* did you mean 'student'"),
        ("student.epoch=2", "no field 'epoch'.* did you mean 'epochs'"),
        ("student.optimizer.learning_rte=2", "did you mean 'learning_rate'"),
        ("student.batch_size=1.5", "student.batch_size expects int, got '1.5'"),
        ("student.epochs=many", "student.epochs expects float, got 'many'"),
        ("student.loss=kl", "override its fields: student.loss.temperature"),
        ("student.teacher.epochs=1", "override teacher.epochs"),
        ("student.model.stages.3.width=1", "has 1 items"),
        ("exports.0.backend=torch", "exports.0.backend expects"),
        ("exports.1.backend=litert", "exports has 1 items"),
        ("gates.0.limit=small", "gates.0.limit expects int, got 'small'"),
        ("gates.0.limt=3", "gates.0: no field 'limt'.* did you mean 'limit'"),
        ("gates.3.limit=3", "gates has 3 items"),
        ("gates.0.export.backend=litert", "is the export int8-jax2tf.tflite; override that, as"),
        ("gates.1.below.epochs=3", "below is the stage 'student'; override student.epochs"),
        ("student", "expected stage.field=value"),
        ("student=3", "expected stage.field=value"),
    ],
)
def test_a_bad_override_says_what_to_write(assignment, message):
    with pytest.raises(RecipeError, match=message):
        override(chain(), assignment)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("exports.0.variant=int9", "expects one of float32, ..., got 'int9'; did you mean 'int8'?"),
        (
            "exports.0.stage=student",
            "exports.0.stage is the stage 'int8'; change which one it is in",
        ),
        (
            "gates.0.export=exports.0",
            "gates.0.export is the export int8-jax2tf.tflite; change which",
        ),
        ("pretrain.view.views.0.area=0.5", "area expects 2 values separated by commas, as 0.6,1.0"),
        (
            "int8.start=pretrain",
            "int8.start is the stage 'student'; change which one it is in the ",
        ),
        ("student.against=teacher", "student.against is None; change it in the config file"),
        ("student.view=shift", "student.view is Compose(views=()); change it in the config file"),
        (
            "pretrain.view=shift",
            "pretrain.view is Compose(...); change it in the config file, or override its fields: "
            "pretrain.view.views.0.area, pretrain.view.views.0.ratio, ...",
        ),
        (
            "student.model=vit",
            "is ResNet(...); change it ...its fields: student.model.stem.width, ",
        ),
        (
            "student.model.stem=4",
            "student.model.stem is Stem(...its fields: student.model.stem.width",
        ),
        ("int8.quantize=weights_only", "int8.quantize is int8(...; change it in the config file"),
        ("student.quantize=int8", "student.quantize is None; change it in the config file"),
        ("student.optimizer.clip=x", "student.optimizer.clip expects float or none, got 'x'"),
        ("student.optimizer.clip.x=1", "student.optimizer.clip is None, which has no field 'x'"),
        ("student.view.views.0.p=1", "student.view.views has no items; got '0'"),
        ("student.labelled=True", "student: no field 'labelled'; there are: name, data, model, "),
        ("stages.0.epochs=1", "no stage 'stages'; there are: pretrain, ...exports, gates"),
        ("seed=1", "override 'seed=1': expected stage.field=value, pretrain.seed=1 say"),
        ("seed", "override 'seed': expected stage.field=value, pretrain.seed=... say"),
        ("student=small", "expected stage.field=value, student.epochs=2 say"),
        ("workdir=/x", "expected stage.field=value, pretrain.epochs=2 say"),
    ],
)
def test_what_no_text_stands_for_is_told_with_what_can_be_changed(assignment: str, message: str):
    pretrain = Contrastive(
        name="pretrain",
        data=data.digits(),
        model=models.small_resnet(10, widths=(8,)),
        view=data.small_pictures(),
    )
    recipe = chain()
    recipe = dataclasses.replace(recipe, stages=(pretrain, *recipe.stages))
    with pytest.raises(
        RecipeError, match=".*".join(map(re.escape, message.split("...")))
    ) as caught:
        override(recipe, assignment)
    assert "\n" not in str(caught.value)
    if "did you mean" not in message:
        assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("assignment", ["student.model=vit", "teacher.optimizer=adamw"])
def test_the_fields_that_an_error_lists_can_be_overridden(assignment: str):
    def refusal(assignment: str) -> str:
        try:
            override(chain(), assignment)
        except RecipeError as error:
            return str(error)
        return ""

    listed = refusal(assignment).partition("override its fields: ")[2].split(", ")
    assert len(listed) > 3
    for path in (path for path in listed if path != "..."):
        said = refusal(f"{path}=?")
        assert said == "" or said.startswith(f"{path} expects ")  # "?" is a fine word for a name


def test_an_override_is_checked_like_the_value_in_the_config():
    with pytest.raises(ValueError, match="max_bytes: limit is -1"):
        override(chain(), "gates.0.limit=-1")
    with pytest.raises(ValueError, match="epochs"):
        override(chain(), "student.epochs=-1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "no function get_config"),
        ("get_config = 3", "no function get_config"),
        ("def get_config(): return 3", "returned int, expected Recipe"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, text, message):
    path = tmp_path / f"config_{abs(hash(text))}.py"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        recipe.load(path)


def test_a_missing_config_offers_the_nearest(tmp_path):
    (tmp_path / "quickstart.py").write_text("")
    with pytest.raises(RecipeError, match=r"did you mean .*quickstart\.py"):
        recipe.load(tmp_path / "quickstrat.py")


def test_a_config_is_loaded_again_however_its_path_is_written(tmp_path, monkeypatch):
    path = tmp_path / "folder" / f"{tmp_path.name}_again.py"
    path.parent.mkdir()
    path.write_text(ONE_STAGE)
    monkeypatch.chdir(tmp_path)
    try:
        for written in (path, path.relative_to(tmp_path), f"folder/../folder/{path.name}", path):
            assert recipe.load(written).recipe.stages[0].name == "net"
        other = Path(path.name)
        other.write_text(ONE_STAGE)
        with pytest.raises(RecipeError, match=f"a module called '{path.stem}' is loaded already"):
            recipe.load(other)
    finally:
        sys.modules.pop(path.stem)


def test_recipes_that_make_no_chain_are_refused():
    teacher, student, int8 = chain().stages
    with pytest.raises(ValueError, match="uses stage 'teacher', which is not among"):
        Recipe((student,))
    with pytest.raises(ValueError, match="two stages are called 'teacher'"):
        Recipe((teacher, dataclasses.replace(teacher, epochs=3)))
    with pytest.raises(ValueError, match="at least one stage"):
        Recipe(())
    with pytest.raises(ValueError, match="not in the recipe"):
        Recipe((teacher,), (Export(int8),))
    with pytest.raises(ValueError, match="trains in float"):
        Export(student, "int8")
    with pytest.raises(ValueError, match=r"two exports write int8-jax2tf\.tflite"):
        Recipe((teacher, student, int8), (Export(int8), Export(int8)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a/b"}, "names a folder"),
        ({"model": None}, "neither a model nor a stage"),
        ({"quantize": quantize.int8()}, "give it a trained stage as start"),
        ({"epochs": 0}, "must be positive"),
        ({"batch_size": 0}, "must be positive"),
    ],
)
def test_impossible_stages_are_refused(fields, message):
    good = {
        "name": "a",
        "data": data.digits(),
        "model": models.small_resnet(10),
        "loss": losses.nt_xent(),
    }
    with pytest.raises(ValueError, match=message):
        Contrastive(**(good | fields))


def test_what_a_config_file_defines_is_found_by_name(tmp_path):
    path = tmp_path / f"{tmp_path.name}.py"
    path.write_text("Net = int\n\n\ndef get_config():\n    raise RuntimeError\n")
    try:
        assert recipe.imported(str(path)).Net is record.rebuild({"name": f"{path.stem}:Net"})
    finally:
        sys.modules.pop(path.stem, None)
    with pytest.raises(RecipeError, match=r"no config file .*; did you mean .*\.py'"):
        recipe.imported(path.with_name(f"{path.stem}s.py"))
