"""Custom calls: operations that XLA takes from libraries of its own, and that no .tflite file can have.

A converter ends with a page of its own words on them, or writes a file that no interpreter runs.
"""

from jax.export import Exported
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

OPERATION, TARGET = "stablehlo.custom_call", "call_target_name"


def custom_calls(exported: Exported) -> tuple[str, ...]:
    """What a lowered function calls of XLA's libraries, by the names it has there (``Qr``); sorted."""
    found: set[str] = set()

    def collect(operation: ir.Operation) -> ir.WalkResult:
        if operation.name == OPERATION:
            found.add(ir.StringAttr(operation.attributes[TARGET]).value)
        return ir.WalkResult.ADVANCE

    with ir.Context() as context:
        stablehlo.register_dialect(context)
        program = exported.mlir_module_serialized
        module = stablehlo.deserialize_portable_artifact(context, program)
        module.operation.walk(collect)
    return tuple(sorted(found))


def require_none(exported: Exported) -> None:
    """See that a lowered function calls nothing that only XLA has; nothing is converted or computed.

    Raises:
        ValueError: it does; lists the calls.
    """
    if calls := custom_calls(exported):
        raise ValueError(
            f"tflite: the model has operations without a TFLite form: {', '.join(calls)} (as XLA calls "
            "them; linear algebra, say); build it without them, or export it as a program of StableHLO"
        )
