"""Lowering: a JAX function as portable StableHLO bytes, for a converter in another process, or a file.

They hold the mathematics and the constants, and no lowering rule of this machine. A program that is handed
on is made ``anonymous`` besides.
"""

import dataclasses
from collections.abc import Callable

import jax
from jax.export import DisabledSafetyCheck, Exported
from jaxlib.mlir import ir, passmanager
from jaxlib.mlir.dialects import stablehlo

# The function is lowered for a platform that this process does not run on, so that a lowering rule made
# for the local CPU (or a custom call of it) cannot enter a file that other machines read.
PLATFORM = "tpu"

# By how many weeks a reader of the bytes may be older than their writer.
Weeks = stablehlo.StablehloCompatibilityRequirement


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
    return _rewritten(exported, Weeks.WEEK_12)


def anonymous(exported: Exported) -> Exported:
    """The program without the places of the code it was traced from, which are paths of this machine."""
    module = _rewritten(exported, Weeks.WEEK_4, "strip-debuginfo")  # as jax.export writes it
    return dataclasses.replace(exported, mlir_module_serialized=module)


def _rewritten(exported: Exported, requirement: Weeks, *passes: str) -> bytes:
    with ir.Context() as context:
        stablehlo.register_dialect(context)
        module = stablehlo.deserialize_portable_artifact(context, exported.mlir_module_serialized)
        passmanager.PassManager.parse(f"builtin.module({','.join(passes)})").run(module.operation)
        version = stablehlo.get_version_from_compatibility_requirement(requirement)
        return stablehlo.serialize_portable_artifact(module, version)
