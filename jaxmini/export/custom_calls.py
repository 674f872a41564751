"""Custom calls: operations of a network that XLA takes from a library of its own, and no .tflite file has.

Converters write them into the file as they are; only an interpreter would refuse it.
"""

from typing import Any

from jaxmini.export import flatbuffer

OPERATOR = "STABLEHLO_CUSTOM_CALL"


def custom_calls(content: bytes) -> tuple[str, ...]:
    """What a .tflite file calls of XLA's libraries, by the names it has there (``Qr``); sorted."""
    model = flatbuffer.load(content)
    calls = {
        _target(op)
        for graph in model.subgraphs
        for op in graph.operators
        if flatbuffer.op_name(model, op) == OPERATOR
    }
    return tuple(sorted(calls))


def require_none(content: bytes) -> None:
    """See that a file calls nothing that no interpreter has.

    Raises:
        ValueError: it does; lists the calls.
    """
    if calls := custom_calls(content):
        raise ValueError(
            f"tflite: the model has operations without a TFLite form: {', '.join(calls)} (as XLA calls "
            "them); build it without them, or export it as a program of StableHLO"
        )


def _target(op: Any) -> str:
    name = getattr(op.builtinOptions2, "callTargetName", None)
    return "one without a name" if name is None else name.decode()
