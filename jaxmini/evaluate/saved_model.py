"""A TensorFlow SavedModel as a Predict: a child process loads and runs it, and alone sees TensorFlow."""

from pathlib import Path

import numpy as np

from jaxmini.evaluate.accuracy import Predict
from jaxmini.evaluate.runtime import check_images
from jaxmini.export import converter
from jaxmini.export.saved_model import describe_saved_model

RUNNER = Path(__file__).with_name("run_saved_model.py")


def saved_model_predict(folder: Path | str) -> Predict:
    """A SavedModel as a Predict: uint8 images [B, H, W, C] -> float32 logits [B, classes].

    Each call starts TensorFlow anew, which takes seconds: give it all images at once.

    Args:
        folder: that ``jaxmini.export.saved_model`` wrote.

    Raises:
        FileNotFoundError, ValueError: no such folder, or a damaged one; later, images of another shape.
        ImportError: TensorFlow is not installed.
        ConversionError: later; TensorFlow cannot load or run it.
    """
    folder = Path(folder).resolve()
    description = describe_saved_model(folder)
    shape = tuple(description["input"]["shape"][1:])
    converter.require("tensorflow", "jax2tf")

    def predict_images(images: np.ndarray) -> np.ndarray:
        images = check_images(images, shape, "saved_model")
        options = {
            "saved_model": str(folder),
            "signature": description["signature"],
            "input": description["input"]["name"],
            "output": description["output"]["name"],
        }
        with converter.workspace() as work:
            np.save(work / "images.npy", images)
            converter.run(RUNNER, work, options)
            return np.load(work / "logits.npy", allow_pickle=False)

    return predict_images
