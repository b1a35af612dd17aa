"""The claims of the HTML report: counts, rows of the first table, the picture of an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mneme.report.html_text import DASH, interval, number, p_value, published, with_unit

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How one verdict is named, marked and explained."""

    name: str
    """As in `claims.json`."""
    sign: str
    """Stands before the name: told apart without colour."""
    style: str
    """Class in the style sheet."""
    meaning: str
    """Explanation."""


VERDICTS = (
    Verdict(
        name="supported",
        sign="✓",
        style="supported",
        meaning="the interval lies wholly beyond the smallest effect that matters, in the claimed "
        "direction; a claim of absence: the 90 % interval lies within that effect on either side; "
        "and p, adjusted for all claims of the room (Holm), is below .05",
    ),
    Verdict(
        name="refuted",
        sign="✗",
        style="refuted",
        meaning="the interval lies wholly short of the smallest effect that matters; a claim of "
        "absence: wholly beyond it",
    ),
    Verdict(
        name="inconclusive",
        sign="?",
        style="inconclusive",
        meaning="neither; where it can be told, with the n that would decide at a power of .8",
    ),
    Verdict(
        name="not testable as stated",
        sign="∅",
        style="untestable",
        meaning="no measurement of this design can decide it, for the reason given",
    ),
    Verdict(
        name="invalid measurement",
        sign="!",
        style="invalid",
        meaning="a positive control was missed, or a run that cannot have the effect shows it",
    ),
    Verdict(
        name="not measured",
        sign="–",
        style="absent",
        meaning="this size of the pipeline leaves the run or one of its controls out",
    ),
)
"""Every verdict, in the order of the counts."""

ROLES = (
    ("effects", "effect"),
    ("positives", "positive control"),
    ("nulls", "null run"),
)
"""List in a claim's block -> what its entries are."""


def verdict_of(name: str) -> Verdict:
    """Return the look of a verdict; ValueError for one that is none."""
    for verdict in VERDICTS:
        if verdict.name == name:
            return verdict
    known = ", ".join(verdict.name for verdict in VERDICTS)
    raise ValueError(f"claims.json: verdict must be one of {known}; got {name!r}")


def counts(claims: Mapping[str, Json]) -> list[tuple[Verdict, int]]:
    """Count the verdicts that occur."""
    names = [block["verdict"] for block in claims.values()]
    for name in names:
        verdict_of(name)
    return [(v, names.count(v.name)) for v in VERDICTS if v.name in names]


def sentence(claims: Mapping[str, Json]) -> str:
    """Say in one sentence how many claims got which verdict."""
    found = counts(claims)
    if not found:
        return "No claim was judged."
    parts = [f"{n} {'is' if n == 1 else 'are'} {_in_sentence(v.name)}" for v, n in found]
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    total = len(claims)
    return f"Of {total} claim{'s' * (total != 1)} {listed}."


def _in_sentence(name: str) -> str:
    return "not validly measured" if name == "invalid measurement" else name


def claim_view(claim_id: str, block: Json) -> dict[str, Any]:
    """Write everything out that the report says of one claim.

    Parameters
    ----------
    claim_id : str
        Its id in `config/claims.yaml`; the anchor in the page is `claim-<id>`.
    block : mapping
        Its block in `claims.json`.
    """
    tested = [_tested(entry, role) for key, role in ROLES for entry in block[key]]
    return {
        "id": claim_id,
        "anchor": f"claim-{claim_id}",
        "statement": block["statement"],
        "published": block["published"] or DASH,
        "verdict": verdict_of(block["verdict"]),
        "remarks": [text for text in (block["detail"], block["reason"]) if text],
        "note": block["note"],
        "original_told": _original(block) if block["original_reason"] is None else _missing(block),
        "p_holm": p_value(block["p_holm"]),
        "facts": _facts(block),
        "effects": [e for e in tested if e["role"] == "effect" and not e["missing"]],
        "tested": tested,
        "tested_counts": _tested_counts(block),
    }


def _original(block: Json) -> str:
    """Write what the source's own protocol gave here, or why it gave nothing."""
    if block["original"] is None:
        return block["original_reason"] or DASH
    return number(block["original"])


def _missing(block: Json) -> str:
    return "never" if block["original_reason"].startswith("never") else "undefined"


def _facts(block: Json) -> list[tuple[str, str]]:
    """List name and value of what stands below the effects."""
    facts = [
        ("published", block["published"] or DASH),
        ("same protocol here", _original(block)),
        ("p", p_value(block["p"])),
        ("p, adjusted in the room (Holm)", p_value(block["p_holm"])),
        ("n that would decide", number(_more(block))),
        ("source document", str(block["source"])),
    ]
    return [(name, told) for name, told in facts if told != DASH]


