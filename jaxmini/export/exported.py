"""stablehlo: an artifact as one serialized program that JAX reads back without the model's code.

The folder holds ``program.bin``, what ``jax.export`` serializes (StableHLO with the weights in it), and the
manifest ``program.json``, which says how it is called, of which versions it is, and its digest.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.export import metadata, whole
from jaxmini.export import signature as names
from jaxmini.export.artifact import Artifact, Predict, pixel_function, require_numbers
from jaxmini.export.lowering import anonymous, lower
from jaxmini.near_miss import did_you_mean
from jaxmini.record import Json

PROGRAM, MANIFEST = "program.bin", "program.json"
FORMAT = 1

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# How a portable StableHLO module names the version it is written in.
VERSION = re.compile(rb"StableHLO_v([0-9.]+)")


def stablehlo(
    artifact: Artifact,
    folder: Path | str,
    *,
    platforms: tuple[str, ...] | None = None,
    batch: int | None = None,
) -> Path:
    """Write an artifact as a program: uint8 images [B, H, W, C] -> float32 logits [B, classes].

    JAX reads what it has serialized for at least six months of its later versions (``jax.export``,
    compatibility guarantees). Anyone may, without jaxmini:
    ``jax.export.deserialize(bytearray(open("program.bin", "rb").read())).call(images)``.

    Args:
        artifact: of any model; one that ``quantize`` made keeps its roundings, as float operations.
        folder: made if it does not exist; a program in it is replaced.
        platforms: those on which the program may run, with the lowering rules that JAX has for each; by
            default it is lowered without rules of a platform, and runs on all.
        batch: how many images the program takes at a time; any number by default.

    Raises:
        TypeError: not an artifact.
        ValueError: an unknown platform, a batch below 1, or a model that needs a fixed batch.
    """
    require_numbers("stablehlo", artifact)
    _check(platforms, batch)
    size = jax.export.symbolic_shape("batch")[0] if batch is None else batch
    image = jax.ShapeDtypeStruct((size, *artifact.input_shape), np.dtype(np.uint8))
    try:
        exported = _exported(artifact, image, platforms)
    except (
        Exception
    ) as error:  # jax has several for what it cannot do with an unknown size, some its own
        if batch is not None:
            raise
        raise ValueError(
            "stablehlo: the model cannot be lowered for any number of images; give the one it is for, "
            f"stablehlo(..., batch=1) say ({error})"
        ) from error
    program = bytes(exported.serialize())
    folder = Path(folder)
    manifest = _manifest(artifact, exported, program, platforms, batch)
    whole.write(folder / PROGRAM, program)
    whole.write(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    return folder


def describe_stablehlo(folder: Path | str) -> dict[str, Json]:
    """What a program's manifest says of it: as ``describe_file``, with ``platforms`` and ``versions``.

    Raises:
        FileNotFoundError: the folder holds no program.
        ValueError: the manifest is damaged, or of another format.
    """
    path = Path(folder) / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no program: {MANIFEST} is missing")
    try:
        manifest = json.loads(path.read_text())
        version = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged, not the manifest of a program ({error})") from error
    if version != FORMAT:
        raise ValueError(f"{path}: format {version}; this version reads {FORMAT}")
    return manifest


def load_stablehlo(folder: Path | str) -> Predict:
    """A program that ``stablehlo`` wrote as a Predict: uint8 images [B, H, W, C] -> float32 logits.

    Raises:
        FileNotFoundError: the folder holds no program.
        ValueError: the program is not what its digest says; later, images of another shape or dtype, or a
            device of a platform that the program is not for.
    """
    folder = Path(folder)
    manifest = describe_stablehlo(folder)
    program = (folder / PROGRAM).read_bytes()
    if hashlib.sha256(program).hexdigest() != manifest["sha256"]:
        raise ValueError(f"{folder / PROGRAM}: its SHA-256 is not the one in {MANIFEST}")
    run = jax.jit(jax.export.deserialize(bytearray(program)).call)
    batch, *shape = manifest["input"]["shape"]

    def predict_images(images: jax.Array) -> jax.Array:
        right = images.dtype == np.uint8 and list(images.shape[1:]) == shape
        if not right or batch not in (None, len(images)):
            expected = ", ".join(map(str, ["B" if batch is None else batch, *shape]))
            raise ValueError(
                f"stablehlo: expected uint8 images [{expected}], got {images.dtype}{list(images.shape)}"
            )
        return run(jnp.asarray(images))

    return predict_images


def _check(platforms: tuple[str, ...] | None, batch: int | None) -> None:
    if batch is not None and batch < 1:
        raise ValueError(f"stablehlo: batch is {batch}; it must be at least 1, or None for any")
    if platforms is not None and not platforms:
        raise ValueError("stablehlo: platforms is empty; leave it out for all of them")
    for name in platforms or ():
        if name not in PLATFORMS:
            there = ", ".join(PLATFORMS) + did_you_mean(name, PLATFORMS)
            raise ValueError(f"stablehlo: unknown platform {name!r}; there are {there}")


def _exported(
    artifact: Artifact, image: jax.ShapeDtypeStruct, platforms: tuple[str, ...] | None
) -> jax.export.Exported:
    logits = pixel_function(artifact)

    def function(image: jax.Array) -> jax.Array:
        return logits(artifact.variables, image)

    if platforms is None:
        return anonymous(lower(function, image))
    return anonymous(jax.export.export(jax.jit(function), platforms=platforms)(image))


def _manifest(
    artifact: Artifact,
    exported: jax.export.Exported,
    program: bytes,
    platforms: tuple[str, ...] | None,
    batch: int | None,
) -> dict[str, Json]:
    version = VERSION.search(exported.mlir_module_serialized)
    (logits,) = exported.out_avals
    return {
        "format": FORMAT,
        "labels": list(artifact.labels),
        "normalization": dataclasses.asdict(artifact.normalization),
        "input": {
            "name": names.INPUT,
            "shape": [batch, *artifact.input_shape],
            "dtype": "uint8",
            "encoding": metadata.ENCODINGS["float32"],
        },
        "output": {
            "name": names.OUTPUT,
            "shape": [batch, *logits.shape[1:]],
            "dtype": logits.dtype.name,
        },
        "platforms": None if platforms is None else list(platforms),
        "versions": {
            "jax": jax.__version__,
            "jaxlib": importlib.metadata.version("jaxlib"),
            "stablehlo": None if version is None else version[1].decode(),
            "calling_convention": exported.calling_convention_version,
        },
        "provenance": dict(artifact.provenance),
        "sha256": hashlib.sha256(program).hexdigest(),
    }
