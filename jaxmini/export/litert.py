"""The litert back end: JAX function -> StableHLO -> litert-converter -> .tflite, without TensorFlow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxmini.export import converter, custom_calls
from jaxmini.export.lowering import lower, portable
from jaxmini.export.signature import INPUT, OUTPUT, SIGNATURE
from jaxmini.export.spreading import without_spreading

CONVERTER = Path(__file__).with_name("convert_litert.py")


def convert(
    function: Callable[[jax.Array], Any],
    image: jax.ShapeDtypeStruct,
    outputs: tuple[str, ...] = (OUTPUT,),
) -> bytes:
    """The function as a .tflite file; its ``quant.*`` composites become quantization parameters.

    Args:
        function: image -> logits, or a tuple of as many as there are outputs.
        image: shape (batch fixed) and dtype of the input.
        outputs: names of the outputs.

    Raises:
        ValueError: the function has an operation without a TFLite form.
        ImportError: litert-converter is not installed.
        ConversionError: the converter failed.
    """
    converter.require("litert_converter", "litert")
    exported = lower(without_spreading(function, image), image)
    custom_calls.require_none(exported)
    program = portable(exported)
    options = {"signature": SIGNATURE, "inputs": [INPUT], "outputs": list(outputs)}
    with converter.workspace() as folder:
        (folder / "program.stablehlo").write_bytes(program)
        converter.run(CONVERTER, folder, options)
        return (folder / "model.tflite").read_bytes()
