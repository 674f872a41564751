"""Quantities as a reader wants them: few digits, SI prefixes, an en dash for the unknown."""

import math
from decimal import Decimal

MISSING = "–"
_PREFIXES = (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12))


def count(value: int | None) -> str:
    """Every digit, in groups of three: ``1,437``."""
    return MISSING if value is None else f"{value:,}"


def short(value: float | None, unit: str = "") -> str:
    """Three significant digits and an SI prefix: ``278 k``, ``1.20 MB`` (a kB is 1000 B)."""
    if value is None or not math.isfinite(value):
        return _absent(value)
    prefix, factor = next((p for p in _PREFIXES if abs(value) < 999.5 * p[1]), _PREFIXES[-1])
    digits = f"{value:.0f}" if factor == 1 else significant(value / factor)
    return f"{digits} {prefix}{unit}".rstrip()


def significant(value: float | None, digits: int = 3) -> str:
    """That many significant digits, zeros kept (``1.20``); exponents below 1e-4 and above 1e6."""
    if value is None or not math.isfinite(value):
        return _absent(value)
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return _minus(f"{value:.{digits - 1}e}")
    return _minus("0" if value == 0 else f"{value:#.{digits}g}".rstrip("."))


def percent(share: float | None, decimals: int = 2) -> str:
    """A share of 0..1 in percent: ``96.11%``. Only what is whole reads ``100.00%``."""
    if share is None or not math.isfinite(share):
        return _absent(share)
    text, whole = f"{100 * share:.{decimals}f}%", f"{100:.{decimals}f}%"
    return f">{100 - 10**-decimals:.{decimals}f}%" if text == whole and share < 1 else text


def points(difference: float | None) -> str:
    """A difference of two shares in percentage points, with its sign: ``+1.94``."""
    if difference is None or not math.isfinite(difference):
        return _absent(difference)
    text = _minus(f"{100 * difference:+.2f}")
    return "0.00" if text.lstrip("+−") == "0.00" else text


def duration(seconds: float | None) -> str:
    """Wall time: ``0.42 s``, ``12.3 s``, ``4 min 12 s``, ``1 h 04 min``."""
    if seconds is None or not math.isfinite(seconds):
        return _absent(seconds)
    if seconds < 59.95:
        return f"{significant(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def milliseconds(value: float | None, digits: int = 3) -> str:
    """A latency, its significant digits without an exponent: ``0.412 ms``, ``0.000070 ms``."""
    if value is None or not math.isfinite(value):
        return _absent(value)
    plain = "0" if value == 0 else format(Decimal(f"{value:.{digits - 1}e}"), "f")
    return f"{_minus(plain)} ms"


def decibels(value: float | None) -> str:
    """A ratio of powers: ``24.1 dB``; without any noise, ``∞ dB``."""
    if value == math.inf:
        return "∞ dB"
    if value is None or not math.isfinite(value):
        return _absent(value)
    return _minus(f"{value:.1f} dB")


def _absent(value: float | None) -> str:
    """A dash for what was not measured, its name for what is not finite."""
    return MISSING if value is None else _minus(str(float(value)))


def _minus(text: str) -> str:
    return text.replace("-", "−")
