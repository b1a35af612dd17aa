"""Figure of `results/ttt_context.json`: loss by position of all arms, worth of own context.

A column is one set of test documents under one recipe. A run, set or metric that a config leaves
out leaves its line out; an undefined value leaves a gap.
"""

from __future__ import annotations

import math
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

STYLES: dict[str, dict[str, Any]] = {
    "second": {"color": OURS, "linewidth": 2.0},
    "first": {"color": ACCENT, "linewidth": 1.6},
    "dynamic": {"color": PALETTE[2], "linewidth": 1.6},
    "full": {"color": BLACK, "linewidth": 1.4},
    "two_mlp": control_style(0),
    "sliding": control_style(1),
    "naive": control_style(4),
    "untrained": control_style(2),
    "first, longer": {"color": ACCENT, "linewidth": 1.2, "linestyle": DASHES[2]},
    "sliding, longer": control_style(3),
}
"""Arm -> its line, the measured arms first; controls are grey."""
NAMES = {
    "second": "TTT, second order",
    "first": "TTT, first order",
    "dynamic": "sliding + dynamic evaluation",
    "full": "full attention",
    "two_mlp": "sliding, two MLPs, no TTT",
    "sliding": "sliding window",
    "naive": "TTT, trained without updates",
    "untrained": "TTT, never trained",
    "first, longer": "TTT, first order, at equal time",
    "sliding, longer": "sliding window, at equal time",
}
IDEALS = {
    "ideal_all": ("ideal learner", {"color": PALETTE[3], "linestyle": DASHES[2]}),
    "ideal_far": (
        "ideal learner, receptive field",
        {"color": PALETTE[3], "linestyle": DASHES[3]},
    ),
}
ADAPTING = ("second", "first", "dynamic")
"""Trained arms with contexts to compare."""
UNLEARNT = 0.4
"""Nats above the ideal reader of the receptive field from which a window has not learnt to look
back: half of what separates that reader (2.62) from chance (ln 32 = 3.47)."""
CONTRASTS = {
    "own_minus_other": "own − another document",
    "own_minus_shuffled": "own − its tokens shuffled",
    "own_minus_sentences": "own − its sentences shuffled",
    "own_minus_random": "own − random tokens",
    "own_minus_none": "own − nothing",
    "harm": "another document − nothing",
}
"""Metric -> name of a line of the forest; the two that the claim needs come first."""


def context_figure(runs: Runs) -> Figure:
    """Draw every set of test documents.

    Parameters
    ----------
    runs : mapping
        Run name -> block of `results/ttt_context.json`.

    Returns
    -------
    Figure
        For each set: loss by position with the ideal learners where there are any, difference to
        the sliding window by position, loss of the same last tokens by length of context, and own
        context minus every control.
    """
    columns = columns_of(runs)
    wide = max(len(columns), 1)
    longer = any("nll_by_length" in c for block in runs.values() for c in block["curves"].values())
    panels = 3 if longer else 2
    figure = new_figure(
        max(4.6 * wide + 2, 10),
        3.5 * panels + 5.6,
        title="Does training at test time carry context past the attention window?",
        note="Loss in nats a token, lower is better; bands and bars: 95 % intervals over plays, "
        "conversations or documents; ticks: single seeds.\nGrey: controls. Dashed upright: all "
        "that attention can reach. Full attention: beyond the length of training, out of range."
        + _not_learnt(runs),
    )
    grid = figure.add_gridspec(3, 1, height_ratios=(3.5 * panels, 3.2, 0.9))
    curves = grid[0].subgridspec(panels, wide).subplots(squeeze=False)
    forests = grid[1].subgridspec(1, wide).subplots(squeeze=False)[0]
    lines = [metric for metric in CONTRASTS if _told_anywhere(runs, columns, metric)]
    for place, (recipe, each) in enumerate(columns):
        here = {run: block for run, block in runs.items() if block["recipe"] == recipe}
        _positions(curves[0, place], here, recipe, each)
        _differences(curves[1, place], here, each)
        if longer:
            _lengths(curves[2, place], here, each)
        _contrasts(forests[place], here, each, lines, named=place == 0)
    names = figure.add_subplot(grid[2])
    names.set_axis_off()
    legend(names, *curves.ravel(), *forests, loc="center", ncols=4, fontsize=9)
    return settled(figure)


