"""CIFAR-10 on one GPU: a ResNet-18 teaches a MobileNetV4 that ends as an int8 .tflite.

    ./launch/local.sh configs/cifar10.py
    sbatch launch/slurm.sbatch configs/cifar10.py

Read through TFDS's ``cifar10`` (downloaded). Offline, with ``JAXMINI_DATA_DIR``, a lossless subset of
20,000 + 5,000 pictures takes its place and says so in the report. The lengths are those of a GPU; for a look
at the chain on a CPU, override every stage's length: ``pretrain.epochs=0.1`` and so on.
"""

import jaxmini.data as data
import jaxmini.losses as losses
import jaxmini.models as models
from jaxmini.compress import quantize
from jaxmini.model import with_head
from jaxmini.recipe import Contrastive, Distill, Export, Recipe, Supervised
from jaxmini.steps import adamw, sgd


def get_config() -> Recipe:
    images = data.cifar10()

    body = models.resnet18(width=64, stem="cifar", dtype="bfloat16")
    small = models.mobilenet_v4_conv_s(10, width=0.5, small_inputs=2)

    pretrain = Contrastive(
        name="pretrain",
        data=data.unlabelled(images),
        model=with_head(body, models.projection_head(128)),
        loss=losses.nt_xent(temperature=0.2),
        view=data.contrastive(strength=0.5, blur=0.0),
        optimizer=adamw(1e-3, weight_decay=1e-4),
        epochs=200,
        batch_size=512,
    )
    teacher = Supervised(
        name="teacher",
        data=images,
        model=with_head(body, models.classifier(10)),
        start=pretrain,
        loss=losses.cross_entropy(label_smoothing=0.1),
        view=data.crop_and_flip(4),
        optimizer=sgd(0.1),
        epochs=60,
        batch_size=128,
    )
    alone = Supervised(
        name="alone",
        data=images,
        model=small,
        view=data.crop_and_flip(4),
        optimizer=sgd(0.1),
        epochs=120,
        batch_size=128,
        note="the student's net on the labels, without a teacher",
    )
    student = Distill(
        name="student",
        data=images,
        model=small,
        teacher=teacher,
        loss=0.9 * losses.kl(temperature=4.0) + 0.1 * losses.cross_entropy(),
        view=data.crop_and_flip(4),
        optimizer=sgd(0.1),
        epochs=120,
        batch_size=128,
        against=alone,
    )
    int8 = Distill(
        name="int8",
        data=images,
        start=student,
        teacher=teacher,
        quantize=quantize.int8(),
        loss=losses.kl(temperature=4.0),
        view=data.crop_and_flip(4),
        optimizer=sgd(0.005, clip=1.0),
        epochs=5,
        batch_size=128,
        against=student,
    )
    return Recipe(
        stages=(pretrain, teacher, alone, student, int8),
        exports=(
            Export(int8, "int8", "jax2tf"),
            Export(int8, "int8", "litert"),
            Export(student, "float32", "litert"),
        ),
    )
