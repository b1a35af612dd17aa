"""Two result folders side by side: the source's own table, the claims, and what else differs.

The source sets Mistral-7B beside GPT-2 and concludes from single runs. Here its table stands with
two folders of ours in it (run `original`, one seed, as published), and below it what a comparison
can rest on: the effects of the claims with intervals, and the interval of their difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mneme.report.claims_measured import NEVER
from mneme.report.compare_claims import Folder, Json, compare_claims
from mneme.report.compare_size import parameters_of, size_verdict

PUBLISHED = ("gpt2", "mistral_7b_fast")
"""Columns of the source, as the headline files' `published` blocks name them."""


@dataclass(frozen=True, kw_only=True)
class SourceRow:
    """One line of the source's table."""

    label: str
    """The source's name of the metric."""
    unit: str
    """Unit; "" when it has none."""
    phase: str
    """Headline file that holds it."""
    key: str
    """Address in the file's `published` blocks."""
    metric: str
    """Row of run `original`; for phase `summary` the address in the summary itself."""
    never: str | None = None
    """Row that is 1 where the source's protocol counts "never" as a lag of 0."""


SOURCE_ROWS = (
    SourceRow(
        label="Switch-lag B->A",
        unit="tokens",
        phase="hysteresis",
        key="test_aba.switch_lag_BA",
        metric="test_aba.switch_lag_BA",
        never="never_reached.aba[0]",
    ),
    SourceRow(
        label="Return-gap (cosine)",
        unit="",
        phase="hysteresis",
        key="test_aba.return_gap_cosine_distance",
        metric="test_aba.return_gap_cosine_distance",
    ),
    SourceRow(
        label="Return-gap after Mix",
        unit="",
        phase="hysteresis",
        key="test_amixba.return_gap_cosine_distance",
        metric="test_amixba.return_gap_cosine_distance",
    ),
    SourceRow(
        label="Mix->A lag",
        unit="tokens",
        phase="hysteresis",
        key="test_amixba.switch_lag_mixA",
        metric="test_amixba.switch_lag_mixA",
        never="never_reached.amixba[1]",
    ),
    SourceRow(
        label="Deep-cryst. correlation",
        unit="r",
        phase="fatigue",
        key="correlations.deep_crystallization",
        metric="correlations.deep_crystallization",
    ),
    SourceRow(
        label="Mean deep ratio",
        unit="",
        phase="fatigue",
        key="summary.avg_deep_crystallization",
        metric="summary.avg_deep_crystallization",
    ),
    SourceRow(
        label="Router accuracy",
        unit="",
        phase="mixer",
        key="router_accuracy",
        metric="router_training_accuracy",
    ),
    SourceRow(
        label="Mix entropy",
        unit="nats",
        phase="hysteresis",
        key="test_amixba.avg_mix_entropy",
        metric="test_amixba.avg_mix_entropy",
    ),
    SourceRow(
        label="Mix balance",
        unit="",
        phase="hysteresis",
        key="test_amixba.mix_balance",
        metric="test_amixba.mix_balance",
    ),
    SourceRow(
        label="Total time",
        unit="s",
        phase="summary",
        key="timing.total_sec",
        metric="timing.total_sec",
    ),
)


def compare(a: Folder, b: Folder) -> dict[str, Any]:
    """Set two result folders side by side.

    Parameters
    ----------
    a, b : mapping
        File stem -> contents of each `results/<stem>.json` that exists: `summary` must be there;
        `claims` and the headline files of the phases are used where they are.

    Returns
    -------
    dict
        JSON-ready: `a` and `b` (backbone, parameters, commit, ...), `differences` (what else is not
        alike), `source` (`rows`, `notes`: the source's table), `claims` (as `compare_claims`
        gives them), `size` (as `size_verdict` gives it).

    Raises
    ------
    ValueError
        A folder has no summary, or both hold the same results.
    """
    for name, folder in (("A", a), ("B", b)):
        if "summary" not in folder:
            raise ValueError(f"folder {name} has no summary.json: run snakemake there first")
    if a == b:
        raise ValueError(
            f"A and B hold the same results ({a['summary']['model_name']}, settings "
            f"{a['summary']['config_hash']}): name two folders that differ"
        )
    found, claims = differences(a, b), compare_claims(a.get("claims"), b.get("claims"))
    return {
        "a": _about(a),
        "b": _about(b),
        "differences": found,
        "source": {"rows": [_source_row(row, a, b) for row in SOURCE_ROWS], "notes": _notes(a, b)},
        "claims": claims,
        "size": size_verdict(a, b, claims=claims, settings=found["settings"]),
    }


def _about(folder: Folder) -> dict[str, Any]:
    summary = folder["summary"]
    facts = ("model_name", "config_hash", "device_name", "seconds")
    return {
        **{key: summary[key] for key in facts},
        **{key: summary["backbone"][key] for key in ("revision", "init", "dtype")},
        **{key: summary["commit"][key] for key in ("commit", "dirty")},
        "parameters": parameters_of(folder)[0],
    }