def _not_learnt(runs: Runs) -> str:
    """Name the plain windows that lose more than an ideal reader of their receptive field.

    On chains: a network that had learnt to look up what followed a symbol would be near it.
    """
    named = []
    for run, block in sorted(runs.items()):
        row = row_of(runs, run, f"chains_nll_beyond_minus_{block['recipe']}_ideal_far")
        plain = block["arm"] in ("sliding", "two_mlp", "full")
        if plain and row is not None and row["value"] > UNLEARNT:
            named.append(f"{run} ({row['value']:+.2f})")
    told_them = ", ".join(named)
    return f" Not learnt to look back, against the ideal of that reach: {told_them}." * bool(named)


def columns_of(runs: Runs) -> list[tuple[str, str]]:
    """Return (recipe, set) of every column, sorted."""
    return sorted({(block["recipe"], each) for block in runs.values() for each in block["curves"]})


def arm_of(block: Mapping[str, Any]) -> str:
    """Return the arm that a run is drawn as: one with more steps is a line of its own."""
    longer = block.get("steps_factor", 1) > 1
    return f"{block['arm']}, longer" if longer else block["arm"]


def _arms(runs: Runs, *, untrained: bool = False) -> list[tuple[str, str]]:
    """Return (run, arm) in the order of `STYLES`, controls first so that they lie below.

    A network that was never trained is left out where losses are drawn: it would flatten all.
    """
    order = list(STYLES)
    drawn = [(run, arm_of(block)) for run, block in runs.items()]
    found = [(r, a) for r, a in drawn if a in STYLES and (untrained or a != "untrained")]
    return sorted(found, key=lambda pair: (-order.index(pair[1]), pair[0]))


def _ends(curve: Mapping[str, Any], x: Sequence[float]) -> Line:
    ends = {
        key: [math.nan if v is None else v for v in curve[key]] for key in ("value", "low", "high")
    }
    return Line(x=list(x), **ends)


def _middles(curve: Mapping[str, Any]) -> list[float]:
    return [math.sqrt(a * b) for a, b in zip(curve["first"], curve["last"], strict=True)]


def _positions(axis: Axes, runs: Runs, recipe: str, each: str) -> None:
    """Draw the loss against how many tokens have been read."""
    for run, arm in _arms(runs):
        curve = runs[run]["curves"].get(each, {}).get("nll_by_position")
        if curve:
            draw_line(axis, _ends(curve, _middles(curve)), label=NAMES[arm], **STYLES[arm])
    for block in runs.values():
        curve = block["curves"].get(each, {}).get("nll_by_position")
        if block["arm"] in IDEALS and curve:
            name, style = IDEALS[block["arm"]]
            axis.plot(_middles(curve), _ends(curve, []).value, label=name, linewidth=1.5, **style)
    _reach(axis, runs)
    _log_tokens(axis)
    dress(
        axis,
        title=f"{recipe}, {each}{_windows(runs, each)}: what is reading on worth?",
        x="tokens read before (log bins)",
        y="loss, nats a token",
        answer=_share(runs, each),
    )


def _windows(runs: Runs, each: str) -> str:
    """Tell how many windows were read: intervals are over the fewer plays they are from."""
    counts = {block.get("documents", {}).get(each) for block in runs.values()} - {None}
    return f" ({counts.pop()} windows)" if len(counts) == 1 else ""


def _share(runs: Runs, each: str) -> str:
    """Tell the loss beyond the receptive field, or the share of the ideal gain where known."""
    words = []
    for run, arm in reversed(_arms(runs)):
        row = row_of(runs, run, f"{each}_ideal_share")
        if row is not None and arm in ADAPTING:
            words.append(f"{arm} {100 * row['value']:.0f} %")
    if words:
        return f"share of the ideal gain beyond reach: {', '.join(words)}"
    for run, arm in reversed(_arms(runs)):
        row = row_of(runs, run, f"{each}_bits_per_byte_beyond")
        if row is not None and arm in STYLES:
            words.append(f"{arm} {short(row['value'])}")
    return f"bits per byte beyond reach: {', '.join(words[:3])}" if words else ""


