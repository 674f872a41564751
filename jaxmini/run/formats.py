"""Formats: what a recipe exports besides .tflite files. Each is an ``Export`` with a back end of its own."""

import dataclasses
from typing import Literal

from jaxmini.compress import quantize
from jaxmini.run.stage import Export


@dataclasses.dataclass(frozen=True)
class Onnx(Export):
    """An ONNX file to write from a stage: ``name.onnx``, of any batch.

    Attributes:
        variant: ``int8`` needs a quantizing stage, ``float32`` one that is none.
    """

    variant: Literal["float32", "int8"] = "int8"
    backend: Literal["onnx"] = "onnx"

    ending = ".onnx"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant == "float32" and self.stage.quantize is not None:
            own = "as int8"
            if isinstance(self.stage.quantize, quantize.weights_only):
                own = "by Export(stage, variant='weights_only')"
            raise ValueError(
                f"export of stage {self.stage.name!r} as float32 ONNX: the stage trains in integers; export "
                f"it {own}, or the stage it starts from"
            )


@dataclasses.dataclass(frozen=True)
class StableHLO(Export):
    """A folder with a serialized program to write from a stage: ``name.stablehlo``, of any batch."""

    variant: Literal["float32"] = "float32"
    backend: Literal["stablehlo"] = "stablehlo"

    ending = ".stablehlo"
    tells_operations = False


@dataclasses.dataclass(frozen=True)
class SavedModel(Export):
    """A folder with a TensorFlow SavedModel to write from a stage: ``name.saved_model``, of any batch."""

    variant: Literal["float32"] = "float32"
    backend: Literal["saved_model"] = "saved_model"

    ending = ".saved_model"
    tells_operations = False
    is_timed = False
