"""Figures of room `routing`, drawn from the blocks of its headline files.

A run or metric that a config leaves out leaves its curve out; an undefined value leaves a gap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mneme.report.style import (
    ACCENT,
    BLACK,
    DASHES,
    GREY,
    OURS,
    SMALL,
    Line,
    Runs,
    control_style,
    draw_forest,
    draw_line,
    dress,
    legend,
    line_of,
    mark,
    name_lines,
    new_figure,
    row_of,
    seed_values,
    settled,
    told,
)

LAG_CONTROLS = ("aa", "blocked", "reset", "shuffled_b", "bab")
"""Without `token`: most of its lags are never reached, which would flatten the others."""
TRAJECTORY_CONTROLS = ("aa", "blocked", "reset", "shuffled_b", "token")
NOTES = {
    "ours": "real: A → B → A",
    "aa": "A → A′ → A",
    "bab": "B → A → B",
    "blocked": "no attention to B",
    "reset": "second A alone",
    "shuffled_b": "tokens of B shuffled",
}
MIXER_NOTES = {
    "ours": "gate on layer-k states",
    "attention": "attends over states",
    "ema": "smoothed logits",
    "ema_oracle": "smoothed truth",
    "token": "sees the token only",
    "untrained": "random weights",
    "shuffled_labels": "wrong labels",
    "probe": "linear probe",
}
NOTES |= {name: note for name, note in MIXER_NOTES.items() if name != "ours"}
UNROUTED = ("untrained", "shuffled_labels")
"""Routers that never reach the threshold: their lag is the segment's length and says nothing."""
GAP_DELTA = 0.1
"""Return gap that the source calls a memory; the smallest one that matters."""


def hysteresis_figure(runs: Runs, pair: tuple[str, str]) -> Figure:
    """Draw what comes back of A after B, beside every control.

    Parameters
    ----------
    runs : mapping
        Run name -> block of `results/hysteresis.json`.
    pair : tuple of str
        Names of domains A and B.

    Returns
    -------
    Figure
        Trajectory and its return, lag over thresholds, contrasts with the controls, every mixer.
    """
    figure = new_figure(
        15,
        10.5,
        title=f"Hysteresis: does the router remember {pair[1]} when {pair[0]} returns?",
        note="Blue: the real sequence A → B → A (run ours). Grey: the same rules on controls. "
        "Bars and bands: 95 % intervals over texts, if not said otherwise; ticks: single seeds.",
    )
    grid = figure.add_gridspec(2, 1)
    top = grid[0].subgridspec(1, 3, width_ratios=(1.5, 1, 1))
    trajectory, returning, curve = (figure.add_subplot(top[i]) for i in range(3))
    _trajectory(trajectory, runs, pair)
    _returning(returning, runs, pair)
    _lag_curve(curve, runs, pair)
    below = grid[1].subgridspec(1, 4)
    forests = [figure.add_subplot(below[i]) for i in range(4)]
    _contrasts(forests[:2], runs)
    _mixers(forests[2:], runs)
    return settled(figure)


def _trajectory(axis: Axes, runs: Runs, pair: tuple[str, str]) -> None:
    dress(
        axis,
        title="Where does the router's weight lie?",
        x="token of the sequence",
        y=f"weight of {pair[0]}, mean over texts",
        answer="band: 10–90 % of texts",
    )
    _draw_bands(axis, runs)
    size = _segment_tokens(runs)
    axis.set_ylim(-0.03, 1.13)
    axis.set_yticks(np.linspace(0, 1, 6))
    if size is None:
        return
    axis.set_xlim(0, 3 * size)
    axis.set_xticks([0, size, 2 * size, 3 * size])
    for boundary in (size, 2 * size):
        axis.axvline(boundary, color=BLACK, linewidth=0.8, linestyle=DASHES[2])
    names = (f"A: {pair[0]}", f"B: {pair[1]}", f"A again: {pair[0]}")
    for place, name in enumerate(names):
        axis.text((place + 0.5) * size, 1.07, name, ha="center", fontsize=SMALL + 0.5)


def _returning(axis: Axes, runs: Runs, pair: tuple[str, str]) -> None:
    """Zoom on the first tokens after the return."""
    dress(
        axis,
        title="How does it come back?",
        x=f"token after the return to {pair[0]}",
        y=f"weight of {pair[0]}, mean over texts",
        answer="the same passage after each kind of past",
    )
    size = _segment_tokens(runs)
    _draw_bands(axis, runs, start=0 if size is None else 2 * size)
    if size is not None:
        axis.set_xlim(-4, min(32, size))
    axis.axvline(0, color=BLACK, linewidth=0.8, linestyle=DASHES[2])
    axis.set_ylim(-0.03, 1.13)
    axis.set_yticks(np.linspace(0, 1, 6))
    legend(axis, loc="lower right")


def _draw_bands(axis: Axes, runs: Runs, *, start: int = 0) -> None:
    """Draw w_A(t) of ours and the controls, positions counted from `start`."""
    for index, run in enumerate(TRAJECTORY_CONTROLS):
        bands = runs.get(run, {}).get("bands")
        if bands:
            x = [position - start for position in bands["position"]]
            axis.plot(x, bands["mean"], label=label(run), **control_style(index))
    bands = runs.get("ours", {}).get("bands")
    if bands:
        line = Line(
            x=[position - start for position in bands["position"]],
            value=bands["mean"],
            low=bands["low"],
            high=bands["high"],
        )
        draw_line(axis, line, color=OURS, linewidth=2, label=label("ours"))


