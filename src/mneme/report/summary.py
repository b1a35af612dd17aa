"""One page for a whole run: headline values, times, memory, provenance, the source's own keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mneme.core.config import fingerprint
from mneme.report.schema import validate

Json = Mapping[str, Any]

Record = Mapping[str, Any]
"""What one step left beside its log (`mneme.core.stage.read_record`)."""

_DOMAIN = r"(?:(?!_minus_)[\w-])+"
"""A domain's name, as the configuration allows it (`mneme.routing.domains`)."""
HEADLINE_ROWS = (
    rf"model \S+ loss@{_DOMAIN}",
    rf"adapters (none|sleep|replay|original) (gain|forgetting)\.{_DOMAIN}",
    rf"adapters (sleep|replay) forgetting\.{_DOMAIN}_minus_none",
    r"mixer (ours|token|original|probe|shuffled_labels) token_accuracy",
    rf"mixer mixed held_out_loss\.{_DOMAIN}(_minus_(base|known))?",
    r"hysteresis ours (switch_lag_(AB|BA|mixA)|return_gap_(cosine|repeated_cosine|mixed_cosine))",
    r"hysteresis ours (switch_lag_BA|return_gap_cosine)_minus_(aa|blocked|reset|shuffled_b)",
    r"hysteresis ours (mix_entropy|mix_balance|switching_asymmetry_signed)",
    r"hysteresis (token|ema_oracle|probe) (switch_lag_BA|return_gap_cosine)_minus_aa",
    r"fatigue ours (switch_lag|tail_area_32)\.per_doubling",
    r"fatigue ours deep_crystallization_ratio(_after_32|_last_16|_excess)?\.per_doubling",
    r"fatigue ours (switch_lag|tail_area_32)_minus_(aa|blocked)\.per_doubling",
    r"fatigue ours (switch_lag|deep_crystallization_ratio)\.pearson",
    r"zeros zeta (count|seconds|max_difference_to_arb|counted_stretches)",
    r"mdn (e\d\w*|v\d\w*|carry\w*|primes\w*|oracle|original\w*) (nll|nll_full|crps|err_cum@100)",
    r"mdn (kde|ar255_walk|level) (nll|nll_full|err_cum@100)",
    r"mdn \w+_gue nll_minus_floor",
    r"mdn (v1|e2|carry|original) nll(_full)?_minus_(e0(_drift_e2)?|v0_id|carry_reset|original_e0)",
    r"mdn carry_gue nll(_full)?_minus_(e0|carry_reset)_gue",
    r"mdn primes_shuffled nll_minus_kde_shuffled",
    r"slot_ablation \w+ (eff_percent|rollout_effect)@zero",
    r"slot_ablation \w+ (mem_entropy|nll_change@retrained@all)",
    r"kernel e0 (sine|envelope)_r_squared",
    r"ttt_model \w+ (val_nll|parameters|tokens_per_s)",
    r"ttt_adapter \w+ dialogue_nll(_ttt)?\.(before|after|change|minus_\w+)",
    r"ttt_grid \w+ (pre|percent|delta|delta_minus_(other|shuffled|sentences))",
    r"ttt_grid original(_adapter|_untrained)? source_percent(_(other|shuffled))?",
    r"ttt_grid \w+_adapter percent_minus_\w+",
    r"ttt_context \w+ [a-z_]+_(nll_beyond|ideal_share|bits_per_byte_beyond)",
    r"ttt_context \w+ [a-z_]+_(own_minus_\w+|harm)",
    r"ttt_context \w+ [a-z_]+_nll_beyond_minus_\w+",
    r"lattice \w+ (recall@1|mrr|effective_rank)",
    r"lattice \w+ (collapsed|eight_(related|unrelated|gap))",
    r"lattice \w+ (recall_minus_\w+@1|mrr_minus_\w+|not_worse_than_pca@[\d.]+)",
    r"statistics (zeta|gue) (spacing_variance|spacing_correlation@1|rigidity@100)",
)
"""Rows of `table`, as patterns of `phase run metric`."""


