"""Losses: ``(signals, batch) -> (scalar, metrics)``, and the array functions they are made of.

A new family is one file here and its lines below.
"""

from jaxmini.losses.classification import cross_entropy as cross_entropy
from jaxmini.losses.classification import softmax_cross_entropy as softmax_cross_entropy
from jaxmini.losses.contrastive import info_nce as info_nce
from jaxmini.losses.contrastive import info_nce_loss as info_nce_loss
from jaxmini.losses.contrastive import nt_xent as nt_xent
from jaxmini.losses.contrastive import nt_xent_loss as nt_xent_loss
from jaxmini.losses.distillation.logits import kl as kl
from jaxmini.losses.distillation.logits import kl_divergence as kl_divergence
from jaxmini.losses.loss import Loss as Loss
