"""Conv: the lowering rule that makes JAX's convolutions fast on a CPU.

    jaxmini.cpu.install()

No model, gradient or transformation changes. jax asks for a rule when it writes a program for a platform,
and finds this one for ``cpu`` alone, as it finds its own for complex convolutions there. Programs that are
written to be exported keep their convolutions: whoever runs the file chooses how.
"""

import dataclasses
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.extend
from jax import lax
from jax._src import xla_bridge
from jax.interpreters import mlir
from jax.sharding import AxisType

from jaxmini.cpu.choice import SCOPE, choose

TESTED = "0.10.2"


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A convolution of a program, and what became of it.

    Attributes:
        path: the formulation it got, or ``xla``.
        why: in a few words.
        shapes: ``float32[8,32,32,3] * float32[3,3,3,16] -> float32[8,32,32,16]``.
    """

    path: str
    why: str
    shapes: str

    def __str__(self) -> str:
        return f"{self.path:26} {self.shapes}: {self.why}"


Report = Callable[[Lowered], None]

# jax's own rule while ours stands in its place.
_replaced: list[Any] = []


def install(report: Report | None = None) -> bool:
    """Make convolutions of programs compiled from now on fast on CPUs; whether that could be done.

    Call it before anything is compiled: what already is keeps what it has. Calling it again changes
    ``report`` alone. Values and gradients equal XLA's to rounding.

    Args:
        report: is told of each distinct convolution of each program, with its path and why.

    Warns:
        RuntimeWarning: programs with convolutions have been compiled before, and keep theirs; or this
            version of jax keeps its rules elsewhere, and nothing was done.
    """
    rules = _rules()
    if rules is None:
        warnings.warn(
            f"jaxmini.cpu.install: jax {jax.__version__} does not keep its lowering rules where jax "
            f"{TESTED} does; convolutions stay XLA's, which are slow where they are depthwise",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    _warn_of_compiled("install")
    if not _replaced:
        _replaced.append(rules[lax.conv_general_dilated_p].rule)
    mlir.register_lowering(lax.conv_general_dilated_p, _rule(_replaced[0], report), platform="cpu")
    return True


def uninstall() -> None:
    """Give convolutions of programs compiled from now on back to XLA.

    Warns:
        RuntimeWarning: programs with convolutions have been compiled before, and keep theirs.
    """
    if _replaced:
        _warn_of_compiled("uninstall")
        mlir.register_lowering(lax.conv_general_dilated_p, _replaced.pop(), platform="cpu")


def _rule(default: Any, report: Report | None) -> Any:
    """The lowering rule: the choice for its shapes, or what jax does by ``default``."""
    formulating = threading.local()  # a formulation's own convolutions are XLA's

    def lower(ctx, lhs, rhs, **params):
        if getattr(formulating, "now", False):
            return default(ctx, lhs, rhs, **params)
        if ctx.module_context.lowering_parameters.for_export or _is_explicit(params):
            return default(ctx, lhs, rhs, **params)
        partitioned = _is_partitioned(ctx.module_context.axis_context)
        choice = choose(*ctx.avals_in, *ctx.avals_out, params, partitioned=partitioned)
        if report is not None:
            a, b, y = (value.str_short() for value in (*ctx.avals_in, *ctx.avals_out))
            report(Lowered(choice.path, choice.why, f"{a} * {b} -> {y}"))
        if choice.formulation is None:
            return default(ctx, lhs, rhs, **params)
        formulating.now = True
        try:
            return mlir.lower_fun(choice, multiple_results=False)(ctx, lhs, rhs)
        finally:
            formulating.now = False

    return lower


def _is_explicit(params: Mapping[str, Any]) -> bool:
    """Whether the user's types say how the result lies on devices, which a formulation would not keep."""
    sharding = params["out_sharding"]
    return sharding is not None and AxisType.Explicit in sharding.mesh.axis_types


def _is_partitioned(context: Any) -> bool:
    """Whether XLA divides the program over devices, rather than shard_map or pmap by hand."""
    if hasattr(context, "num_devices"):
        return context.num_devices > 1
    return set(getattr(context, "manual_axes", ())) != set(context.mesh.axis_names)


def _rules() -> Any:
    """jax's table of rules for this platform; None where this version keeps none there."""
    table = getattr(mlir, "_platform_specific_lowerings", {}).get("cpu", {})
    return table if lax.conv_general_dilated_p in table else None


def _warn_of_compiled(what: str) -> None:
    compiled = _compiled()
    if compiled:
        warnings.warn(
            f"jaxmini.cpu.{what}: {compiled} programs with convolutions were compiled before it and "
            f"keep them as they are; call it first, or jax.clear_caches() before it",
            RuntimeWarning,
            stacklevel=3,
        )


def _compiled() -> int:
    """How many compiled programs for this platform hold a convolution."""
    # Asking for a backend would start it, with its settings.
    if not xla_bridge.backends_are_initialized():
        return 0
    programs = jax.extend.backend.get_backend("cpu").live_executables()
    return sum(
        any(SCOPE in module.to_string() for module in program.hlo_modules()) for program in programs
    )
