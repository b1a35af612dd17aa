"""Figure of `results/ttt_grid.json`: what a context is worth for more of the same, cell by cell.

A run, cell or metric that a config leaves out leaves its place out; a refused cell says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mneme.report.style import (
    ACCENT,
    BLACK,
    GREY,
    OURS,
    PALETTE,
    SMALL,
    TEXT,
    Line,
    Runs,
    draw_forest,
    draw_line,
    draw_matrix,
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

MAPS = (
    ("base", "percent", "trained, own context"),
    ("base", "percent_shuffled", "its tokens shuffled"),
    ("base", "percent_other", "another prompt"),
    ("adapter", "percent", "adapter, own context"),
    ("adapter", "percent_other", "adapter, another prompt"),
    ("untrained", "percent", "untrained, own context"),
)
"""Heat maps of a model: which network, which metric, in words."""
CONTROLS = {"sentences": "sentences shuffled", "shuffled": "tokens shuffled", "other": "another"}
NETS = {"base": OURS, "adapter": ACCENT, "untrained": GREY}
Family = Mapping[str, str]
"""Kind of network -> run."""


def ttt_grid_figure(runs: Runs, published: Mapping[str, Any]) -> Figure:
    """Draw the gain in every cell, what of it is the context's own, and how the inner loop sets it.

    Parameters
    ----------
    runs : mapping
        Run name -> block of `results/ttt_grid.json`.
    published : mapping
        The source's ranges: `<run>.percent` -> its two ends.

    Returns
    -------
    Figure
        A row of heat maps a trained model (one colour scale a row), then for all models the gain
        less that of control contexts, the source's own measure beside its figures, and a panel of
        gain against inner learning rate and chunk size for each model where that was swept.
    """
    families = families_of(runs)
    swept = [family for family in families if runs[family["base"]].get("sweep")]
    height = 3.1 * len(families) + 6.0
    figure = new_figure(
        20,
        height,
        title="Does adapting to a repeated statement help with the rest of it, and why?",
        note="Gain in % of the loss before adapting, orange: better; attention sees the same text "
        "whatever the context, only fast weights differ. Bars and bands: 95 % bootstrap intervals "
        "over prompts; ticks: single seeds.",
    )
    grid = figure.add_gridspec(
        len(families) + 1, 1, height_ratios=[3.1] * len(families) + [4.2], hspace=0.1
    )
    for place, family in enumerate(families):
        cells = grid[place].subgridspec(1, len(MAPS))
        _maps([figure.add_subplot(cells[i]) for i in range(len(MAPS))], runs, family)
    below = grid[len(families)].subgridspec(1, 2 + max(1, len(swept)))
    _own_part(figure.add_subplot(below[0]), runs, families)
    _source(figure.add_subplot(below[1]), runs, families, published)
    for place, family in enumerate(swept, start=2):
        _sweep(figure.add_subplot(below[place]), runs, family["base"])
    return settled(figure)


def families_of(runs: Runs) -> list[Family]:
    """Return every trained net with its adapter and its untrained net, where they were measured."""
    found = []
    for name, block in runs.items():
        if block["net"] != "base":
            continue
        family = {"base": name}
        for other, of in runs.items():
            if of["net"] != "base" and name in of["compared_with"]:
                family.setdefault(of["net"], other)
        found.append(family)
    return found


def _maps(axes: Sequence[Axes], runs: Runs, family: Family) -> None:
    """Draw the gain of every cell under one colour scale."""
    shades = [
        _matrix(runs, family[net], metric) if net in family else None for net, metric, _ in MAPS
    ]
    sizes = [float(np.nanmax(np.abs(s))) for s in shades if s is not None and np.isfinite(s).any()]
    limit = max([*sizes, 1e-6])
    digits = 2 if limit >= 1 else 3 if limit >= 0.1 else 4
    image, drawn = None, []
    for axis, shade, (net, metric, words) in zip(axes, shades, MAPS, strict=True):
        if shade is None:
            axis.set_axis_off()
            continue
        text = [[_cell(value, digits) for value in line] for line in shade]
        image = draw_matrix(axis, shade, text, limit=limit)
        drawn.append(axis)
        _name_cells(axis, runs[family[net]])
        answer = told(row_of(runs, family[net], metric), unit="%")
        words = words if drawn[1:] else f"{family[net]}: {words}"
        dress(axis, title=words, x="repeats", y="", answer=f"all cells: {answer}" * bool(answer))
        axis.spines[:].set_visible(False)
    if image is not None:
        drawn[0].set_ylabel("adapted part of the text", fontsize=TEXT)
        bar = drawn[-1].figure.colorbar(image, ax=drawn[-1], shrink=0.85)
        bar.ax.tick_params(labelsize=SMALL)
        bar.outline.set_visible(False)  # type: ignore[operator]


def _name_cells(axis: Axes, block: Mapping[str, Any]) -> None:
    axis.set_xticks(range(len(block["repeats"])), [str(times) for times in block["repeats"]])
    ratios = [f"{ratio:g}" for ratio in block["adapt_ratios"]]
    axis.set_yticks(range(len(ratios)), ratios)


def _cell(value: float, digits: int) -> str:
    if np.isnan(value):
        return "refused"
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def _matrix(runs: Runs, run: str, metric: str) -> np.ndarray:
    """Return the metric of every cell, ratios down, repeats across; NaN where there is none."""
    block = runs[run]
    rows = [
        [row_of(runs, run, f"{metric}@{ratio:g}x{repeats}") for repeats in block["repeats"]]
        for ratio in block["adapt_ratios"]
    ]
    return np.array([[np.nan if row is None else row["value"] for row in line] for line in rows])


def _own_part(axis: Axes, runs: Runs, families: Sequence[Family]) -> None:
    """Draw how much more the own context gives than what stands in for it, and the harm."""
    lines = [
        (family[net], metric, words, NETS[net])
        for family in families
        for net in ("base", "adapter")
        if net in family
        for metric, words in _own_metrics()
    ]
    _forest(axis, runs, lines)
    mark(axis, 0)
    # Losses of a large and of a tiny gain share the panel.
    axis.set_xscale("symlog", linthresh=0.01, linscale=1)
    axis.autoscale_view()
    dress(
        axis,
        title="Is it this context?",
        x="nats, mean over cells (linear within ±0.01)",
        y="",
        answer="right of 0: own context better; harm: loss added",
    )


def _own_metrics() -> Iterator[tuple[str, str]]:
    yield from ((f"delta_minus_{kind}", f"own − {words}") for kind, words in CONTROLS.items())
    yield "harm", "harm by another"


def _forest(axis: Axes, runs: Runs, lines: Sequence[tuple[str, str, str, str]]) -> None:
    rows = [row_of(runs, run, metric) for run, metric, _, _ in lines]
    seeds = [seed_values(runs, run, metric) for run, metric, _, _ in lines]
    draw_forest(axis, rows, seeds, colors=[color for *_, color in lines])
    name_lines(axis, [f"{run}: {words}" for run, _, words, _ in lines], shown=True)


def _source(
    axis: Axes, runs: Runs, families: Sequence[Family], published: Mapping[str, Any]
) -> None:
    """Draw the source's own measure beside its published range, and beside both controls."""
    lines, bands = [], []
    for family in families:
        for net, run in family.items():
            if row_of(runs, run, "source_percent") is None:
                continue
            bands.append((len(lines), published.get(f"{run}.percent")))
            lines.append((run, "source_percent", "own context", NETS[net]))
            for kind in ("shuffled", "other"):
                lines.append((run, f"source_percent_{kind}", CONTROLS[kind], GREY))
    _forest(axis, runs, lines)
    for place, band in bands:
        if band is not None:
            axis.fill_betweenx([place - 0.42, place + 0.42], *band, color=BLACK, alpha=0.16, lw=0)
            axis.plot(band, [place, place], "|", color=BLACK, markersize=11)
            text = f"published {band[0]:g}–{band[1]:g}"
            middle = (band[0] + band[1]) / 2
            axis.text(middle, place + 0.45, text, fontsize=SMALL, ha="center", va="top")
    if lines:
        mark(axis, 0)
    dress(
        axis,
        title="The source's own measure",
        x="gain, % of the loss of the second part read alone",
        y="",
        answer="" if lines else "not taken",
    )