def _more(block: Json) -> int | None:
    """Return the n that would decide, where it is more than there was."""
    least = min((effect["n"] for effect in block["effects"] if effect["n"]), default=None)
    needed = block["needed_n"]
    return needed if needed and least and needed > least else None


def _tested(entry: Json, role: str) -> dict[str, Any]:
    ends = (entry[key] for key in ("value", "low", "high"))  # as its row has them
    told = interval(*(None if end is None else end + entry["reference"] for end in ends))
    return {
        "role": role,
        "address": entry["address"],
        "value": with_unit(told, entry["unit"]),
        "missing": entry["value"] is None,
        "further": _further(entry),
        "n": number(entry["n"]),
        "claimed": _claimed(entry, role),
        "p": p_value(entry.get("p")),
        "outcome": _outcome(entry),
        "strip": strip(entry, null=role == "null run"),
    }


def _further(entry: Json) -> str:
    """Say how the value spreads over seeds."""
    if entry.get("seeds", 0) <= 1 or entry["value"] is None:
        return ""
    ends = (entry[key] + entry["reference"] for key in ("seed_low", "seed_high"))
    low, high = (number(end, digits=3) for end in ends)
    return f"{entry['seeds']} seeds " + ("alike" if low == high else f"{low} to {high}")


def _claimed(entry: Json, role: str) -> str:
    """Say where the interval has to lie, in the unit of the value."""
    reference = entry["reference"]
    bounds = [reference + bound for bound in _bounds(entry)]
    least, most = (published(bound).replace("-", "−") for bound in (bounds[0], bounds[-1]))
    if entry["direction"] == "none":
        return f"{least} to {most}" if reference else f"within ±{most}"
    side = "above" if (entry["direction"] == "above") != (role == "null run") else "below"
    return f"{side} {least}"


def _outcome(entry: Json) -> str:
    """Return an effect's own verdict, or whether a control came out as it must; why if neither."""
    controls = {True: "as it must", False: "not as it must", None: DASH}
    verdict = entry.get("verdict") or controls[entry.get("ok")]
    why = entry.get("detail") or entry.get("reason")
    return (why if verdict == DASH else f"{verdict}: {why}") if why else verdict


def _tested_counts(block: Json) -> str:
    """Say what the table of effects and controls holds, with numbers."""
    plurals = {"effects": "effect", "positives": "positive control", "nulls": "null run"}
    parts = [
        f"{len(block[key])} {name}{'s' * (len(block[key]) != 1)}"
        for key, name in plurals.items()
        if block[key]
    ]
    return ", ".join(parts)


WIDTH, HEIGHT, MARGIN = 160.0, 22.0, 5.0
"""View box of a strip, and what it keeps free at either side."""


def strip(entry: Json, *, null: bool) -> dict[str, Any] | None:
    """Lay out the small picture of an interval beside 0 and the smallest effect that matters.

    Parameters
    ----------
    entry : mapping
        `value`, `low`, `high`, `delta` and `direction` of an effect or a control.
    null : bool
        Whether it is a run that cannot have the effect: then it must stay short of it.

    Returns
    -------
    dict or None
        Places along 0..`WIDTH`: `zero`, `value`, `low`, `high` (None without interval), `bounds`
        (of the effect that matters) and `zone` (start and width of where the interval has to
        lie). None where there is no value to draw.
    """
    if entry["value"] is None:
        return None
    bounds = _bounds(entry)
    ends = [entry[key] for key in ("low", "high") if entry[key] is not None]
    least, most = _range([0.0, entry["value"], *ends, *bounds])

    def place(x: float) -> float:
        return round(MARGIN + (x - least) / (most - least) * (WIDTH - 2 * MARGIN), 2)

    places = [place(bound) for bound in bounds]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "zero": place(0.0),
        "value": place(entry["value"]),
        "low": None if entry["low"] is None else place(entry["low"]),
        "high": None if entry["high"] is None else place(entry["high"]),
        "bounds": places,
        "zone": _zone(entry["direction"], places, null=null),
    }


def _bounds(entry: Json) -> list[float]:
    delta = entry["delta"]
    return {"above": [delta], "below": [-delta], "none": [-delta, delta]}[entry["direction"]]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the axis, a little beyond the values."""
    slack = 0.06 * (max(values) - min(values))
    return min(values) - slack, max(values) + slack


def _zone(direction: str, places: Sequence[float], *, null: bool) -> tuple[float, float]:
    if direction == "none":
        return places[0], round(places[1] - places[0], 2)
    rightwards = (direction == "above") != null
    return (places[0], round(WIDTH - places[0], 2)) if rightwards else (0.0, places[0])
