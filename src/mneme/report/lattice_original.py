"""Panels of run `original`: its curve beside the published one, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from mneme.report.style import (
    ACCENT,
    BLACK,
    GREY,
    PALETTE,
    SMALL,
    Runs,
    dress,
    legend,
    name_lines,
    row_of,
    short,
)

RAW = "#b5b5b5"


def draw_curve(axis: Axes, runs: Runs, published: Mapping[str, Any]) -> None:
    """Draw the loss beside the published points."""
    for block, color in zip(runs.values(), PALETTE, strict=False):
        for place, loss in enumerate(block["loss"]):
            label = f"rho {block['rho']:g}" if place == 0 else None
            axis.plot(range(len(loss)), loss, "-", color=color, linewidth=1.5, label=label)
    _published(axis, published.get("original.loss", {}))
    axis.set_ylim(bottom=0)
    legend(axis, loc="upper right")
    misses = [row_of(runs, name, "largest_miss") for name in runs]
    words = ", ".join(short(row["value"]) for row in misses if row is not None)
    dress(
        axis,
        title="The source's run: its loss",
        x="step (each all pairs)",
        y="loss",
        answer=f"largest miss of the published points: {words}",
    )


def _published(axis: Axes, points: Mapping[str, float]) -> None:
    places = [int(epoch) for epoch in points]
    axis.plot(
        places,
        list(points.values()),
        "o",
        color=BLACK,
        mfc="white",
        markersize=6,
        linestyle="none",
        label="published" if places else None,
    )


def draw_similarity(axis: Axes, runs: Runs, published: Mapping[str, Any]) -> None:
    """Draw the similarity that the source counted as success, from before any training."""
    for block, color in zip(runs.values(), PALETTE, strict=False):
        for place, values in enumerate(block["similarity"]):
            label = f"rho {block['rho']:g}" if place == 0 else None
            axis.plot(range(len(values)), values, "-", color=color, linewidth=1.5, label=label)
    _published(axis, published.get("original.similarity", {}))
    axis.ticklabel_format(axis="y", useOffset=False)
    legend(axis, loc="best")
    dress(
        axis,
        title="… its similarity of surfaces",
        x="step (each all pairs)",
        y="cosine of question and answer",
    )


def draw_left(axis: Axes, runs: Runs) -> None:
    """Draw recall@1 on new pairs of the raw vectors, before training and after."""
    names, verdicts = [], []
    for name, block in runs.items():
        for when, color in (("raw", RAW), ("before", GREY), ("after", ACCENT)):
            place = len(names)
            names.append(f"rho {block['rho']:g}: {when}")
            rank = row_of(runs, name, f"{when}_effective_rank")
            row = row_of(runs, name, f"recall_{when}@1")
            if row is not None:
                axis.barh(place, row["value"], height=0.7, color=color)
                words = f" rank {short(rank['value'])}" if rank is not None else ""
                axis.text(row["value"], place, words, fontsize=SMALL, va="center")
        verdicts.append(block["verdict"].partition(":")[0])
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlim(0, 1.25)
    name_lines(axis, names, shown=True)
    dress(
        axis,
        title="… and what is left of the vectors",
        x="recall@1 on new pairs (text: effective rank)",
        y="",
        answer="; ".join(dict.fromkeys(verdicts)),
    )
