"""The claims ledger decided: measured rows -> one verdict a claim.

A claim is first taken for what it is (untestable), then asked whether it was measured, then whether
the measurement is worth anything (controls), and only then whether its effects hold. The claims of
a room share Holm's adjustment, those with an invalid measurement too: their tests were made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from mneme.core.headline import run_block
from mneme.report.claims_config import ClaimConfig, EffectConfig, Phase, require_claim_ids
from mneme.report.claims_measured import Measured, by_address, measured, original_of
from mneme.stats.multiplicity import holm
from mneme.stats.rows import Row
from mneme.stats.verdict import Judgement, Verdict, after_holm, conjunction

Json = Mapping[str, Any]
Found = Mapping[EffectConfig, Measured]
"""What was found of each effect and control of one claim."""


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A claim before its room's adjustment."""

    verdict: Verdict
    """As far as it can be said."""
    detail: str | None
    """One short clause."""
    reason: str | None
    """Why there is no verdict on the statement itself."""
    judgement: Judgement | None
    """Of all effects together; None where they were not tested."""


def decide(
    claims: Mapping[str, ClaimConfig], headlines: Mapping[str, Json]
) -> dict[str, dict[str, Any]]:
    """Decide every claim of the ledger.

    Parameters
    ----------
    claims : mapping
        Claim id -> its settings.
    headlines : mapping
        Phase -> contents of its headline file. A phase that this configuration does not run may be
        missing: its claims are "not measured".

    Returns
    -------
    dict
        Claim id -> block for `Headline.runs`: `place` in the ledger (files sort their keys), `rows`
        (effects and controls, reference subtracted),
        what the ledger says, `verdict` with `detail` and `reason`, `p`, `p_holm`, `needed_n` (where
        inconclusive), the first effect's `delta`, `direction` and `unit`, every effect and control
        by itself (its verdict is before the adjustment), and the value of run `original`.

    Raises
    ------
    ValueError
        A claim's id is no name, a phase is no headline file, or an `original` is no number.
    """
    require_claim_ids(claims)
    _require_phases(claims, headlines)
    index = by_address(headlines)
    found = {
        name: {effect: measured(effect, index) for effect in claim.addressed}
        for name, claim in claims.items()
    }
    drafts = {name: _draft(claim, found[name]) for name, claim in claims.items()}
    adjusted = _adjusted(claims, drafts)
    blocks = {}
    for place, (name, claim) in enumerate(claims.items()):
        value, why, where = None, None, f"claims.{name}.original.metric"
        if claim.original is not None:
            value, why = original_of(claim.original, index, headlines, where=where)
        blocks[name] = {
            "place": place,
            **_said(name, claim, found[name]),
            **_decided(drafts[name], adjusted[name]),
            **_one_by_one(claim, found[name]),
            "original": value,
            "original_reason": why,
            "original_address": claim.original and claim.original.address,
        }
    return blocks


def _require_phases(claims: Mapping[str, ClaimConfig], headlines: Mapping[str, Json]) -> None:
    known = {*get_args(Phase), *headlines}
    for name, claim in claims.items():
        original = () if claim.original is None else (claim.original,)
        for address in (*claim.addressed, *original):
            if address.phase not in known:
                raise ValueError(
                    f"claims.{name}: phase must be a headline file, one of "
                    f"{', '.join(sorted(known))}, got {address.phase!r}"
                )


def _draft(claim: ClaimConfig, found: Found) -> _Draft:
    """Go through the verdicts in their order, up to the room's adjustment."""
    if claim.untestable is not None:
        return _Draft(
            verdict="not testable as stated", detail=None, reason=claim.untestable, judgement=None
        )
    gaps = _gaps(claim, found)
    if gaps:
        reason = "; ".join(dict.fromkeys(gaps))
        return _Draft(verdict="not measured", detail=None, reason=reason, judgement=None)
    together = conjunction([_named(found[effect], claim.effects) for effect in claim.effects])
    missed = [_told(one, "must show") for e in claim.positives if not (one := found[e]).shows]
    reached = [_told(one, "must not") for e in claim.nulls if not (one := found[e]).stays_clear]
    if missed or reached:
        detail = "positive control missed" if missed else "the null run reaches delta"
        reason = "; ".join((*missed, *reached))
        return _Draft(
            verdict="invalid measurement", detail=detail, reason=reason, judgement=together
        )
    return _Draft(
        verdict=together.verdict,
        detail=together.detail,
        reason=together.reason,
        judgement=together,
    )


