"""Times, memory and provenance of the HTML report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mneme.report.html_room import ROOMS, SOURCES, step_rows, value_table
from mneme.report.html_text import DASH, duration, memory, number

Json = Mapping[str, Any]


def costs_view(summary: Json) -> dict[str, Any]:
    """Gather times and memory: sums of every phase, steps of no room, the source's own keys."""
    phases = summary["phases"]
    in_rooms = {phase for room in ROOMS for phase in room.phases}
    shared = [phase for phase in phases if phase not in in_rooms]
    return {
        "seconds": duration(summary["seconds"]),
        "memory": memory(summary["peak_memory_mb"]),
        "reason": summary["reason"],
        "phases": [_phase(phase, cost) for phase, cost in phases.items()],
        "steps": step_rows(summary, shared),
        "headline_values": [
            table for phase in shared if (table := value_table(phase, summary, phase)) is not None
        ],
        "timing": _timing(summary),
    }


def _phase(phase: str, cost: Json) -> dict[str, Any]:
    return {
        "phase": phase,
        "seconds": duration(cost["seconds"]),
        "memory": memory(cost["peak_memory_mb"]),
        "device": cost["device_name"] or cost["device"] or DASH,
        "steps": number(len(cost["steps"])),
        "reason": cost["reason"],
    }


def _timing(summary: Json) -> dict[str, Any] | None:
    """Set the source's `timing` keys of run `original` beside the published ones."""
    told: dict[str, dict[str, float]] = {}
    for block in (*summary["phases"].values(), summary):
        for source, figures in block.get("published", {}).items():
            for address, seconds in figures.items():
                key = address.removeprefix("timing.")
                if key != address:
                    told.setdefault(source, {})[key] = seconds
    keys = dict.fromkeys(
        [*summary["timing"], *(key for figures in told.values() for key in figures)]
    )
    if not keys:
        return None
    columns = [summary["timing"], *told.values()]
    return {
        "heads": ["here", *(SOURCES.get(source, source) for source in told)],
        "rows": [(key, [duration(column.get(key)) for column in columns]) for key in keys],
    }


def provenance_view(summary: Json) -> dict[str, list[tuple[str, ...]]]:
    """List where the numbers come from: the run, versions, code and settings of every phase."""
    backbone, commit = summary["backbone"], summary["commit"]
    dirty = {True: "yes", False: "no", None: DASH}[commit["dirty"]]
    device = summary["device"] or DASH
    run = [
        ("commit", commit["commit"] or f"none: {commit['reason']}"),
        ("uncommitted changes", dirty),
        ("hash of all settings", summary["config_hash"]),
        ("device", " ".join(dict.fromkeys((device, summary["device_name"] or device)))),
        ("backbone", backbone["name"]),
        ("its weights", f"{backbone['source']}, {backbone['init']}, {backbone['dtype']}"),
        ("its revision", backbone["revision"] or DASH),
    ]
    codes = [
        (phase, block["code"], block["config_hash"])
        for phase, block in summary["phases"].items()
        if "code" in block
    ]
    return {"run": run, "versions": list(summary["versions"].items()), "codes": codes}
