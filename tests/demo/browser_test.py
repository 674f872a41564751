"""A real browser runs the very files: its integers are the interpreter's, its pixels are data.folder's."""

import dataclasses
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxmini.data import pictures
from jaxmini.demo import folder, network, server
from jaxmini.demo.examples import examples
from jaxmini.demo.standing import standing
from jaxmini.evaluate.encoding import dequantized
from tests.evaluate.conftest import without_metadata

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--enable-logging=stderr",
)  # fmt: skip
SECONDS = 300
COUNT = 24
BUILDS = ("simd", "compat", "threads")
# Demos that classify what they are given, with the channels of their nets; and what they are given.
CLASSIFY = {"threads": 1, "float": 1, "colours": 3, "unsigned": 3}
GIVEN = {"dropped": "wide.png", "pasted": "own.png"}
WAYS = {name: (*GIVEN, *["drawn"] * (channels == 1)) for name, channels in CLASSIFY.items()}
# Pictures of other sizes than the net's: wide, high, square, of colours, small, and its own size.
SIZES = {"wide": (37, 20), "high": (19, 53), "large": (300, 300), "small": (5, 6), "own": (8, 8)}

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser found: {', '.join(NAMES)}")

# Opens each demo in a frame, then uses some as a person would, and posts what it found.
HARNESS = Path(__file__).with_name("harness.html")


class Listener(server.Handler):
    """The demo's own server, and the place where the browser tells what it found."""

    found: Any = None
    told = threading.Event()

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        Listener.found = json.loads(self.rfile.read(length))
        self.send_response(204)
        self.end_headers()
        self.told.set()


