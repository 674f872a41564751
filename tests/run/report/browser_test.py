"""A real browser shows the page: in light and dark, on a desktop and a phone, without a complaint."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jaxmini.run.report import figures, page
from jaxmini.run.report.content import Report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
SCHEMES = {"dark": 0, "light": 1}
WIDTHS = (360, 1280)

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser found: {', '.join(NAMES)}")

# Frames as wide as a phone and as a desktop, and what a browser finds in each, written into the page.
PROBE = """
<pre id="found"></pre>
<script>
const colour = (node, name) => getComputedStyle(node)[name].match(/[0-9.]+/g).map(Number);
function probe(frame) {
  const doc = frame.contentDocument, root = doc.documentElement;
  const text = [...doc.querySelectorAll("p, td, th, h1, h2, dt, dd, code, li, svg text, .verdict")];
  return {
    overflow: root.scrollWidth - root.clientWidth,
    paper: colour(doc.body, "backgroundColor"),
    inks: text.map(n => colour(n, n.closest("svg") ? "fill" : "color")),
    pictures: [...doc.images].map(image => image.naturalWidth),
    drawings: [...doc.querySelectorAll("figure svg")].map(s => s.getBoundingClientRect().width),
    cell: colour(doc.querySelector("[style*='fill: var(--accent)']"), "fill"),
    count: colour(doc.querySelector("figure text[style*='fill: var(--ink)']"), "fill"),
    headings: [...doc.querySelectorAll("h2")].map(h => h.firstChild.data.trim()),
  };
}
window.onload = () => {
  const frames = [...document.querySelectorAll("iframe")];
  document.getElementById("found").textContent = JSON.stringify(frames.map(probe));
};
</script>
"""


def browse(text: str, scheme: str, folder: Path) -> tuple[list[dict], str]:
    """What the browser found at each width, and what it complained of."""
    frame = '<iframe width="{}" height="900" srcdoc="{}"></iframe>'
    frames = "".join(frame.format(width, html.escape(text)) for width in WIDTHS)
    path = folder / "frames.html"
    path.write_text(f"<!doctype html><meta charset=utf-8>{frames}{PROBE}", encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr",
        f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found.group(1))), "\n".join(complaints)


@pytest.fixture(scope="module", params=SCHEMES)
def seen(
    request: pytest.FixtureRequest, sample: Report, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[dict], str]:
    text = page.html(sample)
    return (request.param, *browse(text, request.param, tmp_path_factory.mktemp("browser")))


def luminance(colour: list[float]) -> float:
    """Relative luminance (WCAG 2.1) of an sRGB colour."""
    parts = [value / 255 for value in colour[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[float], other: list[float]) -> float:
    """Contrast ratio (WCAG 2.1), 1..21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_browser_has_no_complaint(seen: tuple) -> None:
    assert seen[2] == ""


def test_nothing_is_wider_than_the_screen(seen: tuple) -> None:
    assert [found["overflow"] for found in seen[1]] == [0, 0]


def test_the_page_follows_the_scheme(seen: tuple) -> None:
    scheme, found, _ = seen
    assert all((luminance(width["paper"]) < 0.1) == (scheme == "dark") for width in found)


def test_every_text_can_be_read(seen: tuple) -> None:
    for width in seen[1]:
        assert len(width["inks"]) > 100
        assert min(contrast(ink, width["paper"]) for ink in width["inks"]) >= 4.5


def test_a_count_can_be_read_on_the_strongest_cell(seen: tuple) -> None:
    for width in seen[1]:
        mixed = zip(width["cell"], width["paper"], strict=False)
        cell = [figures.STRONGEST * a + (1 - figures.STRONGEST) * b for a, b in mixed]
        assert contrast(width["count"], cell) >= 4.5


def test_pictures_and_figures_are_there(seen: tuple, sample: Report) -> None:
    curves = sum(len(stage.curves) for stage in sample.stages)
    for width, found in zip(WIDTHS, seen[1], strict=True):
        assert found["pictures"] == [8] * len(sample.mistakes)
        layers = sum(bool(file.layers) for file in sample.files)
        assert len(found["drawings"]) == curves + 3 + layers
        *others, of_layers = sorted(found["drawings"])
        assert 200 < others[0] <= others[-1] <= width
        assert 576 <= of_layers <= max(576, width)  # it scrolls where the screen is narrower
        assert found["headings"][0] == "Results"
