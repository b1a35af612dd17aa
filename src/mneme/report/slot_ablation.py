"""Figure of `results/slot_ablation.json`: what each memory slot is worth, in the source's bands.

A run or metric that a config leaves out leaves its line out; an undefined value leaves a gap.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mneme.report.style import (
    ACCENT,
    BLACK,
    GREY,
    OURS,
    PALETTE,
    SMALL,
    Runs,
    dress,
    mark,
    name_lines,
    new_figure,
    row_of,
    seed_values,
    settled,
    told,
)

KINDS = {
    "zero": ("zeros in its place", OURS, "o"),
    "mean": ("mean of the slots", ACCENT, "s"),
    "resampled": ("random content", PALETTE[2], "D"),
    "retrained": ("trained without memory", BLACK, "X"),
}
"""Way to cut a slot -> words, colour, marker."""
EFFECT_EDGES = (0.0, 1.0, 3.0, 10.0, 30.0, math.inf)
EFFECT_NAMES = ("ballast", "marginal", "useful", "strong", "dominant")
ROLLOUT_EDGES = (-math.inf, 0.0, 2.0, 5.0, math.inf)
ROLLOUT_NAMES = ("harmful", "marginal", "useful", "holds focus")
TICKS = (-100, -30, -10, -5, -2, 0, 1, 2, 3, 5, 10, 30, 100, 300, 1000)
SHADES = ("#f4f4f4", "#e6ecf2", "#d3e0ec", "#bdd3e6", "#a3c3df")
OPEN: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "mfc": "none",
    "color": BLACK,
    "markersize": 8,
    "zorder": 3,
}
"""Look of the source's points."""
ORDER = ("v0", "v0_id", "v1", "e1", "e1_w01", "e2", "e3", "q3")
"""Runs in the source's order; others follow."""
GAP = 0.2
"""Lines between the ways to cut one slot."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One quantity a cut changes."""

    metric: str
    """Rows `metric@kind@slot`."""
    question: str
    """Title."""
    x: str
    """Label with unit."""
    bands: tuple[tuple[float, ...], tuple[str, ...]] | None
    """Edges and names of the source's bands."""
    linear: float | None
    """The axis is linear up to this size and logarithmic beyond; None: linear throughout."""


def panels_of(runs: Runs) -> tuple[Panel, ...]:
    """Return the panels of a run's slots, for the rollout lengths that were read."""
    found = {
        int(number.group(1))
        for block in runs.values()
        for row in block.get("rows", ())
        if (number := re.match(r"err_step_(\d+)_change@", row["metric"]))
    }
    short, long = min(found, default=10), max(found, default=100)
    return (
        Panel(
            metric="eff",
            question="Does it move the next step?",
            x="mean |change of the prediction|, % of its error",
            bands=(EFFECT_EDGES, EFFECT_NAMES),
            linear=1.0,
        ),
        Panel(
            metric="rollout_effect",
            question="Does it help a rollout?",
            x=f"error of {short} steps without it, % more",
            bands=(ROLLOUT_EDGES, ROLLOUT_NAMES),
            linear=10.0,
        ),
        Panel(
            metric="nll_change",
            question="Does it help the likelihood?",
            x="NLL without it minus with it, nats",
            bands=None,
            linear=None,
        ),
        Panel(
            metric=f"err_step_{long}_change",
            question="... a long rollout?",
            x=f"error a step of {long} steps: without minus with",
            bands=None,
            linear=None,
        ),
    )


