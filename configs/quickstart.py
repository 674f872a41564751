"""Quickstart: from unlabelled handwritten digits and 100 labels to an int8 .tflite.

    ./launch/local.sh

The whole chain on scikit-learn's bundled 8x8 digits: 1,297 pictures to train on, of which 100 have a label,
and 500 to test on. Two more stages do the same without pretraining and without a teacher, so that the
closing table shows what each stage is worth.
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
    pictures = data.unlabelled(data.digits())
    labelled = data.few_labels(data.digits(), 100)

    body = models.small_resnet(stem_width=24, stem_stride=1, widths=(48, 96), strides=(2, 2))
    small = models.small_resnet(10, stem_width=8, stem_stride=1, widths=(16, 28), strides=(2, 2))

    pretrain = Contrastive(
        name="pretrain",
        data=pictures,
        model=with_head(body, models.projection_head(64, hidden=128)),
        loss=losses.nt_xent(temperature=0.2),
        view=data.small_pictures(area=(0.6, 1.0), jitter=0.5, noise=0.1),
        optimizer=adamw(3e-3),
        epochs=80,
        batch_size=64,
    )
    scratch = Supervised(
        name="scratch",
        data=labelled,
        model=with_head(body, models.classifier(10)),
        optimizer=adamw(1e-3),
        epochs=300,
        batch_size=100,
        note="the teacher's net on the same labels, without pretraining",
    )
    teacher = Supervised(
        name="teacher",
        data=labelled,
        model=with_head(body, models.classifier(10)),
        start=pretrain,
        optimizer=adamw(1e-3),
        epochs=300,
        batch_size=100,
        against=scratch,
        note="pretrained without labels, fine-tuned on few",
    )
    alone = Supervised(
        name="alone",
        data=labelled,
        model=small,
        optimizer=sgd(0.1),
        epochs=1200,
        batch_size=100,
        note="the student's net on the same labels, without a teacher",
    )
    student = Distill(
        name="student",
        data=pictures,
        model=small,
        teacher=teacher,
        loss=losses.kl(temperature=2.0),
        optimizer=sgd(0.1),
        epochs=60,
        batch_size=64,
        against=alone,
        note="taught by the teacher, without labels",
    )
    int8 = Distill(
        name="int8",
        data=pictures,
        start=student,
        teacher=teacher,
        quantize=quantize.int8(),
        loss=losses.kl(temperature=2.0),
        optimizer=sgd(0.01, clip=1.0),
        epochs=5,
        batch_size=64,
        against=student,
        note="the student, trained in the integers it will run in",
    )
    files = Export(int8, "int8", "jax2tf"), Export(int8, "int8", "litert")
    return Recipe(
        stages=(pretrain, scratch, teacher, alone, student, int8),
        exports=(*files, Export(student, "float32", "litert")),
        gates=(
            *(gates.all_integer(file) for file in files),
            *(gates.max_accuracy_drop(file, below=student, points=2) for file in files),
            *(gates.min_agreement(file, 0.995) for file in files),
        ),
    )
