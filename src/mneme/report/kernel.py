"""Figure of `results/kernel.json`: how attention falls off with distance, and in what formula.

A run or curve that a config leaves out leaves its panel out.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mneme.report.style import (
    ACCENT,
    BLACK,
    DASHES,
    GREY,
    OURS,
    PALETTE,
    SMALL,
    Line,
    Runs,
    draw_line,
    dress,
    legend,
    name_lines,
    new_figure,
    row_of,
    settled,
    told,
)

KERNELS = {
    "sine_kernel": ("sine kernel (sin πr / πr)²", ACCENT, DASHES[0]),
    "envelope": ("its envelope 1 / (1 + 2π²r²)", BLACK, DASHES[2]),
    "exponential": ("exp(−r)", GREY, DASHES[1]),
}
"""Kernel -> words, colour, dashes."""
LONGEST = 58
"""Characters of a formula that fit on a line above the front."""
SLACK = 0.01
"""R² that a simpler formula may lack."""


def kernel_figure(runs: Runs, *, focus: Sequence[str]) -> Figure:
    """Draw the attention of runs against distance and lag, and the formulas found for it.

    Parameters
    ----------
    runs : mapping
        Run name -> block of `results/kernel.json`.
    focus : sequence of str
        Runs that get a row of panels; those without a block are left out.
    """
    shown = [run for run in focus if run in runs]
    figure = new_figure(
        17,
        1.1 + 4.2 * len(shown) + 0.28 * max(len(runs), 4) + 1.2,
        title="Attention: does it fall off as the sine kernel does?",
        note="Attention per pair of query and key, mean over heads, layers and test windows. "
        "Bands and bars: 95 % moving-block intervals over windows. Kernels: fitted as a + b K(r).",
    )
    heights = [4.2] * len(shown) + [0.28 * max(len(runs), 4) + 1.2]
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    for line, run in enumerate(shown):
        row = grid[line].subgridspec(1, 4, width_ratios=(1.25, 1, 1, 1.1))
        distance, heads, lag, front = (figure.add_subplot(row[i]) for i in range(4))
        _distance(distance, runs, run)
        _heads(heads, runs[run])
        _lag(lag, runs[run])
        _front(front, runs[run])
    _fits(grid[-1].subgridspec(1, 2), figure, runs)
    return settled(figure)


def _line(curve: Mapping[str, Any], x: Sequence[float]) -> Line:
    ends = {
        key: [np.nan if v is None else v for v in curve[key]] for key in ("value", "low", "high")
    }
    return Line(x=list(x), **ends)


def _distance(axis: Axes, runs: Runs, run: str) -> None:
    curve = runs[run].get("distance")
    if curve:
        line = _line(curve, curve["r"])
        draw_line(axis, line, color=OURS, linewidth=2, label="attention")
        for name, (words, color, dashes) in KERNELS.items():
            axis.plot(curve["r"], curve[name], color=color, linestyle=dashes, label=words)
    legend(axis, loc="upper right", frameon=True, framealpha=0.85, edgecolor="none")
    dress(
        axis,
        title=f"{run}: attention and distance",
        x="distance r of query and key, mean spacings",
        y="attention of a pair",
        answer=_told(runs, run, "sine_kernel_r_squared", "R² of the sine kernel: "),
    )


def _told(runs: Runs, run: str, metric: str, words: str) -> str:
    text = told(row_of(runs, run, metric))
    return words + text if text else ""


def _heads(axis: Axes, block: Mapping[str, Any]) -> None:
    """Draw every head, scaled to its own largest value; the closest to the sine kernel in blue."""
    heads, curve = block.get("heads") or (), block.get("distance")
    if heads and curve:
        best = max(heads, key=lambda head: head["sine_kernel_r_squared"])
        for head in heads:
            chosen = head is best
            axis.plot(
                curve["r"],
                np.divide(head["value"], max(head["value"])),
                color=OURS if chosen else GREY,
                linewidth=1.8 if chosen else 0.7,
                alpha=1 if chosen else 0.6,
                zorder=3 if chosen else 2,
            )
        words = (
            f"layer {best['layer']}, head {best['head']}: R² {best['sine_kernel_r_squared']:.2f}"
        )
    else:
        words = ""
    dress(
        axis,
        title="Which head is closest?",
        x="distance r, mean spacings",
        y="attention, share of the head's largest",
        answer=words,
    )


def _lag(axis: Axes, block: Mapping[str, Any]) -> None:
    curve = block.get("lag")
    if curve:
        line = _line(curve, curve["lag"])
        draw_line(axis, line, color=OURS, linewidth=1.6, marker="o", markersize=3)
        axis.set_yscale("log")
    dress(
        axis,
        title="... and lag?",
        x="lag, spacings (0: the newest)",
        y="attention of a pair, log",
    )


def _front(axis: Axes, block: Mapping[str, Any]) -> None:
    """Draw closeness against complexity of the formulas for the distance curve."""
    front = (block.get("formulas") or {}).get("distance") or ()
    for key, color, words in (
        ("r_squared", OURS, "windows searched on"),
        ("r_squared_held_out", ACCENT, "other windows"),
    ):
        points = [(line["complexity"], line[key]) for line in front if line[key] is not None]
        if points:
            marker = {"marker": "o", "markersize": 4, "linewidth": 1.4}
            axis.plot(*zip(*points, strict=True), color=color, label=words, **marker)
    low, _ = axis.get_ylim()
    axis.set_ylim(max(low, -0.05), 1.03)
    legend(axis, loc="lower right")
    dress(
        axis,
        title="What formula says it?",
        x="complexity, nodes of the formula",
        y="R²",
        answer=_simplest(front),
    )


def _simplest(front: Sequence[Mapping[str, Any]]) -> str:
    """Tell the simplest formula that is as good as any on the windows not searched on."""
    held_out = [line for line in front if line["r_squared_held_out"] is not None]
    if not held_out:
        return ""
    best = max(line["r_squared_held_out"] for line in held_out)
    good = next(line for line in held_out if line["r_squared_held_out"] >= best - SLACK)
    text = f"{good['formula'].replace('-', '−')}, R² {good['r_squared_held_out']:.3f}"
    return "\n".join(textwrap.wrap(text, LONGEST))


def _fits(place: Any, figure: Figure, runs: Runs) -> None:
    """Draw R^2 of every kernel, and what the oscillation adds, for every run."""
    fits, added = (figure.add_subplot(place[i]) for i in range(2))
    names = sorted(runs)
    for line, run in enumerate(names):
        for order, (kernel, (_, color, _)) in enumerate(KERNELS.items()):
            _bar(fits, row_of(runs, run, f"{kernel}_r_squared"), line + 0.2 * (order - 1), color)
        _bar(added, row_of(runs, run, "oscillation_r_squared"), line, PALETTE[2])
    for axis, shown in ((fits, True), (added, False)):
        axis.set_ylim(max(len(names), 1) - 0.4, -0.6)
        axis.grid(axis="x", color="#e4e4e4", linewidth=0.6)
        axis.set_axisbelow(True)
        name_lines(axis, names, shown=shown)
    added.axvline(0, color=BLACK, linewidth=1)
    dress(fits, title="Every run: which kernel?", x="R² (colours as above)", y="")
    dress(
        added,
        title="Are the sine kernel's zeros there?",
        x="R² of the sine kernel minus that of its envelope",
        y="",
    )
    added.tick_params(labelsize=SMALL)


def _bar(axis: Axes, row: Mapping[str, Any] | None, y: float, color: str) -> None:
    if row is None:
        return
    if row["low"] is not None and row["high"] is not None:
        axis.plot([row["low"], row["high"]], [y, y], "-", color=color, linewidth=2)
    axis.plot([row["value"]], [y], "o", color=color, markersize=5)
