"""Figure of `results/diagnostics.json`: how memory slots share their work, a row of panels a run.

A run that a config leaves out leaves its row out; what is undefined leaves its panel empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mneme.report.style import (
    BLACK,
    DASHES,
    GREY,
    OURS,
    PALETTE,
    SMALL,
    Runs,
    draw_matrix,
    dress,
    legend,
    new_figure,
    row_of,
    settled,
    told,
)


def diagnostics_figure(runs: Runs, *, focus: Sequence[str]) -> Figure:
    """Draw attention to slots, their likeness, gradients, interaction and worth.

    Parameters
    ----------
    runs : mapping
        Run name -> block of `results/diagnostics.json`.
    focus : sequence of str
        Runs that get a row of panels; those without a block are left out.
    """
    shown = [run for run in focus if run in runs]
    figure = new_figure(
        20,
        1.2 + 4.3 * max(len(shown), 1),
        title="Memory slots: do they share work, stand in for each other, learn alike?",
        note="Slots along both axes of the matrices; seeds averaged. Bars: 95 % moving-block "
        "intervals over test windows. None of these is a fault.",
    )
    if not shown:
        return settled(figure)
    axes = figure.subplots(len(shown), 5, squeeze=False)
    for (mass, alike, gradients, together, worth), run in zip(axes, shown, strict=True):
        _mass(mass, runs, run)
        permuted = told(row_of(runs, run, "permutation_effect"), unit="% of the error")
        answer = f"changing places: {permuted}" if permuted else ""
        block = runs[run]
        _matrix(alike, block, "similarity", "Are slots alike?", answer, unit="cosine")
        answer = _mean_told(runs, run, "gradient_correlation")
        title = "Do they learn alike?"
        _matrix(gradients, block, "gradient_correlation", title, answer, unit="cosine")
        answer = _mean_told(runs, run, "interaction")
        title = "Do they stand in for each other?"
        _matrix(
            together,
            block,
            "interaction",
            title,
            answer,
            unit="NLL beyond the sum, nats; diagonal: alone",
        )
        _worth(worth, runs, run)
    return settled(figure)


def _mean_told(runs: Runs, run: str, metric: str) -> str:
    text = told(row_of(runs, run, metric))
    return f"mean over pairs: {text}" if text else ""


def _slots(runs: Runs, run: str, metric: str) -> list[Mapping[str, Any]]:
    """Return the rows `metric@0`, `metric@1`, ... that have a value."""
    found = []
    while (row := row_of(runs, run, f"{metric}@{len(found)}")) is not None:
        found.append(row)
    return found


def _mass(axis: Axes, runs: Runs, run: str) -> None:
    """Draw the attention of each slot, grouped by layer."""
    layer, place, middles = 0, 0.0, []
    while rows := _slots(runs, run, f"slot_mass@layer{layer}"):
        x = place + np.arange(len(rows))
        axis.bar(x, [row["value"] for row in rows], color=PALETTE[layer % len(PALETTE)], width=0.8)
        for middle, row in zip(x, rows, strict=True):
            if row["low"] is not None and row["high"] is not None:
                axis.plot([middle, middle], [row["low"], row["high"]], color=BLACK, linewidth=1)
        middles.append(float(x.mean()))
        place, layer = place + len(rows) + 1.5, layer + 1
    axis.set_xticks(middles, [f"layer {number}" for number in range(layer)])
    dress(
        axis,
        title=f"{run}: where does attention go?",
        x="slots, layer by layer",
        y="share of a query's attention",
        answer="" if layer else "not read by the stream's own attention",
    )


def _matrix(
    axis: Axes, block: Mapping[str, Any], key: str, title: str, answer: str, *, unit: str
) -> None:
    """Draw a slot by slot matrix, coloured around 0; the diagonal does not set the scale."""
    if key in block:
        matrix = np.asarray(block[key], float)
        away = np.abs(matrix[~np.eye(len(matrix), dtype=bool)])
        limit = 1.0 if unit == "cosine" else max(float(away.max(initial=0)), 1e-6)
        digits = 2 if limit >= 0.1 else 3 if limit >= 0.01 else 4
        text = [[_cell(value, digits) for value in line] for line in matrix]
        if digits > 2 or len(matrix) > 10:
            text = [["" for _ in line] for line in matrix]
        image = draw_matrix(axis, matrix, text, limit=limit)
        bar = axis.figure.colorbar(image, ax=axis, shrink=0.75)
        bar.ax.tick_params(labelsize=SMALL)
        bar.outline.set_visible(False)  # type: ignore[operator]
        for one in (axis.xaxis, axis.yaxis):
            one.set_major_locator(MaxNLocator(integer=True))
    dress(axis, title=title, x=f"slot ({unit})", y="", answer=answer)


def _cell(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def _worth(axis: Axes, runs: Runs, run: str) -> None:
    """Draw what each slot is worth to one step against what it is worth to a rollout."""
    ones, rolled = (_slots(runs, run, m) for m in ("teacher_forced_effect", "rollout_effect"))
    for slot, (one, many) in enumerate(zip(ones, rolled, strict=True)):
        x, y = one["value"], many["value"]
        for row, line in ((one, lambda end, y=y: (end, y)), (many, lambda end, x=x: (x, end))):
            if row["low"] is not None and row["high"] is not None:
                ends = zip(line(row["low"]), line(row["high"]), strict=True)
                axis.plot(*ends, color=OURS, linewidth=1)
        axis.plot([x], [y], "o", color=OURS, markersize=5)
        axis.annotate(str(slot), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=SMALL)
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.axvline(0, color=GREY, linewidth=0.8)
    if ones:
        axis.axline((0, 0), slope=1, color=GREY, linestyle=DASHES[2], label="equal worth")
    legend(axis, loc="best")
    dress(
        axis,
        title="One step and rollout",
        x="one-step error without the slot, % more",
        y="rollout error without the slot, % more",
    )
