"""Mistakes in a config file: each is told as FILE:LINE, what is wrong, and what was perhaps meant."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxmini import recipe
from jaxmini.mistake import unknown
from jaxmini.recipe import RecipeError

CONFIG = '''"""A config."""

import flax.linen as nn

import jaxmini.losses
from jaxmini import data, losses, models, steps
from jaxmini.compress import quantize
from jaxmini.recipe import Recipe, Supervised


class Own(nn.Module):
    width: int = 4


def get_config():
    {}
    return Recipe(stages=(Supervised(name="net", data=data.digits(), model=models.classifier(10)),))
'''
LINE = 1 + CONFIG[: CONFIG.index("{}")].count("\n")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a config file goes; each time of a module name of its own."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / f"{tmp_path.name}.py"
    for name in (tmp_path.name, f"{tmp_path.name}_own"):
        sys.modules.pop(name, None)


def refused(path: Path, text: str) -> RecipeError:
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        recipe.load(path)
    return caught.value


def test_the_config_is_right_but_for_what_is_put_into_it(config):
    config.write_text(CONFIG.format("pass"))
    assert recipe.load(config).recipe.stages[0].name == "net"


@pytest.mark.parametrize(
    ("wrong", "start", "end"),
    [
        (
            "Supervised(epoch=3)",
            "Supervised: no argument 'epoch'; there are: name, data, ",
            "epochs",
        ),
        (
            "losses.cross_entropy(lable_smoothing=0.1)",
            "cross_entropy: no argument",
            "label_smoothing",
        ),
        ("jaxmini.losses.kl(temprature=2)", "kl: no argument 'temprature'", "temperature"),
        ("models.resnet18(10, widht=4)", "resnet18: no argument 'widht'", "width"),
        ("steps.adamw(learning_rat=1)", "adamw: no argument 'learning_rat'", "learning_rate"),
        ("Own(widht=3)", "Own: no argument 'widht'; there are: width, parent", "width"),
        ("models.resnt18(10)", "module 'jaxmini.models' has no attribute 'resnt18'", "resnet18"),
        ("losses.cros_entropy()", "module 'jaxmini.losses' has no attribute", "cross_entropy"),
        ("data.digits().tets", "'digits' object has no attribute 'tets'", "test"),
        ("Supervisd()", "name 'Supervisd' is not defined", "Supervised"),
        ("from jaxmini.losses import cros_entropy", "cannot import name 'cros_", "cross_entropy"),
        ("from jaxmini import model_", "cannot import name 'model_'", "model"),
        ("import jaxmini.loses", "No module named 'jaxmini.loses'", "losses"),
    ],
)
def test_a_wrong_name_is_told_with_its_line_and_the_nearest(config, wrong, start, end):
    error = refused(config, CONFIG.format(wrong))
    said = str(error)
    assert said.startswith(f"{config}:{LINE}: {start}")
    assert said.endswith(f"; did you mean {end!r}?")
    assert "\n" not in said
    assert error.__cause__ is not None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("Supervised(name='a', data=data.digits(), model=Own(), colour=1)", "no argument 'colour'"),
        ("Supervised(model=Own())", "missing 2 required keyword-only arguments: 'name' and 'data'"),
        ("Supervised(name='a', data='mnist', model=Own())", "stage 'a': data is 'mnist', expected"),
        ("losses.cross_entropy(label_smoothing=2)", "label_smoothing=2 must be in [0, 1)"),
        ("data.chain('shift')", "chain: got 'shift', expected views"),
        ("{}['rate']", "KeyError: 'rate'"),
        ("1 + 'a'", "unsupported operand type(s) for +: 'int' and 'str'"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("raise ValueError", "ValueError"),
        ("max(1, wrong=2)", "'wrong'"),
    ],
)
def test_any_other_mistake_is_told_with_its_line_alone(config, wrong, said):
    told = str(refused(config, CONFIG.format(wrong)))
    assert told.startswith(f"{config}:{LINE}: ")
    assert said in told
    assert "did you mean" not in told
    assert "JAXMINI_TRACEBACK" not in told


def test_the_line_is_the_config_s_and_not_that_of_who_calls_it(config):
    text = CONFIG.format("made()") + "\n\ndef made():\n    return losses.nt_xent(temprature=1)\n"
    assert str(refused(config, text)).startswith(f"{config}:{len(text.splitlines())}: nt_xent: no ")
    text = "import jaxmini\n\njaxmini.nothing_of_this_name\n"
    assert str(refused(config, text)).startswith(f"{config}:3: module 'jaxmini' has no attribute")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("def get_config():\n    return Recipe(\n", 2, "'(' was never closed: return Recipe("),
        ("x = 1\ny = = 2\n", 2, "invalid syntax: y = = 2"),
        ("def get_config():\nreturn 1\n", 2, "expected an indented block"),
    ],
)
def test_what_is_no_python_is_told_with_its_line(config, text, line, said):
    assert str(refused(config, text)).startswith(f"{config}:{line}: {said}")


def test_what_goes_wrong_in_a_module_of_one_s_own_says_how_to_see_it(config):
    own = config.with_name(f"{config.stem}_own.py")
    text = CONFIG.format(f"import {own.stem}; {own.stem}.build(widht=3)")
    for body, said in (
        ("return {}['rate']", "KeyError: 'rate'"),
        ("return rate", "name 'rate' is not defined"),
        ("return classifier(10, **options)", "no argument 'widht'"),
        ("return (", "'(' was never closed"),
    ):
        sys.modules.pop(own.stem, None)
        own.write_text(
            f"from jaxmini.models import classifier\n\n\ndef build(**options):\n    {body}\n"
        )
        told = str(refused(config, text))
        assert told.startswith(f"{config}:{LINE}: ")
        assert said in told
        assert ("(JAXMINI_TRACEBACK=1 shows where)" in told) == ("rate" in body)


def test_a_get_config_that_takes_arguments(config):
    said = str(refused(config, "def get_config(size):\n    return size\n"))
    assert said.startswith(f"{config}: get_config() missing 1 required positional argument: 'size'")


def test_errors_of_other_kinds_pass(config):
    config.write_text("open('/no/such/file')\n")
    with pytest.raises(FileNotFoundError):
        recipe.load(config)
    config.write_text("def get_config():\n    raise RuntimeError('of its own')\n")
    with pytest.raises(RuntimeError, match="of its own"):
        recipe.load(config)


def test_an_unknown_name_is_told_with_what_there_is_and_a_near_one_alone():
    known = ["pretrain", "teacher", "gates"]
    assert unknown("stage", "techer", known) == (
        "no stage 'techer'; there are: pretrain, teacher, gates; did you mean 'teacher'?"
    )
    assert unknown("stage", "stages", known) == (
        "no stage 'stages'; there are: pretrain, teacher, gates"
    )
