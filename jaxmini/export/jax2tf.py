"""The jax2tf back end: JAX function -> ``jax2tf.convert`` -> SavedModel -> TFLiteConverter -> .tflite."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmini.export import converter, custom_calls
from jaxmini.export.lowering import lower, portable
from jaxmini.export.signature import OUTPUT
from jaxmini.export.spreading import without_spreading
from jaxmini.state import PyTree

CONVERTER = Path(__file__).with_name("convert_jax2tf.py")

ImageFunction = Callable[[jax.Array], Any]


def convert(
    function: ImageFunction,
    image: jax.ShapeDtypeStruct,
    outputs: tuple[str, ...] = (OUTPUT,),
    *,
    float16: bool = False,
    dynamic_int8: bool = False,
) -> bytes:
    """The function, which holds no composites, as a float .tflite file.

    Args:
        function: image -> logits, or a tuple of as many as there are outputs.
        image: shape (batch fixed) and dtype of the input.
        outputs: names of the outputs.
        float16: store the weights in half precision.
        dynamic_int8: store the larger weights in int8 and quantize activations while the file runs.

    Raises:
        ValueError: the function has an operation without a TFLite form.
        ImportError: TensorFlow is not installed.
        ConversionError: the converter failed.
    """
    converter.require("tensorflow", "jax2tf")
    exported = lower(without_spreading(function, image), image)
    custom_calls.require_none(exported)
    options = _signature(exported, outputs) | {
        "tflite": {"strict": False, "float16": float16, "dynamic_int8": dynamic_int8}
    }
    return _run("program.jax", exported.serialize(), options)


def convert_annotated(
    function: ImageFunction,
    image: jax.ShapeDtypeStruct,
    outputs: tuple[str, ...] = (OUTPUT,),
) -> bytes:
    """The function as a .tflite file whose quantization is what its ``quant.*`` composites say.

    Arguments as of ``convert``.

    Raises:
        ValueError: the function has an operation without a TFLite form.
        ImportError: TensorFlow is not installed.
        ConversionError: the converter failed.
    """
    converter.require("tensorflow", "jax2tf")
    exported = lower(without_spreading(function, image), image)
    custom_calls.require_none(exported)
    options = _signature(exported, outputs) | {
        "tflite": {"strict": True, "float16": False, "dynamic_int8": False}
    }
    return _run("program.stablehlo", portable(exported), options)


def saved_model(
    function: Callable[[PyTree, jax.Array], jax.Array],
    variables: PyTree,
    image: jax.ShapeDtypeStruct,
    folder: Path,
) -> None:
    """Write a SavedModel of any batch size; the variables are stored beside the graph, not in it.

    Args:
        function: variables, image -> logits.
        variables: what the function is called with.
        image: shape and dtype of the input; the first dimension is left open.
        folder: where the SavedModel goes, made if it does not exist.

    Raises:
        ImportError: TensorFlow is not installed.
        ConversionError: jax2tf failed.
    """
    converter.require("tensorflow", "jax2tf")
    leaves, treedef = jax.tree.flatten(variables)
    specs = [jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) for leaf in leaves]
    (batch,) = jax.export.symbolic_shape("b")
    image = jax.ShapeDtypeStruct((batch, *image.shape[1:]), image.dtype)
    exported = lower(
        lambda leaves, image: function(jax.tree.unflatten(treedef, leaves), image), specs, image
    )
    folder.mkdir(parents=True, exist_ok=True)
    with converter.workspace() as work:
        (work / "program.jax").write_bytes(exported.serialize())
        arrays = {f"{index:05d}": np.asarray(leaf) for index, leaf in enumerate(leaves)}
        np.savez(work / "variables.npz", **arrays)
        options = {
            "input_shape": [None, *image.shape[1:]],
            "input_dtype": image.dtype.name,
            "outputs": [OUTPUT],
            "saved_model": str(folder.resolve()),
        }
        converter.run(CONVERTER, work, options)


def _signature(exported: jax.export.Exported, outputs: tuple[str, ...]) -> dict[str, object]:
    (image,) = exported.in_avals
    return {
        "input_shape": list(image.shape),
        "input_dtype": image.dtype.name,
        "outputs": list(outputs),
        "output_shapes": [list(output.shape) for output in exported.out_avals],
        "output_dtypes": [output.dtype.name for output in exported.out_avals],
    }


def _run(name: str, program: bytes, options: dict[str, object]) -> bytes:
    with converter.workspace() as folder:
        (folder / name).write_bytes(program)
        converter.run(CONVERTER, folder, options)
        return (folder / "model.tflite").read_bytes()
