"""Figure of `results/mdn.json`: likelihood, rollouts and calibration of every arm.

A run, curve or metric that a config leaves out leaves its line out; an undefined value leaves a
gap.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from mneme.report.style import (
    ACCENT,
    BLACK,
    DASHES,
    GREY,
    OURS,
    PALETTE,
    Line,
    Runs,
    control_style,
    draw_line,
    dress,
    legend,
    mark,
    name_lines,
    new_figure,
    row_of,
    seed_values,
    settled,
    short,
    told,
)
from mneme.report.zeta_transfer import draw_elsewhere

FLOOR = "sine_floor"
ORDER = (
    "e0",
    "e0_learned",
    "v0",
    "v0_id",
    "v1",
    "e1",
    "e1_w01",
    "e2",
    "e3",
    "q3",
    "slot_dropout",
    "readout",
    "film",
    "gating",
    "cross",
    "carry",
    "primes",
    "oracle",
)
"""Arms from the plain model to the one with most memory; others follow."""
FOCUS = {
    "primes": OURS,
    "carry": ACCENT,
    "e0": BLACK,
    "v1": PALETTE[2],
    "e2": PALETTE[3],
}
"""Arms drawn as curves, and their colours."""
NOTES = {
    "e0": "no memory",
    "v1": "8 prefix slots",
    "e2": "8 slots, drift loss",
    "carry": "state over windows",
    "primes": "prime memory",
    "oracle": "absolute phase",
    "kde": "no past at all",
}
Pair = tuple[str, str, Mapping[str, Any]]
TOLERANCE = 0.01
"""Nats within which a run counts as equal to its limit."""
OPEN: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "mfc": "none",
    "color": BLACK,
    "markersize": 8,
    "zorder": 3,
}
"""Look of the source's points."""