def browse(root: Path) -> dict[str, Any]:
    """What the browser found; what it complained of is under ``complaints``."""
    Listener.told.clear()
    with server.server(root, 0, Listener) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        profile = f"--user-data-dir={root / 'profile'}"
        command = [BROWSER, *FLAGS, profile, server.address(serving) + "harness.html"]
        with (root / "stderr").open("w+") as said:
            browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
            try:
                is_told = Listener.told.wait(SECONDS)
            finally:
                browser.terminate()
                browser.wait(30)
                serving.shutdown()
                thread.join()
            said.seek(0)
            complaints = [line for line in said.read().splitlines() if "CONSOLE" in line]
    assert is_told, "\n".join(complaints)
    assert "error" not in Listener.found, Listener.found["error"]
    return Listener.found | {"complaints": complaints}


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the browser found, the folder it looked at, and the files of some demos."""

    root: Path
    found: dict[str, Any]

    paths: dict[str, Path]

    def demo(self, name: str) -> dict[str, Any]:
        return self.found["demos"][name]


def draw_files(place: Path) -> None:
    rng = np.random.default_rng(0)
    place.mkdir()
    for name, (width, height) in SIZES.items():
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(image).save(place / f"{name}.png")
    (place / "noise.txt").write_text("no picture")


SHAPES = {
    "grey": {"height": 8, "width": 8, "channels": 1},
    "colours": {"height": 11, "width": 11, "channels": 3},
}


@pytest.fixture(scope="module")
def seen(
    run: Path,
    integer_path: Path,
    float_path: Path,
    colours: dict[str, Path],
    litert: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Seen]:
    root = tmp_path_factory.mktemp("browser")
    draw_files(root / "files")
    simd = {name: file for name, file in litert.items() if name.startswith("litert_wasm_internal")}
    foreign = root / "foreign.tflite"
    foreign.write_bytes(without_metadata(integer_path.read_bytes()))
    for name, path, place, files in (
        ("first", integer_path, run, litert),
        ("float", float_path, run, litert),
        ("foreign", foreign, root, simd),
        *((name, path, root, simd) for name, path in colours.items()),
        ("changed", integer_path, run, simd),
    ):
        shown = network.read(path)
        shots = examples(shown, place, None, COUNT)
        folder.write(shown, shots, standing(path.name, shown.sha256, place), files, root / name)
    with (root / "changed/model.tflite").open("ab") as file:
        file.write(b"\0")
    demos = {
        **{build: (f"/first/?build={build}", 1280) for build in BUILDS},
        "unasked": ("/first/", 360),
        "float": ("/float/?build=simd", 360),
        "float compat": ("/float/?build=compat", 1280),
        "foreign": ("/foreign/", 1280),
        **{name: (f"/{name}/", 360) for name in colours},
        "changed": ("/changed/", 1280),
        "unknown": ("/first/?build=fast", 1280),
    }
    names = [f"{name}.png" for name in SIZES]
    asked = {"demos": demos, "use": "simd", "names": names, "sizes": SHAPES}
    asked |= {"classify": list(CLASSIFY), "given": list(GIVEN.values())}
    (root / "asked.json").write_text(json.dumps(asked))
    shutil.copy(HARNESS, root)
    paths = {"threads": integer_path, "float": float_path, **colours}
    yield Seen(root, browse(root), paths)
    shutil.rmtree(root, ignore_errors=True)  # up to 29 MB a demo


def answers(path: Path, run: Path) -> np.ndarray:
    shown = network.read(path)
    return network.answers(shown, examples(shown, run, None, COUNT).image)


@pytest.mark.parametrize("build", BUILDS)
def test_the_browser_s_integers_are_the_interpreter_s(
    build: str, seen: Seen, integer_path: Path, run: Path
):
    found = seen.demo(build)
    assert (found["build"], found["isolated"]) == (build, True)
    assert found["threads"] == 1 or build == "threads"
    np.testing.assert_array_equal(found["answers"], answers(integer_path, run))
    assert (found["alike"], found["distance"], found["changed"]) == (COUNT, 0, 0)
    assert found["milliseconds"] > 0


@pytest.mark.parametrize("name", ["float", "float compat"])
def test_the_browser_s_floats_are_the_interpreter_s_up_to_rounding(
    name: str, seen: Seen, float_path: Path, run: Path
):
    found, expected = seen.demo(name), answers(float_path, run)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found["answers"], expected, rtol=0, atol=4e-6 * scale)
    assert found["alike"] == COUNT


def test_the_page_tells_its_agreement_and_the_very_file(seen: Seen, integer_path: Path, run: Path):
    shown = network.read(integer_path)
    found = seen.demo("simd")
    assert found["digest"] == shown.sha256
    said = found["said"]
    assert f"Agreement {COUNT} of {COUNT}, largest difference of two numbers 0 LSB." in said
    assert "81.25% (the report of tried)" in said
    for what in (shown.sha256, f"{len(shown.content):,} bytes", "8×8×1 int8, pixel - 128"):
        assert what in said


def test_a_foreign_file_runs_with_class_numbers_on_random_pictures(seen: Seen):
    found = seen.demo("foreign")
    assert (found["alike"], found["distance"], found["labelled"]) == (COUNT, 0, 0)
    assert "not written by jaxmini: it names no classes" in found["said"]
    assert f"{COUNT} pictures: random pictures." in found["said"]


def test_a_changed_file_and_an_unknown_build_are_refused(seen: Seen):
    changed, unknown = seen.demo("changed"), seen.demo("unknown")
    assert "model.tflite is not the file this page was written for" in changed["error"]
    assert "This page cannot run: model.tflite is not" in changed["said"]
    assert 'no build "fast" of LiteRT.js here; there are simd, compat, threads' in unknown["error"]


def test_nothing_is_wider_than_a_phone_and_nothing_complains(seen: Seen):
    assert [found["overflow"] for found in seen.found["demos"].values()] == [0] * 11
    assert seen.found["complaints"] == []


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("kind", SHAPES)
def test_dropped_pictures_are_resized_as_data_folder_does(name: str, kind: str, seen: Seen):
    shape = SHAPES[kind]
    path = seen.root / "files" / f"{name}.png"
    expected = pictures.read(path, shape["height"], shape["channels"])
    found = np.array(seen.found["resized"][f"{name}.png {kind}"], np.uint8)
    if name == "high":  # whose two directions Pillow 13 filters in the other order
        apart = np.abs(found.reshape(expected.shape).astype(int) - expected)
        assert apart.max() <= 1
    else:
        np.testing.assert_array_equal(found.reshape(expected.shape), expected)


def test_what_a_person_does_reaches_the_network(seen: Seen, integer_path: Path, run: Path):
    used = seen.found["used"]
    shown = examples(network.read(integer_path), run, None, COUNT).image
    np.testing.assert_array_equal(used["chosen"], shown[5].ravel())
    np.testing.assert_array_equal(used["kept"], shown[7].ravel())
    assert set(used["blank"]) == {0}
    own = pictures.read(seen.root / "files/own.png", 8, 1).ravel()
    np.testing.assert_array_equal(used["inverted"], 255 - own)
    np.testing.assert_array_equal(used["upright"], own)
    assert used["hint"] == "noise.txt is no picture that this browser reads."


def test_a_drawing_stands_as_the_data_s_figures_do(seen: Seen):
    """A line down, drawn left of the middle: as high as the picture, in its middle, about a pixel wide."""
    drawn = np.array(seen.found["used"]["drawn"]).reshape(8, 8)
    rows, columns = np.flatnonzero(drawn.max(1) > 64), np.flatnonzero(drawn.max(0) > 64)
    assert (rows[0], rows[-1]) == (0, 7)
    assert set(columns) <= {3, 4}
    assert drawn.max() <= 255
    assert drawn[2:6].sum(1).max() - drawn[2:6].sum(1).min() <= 4


def shares(shown: network.Network, answer: np.ndarray) -> np.ndarray:
    """Probabilities of the classes, float64."""
    scores = dequantized(answer, shown.scores) if shown.scores.is_quantized else answer
    powers = np.exp(scores.astype(np.float64) - scores.max())
    return powers / powers.sum()


@pytest.mark.parametrize(("name", "way"), [(name, way) for name in WAYS for way in WAYS[name]])
def test_what_is_given_gets_the_answer_that_the_interpreter_has_for_it(
    name: str, way: str, seen: Seen
):
    shown, found = network.read(seen.paths[name]), seen.demo(name)["answered"][way]
    channels = CLASSIFY[name]
    pixels = np.array(found["pixels"], np.uint8).reshape(8, 8, 3)[..., :channels]
    if way in GIVEN:
        given = pictures.read(seen.root / "files" / GIVEN[way], 8, channels)
        np.testing.assert_array_equal(pixels, given)
    (answer,) = network.answers(shown, pixels[None])
    expected = shares(shown, answer)
    likeliest = np.argsort(-expected, kind="stable")
    assert found["verdict"] == shown.labels[answer.argmax()]
    order = np.arange(10) if len(expected) == 10 else likeliest[:12]
    assert [label for _, label, _ in found["bars"]] == [shown.labels[index] for index in order]
    assert [label for kind, label, _ in found["bars"] if kind == "top"] == [found["verdict"]]
    said = [float(share.removesuffix("%")) for _, _, share in found["bars"]]
    np.testing.assert_allclose(said, 100 * expected[order], rtol=0, atol=0.0501)


@pytest.mark.parametrize("name", WAYS)
def test_each_thing_given_is_taken_and_has_an_answer_of_its_own(name: str, seen: Seen):
    found = seen.demo(name)["answered"]
    assert found["dropped"]["taken"]
    assert found.keys() == set(WAYS[name])
    assert len({str(each["bars"]) for each in found.values()}) == len(found)