def _differences(axis: Axes, runs: Runs, each: str) -> None:
    """Draw each arm minus the sliding window: where a gain or a miss lies."""
    base = next((run for run, arm in _arms(runs) if arm == "sliding"), None)
    words = ""
    for run, arm in _arms(runs):
        line = _difference_line(runs, run, base, each)
        if line is None:
            continue
        draw_line(axis, line, label=NAMES[arm], **STYLES[arm])
        beyond = row_of(runs, run, f"{each}_nll_beyond_minus_{base}")
        if arm in ADAPTING and beyond is not None:
            words = f"beyond reach, {arm} − sliding: {told(beyond)}"
    axis.axhline(0, color=GREY, linewidth=1, zorder=0)
    _reach(axis, runs)
    _log_tokens(axis)
    dress(
        axis,
        title="Where does it gain or lose?",
        x="tokens read before (log bins)",
        y="loss − sliding window's, nats",
        answer=words,
    )


def _difference_line(runs: Runs, run: str, base: str | None, each: str) -> Line | None:
    curve = runs[run]["curves"].get(each, {}).get("nll_by_position")
    if base is None or base == run or not curve:
        return None
    names = [
        f"{a}-{b}" if b > a else str(a) for a, b in zip(curve["first"], curve["last"], strict=True)
    ]
    rows = [row_of(runs, run, f"{each}_nll_position_minus_{base}@{name}") for name in names]
    ends = {
        key: [math.nan if row is None or row[key] is None else row[key] for row in rows]
        for key in ("value", "low", "high")
    }
    return Line(x=_middles(curve), **ends) if any(rows) else None


def _lengths(axis: Axes, runs: Runs, each: str) -> None:
    """Draw the loss of the same last tokens against how much before them was read."""
    for run, arm in _arms(runs):
        curve = runs[run]["curves"].get(each, {}).get("nll_by_length")
        if curve:
            line = _ends(curve, curve["length"])
            draw_line(axis, line, label=NAMES[arm], marker="o", markersize=3, **STYLES[arm])
    if not axis.lines:
        axis.set_axis_off()
        return
    _reach(axis, runs)
    _log_tokens(axis)
    dress(
        axis,
        title="The same tokens after more context",
        x="tokens read before the same last ones",
        y="loss, nats a token",
    )


def _told_anywhere(runs: Runs, columns: Sequence[tuple[str, str]], metric: str) -> bool:
    return any(row_of(runs, run, f"{each}_{metric}") for _, each in columns for run in runs)


def _contrasts(axis: Axes, runs: Runs, each: str, lines: Sequence[str], *, named: bool) -> None:
    """Draw what own context is worth against every other, arm by arm."""
    shown = (*ADAPTING, "first, longer", "naive", "untrained")
    arms = [pair for pair in reversed(_arms(runs, untrained=True)) if pair[1] in shown]
    for shift, (run, arm) in zip(np.linspace(-0.22, 0.22, len(arms)), arms, strict=True):
        for place, metric in enumerate(lines):
            row = row_of(runs, run, f"{each}_{metric}")
            if row is None:
                continue
            color = GREY if metric == "harm" else STYLES[arm]["color"]
            y, face = place + shift, color if arm == "second" else "white"
            if row["low"] is not None and row["high"] is not None:
                axis.plot([row["low"], row["high"]], [y, y], "-", color=color, linewidth=2)
            axis.plot([row["value"]], [y], "o", color=color, mfc=face, markersize=5)
            values = seed_values(runs, run, f"{each}_{metric}")
            axis.plot(values, [y] * len(values), "|", color=color, markersize=7, alpha=0.6)
        if arm == "untrained":  # drawn here alone
            axis.plot([], [], "o-", color=STYLES[arm]["color"], mfc="white", label=NAMES[arm])
    mark(axis, 0)
    axis.set_ylim(max(len(lines), 1) - 0.4, -0.6)
    axis.locator_params(axis="x", nbins=5)
    axis.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    axis.set_axisbelow(True)
    name_lines(axis, [CONTRASTS[metric] for metric in lines], shown=named)
    dress(axis, title="Is it this context?", x="difference of loss, nats", y="")


def _reach(axis: Axes, runs: Runs) -> None:
    fields = {block["receptive_field"] for block in runs.values()}
    for field in fields:
        axis.axvline(field + 1, color=BLACK, linewidth=0.9, linestyle=DASHES[1], zorder=0)


def _log_tokens(axis: Axes) -> None:
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
