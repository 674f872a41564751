"""MLPerf Tiny's image classification on CIFAR-10: a ResNet-8 that runs on a microcontroller.

    ./launch/local.sh configs/mlperf_tiny.py

The net is taught in integers by its own float weights, and the run's gates ask TFLite-Micro whether its file
runs there, and in how much memory. The sources for a microcontroller are then

    jaxmini micro runs/mlperf_tiny/exports/int8-litert.tflite firmware

Read through TFDS's ``cifar10`` (downloaded). Offline, with ``JAXMINI_DATA_DIR``, a lossless subset of
20,000 + 5,000 pictures takes its place and says so in the report: docs/results/mlperf_tiny.md.
"""

import jaxmini.data as data
import jaxmini.losses as losses
import jaxmini.models as models
from jaxmini.compress import quantize
from jaxmini.recipe import Distill, Export, Recipe, Supervised
from jaxmini.run import gates
from jaxmini.steps import sgd


def get_config() -> Recipe:
    images = data.cifar10()

    net = Supervised(
        name="net",
        data=images,
        model=models.mlperf_resnet8(),
        view=data.crop_and_flip(4),
        optimizer=sgd(0.1),
        epochs=20,
        batch_size=128,
    )
    int8 = Distill(
        name="int8",
        data=images,
        start=net,
        teacher=net,
        quantize=quantize.int8(),
        loss=losses.kl(temperature=4.0),
        view=data.crop_and_flip(4),
        optimizer=sgd(0.005, clip=1.0),
        epochs=2,
        batch_size=128,
        against=net,
    )
    file = Export(int8, "int8", "litert")
    return Recipe(
        stages=(net, int8),
        exports=(file,),
        gates=(
            gates.max_bytes(file, 100_000),
            gates.max_accuracy_drop(file, below=net, points=0.5),
            gates.all_integer(file),
            gates.micro(file),
            gates.max_arena(file, 65_536),
        ),
    )
