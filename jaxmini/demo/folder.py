"""Folder: the page, the very file, its pictures and its interpreter; it is whole or not there."""

import dataclasses
import json
import shlex
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxmini.data import UNLABELLED
from jaxmini.demo import runtime
from jaxmini.demo.drawing import Drawing, drawing
from jaxmini.demo.examples import Examples
from jaxmini.demo.network import OFFSETS, Network, answers
from jaxmini.demo.standing import Standing
from jaxmini.run.report import quantity
from jaxmini.run.report.pictures import png
from jaxmini.run.report.svg import COLOURS

FORMAT = 1
MANIFEST, MODEL, PICTURES, RUNTIME = "demo.json", "model.tflite", "pictures", "litert"
_PAGE = Path(__file__).parent / "page"


def write(
    network: Network,
    examples: Examples,
    standing: Standing,
    litert: dict[str, bytes],
    folder: Path,
) -> Path:
    """Write the demo of a network; an earlier demo in the folder is replaced.

    Args:
        network: what runs.
        examples: pictures to show, of which the interpreter's answers are computed now.
        standing: what a report says of the file.
        litert: files of LiteRT.js by name.
        folder: made if it does not exist.

    Raises:
        ValueError: the folder holds something else.
        OSError: it cannot be written.
    """
    require_ours(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
        whole = Path(beside) / "demo"
        shutil.copytree(_PAGE, whole)
        shutil.copy(COLOURS, whole)
        (whole / MODEL).write_bytes(network.content)
        for place, contents in ((PICTURES, _pictures(examples)), (RUNTIME, litert)):
            (whole / place).mkdir(exist_ok=True)
            for name, content in contents.items():
                (whole / place / name).write_bytes(content)
        text = json.dumps(manifest(network, examples, standing, litert), allow_nan=False, indent=1)
        (whole / MANIFEST).write_text(text + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        whole.rename(folder)
    return folder


def told(folder: Path, examples: Examples) -> str:
    """What was written, for a terminal: sizes, pictures, and the command that serves it."""
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    interpreter = sum(size for path, size in sizes.items() if path.parent.name == RUNTIME)
    total = sum(sizes.values())
    origin = examples.origin + (f" ({examples.why_random})" if examples.why_random else "")
    return (
        f"{folder}: {quantity.short(total, 'B')}, of which LiteRT.js {runtime.VERSION} is "
        f"{quantity.short(interpreter, 'B')} and the file {quantity.count(sizes[folder / MODEL])} B\n"
        f"{len(examples.image)} pictures: {origin}\n"
        f"serve it with: python -m jaxmini.demo.server {shlex.quote(str(folder))}"
    )


def require_ours(folder: Path) -> None:
    """Check that a folder may be written: missing, empty, or an earlier demo with nothing beside it.

    Raises:
        ValueError: it may not; names what is in it.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; give --output a folder")
    found = {each.name for each in folder.iterdir()}
    ours = {COLOURS.name, MANIFEST, MODEL, PICTURES, RUNTIME}
    ours |= {each.name for each in _PAGE.iterdir()}
    foreign = sorted(found if MANIFEST not in found else found - ours)
    if foreign:
        shown = ", ".join(foreign[:4]) + (", ..." if len(foreign) > 4 else "")
        raise ValueError(
            f"{folder} holds {shown}, which no demo wrote; give --output a new or empty folder"
        )


def manifest(
    network: Network, examples: Examples, standing: Standing, litert: dict[str, bytes]
) -> dict[str, Any]:
    """All that the page knows of the file, as plain JSON."""
    height, width, channels = network.shape
    return {
        "format": FORMAT,
        "file": {
            "name": network.name,
            "path": MODEL,
            "bytes": len(network.content),
            "sha256": network.sha256,
        },
        "input": {
            "height": height,
            "width": width,
            "channels": channels,
            "dtype": network.image.dtype.name,
            "encoding": network.encoding,
            "offset": OFFSETS[network.encoding],
        },
        "output": _output(network),
        "labels": list(network.labels),
        "description": network.description,
        "report": standing._asdict(),
        "drawing": _drawing(network, examples),
        "origin": examples.origin,
        "pictures": _answered(network, examples),
        "runtime": _runtime(litert),
    }


def _output(network: Network) -> dict[str, Any]:
    """How the file's numbers become scores: (number - zero_point) * scale."""
    scores = network.scores
    return {
        "dtype": scores.dtype.name,
        "scale": float(scores.scale[0]) if scores.is_quantized else 1.0,
        "zero_point": int(scores.zero_point[0]) if scores.is_quantized else 0,
        "probabilities": network.gives_probabilities,
    }


def _drawing(network: Network, examples: Examples) -> dict[str, Any] | None:
    """How drawings stand; None for a network of colours, for which one cannot draw."""
    if network.shape[2] != 1:
        return None
    known: Drawing = drawing(examples.image[:0] if examples.why_random else examples.image)
    return dataclasses.asdict(known)


def _pictures(examples: Examples) -> dict[str, bytes]:
    return {_name(index): png(image) for index, image in enumerate(examples.image)}


def _answered(network: Network, examples: Examples) -> list[dict[str, Any]]:
    """Every picture with its label, the digest of its pixels and the interpreter's own numbers."""
    return [
        {
            "path": f"{PICTURES}/{_name(index)}",
            "label": None if label == UNLABELLED else int(label),
            "crc32": zlib.crc32(np.ascontiguousarray(image)),
            "answer": answer.tolist(),
        }
        for index, (image, label, answer) in enumerate(
            zip(examples.image, examples.label, answers(network, examples.image), strict=True)
        )
    ]


def _runtime(litert: dict[str, bytes]) -> dict[str, Any]:
    builds = {
        build: {"script": f"{RUNTIME}/{name}.js", "bytes": len(litert[f"{name}.wasm"])}
        for build, name in runtime.BUILDS.items()
        if f"{name}.wasm" in litert
    }
    return {"package": runtime.PACKAGE, "version": runtime.VERSION, "builds": builds}


def _name(index: int) -> str:
    return f"{index:04d}.png"
