"""Data: sources of labelled pictures, the order of their examples, and views of them.

A recipe writes ``data.tfds("fashion_mnist")`` and ``data.small_pictures()``.
"""

from jaxmini.data.cifar10 import cifar10
from jaxmini.data.dataset import UNLABELLED, Dataset, Source, Split
from jaxmini.data.folder import folder
from jaxmini.data.order import Order, batch_at, batches, evaluation_batches
from jaxmini.data.preview import contact_sheet, write_contact_sheet
from jaxmini.data.sources import arrays, digits, few_labels, unlabelled
from jaxmini.data.tfds import tfds
from jaxmini.data.views import (
    Compose,
    Normalization,
    View,
    apply_views,
    chain,
    color_jitter,
    contrastive,
    crop_and_flip,
    gaussian_blur,
    gaussian_noise,
    identity,
    measure,
    random_flip,
    random_grayscale,
    random_resized_crop,
    random_shift,
    shift,
    small_pictures,
)

__all__ = [
    "UNLABELLED",
    "Compose",
    "Dataset",
    "Normalization",
    "Order",
    "Source",
    "Split",
    "View",
    "apply_views",
    "arrays",
    "batch_at",
    "batches",
    "chain",
    "cifar10",
    "color_jitter",
    "contact_sheet",
    "contrastive",
    "crop_and_flip",
    "digits",
    "evaluation_batches",
    "few_labels",
    "folder",
    "gaussian_blur",
    "gaussian_noise",
    "identity",
    "measure",
    "random_flip",
    "random_grayscale",
    "random_resized_crop",
    "random_shift",
    "shift",
    "small_pictures",
    "tfds",
    "unlabelled",
    "write_contact_sheet",
]
