"""The folder: the very file, exact pictures, the interpreter's answers; and what it may not replace."""

import dataclasses
import io
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxmini.demo import folder, network
from jaxmini.demo.examples import Examples, examples
from jaxmini.demo.standing import standing
from jaxmini.evaluate.runtime import tflite_integers
from tests.demo.conftest import ACCURACY

ROOT = Path(__file__).parent.parent.parent
LITERT = {f"litert_wasm_internal.{kind}": kind.encode() for kind in ("js", "wasm")}
PAGE = ROOT / "jaxmini/demo/page"


def write(path: Path, run: Path, to: Path, litert: dict[str, bytes] = LITERT) -> Path:
    shown = network.read(path)
    pictures = examples(shown, run, None, 24)
    return folder.write(shown, pictures, standing(shown.name, shown.sha256, run), litert, to)


@pytest.fixture(scope="module")
def written(run: Path, integer_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(integer_path, run, tmp_path_factory.mktemp("demos") / "made/here")


@pytest.fixture(scope="module")
def said(written: Path) -> dict:
    return json.loads((written / "demo.json").read_text())


def test_it_holds_the_very_file_the_page_and_the_interpreter(written: Path, integer_path: Path):
    assert (written / "model.tflite").read_bytes() == integer_path.read_bytes()
    for path in PAGE.iterdir():
        assert (written / path.name).read_bytes() == path.read_bytes()
    assert {path.name: path.read_bytes() for path in (written / "litert").iterdir()} == LITERT


def test_pictures_are_exact_and_answered_by_the_interpreter(
    written: Path, said: dict, run: Path, integer_path: Path
):
    images = []
    for each in said["pictures"]:
        image = np.asarray(Image.open(io.BytesIO((written / each["path"]).read_bytes())))
        assert zlib.crc32(image.tobytes()) == each["crc32"]
        images.append(image[..., None])
    answers = tflite_integers(integer_path)(np.stack(images))
    assert [each["answer"] for each in said["pictures"]] == answers.tolist()
    labels = examples(network.read(integer_path), run, None, 24).label
    assert [each["label"] for each in said["pictures"]] == labels.tolist()


def test_the_manifest_says_how_numbers_are_read(said: dict, integer_path: Path):
    shown = network.read(integer_path)
    assert said["file"]["sha256"] == shown.sha256
    assert said["file"]["bytes"] == len(shown.content)
    assert (said["input"]["dtype"], said["input"]["offset"]) == ("int8", 128)
    assert said["output"]["scale"] == float(shown.scores.scale[0])
    assert said["output"]["zero_point"] == int(shown.scores.zero_point[0])
    assert said["report"]["accuracy"] == ACCURACY
    assert said["drawing"]["ground"] == 0
    assert said["description"]["normalization"].keys() == {"mean", "std"}
    assert said["runtime"]["builds"] == {
        "simd": {"script": "litert/litert_wasm_internal.js", "bytes": 4}
    }


def test_an_earlier_demo_is_replaced_whole(run: Path, float_path: Path, tmp_path: Path):
    to = tmp_path / "demo"
    to.mkdir()  # an empty folder may be taken
    write(float_path, run, to)
    (to / "pictures/9999.png").write_text("left over")
    write(float_path, run, to)
    assert not (to / "pictures/9999.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    said = json.loads((to / "demo.json").read_text())
    # Floats are written so that they are read back as they are.
    shown = network.read(float_path)
    expected = network.answers(shown, examples(shown, run, None, 24).image)
    answers = np.array([each["answer"] for each in said["pictures"]], np.float32)
    np.testing.assert_array_equal(answers, expected)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["notes.txt"], "notes.txt"),
        (["demo.json", "thesis.tex"], "thesis.tex"),
        (["index.html"], "index"),
    ],
)
def test_a_folder_of_something_else_is_left_alone(
    files: list[str], named: str, run: Path, float_path: Path, tmp_path: Path
):
    for name in files:
        (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"holds {named}.*, which no demo wrote; give --output"):
        write(float_path, run, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_a_file_in_its_place_is_left_alone(run: Path, float_path: Path, tmp_path: Path):
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(ValueError, match="is a file; give --output a folder"):
        write(float_path, run, tmp_path / "demo")


def test_a_failure_leaves_nothing_half_written(
    run: Path, float_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> bytes:
        raise OSError("the disk is full")

    monkeypatch.setattr(folder, "png", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write(float_path, run, tmp_path / "demo")
    assert not list(tmp_path.iterdir())


def test_random_pictures_do_not_say_how_to_draw_and_colours_are_not_drawn(integer_path: Path):
    shown = network.read(integer_path)
    light = np.full((2, 8, 8, 1), 255, np.uint8)
    unknown = np.full(2, -1, np.int32)
    real, random = (Examples(light, unknown, "some", why) for why in ("", "no test split"))
    assert folder._drawing(shown, real)["ground"] == 255
    assert folder._drawing(shown, random)["ground"] == 0
    image = dataclasses.replace(shown.image, shape=(1, 8, 8, 3))
    assert folder._drawing(dataclasses.replace(shown, image=image), real) is None


def test_the_page_asks_nothing_of_another_host():
    for path in PAGE.iterdir():
        if path.name != "LICENSE.txt":
            assert not re.search(r"https?://", path.read_text()), path.name
    html = (PAGE / "index.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html).group(1)
    sources = {word for rule in policy.split("; ") for word in rule.split()[1:]}
    assert sources == {"'none'", "'self'", "'wasm-unsafe-eval'", "blob:", "data:"}
    assert policy.startswith("default-src 'none'")


def test_the_page_s_modules_and_ids_are_there():
    html = (PAGE / "index.html").read_text()
    ids = set(re.findall(r'\bid="([^"]+)"', html))
    for path in PAGE.glob("*.js"):
        text = path.read_text()
        assert set(re.findall(r'byId\("([^"]+)"\)', text)) <= ids, path.name
        for module in re.findall(r'from "\./([^"]+)"', text):
            assert (PAGE / module).is_file(), module


def test_the_licence_is_that_of_the_repository():
    assert (PAGE / "LICENSE.txt").read_bytes() == (ROOT / "LICENSE").read_bytes()
