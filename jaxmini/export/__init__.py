"""Export: a trained model as an artifact, and an artifact as files that other programs run."""

from jaxmini.export.artifact import Artifact, load, predict, save
from jaxmini.export.constraints import ConstraintError
from jaxmini.export.converter import ConversionError
from jaxmini.export.layout import Layout
from jaxmini.export.metadata import describe_file
from jaxmini.export.parity import ParityError
from jaxmini.export.tflite import Exported, integer_form, saved_model, tflite

__all__ = [
    "Artifact",
    "ConstraintError",
    "ConversionError",
    "Exported",
    "Layout",
    "ParityError",
    "describe_file",
    "integer_form",
    "load",
    "predict",
    "save",
    "saved_model",
    "tflite",
]
