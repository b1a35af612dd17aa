"""Do results grow with model size? Two result folders, one backbone each, judged like any claim.

What is judged is the larger backbone's effect minus the smaller one's, in the direction that the
claim gives the effect: it must exceed the effect's delta. Published columns are no evidence here:
they are single runs without intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from mneme.report.compare_claims import Folder, Json, independent_difference, interval_of
from mneme.stats.multiplicity import holm
from mneme.stats.verdict import Judgement, after_holm, conjunction, judge

SIZE_CLAIM = "grows_with_size"
"""Id of the claim in the ledger. Its effects are judged; where it names none, every effect of room
`routing` that is claimed to be above or below something."""
SIZE_PHASES = frozenset({"adapters", "mixer", "hysteresis", "fatigue"})
"""Phases whose settings such an effect depends on; those of `model` are the backbone's own."""
_PRECISION = frozenset({"batch", "resamples", "seeds", "tuples", "resources"})
"""Settings that alter how exactly an effect is measured, not which effect."""
_STATEMENT = "The results confirm and strengthen on the larger model"
_NOTE = (
    "Two backbones differ in more than size (family, training data, tokenizer: tokens are not of "
    "equal length): a difference between two is no trend yet."
)


def size_verdict(
    a: Folder, b: Folder, *, claims: Sequence[Json], settings: Sequence[Json]
) -> dict[str, Any]:
    """Judge whether effects grow with the backbone's size.

    Parameters
    ----------
    a, b : mapping
        The folders, as `compare` gets them.
    claims : sequence of mapping
        What `compare_claims` returns for them.
    settings : sequence of mapping
        Settings that differ, as `differences` lists them.

    Returns
    -------
    dict
        `statement`, `parameters` ({a, b}), `larger` ("a", "b" or None), `verdict`, `detail`,
        `reason`, `p`, `note`, and `effects`: {claim, address, reference, direction, delta, unit,
        difference (larger - smaller), n, verdict, detail, reason, p, p_holm, needed_n}. All must
        grow for "supported"; p of single effects is adjusted for their number. "not testable as
        stated", with the reason and without effects, where more than the backbone differs.
    """
    own = next((claim for claim in claims if claim["claim"] == SIZE_CLAIM), None)
    sizes = {name: parameters_of(folder)[0] for name, folder in (("a", a), ("b", b))}
    larger = _larger(sizes["a"], sizes["b"])
    frame = {
        "statement": _STATEMENT if own is None else own["statement"],
        "parameters": sizes,
        "larger": larger,
        "note": _NOTE,
    }
    effects = list(_growing(claims, own))
    reason = _untestable(a, b) or _confounded(settings)
    if reason is None and not effects:
        reason = "no effect of room routing is in both ledgers"
    if reason is not None or larger is None:
        untold = {"verdict": "not testable as stated", "detail": None, "reason": reason, "p": None}
        return {**frame, **untold, "effects": []}
    return {**frame, **_decide(effects, larger)}


def _larger(a: int | None, b: int | None) -> str | None:
    if a is None or b is None or a == b:
        return None
    return "a" if a > b else "b"


def parameters_of(folder: Folder) -> tuple[int | None, str | None]:
    """Return the backbone's parameters, or None and why they are not known."""
    if "model" not in folder:
        return None, "no model.json"
    for block in folder["model"]["runs"].values():
        for row in block["rows"]:
            if row["metric"] == "parameters" and row["value"] is not None:
                return round(row["value"]), None
    return None, "model.json has no row `parameters`"


def _untestable(a: Folder, b: Folder) -> str | None:
    sizes = []
    for name, folder in (("A", a), ("B", b)):
        if "claims" not in folder:
            return f"{name} has no claims.json"
        size, reason = parameters_of(folder)
        if size is None:
            return f"the size of {name}'s backbone is not known: {reason}"
        if folder["summary"]["backbone"]["init"] == "random":
            return f"{name}'s backbone has random weights: for speed and memory only"
        sizes.append(size)
    return f"both backbones have {sizes[0]:,} parameters" if sizes[0] == sizes[1] else None


def _confounded(settings: Sequence[Json]) -> str | None:
    """Name settings, other than the backbone's, that make effects differ as well."""
    keys = sorted({item["key"] for item in settings if _matters(item)})
    if not keys:
        return None
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return (
        f"not size alone differs: {', '.join(keys[:3])}{more}; give both backbones the same "
        "settings"
    )


def _matters(item: Json) -> bool:
    steps = item["key"].split(".")
    harmless = steps[-1] in _PRECISION or "original" in steps
    return not harmless and not SIZE_PHASES.isdisjoint(item["phases"])


def _growing(claims: Sequence[Json], own: Json | None) -> Iterator[tuple[Json, Json]]:
    """Yield (claim, effect) once an effect: those of the size claim, else all with a direction."""
    every = [claim for claim in claims if claim["room"] == "routing" and _testable(claim)]
    chosen = [own] if own is not None and own["effects"] else every
    seen = set()
    for claim in chosen:
        for effect in claim["effects"]:
            place = tuple(effect[key] for key in ("address", "reference", "direction"))
            if effect["direction"] != "none" and place not in seen:
                seen.add(place)
                yield claim, effect


def _testable(claim: Json) -> bool:
    blocks = [claim[name] for name in ("a", "b")]
    return all(block and block["verdict"] != "not testable as stated" for block in blocks)


def _decide(effects: Sequence[tuple[Json, Json]], larger: str) -> dict[str, Any]:
    raw = [_judged(claim, effect, larger) for claim, effect in effects]
    adjusted = holm([judgement.p for judgement, _ in raw])
    final = [after_holm(j, p) for (j, _), p in zip(raw, adjusted, strict=True)]
    whole = conjunction(final)
    shown = [
        {**frame, **asdict(judgement), "p_holm": p}
        for (_, frame), judgement, p in zip(raw, final, adjusted, strict=True)
    ]
    grown = sum(judgement.verdict == "supported" for judgement in final)
    counted = f"{grown} of {len(final)} effects grow by delta or more"
    return {
        "verdict": whole.verdict,
        "detail": counted,
        "reason": whole.reason,
        "p": whole.p,
        "effects": shown,
    }


def _judged(claim: Json, effect: Json, larger: str) -> tuple[Judgement, dict[str, Any]]:
    smaller = "b" if larger == "a" else "a"
    difference = independent_difference(interval_of(effect[smaller]), interval_of(effect[larger]))
    units = [effect[name]["n"] for name in ("a", "b")]
    n = None if None in units else min(units)
    failed = _failed_controls(claim)
    kept = ("address", "reference", "direction", "delta", "unit")
    frame = {"claim": claim["claim"], **{key: effect[key] for key in kept}}
    frame = {**frame, "difference": asdict(difference), "n": n}
    if failed is not None:
        nothing = dict.fromkeys(("detail", "p", "needed_n"))
        return Judgement(verdict="inconclusive", reason=failed, **nothing), frame
    judgement = judge(difference, n, direction=effect["direction"], delta=effect["delta"])
    return judgement, frame


def _failed_controls(claim: Json) -> str | None:
    for name in ("a", "b"):
        if claim[name] is not None and claim[name]["verdict"] == "invalid measurement":
            return f"the claim's controls fail in {name.upper()}"
    return None
