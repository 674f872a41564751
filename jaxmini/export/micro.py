"""micro: an int8 network as C++ sources for TFLite-Micro, once the file has been seen to run there."""

import dataclasses
import hashlib
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxmini.export import arena as memory
from jaxmini.export import c_source, converter, edges, flatbuffer, metadata, micro_operators
from jaxmini.export.arena import Arena, MicroError
from jaxmini.export.artifact import Artifact
from jaxmini.export.converter import Backend
from jaxmini.export.flatbuffer import File, Tensor
from jaxmini.export.tflite import tflite

# Words of C++, and headers of C that a file of the name would hide.
_TAKEN = """
alignas alignof and asm assert auto bitand bitor bool break case catch char class compl complex concept const
continue ctype decltype default delete do double else enum errno explicit export extern false fenv float for
friend goto if inline int inttypes limits locale long main math mutable namespace new noexcept not nullptr
operator or private protected public register requires return setjmp short signal signed sizeof static std
stdarg stddef stdint stdio stdlib string struct switch template tflite tgmath this throw time true try typedef
typeid typename union unsigned using virtual void volatile wchar while xor
"""
TAKEN = frozenset(_TAKEN.split())


@dataclasses.dataclass(frozen=True)
class Micro:
    """Sources that were written.

    Attributes:
        name: of the files and of the C++ namespace.
        files: the header, the array, the operators, and an example with ``main``.
        bytes: of the model's array.
        sha256: of the .tflite file.
        arena: the working memory it was seen to run with.
        ops: the operators, by their schema names, each once.
    """

    name: str
    files: tuple[Path, ...]
    bytes: int
    sha256: str
    arena: Arena
    ops: tuple[str, ...]


def micro(
    source: Artifact | Path | str | bytes,
    folder: Path | str,
    *,
    name: str | None = None,
    backend: Backend = "jax2tf",
) -> Micro:
    """Write ``<name>.h``, ``<name>.cc``, ``<name>_ops.h`` and ``main.cc`` of an int8 network.

    The file is run by TFLite-Micro's own interpreter first, which measures its arena; nothing is written
    of one that does not run there.

    Args:
        source: an artifact of a quantized model, or an int8 .tflite file, by path or as bytes.
        folder: made if it does not exist; files of these names in it are replaced.
        name: of the files and of the namespace; that of the file by default, else ``model``.
        backend: what converts an artifact.

    Raises:
        MicroError: TFLite-Micro does not run the file, it computes in floats, or its inputs or outputs are
            not int8; lists what is in its way.
        ValueError: not a .tflite file, one whose metadata is not of it, or a name that C++ does not take.
        ImportError: TFLite-Micro, or the back end, is not installed.
    """
    name = _name(source) if name is None else name
    _require_name(name)
    source = _file(source, backend)
    file, (content, where) = flatbuffer.read(source), flatbuffer.contents(source)
    if reasons := unfit(file):
        raise MicroError(where, reasons)
    encoding, labels = _described(source, file, where)
    sha256, ops = hashlib.sha256(content).hexdigest(), tuple(file.op_counts)
    text = c_source.Source(
        name=name,
        content=content,
        sha256=sha256,
        image=file.tensors[file.inputs[0]],
        logits=file.tensors[file.outputs[0]],
        encoding=encoding,
        labels=labels,
        ops=ops,
        arena=memory.measure(source),
        machine=platform.machine(),
    )
    files = _write(Path(folder), c_source.files(text))
    return Micro(name, files, len(content), sha256, text.arena, ops)


def unfit(file: File) -> tuple[str, ...]:
    """Why a file is none for a microcontroller, as far as it can be told without running it.

    TFLite-Micro has no kernel for one of its operators, or it does not compute in integers throughout.
    """
    if reasons := micro_operators.obstacles(file):
        return reasons
    return (*micro_operators.float_operators(edges.core(file)), *_other_ends(file))


def _file(source: Artifact | Path | str | bytes, backend: Backend) -> Path | str | bytes:
    if not isinstance(source, Artifact):
        return source
    with converter.workspace() as folder:
        path = folder / "model.tflite"
        return tflite(source, path, variant="int8", backend=backend).path.read_bytes()


def _described(source: Path | str | bytes, file: File, where: str) -> tuple[str, tuple[str, ...]]:
    """How a pixel goes in and the names of the outputs, as far as a file that can be described so says."""
    if metadata.NAME not in file.metadata:
        return "", ()
    described = metadata.describe_file(source)
    image, logits = (file.tensors[indices[0]] for indices in (file.inputs, file.outputs))
    try:
        encoding = described.get("input", {}).get("encoding", "")
        labels = tuple(map(str, described.get("labels", ())))
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{where}: its metadata is damaged ({error!r})") from error
    if encoding not in ("", metadata.ENCODINGS[image.dtype.name]):
        raise ValueError(
            f"{where}: its metadata says that its {image.dtype} input takes {encoding!r}; damaged"
        )
    if labels and logits.shape[-1:] != (len(labels),):
        raise ValueError(
            f"{where}: its metadata names {len(labels)} classes, and its output is "
            f"{list(logits.shape)}; damaged"
        )
    return encoding, labels


def _other_ends(file: File) -> Iterator[str]:
    for what, indices in (("input", file.inputs), ("output", file.outputs)):
        tensor = file.tensors[indices[0]]
        if tensor.dtype != np.int8 or not _on_one_grid(tensor):
            yield (
                f"its {what} is {tensor.dtype}{list(tensor.shape)}, expected int8 on a grid: "
                "export the network as variant='int8', of no other input and output in its layout"
            )


def _on_one_grid(tensor: Tensor) -> bool:
    return tensor.scale.size == 1


def _name(source: Artifact | Path | str | bytes) -> str:
    """A name that C++ takes, as near that of the file as can be."""
    if not isinstance(source, Path | str):
        return "model"
    name = re.sub(r"\W", "_", Path(source).stem, flags=re.ASCII)
    return f"model_{name}" if name in TAKEN or not name[:1].isalpha() else name


def _require_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name in TAKEN:
        raise ValueError(
            f"micro: the name {name!r} cannot be that of a C++ namespace and its files: use letters, digits "
            "and _, a letter first, and no word that C++ has taken"
        )


def _write(folder: Path, texts: dict[str, str]) -> tuple[Path, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="ascii")
    return tuple(folder / name for name in texts)
