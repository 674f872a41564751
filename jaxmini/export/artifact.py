"""Artifact: a trained model as a folder that is enough to run it: weights, labels, how pixels go in, origin.

The folder holds ``variables.npz`` and the manifest ``artifact.json``, which carries the digest of everything.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini import record
from jaxmini.compress.quantize.tracing import explained
from jaxmini.data.views import Normalization
from jaxmini.model import Model, Variables
from jaxmini.near_miss import near_path
from jaxmini.state import PyTree

MANIFEST = "artifact.json"
VARIABLES = "variables.npz"
FORMAT = 1
# Of an artifact that is not what was written.
REMEDY = "bring the file back from a copy, or train it again, a run's with --fresh"

Predict = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Artifact:
    """A trained model and all that is needed to run it.

    Attributes:
        model: takes normalised float32 images [B, H, W, C], returns logits [B, classes].
        variables: of the model.
        labels: class names, in the order of the logits; empty for a model that returns embeddings.
        normalization: how pixels become the model's input.
        input_shape: (H, W, C).
        provenance: what it was made from; names to digests, dates, versions.
    """

    model: Model
    variables: Variables
    labels: tuple[str, ...]
    normalization: Normalization
    input_shape: tuple[int, int, int]
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.labels, str):
            raise TypeError(
                f"Artifact: labels is the text {self.labels!r}, expected names of classes, ('a', 'b') say"
            )
        if len(self.input_shape) != 3 or not all(map(_is_size, self.input_shape)):
            raise ValueError(
                f"Artifact: input_shape is {self.input_shape}, expected (H, W, C), three numbers of at least "
                "1: files are of fixed sizes, and how many images there are is no part of it"
            )
        inputs = self.input_spec(1)
        with explained("Artifact", self.model, self.variables, inputs):
            logits, _ = jax.eval_shape(self.model.apply, self.variables, inputs)
        expected = (1, len(self.labels))
        if self.labels and getattr(logits, "shape", None) != expected:
            raise ValueError(
                f"Artifact: the model returns {getattr(logits, 'shape', logits)} for one image; "
                f"{len(self.labels)} labels need logits {expected}"
            )

    def input_spec(self, batch: int) -> jax.ShapeDtypeStruct:
        """Shape and dtype of a batch of the model's input."""
        return jax.ShapeDtypeStruct((batch, *self.input_shape), np.dtype(np.float32))

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of the SHA-256 over the names, shapes and bytes of the variables."""
        digest = hashlib.sha256()
        for name, array in _flatten(self.variables).items():
            digest.update(f"{name} {array.dtype.name} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def predict(artifact: Artifact) -> Predict:
    """The artifact as a Predict: uint8 images [B, H, W, C] -> float32 logits [B, classes], compiled.

    The returned function raises ValueError on images of another shape or dtype.

    Raises:
        TypeError: not an artifact.
    """
    require_artifact("predict", artifact)
    run = jax.jit(functools.partial(_logits, artifact.model, artifact.normalization))
    variables = jax.tree.map(jnp.asarray, artifact.variables)

    def predict_images(images: jax.Array) -> jax.Array:
        if images.dtype != np.uint8 or images.shape[1:] != artifact.input_shape:
            raise ValueError(
                f"predict: expected uint8 images [B, {', '.join(map(str, artifact.input_shape))}], "
                f"got {images.dtype}{list(images.shape)}"
            )
        return run(variables, images)

    return predict_images


def pixel_function(artifact: Artifact) -> Callable[[Variables, jax.Array], jax.Array]:
    """Variables, pixels 0..255 [B, H, W, C] of any dtype -> float32 logits: the normalisation is inside."""
    return functools.partial(_logits, artifact.model, artifact.normalization)


def require_artifact(where: str, value: object) -> None:
    """See that a value is an artifact.

    Raises:
        TypeError: it is not; says what makes one of a model.
    """
    if not isinstance(value, Artifact):
        raise TypeError(
            f"{where}: expected an Artifact, got {type(value).__name__}; of a Model it is "
            "Artifact(model, variables, labels, normalization, input_shape)"
        )


def require_numbers(where: str, artifact: Artifact) -> None:
    """See that a value is an artifact whose variables are numbers; infinities may be meant (masks).

    Raises:
        TypeError: it is no artifact.
        ValueError: NaN is among them; names the variable.
    """
    require_artifact(where, artifact)
    for path, leaf in jax.tree_util.tree_leaves_with_path(artifact.variables):
        wrong = np.count_nonzero(np.isnan(leaf)) if jnp.issubdtype(leaf.dtype, jnp.floating) else 0
        if wrong:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"{where}: {wrong} of the {leaf.size} numbers of {name} are NaN: the training that left them "
                "diverged; export what was saved before"
            )


def save(artifact: Artifact, folder: Path | str) -> Path:
    """Write the artifact into a folder, made if it does not exist; an artifact in it is replaced.

    Raises:
        TypeError: not an artifact, or the model cannot be found again by name.
        ValueError: a key of the variables is not a name.
    """
    require_artifact("save", artifact)
    folder = Path(folder)
    arrays = _flatten(artifact.variables)
    manifest = {
        "format": FORMAT,
        "model": record.describe(artifact.model, "model"),
        "labels": list(artifact.labels),
        "normalization": dataclasses.asdict(artifact.normalization),
        "input_shape": list(artifact.input_shape),
        "provenance": dict(artifact.provenance),
        "variables": {
            name: {"dtype": array.dtype.name, "shape": list(array.shape)}
            for name, array in arrays.items()
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{VARIABLES}.partial"
    with partial.open("wb") as file:
        np.savez(file, **{name: _storable(array) for name, array in arrays.items()})
    manifest["files"] = {VARIABLES: hashlib.sha256(partial.read_bytes()).hexdigest()}
    manifest["digest"] = record.digest(manifest)
    text = folder / f"{MANIFEST}.partial"
    text.write_text(json.dumps(manifest, indent=2) + "\n")
    os.replace(partial, folder / VARIABLES)
    os.replace(text, folder / MANIFEST)
    return folder


def load(folder: Path | str) -> Artifact:
    """The artifact of a folder.

    Raises:
        FileNotFoundError: the folder holds no artifact.
        ValueError: a file is not what its digest says, or a variable not what the manifest says.
        ImportError: the code of the model is not to be found (names the class), or what it imports.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder / MANIFEST)
    for name, digest in manifest["files"].items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise ValueError(
                f"{folder / name}: its SHA-256 is not the one in {MANIFEST}; it was changed: {REMEDY}"
            )
    try:
        model = record.rebuild(manifest["model"])
    except record.UndefinedError as error:
        raise record.UndefinedError(f"artifact {folder}: {error}") from error
    return Artifact(
        model=model,
        variables=_read_variables(folder / VARIABLES, manifest["variables"]),
        labels=tuple(manifest["labels"]),
        normalization=Normalization(**manifest["normalization"]),
        input_shape=tuple(manifest["input_shape"]),
        provenance=manifest["provenance"],
    )


