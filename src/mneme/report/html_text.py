"""Numbers and marked-up words as the HTML report writes them."""

from __future__ import annotations

import html
import math
import re
from typing import Any

NARROW = "\u202f"
"""Narrow no-break space: between thousands, before a unit."""
FIRM = "\u00a0"
"""No-break space inside an interval: lines break before its unit only."""
DASH = "–"
"""What stands where there is nothing to say."""
MOST_DECIMALS = 7
"""Smaller numbers are written with a power of ten."""


def number(value: float | None, *, digits: int = 4) -> str:
    """Write a number with so many significant digits; a dash for None.

    Parameters
    ----------
    value : float or None
        Finite. Whole numbers keep all their digits.
    digits : int
        Significant digits, at least 1.
    """
    if value is None:
        return DASH
    if value == round(value) and abs(value) < 1e12:
        return _fixed(value, 0)
    return _written(value, decimals_for(abs(value), digits), digits)


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """Write `value [low, high]`, all to two significant digits of the interval's half width."""
    if value is None:
        return DASH
    if low is None or high is None:
        return number(value)
    half = (high - low) / 2
    largest = max(abs(value), abs(low), abs(high))
    if largest == 0:
        return f"0{FIRM}[0,{FIRM}0]"
    decimals = decimals_for(half, 2) if half > largest * 1e-9 else decimals_for(largest, 3)
    told = [_written(end, decimals, 2) for end in (value, low, high)]
    return f"{told[0]}{FIRM}[{told[1]},{FIRM}{told[2]}]"


def p_value(p: float | None) -> str:
    """Write a p: three decimals, two from .1 on."""
    if p is None:
        return DASH
    if p < 0.001:
        return "< 0.001"
    return f"{p:.2f}" if p >= 0.0995 else f"{p:.3f}"


def published(value: Any) -> str:
    """Write a published figure as it stands: no digit is dropped, lists with strokes between."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " / ".join(published(item) for item in value)
    if isinstance(value, (int, float)):
        return _shortest(value)
    return DASH if value is None else str(value)


def _shortest(value: float) -> str:
    """Write a number with all its digits, but not with those of binary fractions."""
    text = f"{value:,.10g}" if abs(value) >= 1e-6 or value == 0 else ""
    return text.replace(",", NARROW).replace("-", "−") or number(value)


def duration(seconds: float | None) -> str:
    """Write a wall time: `6.5 s`, `4 min 12 s`, `2 h 5 min`."""
    if seconds is None:
        return DASH
    if seconds < 59.95:
        return f"{_fixed(seconds, 1)}{NARROW}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NARROW}min {rest}{NARROW}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}{NARROW}h {minutes}{NARROW}min"


def memory(mebibytes: float | None) -> str:
    """Write a peak memory in MiB."""
    return DASH if mebibytes is None else f"{_fixed(mebibytes, 0)}{NARROW}MiB"


def with_unit(text: str, unit: str | None) -> str:
    """Put a unit behind a number; nothing behind a dash or where there is none."""
    return f"{text} {unit}" if unit and text != DASH else text


def inline(text: str) -> str:
    """Turn the inline markup of captions and notes into HTML; everything else is escaped.

    Knows double and single backquotes (code), two asterisks (strong) and one (emphasis).
    """
    marked = html.escape(" ".join(text.split()))
    for pattern, tag in _MARKS:
        marked = re.sub(pattern, rf"<{tag}>\1</{tag}>", marked)
    return marked


_MARKS = (
    (r"``(.+?)``", "code"),
    (r"`([^`]+)`", "code"),
    (r"(?<![\w*])\*\*(\S(?:[^*]*\S)?)\*\*(?![\w*])", "strong"),
    (r"(?<![\w*])\*(\S(?:[^*]*\S)?)\*(?![\w*])", "em"),
)


def plain(text: str) -> str:
    """Take the inline markup out again, for attributes."""
    return html.unescape(re.sub(r"</?(?:code|strong|em)>", "", inline(text)))


def decimals_for(scale: float, digits: int) -> int:
    """Return how many decimals show `scale` (> 0) to so many significant digits."""
    return max(0, digits - 1 - math.floor(math.log10(scale)))


def _written(value: float, decimals: int, digits: int) -> str:
    if decimals <= MOST_DECIMALS or value == 0:
        return _fixed(value, min(decimals, MOST_DECIMALS))
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    exponent = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa.replace('-', '−')}{NARROW}·{NARROW}10{exponent}"


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}".replace(",", NARROW)
    if not text.strip("-0."):
        return text.lstrip("-")
    return text.replace("-", "−")
