"""Description: what any file or folder that jaxmini has exported says of itself."""

from pathlib import Path

from jaxmini.export.exported import MANIFEST, describe_stablehlo
from jaxmini.export.metadata import describe_file
from jaxmini.export.onnx import describe_onnx
from jaxmini.export.saved_model import DESCRIPTION, describe_saved_model
from jaxmini.record import Json


def describe(path: Path | str) -> dict[str, Json]:
    """What a .tflite or .onnx file, a program's folder or a SavedModel says of itself.

    Raises:
        FileNotFoundError: there is nothing, or a folder that holds neither.
        ValueError: a file of neither format, one that jaxmini did not write, or damaged; names it.
        ImportError: the format's package is not installed.
    """
    path = Path(path)
    if path.is_dir():
        return _describe_folder(path)
    return describe_onnx(path) if path.suffix == ".onnx" else describe_file(path)


def _describe_folder(path: Path) -> dict[str, Json]:
    if (path / MANIFEST).exists():
        return describe_stablehlo(path)
    if (path / DESCRIPTION).exists():
        return describe_saved_model(path)
    raise FileNotFoundError(
        f"{path} holds neither a program ({MANIFEST}) nor a SavedModel that jaxmini wrote "
        f"({DESCRIPTION})"
    )
