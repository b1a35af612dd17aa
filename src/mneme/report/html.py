"""The HTML report: one file that opens without a network, claims first, then a page a room.

Nothing in it is computed from measurements: it writes out what `claims.json`, the other headline
files and `summary.json` say. It has no script; all pictures are inside.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mneme.report.html_claims import VERDICTS, counts, sentence
from mneme.report.html_costs import costs_view, provenance_view
from mneme.report.html_room import ROOMS, phase_of, room_view
from mneme.report.html_text import duration, inline

Json = Mapping[str, Any]


def page(
    summary: Json,
    headlines: Mapping[str, Json],
    figures: Mapping[str, str],
    captions: Mapping[str, str],
) -> str:
    """Write the report.

    Parameters
    ----------
    summary : mapping
        Contents of `summary.json`.
    headlines : mapping
        Phase -> contents of its headline file, `claims` among them. A room without phase and claim
        is left out and named.
    figures : mapping
        Name -> SVG; a name is a phase, or begins with one and an underscore.
    captions : mapping
        Name of a figure -> its caption; single and double backquotes are code.

    Returns
    -------
    str
        HTML.

    Raises
    ------
    ValueError
        A figure without a phase, a view box or a caption; a claim with an unknown room or verdict.
    """
    claims = headlines["claims"]["runs"] if "claims" in headlines else {}
    by_room = _by_room(claims)
    measured = {room.name: bool(set(room.phases) & set(headlines)) for room in ROOMS}
    drawn = {phase_of(name) for name in figures}
    shown = [r for r in ROOMS if measured[r.name] or by_room[r.name] or drawn & set(r.phases)]
    template = _templates().get_template("page.html.j2")
    return template.render(
        headline=_headline(summary),
        judged="claims" in headlines,
        sentence=sentence(claims),
        counts=counts(claims),
        verdicts=VERDICTS,
        absent=[room.name for room in ROOMS if not measured[room.name]],
        rooms=[
            room_view(room, summary, headlines, by_room[room.name], figures, captions)
            for room in shown
        ],
        costs=costs_view(summary),
        provenance=provenance_view(summary),
    )


@functools.cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("mneme.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    return environment


def _by_room(claims: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
    """Sort claims by room and by their place in the ledger."""
    found: dict[str, dict[str, Json]] = {room.name: {} for room in ROOMS}
    for claim_id, block in sorted(claims.items(), key=lambda named: named[1]["place"]):
        if block["room"] not in found:
            raise ValueError(
                f"claims.json: {claim_id}.room must be one of {', '.join(found)}; "
                f"got {block['room']!r}"
            )
        found[block["room"]][claim_id] = block
    return found


def _headline(summary: Json) -> dict[str, str]:
    """Say in a few words what was run, on what, from which commit."""
    commit = summary["commit"]
    told = (
        f"commit {commit['commit'][:10]}" if commit["commit"] else f"no commit: {commit['reason']}"
    )
    return {
        "backbone": summary["model_name"],
        "device": summary["device_name"] or summary["device"] or "device unknown",
        "commit": f"{told} with uncommitted changes" if commit["dirty"] else told,
        "seconds": duration(summary["seconds"]),
    }