def summarise(
    headlines: Mapping[str, Json],
    *,
    code: str,
    expected: Mapping[str, str],
    steps: Mapping[str, Sequence[Record]],
    backbone: Json,
    config_hash: str,
    commit: Json,
    published: Json,
) -> dict[str, Any]:
    """Gather the headline files of the phases that exist, and what every step cost.

    Parameters
    ----------
    headlines, code
        Phase -> contents of its headline file; code hash of the summary itself.
    expected : mapping
        Phase -> present hash over the code of its script and of all scripts upstream.
    steps : mapping
        Phase -> records of all its steps; also phases without a headline file (`assets`).
    backbone : mapping
        Catalogue entry of the backbone.
    config_hash, commit, published
        Fingerprint of all settings; `{commit, dirty, reason}`; the source's figures that belong to
        no single phase.

    Returns
    -------
    dict
        Contents of `summary.json`, as its schema wants them. `values` is phase -> run -> metric ->
        value over all seeds; `phases` has what all steps of each cost; `timing`, `hysteresis`,
        `fatigue`, ... are the source's keys.

    Raises
    ------
    ValueError
        A headline file is stale or malformed, or two phases disagree about a source's key.
    """
    for phase, headline in headlines.items():
        validate(headline, "headline", name=f"{phase}.json")
    refuse_stale(headlines, expected)
    versions = _versions(headlines)
    ours = {
        "phase": "summary",
        "code": code,
        "backbone": dict(backbone),
        "config_hash": config_hash,
        "commit": dict(commit),
        "versions": versions,
        **_cost([record for records in steps.values() for record in records]),
        "phases": {p: _phase(headlines.get(p), steps[p]) for p in {**steps, **headlines}},
        "values": {phase: _values(headline) for phase, headline in headlines.items()},
        "claims": _verdicts(headlines),
        "published": dict(published),
    }
    summary = _without_clash(_source_keys(headlines, backbone, versions), ours)
    validate(summary, "summary", name="summary.json")
    return summary


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
    text = _aligned(lines)
    if hidden:
        text.append(f"... and {hidden} more (other runs, controls, curves): add --all")
    return "\n".join(text)


def original_table(summary: Json) -> str:
    """Lay run `original` out beside the published figures: the source's own keys, first seed."""
    lines = []
    for phase in ("hysteresis", "fatigue"):
        published = summary["phases"].get(phase, {}).get("published", {})
        for address, value in _flat(summary.get(phase, {})):
            told = [_told(published.get(k, {}), address) for k in ("mistral_7b_fast", "gpt2")]
            lines.append((f"{phase} {address}", _cell(value, digits=3), *told))
    if not lines:
        return ""
    head = ("original protocol", "here (first seed)", "Mistral-7B fast", "GPT-2")
    return "\n".join(_aligned([head, *lines]))


def _flat(value: Any, address: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (address, value); a list of blocks becomes one list a key."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{address}.{key}" if address else key)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for key in value[0]:
            yield f"{address}.{key}", [block[key] for block in value]
    else:
        yield address, value


def _told(published: Json, address: str) -> str:
    """Return a published figure as text; columns of `tests` stand under their bare key."""
    for key in (address, address.removeprefix("tests.")):
        if key in published:
            return _cell(published[key])
    return "-"


def _cell(value: Any, *, digits: int = 4) -> str:
    if isinstance(value, list):
        return " / ".join(_cell(item, digits=digits) for item in value)
    return "undefined" if value is None else f"{value:.{digits}g}"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Pad cells to columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ((cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)
    return ["  ".join(cells).rstrip() for cells in padded]


def _versions(headlines: Mapping[str, Json]) -> dict[str, str]:
    made = [headline["provenance"]["versions"] for headline in headlines.values()]
    return _joined(pair for versions in made for pair in versions.items())


def _cost(records: Sequence[Record]) -> dict[str, Any]:
    """Add up what steps cost; `reason` says what the sums leave out."""
    known = [record for record in records if record["seconds"] is not None]
    facts = ((k, record[k]) for record in known for k in ("device", "device_name") if record[k])
    devices = _joined(facts)
    missing = len(records) - len(known)
    reason = f"{missing} of {len(records)} steps left no record" + ": the others only" * bool(known)
    return {
        "seconds": round(sum(record["seconds"] for record in known), 3) if known else None,
        "peak_memory_mb": max((record["peak_memory_mb"] for record in known), default=None),
        "device": devices.get("device"),
        "device_name": devices.get("device_name"),
        "reason": reason if missing else None,
    }


def _phase(headline: Json | None, records: Sequence[Record]) -> dict[str, Any]:
    """Describe a phase: what its steps cost and, where it has a headline file, whence that came."""
    cost = {**_cost(records), "steps": list(records)}
    if headline is None:
        return cost
    return {
        "code": headline["code"],
        "config_hash": fingerprint(headline["config"]),
        **cost,
        "published": headline["published"],
    }


def _without_clash(source: Json, ours: Json) -> dict[str, Any]:
    for key in source:
        if key in ours:
            raise ValueError(f"published_keys: {key} is a key of the summary itself")
    return {**source, **ours}


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


def _verdicts(headlines: Mapping[str, Json]) -> dict[str, Any]:
    runs = headlines["claims"]["runs"] if "claims" in headlines else {}
    return {name: _verdict(run) for name, run in runs.items()}


def _verdict(run: Json) -> dict[str, Any]:
    """Keep what the claims table shows of a claim."""
    frame = ("room", "statement", "published", "verdict", "detail", "p_holm")
    effect = run["effects"][0] if run["effects"] else None
    keys = ("value", "low", "high", "n", "unit")
    shown = {key: effect[key] for key in keys} if effect else None
    return {**{key: run[key] for key in frame}, "effect": shown}


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
