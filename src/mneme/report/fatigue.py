"""Figure of `results/fatigue.json`: what grows with dwell, beside every control.

A run or metric that a config leaves out leaves its curve out; an undefined value leaves a gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mneme.report.routing import label
from mneme.report.style import (
    BLACK,
    OURS,
    Runs,
    control_style,
    draw_line,
    dress,
    legend,
    line_of,
    new_figure,
    row_of,
    told,
)

CONTROLS = ("aa", "blocked", "reset", "shuffled_b", "token", "probe")
PANELS: tuple[tuple[str, str, str, str], ...] = (
    ("switch_lag", "How long to leave B?", "switch lag back into A, tokens", "switch_lag"),
    ("tail_area_32", "How much is left of B?", "tail area of 32 tokens, tokens", "tail_area_32"),
    ("return_gap_cosine", "How far off is the return?", "return gap, 1 − cos", "return_gap_cosine"),
    (
        "deep_crystallization_ratio",
        "Does the share of deep tokens grow?",
        "share with w_B > .95, whole segment",
        "deep_crystallization_ratio",
    ),
    (
        "deep_crystallization_ratio_last_16",
        "... in the last 16 tokens?",
        "share with w_B > .95, last 16 tokens",
        "deep_crystallization_ratio_last_16",
    ),
    (
        "deep_crystallization_ratio_excess",
        "... beyond a gate of constant lag?",
        "whole share minus (1 − lag / n)",
        "deep_crystallization_ratio_excess",
    ),
)
"""Metric, question, y label, trend shown under the question."""
PUBLISHED_KEYS = {
    "deep_crystallization_ratio": "deep_crystallization_ratio",
    "tail_area_32": "tail_area_32",
}


def fatigue_figure(runs: Runs, published: Mapping[str, Any], pair: tuple[str, str]) -> Figure:
    """Draw every dwell curve of ours and its controls, with the published points.

    Parameters
    ----------
    runs : mapping
        Run name -> block of `results/fatigue.json`.
    published : mapping
        The source's figures (`mistral_7b_fast`).
    pair : tuple of str
        Names of domains A and B.
    """
    figure = new_figure(
        15,
        9.5,
        title=f"Fatigue: does a longer stay in {pair[1]} leave a deeper trace?",
        note="Blue: the real sequence A → B(n) → A (run ours), 95 % bands over texts. Grey: the "
        "same rules on controls. Open markers: published (Mistral-7B, one text a length).",
    )
    axes = figure.subplots(2, 3).ravel()
    for axis, panel in zip(axes, PANELS, strict=True):
        _panel(axis, runs, panel, published.get("mistral_7b_fast", {}))
    legend(axes[3], loc="lower right")
    return figure


def _panel(
    axis: Axes, runs: Runs, panel: tuple[str, str, str, str], published: Mapping[str, Any]
) -> None:
    metric, question, y_label, trend = panel
    slope = told(row_of(runs, "ours", f"{trend}.per_doubling"), unit="a doubling")
    dress(
        axis,
        title=question,
        x="dwell n in B, tokens",
        y=y_label,
        answer=f"slope of ours: {slope}" if slope else "",
    )
    axis.set_xscale("log", base=2)
    for index, run in enumerate(CONTROLS):
        line = line_of(runs, run, _lengths(runs, run, metric))
        if line is not None:
            draw_line(axis, line, label=label(run), **control_style(index))
    line = line_of(runs, "ours", _lengths(runs, "ours", metric))
    if line is not None:
        draw_line(axis, line, label=label("ours"), color=OURS, linewidth=2, marker="o")
        axis.set_xticks(line.x, [f"{x:g}" for x in line.x])
        axis.minorticks_off()
    values = published.get(PUBLISHED_KEYS.get(metric, ""), ())
    if values:
        dwell: Sequence[int] = published["dwell_tokens"]
        axis.plot(dwell, values, "D", mfc="none", mec=BLACK, label="published (Mistral-7B)")


def _lengths(runs: Runs, run: str, metric: str) -> dict[float, str]:
    """Return dwell length -> metric name of the rows `metric@n`."""
    names = [row["metric"] for row in runs.get(run, {}).get("rows", ()) if row["seed"] is None]
    tails = [name.removeprefix(f"{metric}@") for name in names if name.startswith(f"{metric}@")]
    return {float(n): f"{metric}@{n}" for n in sorted((t for t in tails if t.isdigit()), key=int)}