def mdn_figure(runs: Runs, published: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw every arm's likelihood against floor and references, and its rollouts and calibration.

    Parameters
    ----------
    runs : mapping
        Run name -> block of `results/mdn.json`; the floor is run `sine_floor`, references are
        runs without seeds.
    published : mapping
        Run name -> the source's `nll`, where it gave one.

    Returns
    -------
    Figure
        NLL of every arm, what memory adds on zeta and on controls, NLL along context and height,
        rollout errors along the horizon, PIT, NLL on zeros elsewhere.
    """
    arms, references = arms_of(runs), references_of(runs)
    lines = max(len(arms) + len(references), sum(map(len, pairs_of(runs))), 8)
    figure = new_figure(
        17,
        6.3 + 0.27 * lines,
        title="Can the next spacing between zeros be predicted, and does memory help?",
        note="NLL in nats, lower is better; bars and bands: 95 % moving-block intervals over test "
        "windows; ticks: single seeds. Grey: references. Open circles: published. What each may "
        "use is its information set in the file.",
    )
    grid = figure.add_gridspec(2, 1, height_ratios=(0.27 * lines + 1.2, 4.2))
    top = grid[0].subgridspec(1, 4, width_ratios=(1.25, 0.9, 1, 1))
    likelihood, gain, context = (figure.add_subplot(top[i]) for i in range(3))
    height, elsewhere = (figure.add_subplot(cell) for cell in top[3].subgridspec(2, 1))
    below = grid[1].subgridspec(1, 4, width_ratios=(1, 1, 1, 0.75))
    step, total, pit, names = (figure.add_subplot(below[i]) for i in range(4))
    _likelihood(likelihood, runs, arms, references, published)
    _gain(gain, runs)
    _by_context(context, runs, references)
    _by_height(height, runs)
    _horizon(step, runs, references, "err_step", "How far off is a step of a rollout?")
    _horizon(total, runs, references, "err_cum", "How far off is their sum?")
    _pit(pit, runs)
    looks = {run: control_style(place) for place, run in enumerate(references)}
    draw_elsewhere(elsewhere, runs, looks | {run: {"color": c} for run, c in FOCUS.items()})
    names.set_axis_off()
    legend(names, context, step, height, pit, loc="center left", fontsize=9)
    return settled(figure)


def arms_of(runs: Runs) -> list[str]:
    """Return the trained runs on zeta, from the plain model to the one with most memory."""
    found = [r for r, block in runs.items() if block.get("system") == "zeta" and block["seeds"]]
    return sorted(found, key=lambda run: (ORDER.index(run) if run in ORDER else len(ORDER), run))


def references_of(runs: Runs) -> list[str]:
    """Return the references on zeta, worst first."""
    found = [
        run
        for run, block in runs.items()
        if block.get("system") == "zeta" and not block["seeds"] and row_of(runs, run, "nll")
    ]
    return sorted(found, key=lambda run: -_value(runs, run, "nll"))


def pairs_of(runs: Runs) -> tuple[list[Pair], list[Pair]]:
    """Return (run, what it is set against, row) of what the figure compares: on zeta, on controls.

    References stand in the first panel: against them only a run without another pair is shown,
    and a pair whose two runs both have a row only once.
    """
    real, controls, seen = [], [], set()
    for run, block in runs.items():
        pairs = [
            (run, row["metric"].removeprefix("nll_minus_"), row)
            for row in block.get("rows", ())
            if re.fullmatch(r"nll_minus_[^@]+", row["metric"]) and row["seed"] is None
        ]
        trained = [p for p in pairs if p[1] == "floor" or runs.get(p[1], {}).get("seeds")]
        for pair in trained or pairs:
            if frozenset(pair[:2]) not in seen:
                (real if block.get("system") == "zeta" else controls).append(pair)
            seen.add(frozenset(pair[:2]))
    return real, controls


def _value(runs: Runs, run: str, metric: str) -> float:
    row = row_of(runs, run, metric)
    return math.nan if row is None else row["value"]


def _label(run: str) -> str:
    return f"{run}: {NOTES[run]}" if run in NOTES else run


def _likelihood(
    axis: Axes,
    runs: Runs,
    arms: Sequence[str],
    references: Sequence[str],
    published: Mapping[str, Mapping[str, Any]],
) -> None:
    """Draw the window average (filled) and full context (open) of every arm and reference."""
    names = [*references, *arms]
    for place, run in enumerate(names):
        color = FOCUS.get(run, GREY if run in references else PALETTE[5])
        for metric, marker, shift in (("nll", "o", -0.12), ("nll_full", "D", 0.16)):
            row = row_of(runs, run, metric)
            if row is None:
                continue
            if row["low"] is not None and row["high"] is not None:
                axis.plot([row["low"], row["high"]], [place + shift] * 2, "-", color=color)
            face = color if metric == "nll" else "white"
            axis.plot([row["value"]], [place + shift], marker, color=color, mfc=face, markersize=5)
        values = seed_values(runs, run, "nll")
        axis.plot(values, [place - 0.3] * len(values), "|", color=color, markersize=4, alpha=0.6)
        if published.get(run, {}).get("nll") is not None:
            axis.plot([published[run]["nll"]], [place - 0.12], **OPEN)
    floor = row_of(runs, FLOOR, "nll")
    if floor is not None:
        mark(axis, floor["value"], color=ACCENT, text="GUE floor")
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    axis.set_axisbelow(True)
    name_lines(axis, [_label(run) for run in names], shown=True)
    dress(
        axis,
        title="How likely is what came?",
        x="NLL, nats (filled: contexts 1–255, open: full context)",
        y="",
    )


def _gain(axis: Axes, runs: Runs) -> None:
    """Draw each run minus what it is set against, on zeta and on the controls."""
    real, controls = pairs_of(runs)
    shown = real + controls
    for place, (run, _, row) in enumerate(shown):
        color = FOCUS.get(run, PALETTE[5]) if place < len(real) else GREY
        if row["value"] is None:
            continue
        if row["low"] is not None and row["high"] is not None:
            axis.plot([row["low"], row["high"]], [place] * 2, "-", color=color, linewidth=2)
        axis.plot([row["value"]], [place], "o", color=color, markersize=5)
    axis.axvspan(-TOLERANCE, TOLERANCE, color="#e8e8e8", zorder=-1, linewidth=0)
    mark(axis, 0)
    axis.set_xscale("symlog", linthresh=2 * TOLERANCE)
    low, high = (2 * end for end in axis.get_xlim())
    axis.set_xlim(low, high)
    ticks = (-10, -1, -0.1, -TOLERANCE, TOLERANCE, 0.1, 1, 10)
    axis.set_xticks([tick for tick in ticks if low <= tick <= high])
    axis.set_xticks([], minor=True)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}".replace("-", "−")))
    axis.set_ylim(max(len(shown), 1) - 0.4, -0.6)
    name_lines(axis, [f"{run} − {other}" for run, other, _ in shown], shown=True)
    dress(
        axis,
        title="What does it add?",
        x="difference of NLL, nats (left: better)",
        y="",
        answer=f"grey: controls; shaded: within {TOLERANCE:g} nats",
    )


def _curve(runs: Runs, run: str, *keys: str) -> Mapping[str, Any] | None:
    """Return a curve of a run; None where it has none."""
    curve: Any = runs.get(run, {}).get("curves", {})
    for key in keys:
        curve = curve.get(key)
        if not curve:
            return None
    return curve


def _drawn(curve: Mapping[str, Any], x: Sequence[float]) -> Line:
    """Return a curve as points with intervals, NaN where one is undefined."""
    ends = {
        key: [math.nan if v is None else v for v in curve[key]] for key in ("value", "low", "high")
    }
    return Line(x=list(x), **ends)


def _by_context(axis: Axes, runs: Runs, references: Sequence[str]) -> None:
    """Draw NLL against how many spacings have been seen."""
    for place, run in enumerate(references):
        curve = _curve(runs, run, "nll_by_context")
        if curve:
            middles = np.sqrt(np.multiply(curve["first"], curve["last"]))
            axis.plot(middles, _drawn(curve, middles).value, label=run, **control_style(place))
    for run, color in FOCUS.items():
        curve = _curve(runs, run, "nll_by_context")
        if curve:
            middles = np.sqrt(np.multiply(curve["first"], curve["last"]))
            draw_line(axis, _drawn(curve, middles), color=color, linewidth=1.8, label=_label(run))
    floor = _curve(runs, FLOOR, "nll_by_context")
    if floor:
        kept = [i for i, first in enumerate(floor["first"]) if first >= 1]
        x, y = ([floor[key][i] for i in kept] for key in ("first", "value"))
        axis.plot(x, y, color=ACCENT, linestyle=DASHES[1], label="GUE floor (exact)")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    dress(
        axis,
        title="What is a longer past worth?",
        x="spacings seen (context)",
        y="NLL, nats",
        answer=_best(runs, "nll_full", "full context: "),
    )


def _best(runs: Runs, metric: str, words: str) -> str:
    """Tell the best arm in numbers."""
    arms = [run for run in arms_of(runs) if run != "oracle" and row_of(runs, run, metric)]
    if not arms:
        return ""
    best = min(arms, key=lambda run: _value(runs, run, metric))
    return f"{words}{best} {told(row_of(runs, best, metric))}"


def _by_height(axis: Axes, runs: Runs) -> None:
    for run, color in FOCUS.items():
        curve = _curve(runs, run, "nll_by_height")
        if curve:
            line = _drawn(curve, [height / 1e6 for height in curve["height"]])
            draw_line(axis, line, color=color, linewidth=1.8, marker="o", markersize=3)
    dress(
        axis,
        title="Does it last higher up?",
        x="height t of the test windows, millions",
        y="NLL, nats (contexts 1–255)",
    )


def _horizon(axis: Axes, runs: Runs, references: Sequence[str], key: str, title: str) -> None:
    """Draw an error of rollouts against their length."""
    for place, run in enumerate(references):
        curve = _curve(runs, run, "error_by_horizon")
        if curve:
            value = _drawn(curve[key], curve["horizon"]).value
            axis.plot(curve["horizon"], value, label=run, **control_style(place))
    for run, color in FOCUS.items():
        curve = _curve(runs, run, "error_by_horizon")
        if curve:
            line = _drawn(curve[key], curve["horizon"])
            draw_line(axis, line, color=color, linewidth=1.8, label=_label(run))
    words = {"err_step": "mean |error| per step", "err_cum": "|sum of predictions − truth|"}
    if key == "err_cum":  # from a thousandth of a spacing to several
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    dress(
        axis,
        title=title,
        x="horizon H, spacings (context 128)",
        y=f"{words[key]}, mean spacings",
        answer=_best(runs, f"{key}@10", "H = 10: "),
    )


def _pit(axis: Axes, runs: Runs) -> None:
    """Draw where what came lies in what was predicted: flat when calibrated."""
    for run, color in FOCUS.items():
        curve = _curve(runs, run, "pit")
        if curve:
            density = np.multiply(curve["share"], len(curve["share"]))
            axis.stairs(density, curve["edges"], color=color, linewidth=1.6, baseline=None)
    axis.axhline(1, color=BLACK, linewidth=0.8, linestyle=DASHES[2])
    axis.set_xlim(0, 1)
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, 0.8), max(high, 1.2))
    distances = [(run, row_of(runs, run, "pit_ks")) for run in FOCUS]
    words = ", ".join(f"{run} {short(row['value'])}" for run, row in distances if row)
    dress(
        axis,
        title="Is it as sure as it should be?",
        x="predictive distribution at what came (PIT)",
        y="density (1: calibrated)",
        answer=f"KS: {words}" if words else "",
    )