def differences(a: Folder, b: Folder) -> dict[str, Any]:
    """List what two folders do not share, besides the results.

    Returns
    -------
    dict
        `only_a`, `only_b` (files that the other lacks), `code` (phases made by other code),
        `versions` (package -> [a, b]), `settings` (list of {key, phases, a, b}; values as text).
    """
    shared = [phase for phase in a if phase in b]
    versions = [folder["summary"]["versions"] for folder in (a, b)]
    packages = sorted({**versions[0], **versions[1]})
    pairs = {name: [made.get(name) for made in versions] for name in packages}
    return {
        "only_a": sorted(a.keys() - b.keys()),
        "only_b": sorted(b.keys() - a.keys()),
        "code": sorted(phase for phase in shared if a[phase]["code"] != b[phase]["code"]),
        "versions": {name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
        "settings": _settings({p: (a[p].get("config"), b[p].get("config")) for p in shared}),
    }


_ABSENT = object()


def _settings(blocks: Mapping[str, tuple[Any, Any]]) -> list[dict[str, Any]]:
    """List settings that differ; one that several phases were given is listed once."""
    phases: dict[tuple[str, str, str], list[str]] = {}
    for phase, pair in blocks.items():
        for key, *values in _changed(*pair):
            ours, theirs = map(_text, values)
            phases.setdefault((key, ours, theirs), []).append(phase)
    return [{"key": k, "phases": found, "a": a, "b": b} for (k, a, b), found in phases.items()]


def _changed(a: Any, b: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in {**a, **b}:
            below = f"{key}.{name}" if key else str(name)
            yield from _changed(a.get(name, _ABSENT), b.get(name, _ABSENT), below)
    elif _blocks(a) and _blocks(b) and len(a) == len(b):
        for index, pair in enumerate(zip(a, b, strict=True)):
            yield from _changed(*pair, f"{key}[{index}]")
    elif a != b:
        yield key, a, b


def _blocks(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _text(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    if isinstance(value, Mapping):
        return f"{len(value)} keys"
    return json.dumps(value)


def _source_row(row: SourceRow, a: Folder, b: Folder) -> dict[str, Any]:
    """Fill one line: cells {value, reason} for both published columns, A, B and the change."""
    here = [_here(folder, row) for folder in (a, b)]
    told = {name: _published(a, b, row, name) for name in PUBLISHED}
    frame = {"label": row.label, "unit": row.unit}
    return {**frame, **told, "a": here[0], "b": here[1], "change": _change(*here)}


def _here(folder: Folder, row: SourceRow) -> dict[str, Any]:
    """Return what run `original` gave here, under its first seed."""
    if row.phase == "summary":
        block, key = row.metric.split(".")
        value = folder["summary"].get(block, {}).get(key)
        return _cell(value, "not measured: no step of run original left its time")
    original = folder.get(row.phase, {}).get("runs", {}).get("original", {"rows": []})
    if row.never is not None:
        never = _first_seed(original["rows"], row.never)
        if never is not None and never["value"] == 1:
            return _cell(None, NEVER)
    found = _first_seed(original["rows"], row.metric)
    if found is None:
        return _cell(None, f"not measured: no run original in {row.phase}.json has it")
    return _cell(found["value"], found["reason"])


def _first_seed(rows: Sequence[Json], metric: str) -> Json | None:
    return next((r for r in rows if r["metric"] == metric and r["seed"] is not None), None)


def _published(a: Folder, b: Folder, row: SourceRow, column: str) -> dict[str, Any]:
    for folder in (a, b):
        told = folder.get(row.phase, {}).get("published", {}).get(column, {})
        if row.key in told:
            return _cell(told[row.key], told.get(f"{row.key}_reason", "published as undefined"))
    return _cell(None, "not published")


def _change(a: Json, b: Json) -> dict[str, Any]:
    if a["value"] is None or b["value"] is None:
        return _cell(None, "not defined on both sides")
    return _cell(b["value"] - a["value"], "")


def _cell(value: float | None, reason: str | None) -> dict[str, Any]:
    return {"value": value, "reason": reason if value is None else None}


def _notes(a: Folder, b: Folder) -> list[str]:
    """Say what the table cannot show by itself."""
    notes = [
        "GPT-2 and Mistral-7B as published; A and B: run `original`, first seed. Single runs "
        "without intervals: no difference between these columns is evidence.",
        "Router accuracy is that on the calibration data, as published.",
    ]
    gap = SOURCE_ROWS[2]
    mixed = _published(a, b, gap, "gpt2")["value"]
    if mixed is not None:
        notes.append(
            f"The source prints GPT-2's {mixed:.4g} as its return-gap beside Mistral-7B's pure "
            "A-B-A one; its own files show it to be the gap after Mix, so it stands there."
        )
    return [*notes, *_reasons(a, b)]


def _reasons(a: Folder, b: Folder) -> Iterator[str]:
    """Say of every empty cell of A and B why it is empty."""
    for row in SOURCE_ROWS:
        mine, theirs = (_here(folder, row)["reason"] for folder in (a, b))
        pairs = (("A and B", mine),) if mine == theirs else (("A", mine), ("B", theirs))
        yield from (f"{row.label} of {name}: {why}." for name, why in pairs if why is not None)
