"""Fashion-MNIST: 60,000 pictures to an int8 .tflite of at most 100 kB.

    ./launch/local.sh configs/fashion_mnist.py

Read through TFDS's own ``fashion_mnist`` builder: downloaded, or from the four original files in
``$JAXMINI_DATA_DIR/fashion_mnist``. What it reaches stands in the README with the machine it ran on.
"""

import jaxmini.data as data
import jaxmini.losses as losses
import jaxmini.models as models
from jaxmini.compress import quantize
from jaxmini.model import with_head
from jaxmini.recipe import Contrastive, Distill, Export, Recipe, Supervised
from jaxmini.run import gates
from jaxmini.steps import adamw, sgd


def get_config() -> Recipe:
    images = data.tfds("fashion_mnist")

    body = models.small_resnet(stem_width=32, stem_stride=2, widths=(32, 64, 128))
    small = models.small_resnet(10, stem_width=16, stem_stride=2, widths=(16, 32, 48))

    pretrain = Contrastive(
        name="pretrain",
        data=data.unlabelled(images),
        model=with_head(body, models.projection_head(64, hidden=128)),
        loss=losses.nt_xent(temperature=0.2),
        view=data.small_pictures(area=(0.6, 1.0), jitter=0.4, noise=0.0),
        optimizer=adamw(5e-3),
        epochs=4,
        batch_size=128,
    )
    teacher = Supervised(
        name="teacher",
        data=images,
        model=with_head(body, models.classifier(10)),
        start=pretrain,
        view=data.shift(1),
        optimizer=sgd(0.2),
        epochs=8,
        batch_size=128,
    )
    alone = Supervised(
        name="alone",
        data=images,
        model=small,
        view=data.shift(1),
        optimizer=sgd(0.3),
        epochs=8,
        batch_size=128,
        note="the student's net on the labels, without a teacher",
    )
    student = Distill(
        name="student",
        data=images,
        model=small,
        teacher=teacher,
        loss=0.9 * losses.kl(temperature=4.0) + 0.1 * losses.cross_entropy(),
        view=data.shift(1),
        optimizer=sgd(0.3),
        epochs=8,
        batch_size=128,
        against=alone,
    )
    int8 = Distill(
        name="int8",
        data=images,
        start=student,
        teacher=teacher,
        quantize=quantize.int8(),
        loss=0.9 * losses.kl(temperature=4.0) + 0.1 * losses.cross_entropy(),
        view=data.shift(1),
        optimizer=sgd(0.01, clip=1.0),
        epochs=1,
        batch_size=128,
        against=student,
    )
    files = Export(int8, "int8", "jax2tf"), Export(int8, "int8", "litert")
    return Recipe(
        stages=(pretrain, teacher, alone, student, int8),
        exports=(*files, Export(student, "float32", "litert")),
        gates=(
            gates.min_accuracy(teacher, 0.925),
            gates.min_accuracy(student, 0.92),
            *(gates.max_bytes(file, 100_000) for file in files),
            *(gates.max_accuracy_drop(file, below=student, points=0.3) for file in files),
            *(gates.all_integer(file) for file in files),
            *(gates.min_agreement(file, 0.995) for file in files),
        ),
    )