def _segment_tokens(runs: Runs) -> int | None:
    """Return the length of a segment, tokens: a third of any whole sequence."""
    for block in runs.values():
        position = block.get("bands", {}).get("position")
        if position:
            return (position[-1] + 1) // 3
    return None


def _lag_curve(axis: Axes, runs: Runs, pair: tuple[str, str]) -> None:
    lag = told(row_of(runs, "ours", "switch_lag_BA"), unit="tokens")
    dress(
        axis,
        title="How long until A has the weight θ?",
        x="threshold θ (weight)",
        y="switch lag into the second A, tokens",
        answer=f"ours at the headline θ: {lag}" if lag else "",
    )
    for index, run in enumerate(LAG_CONTROLS):
        line = line_of(runs, run, _thresholds(runs, run))
        if line is not None:
            draw_line(axis, line, label=label(run), **control_style(index))
    line = line_of(runs, "ours", _thresholds(runs, "ours"))
    if line is not None:
        draw_line(axis, line, label=label("ours"), color=OURS, linewidth=2, marker="o")
        axis.set_xscale("logit")  # thetas near 1 lie as far apart as they are hard to reach
        axis.set_xticks(line.x, [f"{x:g}" for x in line.x])
        axis.set_xticks([], minor=True)
    found = seed_values(runs, "original", "test_aba.switch_lag_BA")
    if found:
        values = ", ".join(f"{value:g}" for value in found)
        axis.plot([], [], " ", label=f"original, its own protocol:\n{values} (a seed each)")
    axis.set_ylim(bottom=0)
    legend(axis, loc="upper left")


def _thresholds(runs: Runs, run: str) -> dict[float, str]:
    names = [row["metric"] for row in runs.get(run, {}).get("rows", ()) if row["seed"] is None]
    found = {}
    for name in names:
        metric, _, theta = name.partition("@")
        other = theta.endswith("_median") or "_minus_" in theta
        if metric == "switch_lag_BA" and theta and not other:
            found[float(theta)] = name
    return dict(sorted(found.items()))


def _contrasts(axes: Sequence[Axes], runs: Runs) -> None:
    """Forest of ours minus each control: return gap on the left, lag on the right."""
    metrics = ("return_gap_cosine", "switch_lag_BA")
    controls = _controls_of(runs, metrics)
    names = [label(control, "− ", between="\n") for control in controls]
    _forests(
        axes,
        runs,
        [("ours", f"_minus_{control}") for control in controls],
        names,
        titles=("Is it B that the router remembers?", "ours minus each control"),
        colors=[OURS] * len(names),
    )


def _mixers(axes: Sequence[Axes], runs: Runs) -> None:
    """Forest of every mixer, real minus A -> A' -> A."""
    mixers = [mixer for mixer in MIXER_NOTES if mixer in runs]
    _forests(
        axes,
        runs,
        [(mixer, "_minus_aa") for mixer in mixers],
        [f"{mixer}\n{MIXER_NOTES[mixer]}" for mixer in mixers],
        titles=("Which router remembers?", "real minus A → A′ → A"),
        colors=[OURS if mixer == "ours" else GREY for mixer in mixers],
    )
    for place, mixer in enumerate(mixers):
        never = runs[mixer].get("censored", {}).get("switch_lag_BA", 0)
        if never > 0.5:  # the difference of two lags that are both the segment's length
            text = f"  never back in {100 * never:.0f} % of texts"
            axes[1].text(0, place, text, fontsize=SMALL, color=GREY, va="center")


def _forests(
    axes: Sequence[Axes],
    runs: Runs,
    lines: Sequence[tuple[str, str]],
    names: Sequence[str],
    *,
    titles: tuple[str, str],
    colors: list[str],
) -> None:
    labels = ("return gap, 1 − cos", "switch lag back into A, tokens")
    metrics = ("return_gap_cosine", "switch_lag_BA")
    for place, (axis, metric) in enumerate(zip(axes, metrics, strict=True)):
        found = [(run, f"{metric}{suffix}") for run, suffix in lines]
        draw_forest(
            axis,
            [row_of(runs, run, name) for run, name in found],
            [seed_values(runs, run, name) for run, name in found],
            colors=colors,
        )
        mark(axis, 0)
        name_lines(axis, names, shown=place == 0)
        dress(
            axis,
            title=titles[0] if place == 0 else "",
            x=f"{labels[place]}\n({titles[1]})",
            y="",
        )
        if metric == "return_gap_cosine":
            mark(axis, GAP_DELTA, color=ACCENT, text=f"matters from {GAP_DELTA:g}")


def _controls_of(runs: Runs, metrics: Sequence[str]) -> list[str]:
    """Return the controls that ours is contrasted with, in the order of the file."""
    found = []
    for row in runs.get("ours", {}).get("rows", ()):
        for metric in metrics:
            head, minus, control = row["metric"].partition("_minus_")
            if head == metric and minus and control not in (*found, *UNROUTED):
                found.append(control)
    return found


def label(run: str, sign: str = "", *, between: str = ": ") -> str:
    """Return a run's name with the words that say what it is."""
    return f"{sign}{run}{between}{NOTES[run]}" if run in NOTES else f"{sign}{run}"
