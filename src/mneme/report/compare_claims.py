"""Claims over two result folders: both effects with their verdicts, and their difference.

Two backbones are measured apart, so their effects are independent estimates; the interval of the
difference comes from both intervals, asymmetric ones too (the method of variance estimates
recovery). The texts are the same in both folders: where they agree across backbones, a paired
interval would be narrower, and this one errs on the side of finding nothing.

References
----------
Newcombe (1998), Interval estimation for the difference between independent proportions.
Zou and Donner (2008), Construction of confidence limits about effect measures: a general approach.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from mneme.stats.rows import Interval

Json = Mapping[str, Any]
Folder = Mapping[str, Json]
"""File stem -> contents of a result folder's JSON files."""


def independent_difference(a: Interval, b: Interval) -> Interval:
    """Return b - a with its interval, from the intervals of two independent estimates.

    The lower end is d - sqrt((b - b_low)^2 + (a_high - a)^2), the upper one likewise: each uses
    the sides of `a` and `b` that face it.

    Parameters
    ----------
    a, b : Interval
        Estimates with intervals of one and the same level. One that does not hold its value is
        stretched to it.

    Returns
    -------
    Interval
        Undefined ends, with the reason, where `a` or `b` lacks them.
    """
    if a.value is None or b.value is None:
        return Interval.undefined(_first_reason(a, b))
    value = b.value - a.value
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Interval(value, None, None, _first_reason(a, b))
    return Interval(
        value,
        value - math.hypot(max(0.0, b.value - b.low), max(0.0, a.high - a.value)),
        value + math.hypot(max(0.0, b.high - b.value), max(0.0, a.value - a.low)),
    )


def _first_reason(a: Interval, b: Interval) -> str:
    """Say what the first of the two lacks, the value before the ends."""
    for name, interval in (("A", a), ("B", b)):
        if interval.value is None:
            return f"{name}: {interval.reason}"
    name, interval = ("A", a) if a.low is None or a.high is None else ("B", b)
    return f"{name}: {interval.reason}"


def compare_claims(a: Json | None, b: Json | None) -> list[dict[str, Any]]:
    """Set the claims of two folders side by side.

    Parameters
    ----------
    a, b : mapping or None
        Contents of `claims.json`, None where there is none.

    Returns
    -------
    list of dict
        One a claim of either ledger, in its order: `claim`, `room`, `statement`; `a` and `b`
        ({verdict, detail, reason, p_holm} or None); `effects`: {address, reference, direction,
        delta, unit, a, b, difference}, `a` and `b` with {value, low, high, n, reason},
        `difference` (b - a) without n.
    """
    runs = [{} if ledger is None else ledger["runs"] for ledger in (a, b)]
    ordered = sorted({**runs[0], **runs[1]}.items(), key=lambda named: named[1]["place"])
    return [_claim(name, *(blocks.get(name) for blocks in runs)) for name, _ in ordered]


def _claim(name: str, a: Json | None, b: Json | None) -> dict[str, Any]:
    told = b if a is None else a
    assert told is not None
    return {
        "claim": name,
        "room": told["room"],
        "statement": told["statement"],
        "a": _decided(a),
        "b": _decided(b),
        "effects": list(_effects(a, b)),
    }


def _decided(block: Json | None) -> dict[str, Any] | None:
    keys = ("verdict", "detail", "reason", "p_holm")
    return None if block is None else {key: block[key] for key in keys}


def _effects(a: Json | None, b: Json | None) -> Iterator[dict[str, Any]]:
    """Yield the effects of one claim: the same row against the same reference."""
    mine, theirs = _by_row(a), _by_row(b)
    for key in {**mine, **theirs}:
        pair = (mine.get(key), theirs.get(key))
        told = next(effect for effect in pair if effect is not None)
        frame = {name: told[name] for name in ("address", "reference", "direction", "delta")}
        units = (effect["unit"] for effect in pair if effect is not None)
        yield {
            **frame,
            "unit": next(filter(None, units), ""),
            "a": _read(pair[0]),
            "b": _read(pair[1]),
            "difference": _difference(*pair),
        }


def _by_row(block: Json | None) -> dict[tuple[str, float], Json]:
    effects = () if block is None else block["effects"]
    return {(effect["address"], effect["reference"]): effect for effect in effects}


def _read(effect: Json | None) -> dict[str, Any]:
    if effect is None:
        return {**dict.fromkeys(("value", "low", "high", "n")), "reason": "not in this ledger"}
    return {**asdict(interval_of(effect)), "n": effect["n"]}


def interval_of(effect: Json) -> Interval:
    """Return value and interval of an effect, with the reason where one of them is undefined."""
    ends = (effect["value"], effect["low"], effect["high"])
    missing = "not measured" if effect["value"] is None else "no interval"
    return Interval(*ends, (effect.get("reason") or missing) if None in ends else None)


def _difference(a: Json | None, b: Json | None) -> dict[str, Any]:
    if a is None or b is None:
        return asdict(Interval.undefined("only one ledger has it"))
    mine, theirs = interval_of(a), interval_of(b)
    measured = mine.value is not None and theirs.value is not None
    if measured and a["unit"] != b["unit"]:
        return asdict(Interval.undefined(f"units differ: {a['unit']!r} and {b['unit']!r}"))
    if mine == theirs and mine.low != mine.high:
        return asdict(Interval.undefined("the same numbers in both: measured once"))
    return asdict(independent_difference(mine, theirs))
