"""Steps: Model + Loss + optimizer -> ``(state, frozen, batch) -> (state, metrics)``, and their placements."""

from jaxmini.steps.contrastive import contrastive as contrastive
from jaxmini.steps.distill import distill as distill
from jaxmini.steps.optimizers import adamw as adamw
from jaxmini.steps.optimizers import sgd as sgd
from jaxmini.steps.supervised import supervised as supervised
from jaxmini.steps.update import start as start