def slot_ablation_figure(
    runs: Runs, published: Mapping[str, Mapping[str, Any]], *, focus: Sequence[str]
) -> Figure:
    """Draw every slot of the runs in focus, and every run's memory as a whole.

    Parameters
    ----------
    runs : mapping
        Run name -> block of `results/slot_ablation.json`.
    published : mapping
        Run name -> the source's `eff_percent` and `rollout_effect`, percent, where it gave them.
    focus : sequence of str
        Runs shown slot by slot; those without a block are left out.

    Returns
    -------
    Figure
        A row of panels for each run in focus, and a last one over all runs.
    """
    shown, panels = [run for run in focus if run in runs], panels_of(runs)
    heights = [0.36 * len(_slots(runs, run)) + 1.3 for run in shown]
    heights.append(0.34 * max(len(runs), 3) + 1.3)
    figure = new_figure(
        16,
        sum(heights) + 1.0,
        title="Slot ablation: what is each memory slot worth?",
        note="Right of 0: worse without it. Bars: 95 % moving-block intervals over test windows; "
        "ticks: single seeds. Shaded: the bands that the source named; open markers: what it "
        "published.",
    )
    axes = figure.subplots(len(heights), 4, squeeze=False, height_ratios=heights)
    for line, run in enumerate(shown):
        for place, (axis, panel) in enumerate(zip(axes[line], panels, strict=True)):
            _slot_panel(axis, runs, run, panel, first=place == 0)
    _all_runs(axes[-1], runs, published, panels[:2])
    _legend(figure)
    return settled(figure)


def _legend(figure: Figure) -> None:
    """Name the markers beside the title, where they cover nothing."""
    handles = [
        Line2D([], [], linestyle="-", color=color, marker=marker, markersize=4.5, label=words)
        for words, color, marker in KINDS.values()
    ]
    handles.append(Line2D([], [], **OPEN, label="published"))
    figure.legend(
        handles=handles, loc="upper right", ncols=len(handles), fontsize=SMALL + 1, frameon=False
    )


def _slots(runs: Runs, run: str) -> list[str]:
    """Return the places that were cut, in the order of the file."""
    found: dict[str, None] = {}
    for row in runs.get(run, {}).get("rows", ()):
        parts = row["metric"].split("@")
        if len(parts) == 3:
            found[parts[2]] = None
    return [slot for slot in found if slot != "all"] + [slot for slot in found if slot == "all"]


def _slot_panel(axis: Axes, runs: Runs, run: str, panel: Panel, *, first: bool) -> None:
    slots = _slots(runs, run)
    points = [
        (run, f"{panel.metric}@{kind}@{slot}", kind, line + GAP * (order - 1))
        for line, slot in enumerate(slots)
        for order, kind in enumerate(KINDS)
    ]
    _draw(axis, runs, points, panel, lines=len(slots))
    names = [f"slot {slot}" if slot != "all" else "all slots" for slot in slots]
    name_lines(axis, names, shown=first)
    headline = told(row_of(runs, run, f"{panel.metric}@zero@all"), unit=_unit(panel))
    dress(
        axis,
        title=f"{run}: {panel.question[0].lower()}{panel.question[1:]}"
        if first
        else panel.question,
        x=panel.x,
        y="",
        answer=f"all slots zero: {headline}" if headline else "",
    )


def _unit(panel: Panel) -> str:
    return "%" if panel.bands else ""


def _draw(
    axis: Axes,
    runs: Runs,
    points: Sequence[tuple[str, str, str, float]],
    panel: Panel,
    *,
    lines: int,
) -> None:
    """Draw (run, metric, kind, height) as intervals with their seeds, over the source's bands."""
    for run, metric, kind, y in points:
        row = row_of(runs, run, metric)
        if row is None:
            continue
        _, color, marker = KINDS[kind]
        values = seed_values(runs, run, metric)
        axis.plot(values, [y + 0.08] * len(values), "|", color=color, markersize=4, alpha=0.6)
        if row["low"] is not None and row["high"] is not None:
            axis.plot([row["low"], row["high"]], [y, y], "-", color=color, linewidth=1.4)
        axis.plot([row["value"]], [y], marker, color=color, markersize=4.5)
    axis.set_ylim(lines - 0.4, -1.5)  # room for the bands' names
    if panel.linear is not None:
        axis.set_xscale("symlog", linthresh=panel.linear, linscale=1.0)
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}".replace("-", "−"))
    else:
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    axis.set_axisbelow(True)
    if panel.bands is not None:
        _shade(axis, *panel.bands)
    mark(axis, 0)


