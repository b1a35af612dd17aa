"""How figures look: colours, axes, intervals, forests; drawing primitives without pyplot state.

The measured run has the one strong colour, controls are grey and told apart by dashes, published
figures are open black markers. Colours are Okabe and Ito's, safe for colour-blind readers. A value
that is None leaves a gap.

References
----------
Okabe and Ito (2008), Color universal design: how to make figures friendly to colorblind people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS = "#0072B2"
ACCENT = "#D55E00"
BLACK = "#1a1a1a"
GREY = "#6f6f6f"
GREYS = ("#4d4d4d", "#8c8c8c")
PALETTE = (OURS, ACCENT, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (7, 1.5, 1.2, 1.5)),
    (0, (3, 3)),
    (0, (9, 3)),
)
TEXT = 9.0
SMALL = 8.0

Runs = Mapping[str, Mapping[str, Any]]
"""Run name -> block of a headline file."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points with intervals; NaN where a value is undefined (matplotlib then leaves a gap)."""

    x: list[float]
    """Positions."""
    value: list[float]
    """Values."""
    low: list[float]
    """Lower ends of the intervals."""
    high: list[float]
    """Upper ends."""


def new_figure(width: float, height: float, *, title: str, note: str) -> Figure:
    """Return an empty figure (inches) with a title and a line that says how to read it."""
    rcParams["svg.fonttype"] = "none"  # text stays text; matplotlib has no such key a figure
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1, wspace=0.03, hspace=0.05)  # type: ignore[union-attr]
    figure.suptitle(f"{title}\n", x=0.01, ha="left", fontsize=14, fontweight="bold")
    figure.text(
        0.01, 1 - 0.46 / height, note, ha="left", va="center", fontsize=SMALL + 1, color=GREY
    )
    return figure


def settled(figure: Figure) -> Figure:
    """Lay the figure out once and for all: every later drawing moves nothing."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def dress(axis: Axes, *, title: str, x: str, y: str, answer: str = "") -> None:
    """Give a panel its question, an answer in numbers below it, and labels with units."""
    pad = 20 + 12 * answer.count("\n")
    axis.set_title(title, loc="left", fontsize=TEXT + 1.5, fontweight="bold", pad=pad)
    above = {"xycoords": "axes fraction", "xytext": (0, 4), "textcoords": "offset points"}
    axis.annotate(answer, (0, 1), **above, fontsize=SMALL + 0.5, color=OURS, va="bottom")
    axis.set_xlabel(x, fontsize=TEXT)
    axis.set_ylabel(y, fontsize=TEXT)
    axis.tick_params(labelsize=SMALL, length=3, color=GREY)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GREY)


def legend(axis: Axes, *others: Axes, **place: Any) -> None:
    """Draw the legend of what `axis` and `others` label, each name once, if there is any."""
    named: dict[str, Any] = {}
    for source in (axis, *others):
        for handle, name in zip(*source.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    look = {"fontsize": SMALL, "frameon": False, "handlelength": 3.2, "labelspacing": 0.35}
    if named:
        axis.legend(list(named.values()), list(named), **{**look, **place})


def row_of(runs: Runs, run: str, metric: str) -> Mapping[str, Any] | None:
    """Return the row of a metric over all seeds; None where run, row or value is missing."""
    for row in runs.get(run, {}).get("rows", ()):
        if row["metric"] == metric and row["seed"] is None:
            return row if row["value"] is not None else None
    return None


def seed_values(runs: Runs, run: str, metric: str) -> list[float]:
    """Return the value of every seed that has one."""
    rows = runs.get(run, {}).get("rows", ())
    found = [r["value"] for r in rows if r["metric"] == metric and r["seed"] is not None]
    return [value for value in found if value is not None]


def line_of(runs: Runs, run: str, metrics: Mapping[float, str]) -> Line | None:
    """Collect the rows of a run along x; None when none of them has a value."""
    rows = [row_of(runs, run, metric) for metric in metrics.values()]
    if not any(rows):
        return None
    ends = {key: [_number(row, key) for row in rows] for key in ("value", "low", "high")}
    return Line(x=list(metrics), **ends)


def told(row: Mapping[str, Any] | None, *, unit: str = "") -> str:
    """Write a row as `value [low, high] unit`; empty without one."""
    if row is None:
        return ""
    text = short(row["value"])
    if row["low"] is not None and row["high"] is not None:
        text += f" [{short(row['low'])}, {short(row['high'])}]"
    return f"{text} {unit}".rstrip()


def short(value: float) -> str:
    """Write a number with as many digits as a reader of a figure needs."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def draw_line(axis: Axes, line: Line, **style: Any) -> None:
    """Draw a curve with its interval as a band."""
    low, high = np.asarray(line.low, float), np.asarray(line.high, float)
    axis.fill_between(line.x, low, high, color=style["color"], alpha=0.18, linewidth=0)
    axis.plot(line.x, line.value, **style)


def control_style(index: int) -> dict[str, Any]:
    """Return colour and dashes of the control at this place among the controls."""
    return {
        "color": GREYS[index % len(GREYS)],
        "linestyle": DASHES[(index + 1) % len(DASHES)],
        "linewidth": 1.2,
    }


def draw_forest(
    axis: Axes,
    rows: Sequence[Mapping[str, Any] | None],
    seeds: Sequence[Sequence[float]],
    *,
    colors: Sequence[str],
) -> None:
    """Draw one interval a line from the top down; small ticks are the single seeds."""
    for place, (row, values, shade) in enumerate(zip(rows, seeds, colors, strict=True)):
        if values:
            axis.plot(
                values, [place + 0.2] * len(values), "|", color=shade, markersize=5, alpha=0.6
            )
        if row is None:
            continue
        if row["low"] is not None and row["high"] is not None:
            axis.plot([row["low"], row["high"]], [place] * 2, "-", color=shade, linewidth=2)
        axis.plot([row["value"]], [place], "o", color=shade, markersize=5.5)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.locator_params(axis="x", nbins=5)
    axis.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    axis.set_axisbelow(True)


def mark(axis: Axes, x: float, *, color: str = BLACK, text: str = "") -> None:
    """Draw a vertical line to compare with, dashed if not at 0, named above the panel."""
    axis.axvline(x, color=color, linewidth=1, linestyle="-" if x == 0 else DASHES[1], zorder=0)
    if text:
        axis.text(
            x,
            1.01,
            text,
            transform=axis.get_xaxis_transform(),
            fontsize=SMALL,
            color=color,
            ha="center",
        )


def name_lines(axis: Axes, names: Sequence[str], *, shown: bool) -> None:
    """Name the lines of a forest, or leave the names to the panel on the left."""
    axis.set_yticks(range(len(names)), names if shown else [""] * len(names))
    axis.tick_params(axis="y", length=0, labelsize=SMALL + 0.5)


def draw_matrix(
    axis: Axes, shade: np.ndarray, text: Sequence[Sequence[str]], *, limit: float
) -> Any:
    """Draw a heat map around 0 (orange above, purple below) with a text in every cell."""
    image = axis.imshow(shade, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    for i, line in enumerate(text):
        for j, cell in enumerate(line):
            dark = np.isfinite(shade[i, j]) and abs(shade[i, j]) > 0.5 * limit
            axis.text(
                j,
                i,
                cell,
                ha="center",
                va="center",
                fontsize=SMALL + 0.5,
                color="white" if dark else BLACK,
            )
    axis.spines[:].set_visible(False)
    return image


def _number(row: Mapping[str, Any] | None, key: str) -> float:
    return np.nan if row is None or row[key] is None else row[key]
