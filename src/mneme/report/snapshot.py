"""A finished run, cut down to what the repository keeps: the README's answers rest on it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mneme.report.summary import HEADLINE_ROWS

Json = Mapping[str, Any]
_KEPT = ("published_keys", "verdict", "information")
"""Keys of a run beside its rows; `information` is what its NLL may know."""


def snapshot(
    headlines: Mapping[str, Json], summary: Json, *, size: str
) -> dict[str, dict[str, Any]]:
    """Cut headline files down to the rows over all seeds that the tables show or a claim rests on.

    Parameters
    ----------
    headlines : mapping
        Phase -> contents of its headline file, `claims` among them.
    summary : mapping
        Contents of `summary.json`.
    size : str
        Name of the size that was run (`default`, `long`, ...).

    Returns
    -------
    dict
        File stem -> contents: one a phase, `claims` whole, and `measured` (room -> `commit`,
        `size`, `note`).

    Raises
    ------
    ValueError
        There is no claims.json, or the run was made from a tree with uncommitted changes, so that
        nobody could make it again.
    """
    if "claims" not in headlines:
        raise ValueError("claims.json is missing: run snakemake to the end first")
    commit = summary["commit"]
    if commit["dirty"]:
        raise ValueError(
            "the run was made from a tree with uncommitted changes: commit them and run snakemake "
            "again (what is up to date is not repeated)"
        )
    claims = headlines["claims"]["runs"]
    named = {one["address"] for c in claims.values() for one in _addressed(c)}
    kept = {
        phase: dict(contents) if phase == "claims" else _cut(contents, named)
        for phase, contents in headlines.items()
    }
    whence = {"commit": commit["commit"], "size": size}
    rooms = dict.fromkeys(claim["room"] for claim in claims.values())
    measured = {room: {**whence, "note": _note(room, headlines, summary)} for room in rooms}
    return {**kept, "measured": measured}


def _note(room: str, headlines: Mapping[str, Json], summary: Json) -> str:
    """Say on which device a room was measured, and on which backbone where it has any."""
    claims = headlines["claims"]["runs"].values()
    addressed = (one["address"] for c in claims if c["room"] == room for one in _addressed(c))
    phases = {address.partition(" ")[0] for address in addressed}
    found = (headlines[phase]["provenance"] for phase in sorted(phases) if phase in headlines)
    backbones = dict.fromkeys(p["backbone"]["name"] for p in found if "backbone" in p)
    return ", ".join([*backbones, summary["device_name"] or summary["device"]])


def _addressed(claim: Json) -> list[Json]:
    return [*claim["effects"], *claim["positives"], *claim["nulls"]]


def _cut(headline: Json, named: set[str]) -> dict[str, Any]:
    phase, runs = headline["phase"], {}
    for run, block in headline["runs"].items():
        rows = [
            row
            for row in block["rows"]
            if row["seed"] is None and _shown(f"{phase} {run} {row['metric']}", named)
        ]
        further = {key: block[key] for key in _KEPT if key in block}
        runs[run] = {"rows": rows, **further}
    return {**headline, "runs": runs}


def _shown(address: str, named: set[str]) -> bool:
    return address in named or any(re.fullmatch(rows, address) for rows in HEADLINE_ROWS)
