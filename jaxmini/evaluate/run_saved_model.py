"""Child process that runs a SavedModel: ``images.npy`` in a folder -> ``logits.npy`` beside them.

Run as ``python run_saved_model.py FOLDER``; it imports nothing of jaxmini or jax.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

BATCH = 256


def main(folder: Path) -> None:
    """Answer the folder's images by the SavedModel that its ``options.json`` names."""
    options = json.loads((folder / "options.json").read_text())
    images = np.load(folder / "images.npy", allow_pickle=False)
    loaded = tf.saved_model.load(options["saved_model"])
    serve = loaded.signatures[options["signature"]]
    logits = [
        serve(**{options["input"]: tf.constant(part, tf.float32)})[options["output"]].numpy()
        for part in (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    ]
    np.save(folder / "logits.npy", np.concatenate(logits))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
