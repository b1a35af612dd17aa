"""Figure of `results/fatigue.json`: what grows with dwell, beside every control.

A run or metric that a config leaves out leaves its curve out; an undefined value leaves a gap.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mneme.report.routing import label
from mneme.report.style import (
    ACCENT,
    BLACK,
    OURS,
    SMALL,
    Runs,
    control_style,
    draw_line,
    dress,
    legend,
    line_of,
    new_figure,
    row_of,
    seed_values,
    settled,
    short,
    told,
)

OPEN: dict[str, Any] = {"linestyle": "", "mfc": "none", "markersize": 6, "zorder": 3}
"""Look of the source's points."""
CONTROLS = ("aa", "blocked", "reset", "shuffled_b", "token", "probe")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One quantity over dwell."""

    metric: str
    """Rows `metric@n` and their slope `metric.per_doubling`."""
    question: str
    """Title."""
    y: str
    """Label with unit."""
    null: tuple[str, str] | None
    """Words and row of the second slope under the title: what is left beside the null."""
    source: str
    """The source's name of it, in `published` and in run `original`; empty where it has none."""
    share: bool
    """Whether it lies in 0..1, as the axis then shows."""


PANELS = (
    Panel(
        metric="switch_lag",
        question="How long to leave B?",
        y="switch lag back into A, tokens",
        null=("minus aa", "switch_lag_minus_aa"),
        source="switch_lag_BA",
        share=False,
    ),
    Panel(
        metric="tail_area_32",
        question="How much is left of B?",
        y="tail area of 32 tokens, tokens",
        null=("minus aa", "tail_area_32_minus_aa"),
        source="tail_area_32",
        share=False,
    ),
    Panel(
        metric="return_gap_cosine",
        question="How far off is the return?",
        y="return gap, 1 − cos",
        null=("minus blocked", "return_gap_cosine_minus_blocked"),
        source="return_gap_cosine_distance",
        share=False,
    ),
    Panel(
        metric="deep_crystallization_ratio",
        question="Does the share of deep tokens grow?",
        y="share with w_B > .95, whole segment",
        null=("since entry, minus longest", "deep_crystallization_ratio_excess"),
        source="deep_crystallization_ratio",
        share=True,
    ),
    Panel(
        metric="deep_crystallization_ratio_after_32",
        question="... from token 32 on?",
        y="share with w_B > .95, tokens 32 and later",
        null=None,
        source="",
        share=True,
    ),
    Panel(
        metric="deep_crystallization_ratio_last_16",
        question="... in the last 16 tokens?",
        y="share with w_B > .95, last 16 tokens",
        null=None,
        source="",
        share=True,
    ),
    Panel(
        metric="deep_crystallization_ratio_excess",
        question="... since the text's own entry?",
        y="share since entry minus that at the longest n",
        null=None,
        source="",
        share=False,
    ),
)


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
        17,
        9.5,
        title=f"Fatigue: does a longer stay in {pair[1]} leave a deeper trace?",
        note="Blue: the real sequence A → B(n) → A (run ours), 95 % bands over texts. Grey: the "
        "same rules on controls. Open markers: the source's own protocol and definitions, one text "
        "a length.",
    )
    axes = figure.subplots(2, 4).T.ravel()
    # The last column of the upper row holds the legend, so that it never covers a curve.
    places = [axes[0], axes[2], axes[4], axes[1], axes[3], axes[5], axes[7]]
    for axis, panel in zip(places, PANELS, strict=True):
        _panel(axis, runs, panel, published.get("mistral_7b_fast", {}))
        axis.sharex(places[0])
    axes[6].set_axis_off()
    legend(axes[6], *places, loc="center left", fontsize=9)
    return settled(figure)


def _panel(axis: Axes, runs: Runs, panel: Panel, published: Mapping[str, Any]) -> None:
    metric = panel.metric
    slopes = [("ours, a doubling", metric), *([panel.null] if panel.null else [])]
    told_slopes = [
        (name, told(row_of(runs, "ours", f"{row}.per_doubling"))) for name, row in slopes
    ]
    dress(
        axis,
        title=panel.question,
        x="dwell n in B, tokens",
        y=panel.y,
        answer="\n".join(f"{name}: {slope}" for name, slope in told_slopes if slope),
    )
    axis.set_xscale("log", base=2)
    for index, run in enumerate(CONTROLS):
        line = line_of(runs, run, _lengths(runs, run, metric))
        if line is not None:
            draw_line(axis, line, label=label(run), **control_style(index))
    lengths = _lengths(runs, "ours", metric)
    line = line_of(runs, "ours", lengths)
    if line is not None:
        draw_line(axis, line, label=label("ours"), color=OURS, linewidth=2, marker="o")
    _published_points(axis, panel, published)
    _original_points(axis, runs, panel)
    dwell = list(_lengths(runs, "ours", PANELS[0].metric))
    nearest = dict(itertools.pairwise(dwell))  # numbers nearer than 1.5 times overlap
    axis.set_xticks(dwell, [f"{x:g}" if nearest.get(x, 2 * x) >= 1.5 * x else "" for x in dwell])
    axis.minorticks_off()
    if panel.share:
        axis.set_ylim(-0.03, 1.05)


def _published_points(axis: Axes, panel: Panel, published: Mapping[str, Any]) -> None:
    values = published.get(panel.source, ())
    if values:
        x = published["dwell_tokens"]
        axis.plot(x, values, marker="D", mec=BLACK, label="published (Mistral-7B)", **OPEN)


def _original_points(axis: Axes, runs: Runs, panel: Panel) -> None:
    """Mark what the source's protocol gives here; what lies far above all else is written."""
    _, top = axis.get_ylim()
    index = 0
    while dwell := seed_values(runs, "original", f"tests[{index}].python_block_length"):
        found = seed_values(runs, "original", f"tests[{index}].{panel.source}")
        shown = [value for value in found if value <= 2 * top]
        name = "original: its protocol here, a seed each"
        axis.plot(dwell[:1] * len(shown), shown, marker="s", mec=ACCENT, label=name, **OPEN)
        beyond = ", ".join(short(value) for value in found if value > 2 * top)
        if beyond:
            axis.text(
                dwell[0],
                0.97,
                f"↑ {beyond}",
                transform=axis.get_xaxis_transform(),
                fontsize=SMALL,
                color=ACCENT,
                ha="center",
                va="top",
            )
        index += 1


def _lengths(runs: Runs, run: str, metric: str) -> dict[float, str]:
    """Return dwell length -> metric name of the rows `metric@n`."""
    names = [row["metric"] for row in runs.get(run, {}).get("rows", ()) if row["seed"] is None]
    tails = [name.removeprefix(f"{metric}@") for name in names if name.startswith(f"{metric}@")]
    return {float(n): f"{metric}@{n}" for n in sorted((t for t in tails if t.isdigit()), key=int)}