def _sweep(axis: Axes, runs: Runs, run: str) -> None:
    """Draw the gain against the inner learning rate, a line a chunk size."""
    points = [point for point in runs[run]["sweep"] if point["reason"] is None]
    chunks = sorted({point["chunk"] for point in points})
    for place, chunk in enumerate(chunks):
        mine = [point for point in points if point["chunk"] == chunk]
        rates = [point["learning_rate"] for point in mine]
        ends = {
            key: [np.nan if p["delta"][key] is None else p["delta"][key] for p in mine]
            for key in ("value", "low", "high")
        }
        color = PALETTE[place % len(PALETTE)]
        line = Line(x=rates, **ends)
        draw_line(axis, line, color=color, linewidth=1.8, marker="o", markersize=3.5)
        axis.plot([], [], color=color, linewidth=1.8, label=f"chunk {chunk}")
        other = [p["delta"]["value"] - p["delta_minus_other"]["value"] for p in mine]
        axis.plot(rates, other, color=color, linewidth=1.1, linestyle=(0, (3, 3)))
    if points:
        axis.plot([], [], color=GREY, linewidth=1.1, linestyle=(0, (3, 3)), label="another prompt")
        axis.set_xscale("log")
        best = max(points, key=lambda point: point["delta"]["value"])
        answer = (
            f"most: {short(best['delta']['value'])} nats at lr {best['learning_rate']:g}, "
            f"chunk {best['chunk']}"
        )
    else:
        answer = "no setting could be measured"
    axis.axhline(0, color=BLACK, linewidth=0.8)
    legend(axis, loc="best")
    dress(
        axis,
        title=f"{run}: how strong an inner loop?",
        x="inner learning rate",
        y="gain, nats",
        answer=answer,
    )
