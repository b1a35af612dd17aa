"""A finished run, cut down to what the repository keeps: the README's answers rest on it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mneme.report.claims import decide
from mneme.report.claims_config import ClaimConfig
from mneme.report.summary import HEADLINE_ROWS

Json = Mapping[str, Any]
_KEPT = ("published_keys", "never", "verdict", "information")
"""Keys of a run beside its rows; `information` is what its NLL may know, `never` which of the
published keys hold a 0 that stands for "never"."""


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
    whence = {"commit": _committed(summary["commit"]), "size": size}
    device = summary["device_name"] or summary["device"]
    rooms = dict.fromkeys(claim["room"] for claim in headlines["claims"]["runs"].values())
    measured = {room: {**whence, "note": _note(room, headlines, device)} for room in rooms}
    return {**_kept(headlines), "measured": measured}


def with_room(
    room: str,
    fresh: Mapping[str, Json],
    kept: Mapping[str, Json],
    *,
    ledger: Mapping[str, ClaimConfig],
    commit: Json,
    size: str,
    device: str,
) -> dict[str, dict[str, Any]]:
    """Put a newer run of one room into a snapshot, and judge all claims again.

    For rooms that are measured on machines or at times of their own. Verdicts of the other rooms
    stay: p-values are adjusted within a room (Holm).

    Parameters
    ----------
    room : str
        Its name.
    fresh : mapping
        Phase -> contents of the headline files that the room's run has made, all of them.
    kept : mapping
        An earlier snapshot, as `snapshot` returns it.
    ledger : mapping
        Name -> claim.
    commit : mapping
        `{commit, dirty, reason}` of the clone that ran the room.
    size, device : str
        Name of the size, and of the device it ran on.

    Returns
    -------
    dict
        As `snapshot`.

    Raises
    ------
    ValueError
        The clone has uncommitted changes.
    """
    whence = {"commit": _committed(commit), "size": size}
    files = {phase: file for phase, file in kept.items() if phase not in ("claims", "measured")}
    files |= fresh
    provenance = kept["claims"]["provenance"]
    inputs = {f: digest for f, digest in provenance["inputs"].items() if Path(f).stem not in fresh}
    files["claims"] = {
        **kept["claims"],
        "runs": decide(ledger, files),
        "provenance": {**provenance, "inputs": inputs},
    }
    note = _note(room, files, device)
    return {**_kept(files), "measured": {**kept["measured"], room: {**whence, "note": note}}}


def compact_svg(text: str) -> str:
    """Return a figure without indentation and the tail of font lists, places to .001 points.

    Words, images and everything but the places of what is drawn stay as they are.
    """
    text = re.sub(r">\s+<", ">\n<", text)
    text = re.sub(r"('DejaVu Sans')(?:, '[^'<>]*')+(, sans-serif)", r"\1\2", text)
    return re.sub(r'(?<= )(?:d|x|y)="[^"]*"', lambda found: _shorter(found[0]), text)


def _shorter(places: str) -> str:
    places = re.sub(r"\s+", " ", places)
    return re.sub(r"-?\d+\.\d{4,}", lambda found: f"{float(found[0]):.3f}", places)


def _committed(commit: Json) -> str:
    if commit["dirty"]:
        raise ValueError(
            "the run was made from a tree with uncommitted changes: commit them and run snakemake "
            "again (what is up to date is not repeated)"
        )
    return commit["commit"]


def _kept(headlines: Mapping[str, Json]) -> dict[str, dict[str, Any]]:
    claims = headlines["claims"]["runs"]
    named = {one["address"] for c in claims.values() for one in _addressed(c)}
    named |= {c["original_address"] for c in claims.values()}
    return {
        phase: dict(contents) if phase == "claims" else _cut(contents, named)
        for phase, contents in headlines.items()
    }


def _note(room: str, headlines: Mapping[str, Json], device: str) -> str:
    """Say on which device a room was measured, and on which backbone where it has any."""
    claims = headlines["claims"]["runs"].values()
    addressed = (one["address"] for c in claims if c["room"] == room for one in _addressed(c))
    phases = {address.partition(" ")[0] for address in addressed}
    found = (headlines[phase]["provenance"] for phase in sorted(phases) if phase in headlines)
    backbones = dict.fromkeys(p["backbone"]["name"] for p in found if "backbone" in p)
    return ", ".join([*backbones, device])


def _addressed(claim: Json) -> list[Json]:
    return [*claim["effects"], *claim["positives"], *claim["nulls"]]


def _cut(headline: Json, named: set[str]) -> dict[str, Any]:
    phase, runs = headline["phase"], {}
    for run, block in headline["runs"].items():
        rows = []
        for row in block["rows"]:
            address = f"{phase} {run} {row['metric']}"
            # claims are judged again from what is kept, and tell the range over seeds
            if address in named or (row["seed"] is None and _headline(address)):
                rows.append(row)
        further = {key: block[key] for key in _KEPT if key in block}
        runs[run] = {"rows": rows, **further}
    return {**headline, "runs": runs}


def _headline(address: str) -> bool:
    return any(re.fullmatch(rows, address) for rows in HEADLINE_ROWS)