def _shade(axis: Axes, edges: Sequence[float], names: Sequence[str]) -> None:
    """Shade the bands from edge to edge and name them above the lines, in two heights."""
    low, high = axis.get_xlim()
    low = 0.0 if edges[0] == 0 else min(low, -2.0)
    high = max(1.25 * high, 2.4 * edges[-2])
    axis.set_xlim(low, high)
    axis.set_xticks([tick for tick in TICKS if low <= tick <= high])
    axis.set_xticks([], minor=True)
    bands = zip(SHADES, names, edges[:-1], edges[1:], strict=False)
    for place, (shade, name, left, right) in enumerate(bands):
        left, right = max(left, low), min(right, high)
        axis.axvspan(left, right, color=shade, linewidth=0, zorder=-1)
        ends = axis.transData.transform([(left, 0), (right, 0)])[:, 0]
        middle = axis.transData.inverted().transform((ends.mean(), 0))[0]
        y = -1.2 + 0.42 * (place % 2)
        axis.text(middle, y, name, fontsize=SMALL - 1, color=GREY, ha="center", va="center")


def _all_runs(
    axes: Sequence[Axes],
    runs: Runs,
    published: Mapping[str, Mapping[str, Any]],
    panels: Sequence[Panel],
) -> None:
    """Draw every run's memory as a whole."""
    names = [*(run for run in ORDER if run in runs), *sorted(set(runs) - set(ORDER))]
    kinds = [kind for kind in KINDS if kind != "retrained"]
    keys = ("eff_percent", "rollout_effect")
    for axis, panel, key in zip(axes[:2], panels, keys, strict=True):
        points = [
            (run, f"{key}@{kind}", kind, line + GAP * (order - 1))
            for line, run in enumerate(names)
            for order, kind in enumerate(kinds)
        ]
        found = [(line, published.get(run, {}).get(key)) for line, run in enumerate(names)]
        told_points = [(x, line) for line, x in found if x is not None]
        if told_points:
            axis.plot(*zip(*told_points, strict=True), **OPEN)
        _draw(axis, runs, points, panel, lines=len(names))
        dress(
            axis,
            title=panel.question if axis is not axes[0] else "Every run: the slot that moves most",
            x=panel.x,
            y="",
        )
    _retrained(axes[2], runs, names, panels[1])
    _entropy(axes[3], runs, names)
    for place, axis in enumerate(axes):
        name_lines(axis, names, shown=place == 0)


def _retrained(axis: Axes, runs: Runs, names: Sequence[str], panel: Panel) -> None:
    metric = "rollout_effect@retrained@all"
    points = [(run, metric, "retrained", float(line)) for line, run in enumerate(names)]
    _draw(axis, runs, points, panel, lines=len(names))
    dress(
        axis,
        title="Is a memory worth training?",
        x="... of a model that never had one, % more",
        y="",
    )


def _entropy(axis: Axes, runs: Runs, names: Sequence[str]) -> None:
    """Draw how evenly the attention is shared among the slots."""
    points = [(run, "mem_entropy", "zero", float(line)) for line, run in enumerate(names)]
    panel = Panel(metric="mem_entropy", question="", x="", bands=None, linear=None)
    _draw(axis, runs, points, panel, lines=len(names))
    slots = max((len(_slots(runs, run)) - 1 for run in names), default=0)
    if slots > 1:
        mark(axis, math.log(slots), color=ACCENT, text=f"ln {slots}")
    axis.set_xlim(left=0)
    dress(
        axis,
        title="Are some slots attended more?",
        x="entropy of the attention to slots, nats",
        y="",
    )