def _gaps(claim: ClaimConfig, found: Found) -> list[str]:
    """Say of every effect, then of every control, without a value why it has none."""
    effects = [why for effect in claim.effects if (why := _gap(found[effect]))]
    controls = [why for e in (*claim.positives, *claim.nulls) if (why := _gap(found[e]))]
    return effects + [f"control: {why}" for why in controls if why not in effects]


def _gap(one: Measured) -> str | None:
    address = "" if one.row is None else f"{one.effect.address}: "
    return None if one.undefined is None else f"{address}{one.undefined}"


def _named(one: Measured, effects: Sequence[EffectConfig]) -> Judgement:
    """Return the judgement; among several effects its clauses say whose they are."""
    judgement = one.judged()
    if len(effects) == 1:
        return judgement
    whose = f" ({one.effect.run} {one.effect.metric})"
    detail, reason = judgement.detail, judgement.reason
    return replace(judgement, detail=detail and detail + whose, reason=reason and reason + whose)


def _told(one: Measured, rule: str) -> str:
    """Tell a failed control: its interval, and what its rule (`must show`, `must not`) wants."""
    (low, high), effect = one.ends, one.effect
    ends = f"{low:.4g}" if low == high else f"[{low:.4g}, {high:.4g}]"
    above = (effect.direction == "above") == (rule == "must show")
    bound = effect.delta if effect.direction == "above" else -effect.delta
    wanted = f"{'above' if above else 'below'} {bound:g}"
    if effect.direction == "none":
        wanted = f"inside +-{effect.delta:g}"
    return f"{effect.address} is {ends}, must lie {wanted}"


def _adjusted(
    claims: Mapping[str, ClaimConfig], drafts: Mapping[str, _Draft]
) -> dict[str, float | None]:
    """Return Holm's p of every claim, adjusted within its room."""
    adjusted: dict[str, float | None] = {}
    for room in dict.fromkeys(claim.room for claim in claims.values()):
        names = [name for name, claim in claims.items() if claim.room == room]
        tests = [drafts[name].judgement for name in names]
        adjusted.update(zip(names, holm([test and test.p for test in tests]), strict=True))
    return adjusted


def _decided(draft: _Draft, p_holm: float | None) -> dict[str, Any]:
    """Return the verdict after the adjustment, with its numbers."""
    verdict, detail, judgement = draft.verdict, draft.detail, draft.judgement
    if judgement is not None and verdict == "supported":
        final = after_holm(judgement, p_holm)
        verdict, detail = final.verdict, final.detail
    return {
        "verdict": verdict,
        "detail": detail,
        "reason": draft.reason,
        "p": judgement.p if judgement else None,
        "p_holm": p_holm,
        "needed_n": judgement.needed_n if judgement and verdict == "inconclusive" else None,
    }


def _said(name: str, claim: ClaimConfig, found: Found) -> dict[str, Any]:
    """Return the rows and what the ledger says of the claim."""
    first = claim.effects[0] if claim.effects else None
    row = found[first].row if first else None
    ledger = ("room", "source", "statement", "published", "note")
    return {
        **run_block(_rows(name, claim, found)),
        **{key: getattr(claim, key) for key in ledger},
        "delta": first.delta if first else None,
        "direction": first.direction if first else None,
        "unit": row.unit if row else None,
    }


def _rows(name: str, claim: ClaimConfig, found: Found) -> list[Row]:
    """Return one row for every effect and control found, no two of one name."""
    times = Counter(effect.address for effect in claim.addressed)
    rows = []
    for effect in claim.addressed:
        row = found[effect].row
        if row is not None:
            told = f" minus {effect.reference:g}" if times[effect.address] > 1 else ""
            role = None if effect in claim.effects else name
            rows.append(replace(row, metric=f"{effect.address}{told}", control_of=role))
    return rows


def _one_by_one(claim: ClaimConfig, found: Found) -> dict[str, Any]:
    """Return every effect with its own verdict, every control with whether it is as it must."""
    return {
        "effects": [_effect(found[effect]) for effect in claim.effects],
        "positives": [_control(found[e], ok="shows") for e in claim.positives],
        "nulls": [_control(found[e], ok="stays_clear") for e in claim.nulls],
    }


def _effect(one: Measured) -> dict[str, Any]:
    if one.undefined is not None:
        return {**one.as_dict(), "p": None, "verdict": "not measured", "detail": None}
    own = one.judged()
    said = {"reason": own.reason, "p": own.p, "verdict": own.verdict, "detail": own.detail}
    return {**one.as_dict(), **said}


def _control(one: Measured, *, ok: str) -> dict[str, Any]:
    if one.undefined is not None:
        return {**one.as_dict(), "p": None, "ok": None}
    return {**one.as_dict(), "p": one.judged().p, "ok": getattr(one, ok)}
