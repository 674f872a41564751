"""Child process of the litert back end: StableHLO bytes in a folder -> ``model.tflite`` beside them.

Run as ``python convert_litert.py FOLDER``; it imports nothing of jaxmini, jax or TensorFlow.
The converter has no public Python API: this is the one file that knows its private one (version 0.5).
"""

import json
import sys
from pathlib import Path

from litert_converter.mlir import ir, passmanager
from litert_converter.mlir._mlir_libs import converter_api_ext as converter

LEGALIZE = "builtin.module(vhlo-legalize-stablehlo,reconcile-unrealized-casts,strip-debuginfo)"


def convert(program: bytes, *, signature: str, inputs: list[str], outputs: list[str]) -> bytes:
    """A flatbuffer of the program; ``quant.*`` composites become its quantization parameters, exactly."""
    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context:
        module = ir.Module.parse(program)
        passmanager.PassManager.parse(LEGALIZE).run(module.operation)
        converter.set_signature(
            module.operation, signature_name=signature, input_names=inputs, output_names=outputs
        )
        config = converter.ConvertToTFLConfig()
        config.strict_qdq_mode = True
        config.enable_x64 = False
        converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
        return converter.export_flatbuffer_to_bytes(module.operation)


def main(folder: Path) -> None:
    """Turn the folder's ``program.stablehlo`` into its ``model.tflite``, as ``options.json`` says."""
    options = json.loads((folder / "options.json").read_text())
    file = convert((folder / "program.stablehlo").read_bytes(), **options)
    (folder / "model.tflite").write_bytes(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
