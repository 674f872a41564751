"""Child process of the jax2tf back end: a lowered JAX function in a folder -> SavedModel, ``model.tflite``.

Run as ``python convert_jax2tf.py FOLDER``: TensorFlow is imported here and nowhere else in ``export``, so
its start, its memory and its crashes stay out of the program that exports.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

# Version of the calling convention of XlaCallModule that takes StableHLO with no extra arguments.
CALL_MODULE_VERSION = 9


def by_jax2tf(folder: Path, variables: list[tf.Variable], spec: tf.TensorSpec) -> Callable:
    """The exported JAX function as a TensorFlow one, by ``jax2tf.convert``."""
    import jax.export
    from jax.experimental import jax2tf

    exported = jax.export.deserialize(bytearray((folder / "program.jax").read_bytes()))
    shapes = (
        [None, f"({', '.join(str(size or 'b') for size in spec.shape)})"] if variables else None
    )
    function = jax2tf.convert(exported.call, with_gradient=False, polymorphic_shapes=shapes)
    return (lambda image: function(variables, image)) if variables else function


def by_call_module(folder: Path, shapes: list[list[int]], dtypes: list[str]) -> Callable:
    """The StableHLO of a function that holds composites, wrapped as ``jax2tf.convert`` wraps one.

    ``jax2tf.convert`` itself serializes composites at a StableHLO version that TensorFlow 2.21 does not read.
    """
    from tensorflow.compiler.tf2xla.python import xla

    program = (folder / "program.stablehlo").read_bytes()

    def call(image: tf.Tensor) -> list[tf.Tensor]:
        return xla.call_module(
            (image,),
            version=CALL_MODULE_VERSION,
            module=program,
            Sout=tuple(map(tuple, shapes)),
            Tout=tuple(map(tf.dtypes.as_dtype, dtypes)),
            platforms=("CPU",),
            function_list=[],
            has_token_input_output=False,
        )

    return call


def save(
    function: Callable,
    variables: list[tf.Variable],
    spec: tf.TensorSpec,
    outputs: list[str],
    path: str,
) -> None:
    """Write a SavedModel with the signature ``serving_default``: ``image`` -> the named outputs."""

    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        found = function(image)
        found = list(found) if isinstance(found, list | tuple) else [found]
        return dict(zip(outputs, found, strict=True))

    module = tf.Module()
    module.variables_of_model = variables
    module.serve = tf.function(serve, autograph=False, input_signature=[spec])
    tf.saved_model.save(module, path, signatures={"serving_default": module.serve})


def convert(path: str, *, strict: bool, float16: bool, dynamic_int8: bool) -> bytes:
    """A flatbuffer of the SavedModel.

    Only ``from_saved_model`` honours strict mode, in which ``quant.*`` composites become the file's
    quantization parameters exactly.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(path)
    converter._experimental_strict_qdq = strict
    if float16 or dynamic_int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if float16:
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def main(folder: Path) -> None:
    """Turn what the folder holds into its model, as ``options.json`` says."""
    options = json.loads((folder / "options.json").read_text())
    spec = tf.TensorSpec(
        options["input_shape"], tf.dtypes.as_dtype(options["input_dtype"]), name="image"
    )
    variables = []
    if (folder / "variables.npz").exists():
        with np.load(folder / "variables.npz") as arrays:
            variables = [tf.Variable(arrays[name], trainable=False) for name in arrays.files]
    if (folder / "program.jax").exists():
        function = by_jax2tf(folder, variables, spec)
    else:
        function = by_call_module(folder, options["output_shapes"], options["output_dtypes"])
    saved_model = options.get("saved_model", str(folder / "saved_model"))
    save(function, variables, spec, options["outputs"], saved_model)
    if "tflite" in options:
        (folder / "model.tflite").write_bytes(convert(saved_model, **options["tflite"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
