"""Panels of the lattice itself: against what stands in its place, and its state over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from mneme.report.style import (
    ACCENT,
    SMALL,
    Runs,
    draw_forest,
    dress,
    mark,
    name_lines,
    row_of,
    short,
    told,
)

DECADES = 8
"""Of the state's size that colours tell apart at most."""


def main_lattice(block: Mapping[str, Any]) -> bool:
    """Tell whether a run has a lattice and is no control."""
    return "states" in block and block["settings"]["control_of"] is None


def draw_core(axis: Axes, of: Runs) -> None:
    """Draw the main lattice minus every arm that differs from it in the core alone.

    Arms without a core may have trained longer, so that they cost the same.
    """
    lines = lattice_lines(of)
    rows = [row_of(of, run, f"mrr_minus_{other}") for run, other in lines]
    draw_forest(axis, rows, [[] for _ in rows], colors=[ACCENT] * len(rows))
    name_lines(axis, [f"{of[run]['arm']} − {other}" for run, other in lines], shown=True)
    if not lines:
        axis.set_axis_off()
        return
    mark(axis, 0)
    off = next(
        (row for row, (_, other) in zip(rows, lines, strict=True) if _is_off(of, other)), None
    )
    dress(
        axis,
        title="Does the lattice help?",
        x="difference of MRR (right: lattice better)",
        y="",
        answer=f"minus off: {told(off)}" if off is not None else "",
    )


def _is_off(of: Runs, arm: str) -> bool:
    """Tell whether an arm has nothing between surface in and surface out."""
    settings = [b["settings"] for b in of.values() if b["arm"] == arm and b["kind"] == "trained"]
    return bool(settings) and settings[0]["core"] == "off"


def lattice_lines(of: Runs) -> list[tuple[str, str]]:
    """Return (run, arm it is compared with) of the arms with a lattice that are no controls."""
    names = {block["arm"]: block for block in of.values() if block["kind"] == "trained"}
    found = []
    for run, block in of.items():
        if not main_lattice(block):
            continue
        for other, its in names.items():
            free = {"core", "lattice_steps", "control_of"}
            if its["settings"]["core"] == "off" and row_of(of, run, f"mrr_minus_{other}"):
                free.add("steps")
            same = all(
                its["settings"][key] == value
                for key, value in block["settings"].items()
                if key not in free
            )
            if other != block["arm"] and same:
                found.append((run, other))
    return found


def draw_states(figure: Figure, place: SubplotSpec, name: str, states: Sequence[Any]) -> None:
    """Draw the middle slice before the first step, after the last, and between."""
    shown = np.unique(np.linspace(0, len(states) - 1, min(len(states), 11)).round().astype(int))
    cells = place.subgridspec(1, len(shown))
    limit = float(np.max(states)) or 1.0
    sizes = np.asarray(states)[np.asarray(states) > limit / 10**DECADES]
    least = float(sizes.min(initial=limit / 10))
    # a state may grow a hundredfold on its way: on a linear scale its arrival could not be seen
    norm = LogNorm(least, limit)
    colors = colormaps["magma"].with_extremes(bad="black", under="black")
    for column, step in enumerate(shown):
        axis = figure.add_subplot(cells[column])
        axis.imshow(states[step], cmap=colors, norm=norm, origin="upper")
        axis.set_xticks([])
        axis.set_yticks(
            [] if column else [0, len(states[0]) - 1], None if column else ["in", "out"]
        )
        axis.tick_params(labelsize=SMALL, length=0)
        axis.set_title(f"step {step}", fontsize=SMALL)
        if column == 0:
            axis.set_ylabel(f"{name}:\nmiddle slice, z down", fontsize=SMALL)
            scale = f"mean size of the state,\n{short(least)} to {short(limit)}, logarithmic"
            axis.set_xlabel(scale, fontsize=SMALL, loc="left")
