"""The file of a transformer that masks by its tokens, with its plan and numbers."""

import functools

import jax

from jaxmini.compress.quantize import calibrate, freeze, make_plan, quantize
from jaxmini.compress.quantize.frozen import Frozen
from jaxmini.compress.quantize.plan import Plan
from jaxmini.export import integer_file
from jaxmini.model import Model, Variables, from_linen
from tests.compress.quantize.quantize_nets import disturbed
from tests.compress.quantize.token_nets import Encoder, causal, sentences


@functools.cache
def calibrated(mask=causal) -> tuple[Model, Variables]:
    model, tokens = from_linen(Encoder(mask)), sentences()
    variables = disturbed(jax.jit(model.init)(jax.random.key(0), tokens[:1]))
    twin = quantize(model)
    return twin, calibrate(twin, variables, [tokens])


def planned(mask=causal) -> tuple[Plan, Frozen]:
    twin, variables = calibrated(mask)
    plan = make_plan(twin, variables, sentences()[:1])
    return plan, freeze(plan, variables)


@functools.cache
def masked() -> tuple[bytes, Plan, Frozen]:
    plan, frozen = planned()
    return integer_file(plan, frozen, "litert")[0], plan, frozen
