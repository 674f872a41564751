"""Export: a trained model as an artifact, and an artifact as files that other programs run."""

from jaxmini.export.arena import Arena, MicroError
from jaxmini.export.artifact import Artifact, load, predict, save
from jaxmini.export.constraints import ConstraintError
from jaxmini.export.converter import ConversionError
from jaxmini.export.metadata import describe_file
from jaxmini.export.micro import Micro, micro
from jaxmini.export.parity import ParityError
from jaxmini.export.tflite import Exported, integer_form, saved_model, tflite

__all__ = [
    "Arena",
    "Artifact",
    "ConstraintError",
    "ConversionError",
    "Exported",
    "Micro",
    "MicroError",
    "ParityError",
    "describe_file",
    "integer_form",
    "load",
    "micro",
    "predict",
    "save",
    "saved_model",
    "tflite",
]
