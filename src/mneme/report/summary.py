"""One page for a whole run: headline values, times, memory, provenance, the source's own keys."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from mneme.core.artefacts import read_json
from mneme.core.config import fingerprint

Json = Mapping[str, Any]

HEADLINE_ROWS = (
    r"model \S+ loss@[a-z]+",
    r"adapters (none|sleep|replay|original) (gain|forgetting)\.[a-z]+",
    r"adapters (sleep|replay) forgetting\.[a-z]+_minus_none",
    r"mixer (ours|token|original|probe|shuffled_labels) token_accuracy",
    r"mixer mixed held_out_loss\.[a-z]+(_minus_(base|known))?",
    r"hysteresis ours (switch_lag_(AB|BA|mixA)|return_gap_(cosine|repeated_cosine|mixed_cosine))",
    r"hysteresis ours (switch_lag_BA|return_gap_cosine)_minus_(aa|blocked|reset|shuffled_b)",
    r"hysteresis ours (mix_entropy|mix_balance|switching_asymmetry_signed)",
    r"hysteresis (token|ema_oracle|probe) (switch_lag_BA|return_gap_cosine)_minus_aa",
    r"fatigue ours (switch_lag|tail_area_32)\.per_doubling",
    r"fatigue ours deep_crystallization_ratio(_after_32|_last_16|_excess)?\.per_doubling",
    r"fatigue ours (switch_lag|tail_area_32)_minus_(aa|blocked)\.per_doubling",
    r"fatigue ours (switch_lag|deep_crystallization_ratio)\.pearson",
)
"""Rows of `table`, as patterns of `phase run metric`."""


def summarise(
    headlines: Mapping[str, Json],
    *,
    code: str,
    expected: Mapping[str, str],
    backbone: Json,
    config_hash: str,
    commit: Json,
) -> dict[str, Any]:
    """Gather the headline files of the phases that exist.

    Parameters
    ----------
    headlines : mapping
        Phase -> contents of its headline file.
    code : str
        Code hash of the summary itself.
    expected : mapping
        Phase -> present code hash of its script.
    backbone : mapping
        Catalogue entry of the backbone.
    config_hash : str
        Fingerprint of all settings.
    commit : mapping
        `{commit, dirty, reason}`.

    Returns
    -------
    dict
        Contents of `summary.json`, valid against its schema. `values` is phase -> run -> metric
        -> value over all seeds; `timing`, `hysteresis`, `fatigue`, ... are the source's keys.

    Raises
    ------
    ValueError
        A headline file is stale or malformed, or two phases disagree about a source's key.
    """
    for phase, headline in headlines.items():
        validate(headline, "headline", name=f"{phase}.json")
    refuse_stale(headlines, expected)
    made = _provenance(headlines)
    ours = {
        "phase": "summary",
        "code": code,
        "backbone": dict(backbone),
        "config_hash": config_hash,
        "commit": dict(commit),
        "seconds": round(sum(headline["seconds"] for headline in headlines.values()), 3),
        "phases": {phase: _phase(headline) for phase, headline in headlines.items()},
        "values": {phase: _values(headline) for phase, headline in headlines.items()},
        **made,
    }
    source = _source_keys(headlines, backbone, made["versions"])
    for key in source:
        if key in ours:
            raise ValueError(f"published_keys: {key} is a key of the summary itself")
    summary = {**source, **ours}
    validate(summary, "summary", name="summary.json")
    return summary


def validate(content: Any, schema: Literal["headline", "summary"], *, name: str) -> None:
    """Check `content` against one of the JSON schemas; raises ValueError naming file and key."""
    error = best_match(_validator(schema).iter_errors(content))
    if error is not None:
        raise ValueError(f"{name} breaks the {schema} schema at {error.json_path}: {error.message}")


def refuse_stale(headlines: Mapping[str, Json], expected: Mapping[str, str]) -> None:
    """Raise ValueError naming every headline file that other code than the present one made."""
    stale = [
        f"{phase}.json" for phase, file in headlines.items() if file["code"] != expected[phase]
    ]
    if stale:
        raise ValueError(
            f"{', '.join(stale)}: stale, made by other code or package versions than the present "
            "ones; delete them and run snakemake again"
        )


def table(summary: Json, *, all_rows: bool = False) -> str:
    """Lay the headline values out as text.

    Without `all_rows`: only the rows that `HEADLINE_ROWS` names, those that a claim rests on.
    """
    lines, hidden = [], 0
    for phase, run, metric, row in _rows(summary["values"]):
        if all_rows or any(re.fullmatch(rows, f"{phase} {run} {metric}") for rows in HEADLINE_ROWS):
            lines.append(
                (phase, run, metric, _number(row), "" if row["n"] is None else f"n={row['n']}")
            )
        else:
            hidden += 1
    widths = [max((len(line[i]) for line in lines), default=0) for i in range(5)]
    text = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines
    ]
    if hidden:
        text.append(f"... and {hidden} more (other runs, controls, curves): add --all")
    return "\n".join(line.rstrip() for line in text)


@functools.cache
def _validator(schema: str) -> Draft202012Validator:
    path = Path(__file__).parent / "schemas" / f"{schema}.schema.json"
    return Draft202012Validator(read_json(path))


def _provenance(headlines: Mapping[str, Json]) -> dict[str, Any]:
    """Join what the phases say about versions, device and memory."""
    made = [headline["provenance"] for headline in headlines.values()]
    devices = _joined((k, str(f[k])) for f in made for k in ("device", "device_name") if f.get(k))
    memory = [facts["peak_memory_mb"] for facts in made if "peak_memory_mb" in facts]
    return {
        "versions": _joined(pair for facts in made for pair in facts["versions"].items()),
        "device": devices.get("device"),
        "device_name": devices.get("device_name"),
        "peak_memory_mb": max(memory, default=None),
    }


def _phase(headline: Json) -> dict[str, Any]:
    provenance = headline["provenance"]
    return {
        "code": headline["code"],
        "config_hash": fingerprint(headline["config"]),
        "seconds": headline["seconds"],
        "peak_memory_mb": provenance.get("peak_memory_mb"),
        "device": provenance["device"],
        "published": headline["published"],
    }


def _values(headline: Json) -> dict[str, Any]:
    """Keep the rows over all seeds, by run and metric."""
    frame = ("value", "low", "high", "n", "unit", "control_of", "reason")
    values: dict[str, Any] = {}
    for run, block in headline["runs"].items():
        rows = [row for row in block["rows"] if row["seed"] is None]
        values[run] = {row["metric"]: {key: row[key] for key in frame} for row in rows}
        if len(values[run]) < len(rows):
            raise ValueError(f"{headline['phase']}.json: run {run!r} names a metric twice")
    return values


def _source_keys(headlines: Mapping[str, Json], backbone: Json, versions: Json) -> dict[str, Any]:
    """Merge the `published_keys` of every run `original`, and complete the source's frame."""
    keys: dict[str, Any] = {"timing": {}}
    for phase, headline in headlines.items():
        _merge(keys, headline["runs"].get("original", {}).get("published_keys", {}), phase)
    if keys["timing"] and "total_sec" not in keys["timing"]:
        times = [seconds for seconds in keys["timing"].values() if seconds is not None]
        keys["timing"]["total_sec"] = round(sum(times), 3)
    return {"model_name": backbone["name"], "torch_version": versions.get("torch"), **keys}


def _merge(into: dict[str, Any], block: Json, where: str) -> None:
    for key, value in block.items():
        if isinstance(value, Mapping):
            _merge(into.setdefault(key, {}), value, f"{where}.{key}")
        elif key in into and into[key] != value:
            raise ValueError(f"{where}.{key} is {value!r} here and {into[key]!r} in another phase")
        else:
            into[key] = value


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Collect one text a key; several differing ones are shown side by side, never hidden."""
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        if value not in found.setdefault(key, []):
            found[key].append(value)
    return {key: ", ".join(found[key]) for key in sorted(found)}


def _rows(values: Json) -> Iterator[tuple[str, str, str, Json]]:
    for phase, runs in values.items():
        for run, metrics in runs.items():
            for metric, row in metrics.items():
                yield phase, run, metric, row


def _number(row: Json) -> str:
    if row["value"] is None:
        return f"undefined ({row['reason']})"
    unit = f" {row['unit']}" if row["unit"] else ""
    if row["low"] is None or row["high"] is None:
        return f"{row['value']:.4g}{unit}"
    return f"{row['value']:.4g} [{row['low']:.4g}, {row['high']:.4g}]{unit}"
