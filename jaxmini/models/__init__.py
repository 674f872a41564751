"""Networks: plain linen modules, each family driven by one table.

Every builder returns a module; without ``num_classes`` it gives features [B, F] instead of logits.
"""

from jaxmini.models.heads import classifier as classifier
from jaxmini.models.heads import projection_head as projection_head
from jaxmini.models.mlperf_tiny import mlperf_autoencoder as mlperf_autoencoder
from jaxmini.models.mlperf_tiny import mlperf_ds_cnn as mlperf_ds_cnn
from jaxmini.models.mlperf_tiny import mlperf_mobilenet_v1 as mlperf_mobilenet_v1
from jaxmini.models.mlperf_tiny import mlperf_resnet8 as mlperf_resnet8
from jaxmini.models.mobilenet import mobilenet_v2 as mobilenet_v2
from jaxmini.models.mobilenet import mobilenet_v4_conv_s as mobilenet_v4_conv_s
from jaxmini.models.resnet import resnet8x4 as resnet8x4
from jaxmini.models.resnet import resnet18 as resnet18
from jaxmini.models.resnet import resnet32x4 as resnet32x4
from jaxmini.models.resnet import resnet34 as resnet34
from jaxmini.models.resnet import resnet50 as resnet50
from jaxmini.models.resnet import resnet_cifar as resnet_cifar
from jaxmini.models.resnet import small_resnet as small_resnet
from jaxmini.models.vit import vit as vit
from jaxmini.models.vit import vit_base as vit_base
from jaxmini.models.vit import vit_small as vit_small
from jaxmini.models.vit import vit_tiny as vit_tiny
