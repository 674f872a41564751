"""Lowering: a JAX function as portable StableHLO bytes, for a converter in another process, or a file.

The bytes hold the mathematics and the constants, and nothing that belongs to this machine.
"""

from collections.abc import Callable

import jax
from jax.export import DisabledSafetyCheck, Exported
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

# The function is lowered for a platform that this process does not run on, so that a lowering rule made
# for the local CPU (or a custom call of it) cannot enter a file that other machines read.
PLATFORM = "tpu"


def lower(function: Callable[..., jax.Array], *inputs: object) -> Exported:
    """The function lowered to StableHLO, callable again on any platform.

    Args:
        function: pure, of as many arguments as there are ``inputs``.
        inputs: shapes and dtypes of the arguments, pytrees of ``jax.ShapeDtypeStruct``.
    """
    export = jax.export.export(
        jax.jit(function), platforms=[PLATFORM], disabled_checks=[DisabledSafetyCheck.platform()]
    )
    return export(*inputs)


def portable(exported: Exported) -> bytes:
    """The module's bytes at the StableHLO version of twelve weeks ago.

    ``jax.export`` writes the version of four weeks ago, whose form of a composite TensorFlow 2.21 cannot
    read. The version of twelve weeks ago is understood by every converter released since.
    """
    requirement = stablehlo.StablehloCompatibilityRequirement.WEEK_12
    with ir.Context() as context:
        stablehlo.register_dialect(context)
        module = stablehlo.deserialize_portable_artifact(context, exported.mlir_module_serialized)
        version = stablehlo.get_version_from_compatibility_requirement(requirement)
        return stablehlo.serialize_portable_artifact(module, version)