def normalized(normalization: Normalization, images: jax.Array) -> jax.Array:
    """Pixels 0..255 of any dtype as a model takes them, float32; computed as an int8 file reads them."""
    levels = images.astype(jnp.float32) - jnp.float32(normalization.zero_point + 128)
    return levels * jnp.float32(normalization.scale)


def _is_size(size: object) -> bool:
    return isinstance(size, int | np.integer) and size >= 1


def _logits(
    model: Model, normalization: Normalization, variables: Variables, images: jax.Array
) -> jax.Array:
    logits, _ = model.apply(variables, normalized(normalization, images))
    return logits.astype(jnp.float32)


def _read_manifest(path: Path) -> dict[str, record.Json]:
    if not path.exists():
        near = "" if path.parent.exists() else near_path(path.parent)
        raise FileNotFoundError(f"{path.parent} holds no artifact: {path.name} is missing{near}")
    try:
        manifest = json.loads(path.read_text())
        digest = manifest.pop("digest")
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: damaged, not the manifest of an artifact ({error}): {REMEDY}"
        ) from error
    if record.digest(manifest) != digest:
        raise ValueError(
            f"{path}: its content is not what its digest says; it was changed: {REMEDY}"
        )
    if manifest["format"] != FORMAT:
        raise ValueError(f"{path}: format {manifest['format']}; this version reads {FORMAT}")
    return manifest


def _read_variables(path: Path, specs: dict[str, dict[str, record.Json]]) -> Variables:
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    if arrays.keys() != specs.keys():
        odd = ", ".join(sorted(arrays.keys() ^ specs.keys()))
        raise ValueError(f"{path}: its arrays are not those of the manifest: {odd}")
    for name, spec in specs.items():
        arrays[name] = arrays[name].view(jnp.dtype(spec["dtype"]))
        if list(arrays[name].shape) != spec["shape"]:
            raise ValueError(f"{path}: {name} has shape {arrays[name].shape}, not {spec['shape']}")
    return _unflatten(arrays)


def _storable(array: np.ndarray) -> np.ndarray:
    """The array itself, or the integers of its bits where numpy's format has no such type (bfloat16)."""
    return array if array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")


def _flatten(variables: PyTree, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dicts -> {"params/Conv_0/kernel": array}, names escaped as in RFC 6901 (JSON Pointer)."""
    arrays = {}
    for name, value in sorted(variables.items()):
        if not isinstance(name, str) or not name:
            raise ValueError(f"save: the key {name!r} in {prefix or 'variables'} is not a name")
        escaped = name.replace("~", "~0").replace("/", "~1")
        path = f"{prefix}/{escaped}" if prefix else escaped
        arrays |= _flatten(value, path) if isinstance(value, Mapping) else {path: np.asarray(value)}
    return arrays


def _unflatten(arrays: Mapping[str, np.ndarray]) -> Variables:
    variables: Variables = {}
    for path, array in arrays.items():
        *parents, name = (part.replace("~1", "/").replace("~0", "~") for part in path.split("/"))
        node = variables
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = array
    return variables
