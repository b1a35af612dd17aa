"""Panel of `results/mdn.json`: likelihood on blocks of zeros elsewhere on the line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from mneme.report.style import Line, Runs, draw_line, dress, mark, row_of, short


def draw_elsewhere(axis: Axes, runs: Runs, looks: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw NLL on every block, from low to high, where the blocks beyond training begin.

    Parameters
    ----------
    axis : Axes
        Panel; empty and without axes when no run was read elsewhere.
    runs : mapping
        Run name -> block of `results/mdn.json` with `transfer` and rows `nll_transfer@<block>`.
    looks : mapping
        Runs to draw -> their plot keywords.
    """
    blocks = blocks_of(runs)
    if not blocks:
        axis.set_axis_off()
        return
    for run, look in looks.items():
        rows = [row_of(runs, run, f"nll_transfer@{name}") for name in blocks]
        found = [(place, row) for place, row in enumerate(rows) if row and row["value"] is not None]
        if found:
            ends = {key: [row[key] for _, row in found] for key in ("value", "low", "high")}
            line = Line(x=[place for place, _ in found], **ends)
            draw_line(axis, line, marker="o", markersize=4, **look)
    beyond = [place for place, facts in enumerate(blocks.values()) if not facts["inside_training"]]
    if beyond and beyond[0]:
        mark(axis, beyond[0] - 0.5)
    axis.set_xticks(range(len(blocks)), [short_height(f["first_height"]) for f in blocks.values()])
    axis.set_xlim(-0.4, len(blocks) - 0.6)
    last = list(blocks)[-1]
    top = {run: row_of(runs, run, f"nll_transfer@{last}") for run in looks}
    told = sorted(
        (row["value"], run) for run, row in top.items() if row and row["value"] is not None
    )
    ends = [f"{run} {short(value)}" for value, run in (told[:1] + told[-1:] if told else ())]
    between = "\n… ".join(ends)
    dress(
        axis,
        title="Does it hold elsewhere?",
        x="height t of a block (right: not trained on)",
        y="NLL, nats",
        answer=f"{short_height(blocks[last]['first_height'])}: {between}" if ends else "",
    )


def blocks_of(runs: Runs) -> dict[str, Mapping[str, Any]]:
    """Return the blocks that any run was read on, by height, and what the file says of them."""
    found: dict[str, Mapping[str, Any]] = {}
    for run in runs.values():
        found |= run.get("transfer", {})
    return dict(sorted(found.items(), key=lambda item: item[1]["first_height"]))


def short_height(height: float) -> str:
    """Write a height as 2.2e4 or 1e8."""
    digits, power = f"{height:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"
