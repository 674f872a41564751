import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress.quantize import simulate
from jaxmini.export import Artifact, features
from jaxmini.export.artifact import pixel_function
from jaxmini.export.integer import integer_form


@pytest.mark.parametrize("pattern", ["Dense_0", "Block/Dense_0", "Dense_*", "Block/Dense_0:dense"])
def test_what_the_head_takes_is_found_in_a_plan(pattern: str, integer_artifact: Artifact):
    plan, _ = integer_form(integer_artifact)
    part = features.before(plan, pattern)
    assert part.groups == plan.groups[:-1]
    assert part.program.shape(part.output) == (1, 8)
    assert part.output_site.endswith(":mean")


def test_the_head_of_what_is_before_gives_the_logits(
    integer_artifact: Artifact, images: np.ndarray
):
    plan, frozen = integer_form(integer_artifact, 4)
    integers = (images[:4].astype(np.int16) - 128).astype(np.int8)
    part = features.before(plan, "Dense_0")
    embedding, logits = (simulate(cut, frozen, integers) for cut in (part, plan))
    head = frozen.kernels["Block/Dense_0:dense"]
    floats = frozen.grids[part.output_site]
    values = (np.float32(embedding) - floats.zero_point) * floats.scale
    expected = values @ head.float_kernel + head.float_bias
    step = frozen.grids[plan.output_site]
    assert (
        np.abs((np.float32(logits) - step.zero_point) * step.scale - expected).max() <= step.scale
    )


def test_what_the_head_takes_is_found_in_linen(float_artifact: Artifact, images: np.ndarray):
    function = pixel_function(float_artifact)
    both = features.with_features(lambda x: function(float_artifact.variables, x), "Dense_0")
    logits, embedding = jax.jit(both)(jnp.asarray(images[:4], jnp.float32))
    head = float_artifact.variables["params"]["Dense_0"]
    np.testing.assert_allclose(
        np.asarray(embedding) @ head["kernel"] + head["bias"], logits, rtol=1e-5, atol=1e-5
    )


def test_patterns_that_name_nothing_or_no_vector_are_refused(
    float_artifact: Artifact, integer_artifact: Artifact
):
    plan, _ = integer_form(integer_artifact)
    function = pixel_function(float_artifact)
    image = jax.ShapeDtypeStruct((1, *float_artifact.input_shape), jnp.float32)

    def of_linen(pattern: str) -> None:
        both = features.with_features(lambda x: function(float_artifact.variables, x), pattern)
        jax.eval_shape(both, image)

    for find in (lambda pattern: features.before(plan, pattern), of_linen):
        with pytest.raises(
            ValueError, match=r"embedding='Densee_0' matches no module; near.*Dense_0"
        ):
            find("Densee_0")
        with pytest.raises(
            ValueError, match=r"embedding='Conv_1': the module takes \[1, 8, 8, 8\]"
        ):
            find("Conv_1")
