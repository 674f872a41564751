"""Export: a trained model as an artifact, and an artifact as files that other programs run."""

from jaxmini.export.arena import Arena, MicroError
from jaxmini.export.artifact import Artifact, load, predict, save
from jaxmini.export.constraints import ConstraintError
from jaxmini.export.converter import ConversionError
from jaxmini.export.exported import describe_stablehlo, load_stablehlo, stablehlo
from jaxmini.export.integer import integer_file, integer_form
from jaxmini.export.layout import Layout
from jaxmini.export.metadata import describe_file
from jaxmini.export.micro import Micro, micro
from jaxmini.export.onnx import describe_onnx, onnx
from jaxmini.export.onnx_file import onnx_file
from jaxmini.export.parity import ParityError
from jaxmini.export.saved_model import describe_saved_model, saved_model
from jaxmini.export.tflite import Exported, tflite
from jaxmini.export.weights_only import weights_only_file, weights_only_form

__all__ = [
    "Arena",
    "Artifact",
    "ConstraintError",
    "ConversionError",
    "Exported",
    "Layout",
    "Micro",
    "MicroError",
    "ParityError",
    "describe_file",
    "describe_onnx",
    "describe_saved_model",
    "describe_stablehlo",
    "integer_file",
    "integer_form",
    "load",
    "load_stablehlo",
    "micro",
    "onnx",
    "onnx_file",
    "predict",
    "save",
    "saved_model",
    "stablehlo",
    "tflite",
    "weights_only_file",
    "weights_only_form",
]
