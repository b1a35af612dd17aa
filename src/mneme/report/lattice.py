"""Figure of `results/lattice.json`: does a question find its answer behind the squeeze, and how?

A row of panels a teacher: retrieval, what stands behind it, what the lattice adds, and its state.
Then the planted control, and run `original` last. What a config leaves out leaves its place out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from mneme.report.lattice_core import draw_core, draw_states, lattice_lines, main_lattice
from mneme.report.lattice_original import draw_curve, draw_left, draw_similarity
from mneme.report.style import (
    ACCENT,
    BLACK,
    GREY,
    OURS,
    PALETTE,
    SMALL,
    Line,
    Runs,
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
)

CONTROL = "planted"
"""The teacher that is none: pairs with a planted rule."""
BASELINE = "#b5b5b5"
BASELINES = (
    *("raw", "standardised", "pca", "pca_standardised", "pca_whitened"),
    *("projection", "truncation", "tfidf", "bm25"),
)
COLORS = {"trained": OURS, "raw": BASELINE, "codec": BASELINE, "words": BASELINE}


def lattice_figure(runs: Runs, published: Mapping[str, Any]) -> Figure:
    """Draw every teacher, then the planted control, then run `original`.

    Parameters
    ----------
    runs : mapping
        Run name -> block of `results/lattice.json`.
    published : mapping
        The source's figures: `original.loss` is epoch -> loss, `original.raw_similarity` the cosine
        of its questions with their answers.

    Returns
    -------
    Figure
        For each teacher: retrieval of every run with the chance line; effective rank; the eight
        pairs' similarity; reconstruction; alignment against uniformity; retrieval against training
        pairs; the lattice minus what stands in its place; the lattice's state over its steps. For
        the control, those that tell whether its rule was found. For `original`: loss beside the
        published curve, and what is left of the vectors.
    """
    teachers = teachers_of(runs)
    sources = {name: block for name, block in runs.items() if block["kind"] == "original"}
    heights = [_height(of) for of in teachers.values()] + [3.6] * bool(sources)
    total = sum(heights) + 1.6
    figure = new_figure(
        20,
        max(total, 4),
        title="Does a question find its answer behind a squeezed embedding, and does the lattice "
        "help?",
        note="Blue: trained; orange: with a lattice; dark grey: controls; light grey: nothing "
        "trained. Bars and bands: 95 % bootstrap intervals over test questions; ticks: single "
        "seeds. Dashed: guessing.",
    )
    grid = figure.add_gridspec(max(len(heights), 1), 1, height_ratios=heights or [1])
    for place, (teacher, of) in enumerate(teachers.items()):
        draw = _control if teacher == CONTROL else _teacher
        draw(figure, grid[place], teacher, of, published)
    if sources:
        below = grid[len(teachers)].subgridspec(1, 3)
        draw_curve(figure.add_subplot(below[0]), sources, published)
        draw_similarity(figure.add_subplot(below[1]), sources, published)
        draw_left(figure.add_subplot(below[2]), sources)
    return settled(figure)


def teachers_of(runs: Runs) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Return teacher -> run -> block: baselines, arms, then controls; the planted pairs last."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, block in sorted(runs.items(), key=lambda pair: _order(pair[1])):
        if block["kind"] != "original":
            found.setdefault(block["teacher"], {})[name] = block
    return dict(sorted(found.items(), key=lambda pair: (pair[0] == CONTROL, pair[0])))


def _order(block: Mapping[str, Any]) -> int:
    """Return the place among its kind: baselines as listed, arms, controls."""
    if block["kind"] == "original":
        return -1
    if block["kind"] != "trained":
        return BASELINES.index(block["arm"])
    return len(BASELINES) + bool(block["settings"]["control_of"])


def _height(of: Runs) -> float:
    pictured = any("states" in block for block in of.values())
    return _upper(of) + 2.6 * pictured


def _teacher(
    figure: Figure, place: SubplotSpec, teacher: str, of: Runs, published: Mapping[str, Any]
) -> None:
    """Draw one teacher's panels."""
    upper, pictured = _parts(place, of)
    cells = upper.subgridspec(1, 4, width_ratios=(1.25, 0.9, 0.9, 2))
    further = len(learning_curve(of)) > 1 or bool(lattice_lines(of))
    few = cells[3].subgridspec(1 + further, 2)
    _retrieval(figure.add_subplot(cells[0]), teacher, of)
    _ranks(figure.add_subplot(cells[1]), of)
    _eight(figure.add_subplot(cells[2]), of, published.get("original.raw_similarity"))
    _spread(figure.add_subplot(few[0, 0]), of)
    _rebuilt(figure.add_subplot(few[0, 1]), of)
    if further:
        _pairs(figure.add_subplot(few[1, 0]), of)
        draw_core(figure.add_subplot(few[1, 1]), of)
    for name, below in pictured:
        draw_states(figure, below, name, of[name]["states"])


def _control(
    figure: Figure, place: SubplotSpec, teacher: str, of: Runs, published: Mapping[str, Any]
) -> None:
    """Draw whether the planted rule was found, and by whom; nothing was published of one."""
    del published
    upper, pictured = _parts(place, of)
    cells = upper.subgridspec(1, 3)
    _retrieval(figure.add_subplot(cells[0]), f"positive control ({teacher} rule)", of)
    _ranks(figure.add_subplot(cells[1]), of)
    draw_core(figure.add_subplot(cells[2]), of)
    for name, below in pictured:
        draw_states(figure, below, name, of[name]["states"])


def _parts(place: SubplotSpec, of: Runs) -> tuple[SubplotSpec, list[tuple[str, SubplotSpec]]]:
    """Return the place of a teacher's panels, and run and place of its lattice's state if any."""
    pictured = next((name for name, block in of.items() if main_lattice(block)), None)
    if pictured is None:
        return place, []
    parts = place.subgridspec(2, 1, height_ratios=(_upper(of), 2.6))
    return parts[0], [(pictured, parts[1])]


def _upper(of: Runs) -> float:
    return max(5.2, 0.27 * len(of) + 1.4)


def _color(block: Mapping[str, Any]) -> str:
    if block["kind"] != "trained":
        return COLORS[block["kind"]]
    if block["settings"]["control_of"]:
        return GREY
    return ACCENT if block["settings"]["core"] == "lattice" else OURS


def _bars(axis: Axes, of: Runs, metric: str, *, named: bool) -> None:
    """Draw a bar a run from the top down, with its interval and its seeds."""
    for place, (name, block) in enumerate(of.items()):
        row = row_of(of, name, metric)
        if row is None:
            continue
        axis.barh(place, row["value"], height=0.72, color=_color(block), alpha=0.85)
        if row["low"] is not None and row["high"] is not None:
            axis.plot([row["low"], row["high"]], [place] * 2, "-", color=BLACK, linewidth=1.3)
        values = seed_values(of, name, metric)
        axis.plot(values, [place + 0.25] * len(values), "|", color=BLACK, markersize=4)
    axis.set_ylim(len(of) - 0.4, -0.6)
    axis.margins(x=0.12)
    name_lines(axis, [block["arm"] for block in of.values()], shown=named)


def _retrieval(axis: Axes, teacher: str, of: Runs) -> None:
    """Draw recall@1, MRR as open circles, and guessing."""
    _bars(axis, of, "recall@1", named=True)
    for place, name in enumerate(of):
        row = row_of(of, name, "mrr")
        if row is not None:
            axis.plot(row["value"], place, "o", color=BLACK, mfc="white", markersize=4.5)
    first = next(iter(of))
    chance = row_of(of, first, "chance_recall@1")
    if chance is not None:
        mark(axis, chance["value"])
    questions = of[first]["questions"]
    dress(
        axis,
        title=f"{teacher}: is the right answer found?",
        x="recall@1 (bar), MRR (circle)",
        y="",
        answer=f"{questions} questions, each among {questions} answers; "
        f"{of[first]['width']} numbers a vector",
    )


def _ranks(axis: Axes, of: Runs) -> None:
    """Draw the effective rank; a run that the gate flags is named."""
    _bars(axis, of, "effective_rank", named=False)
    flagged = 0
    for place, name in enumerate(of):
        row = row_of(of, name, "collapsed")
        if row is not None and row["value"] > 0:
            flagged += 1
            axis.text(0, place, " COLLAPSED", fontsize=SMALL, color=BLACK, va="center")
    pca = [row_of(of, n, "effective_rank") for n, b in of.items() if b["arm"] == "pca"]
    if pca and pca[0] is not None:
        mark(axis, pca[0]["value"] / 2)
    dress(
        axis,
        title="Are the vectors spread out?",
        x="effective rank of both sides (dashed: half of PCA's)",
        y="",
        answer=f"{flagged} flagged by the collapse gate",
    )


def _eight(axis: Axes, of: Runs, published: float | None) -> None:
    """Draw how similar the eight questions are to their answers, and to those of the others."""
    pairs = {name: _related(of, name) for name in of}
    for place, (name, block) in enumerate(of.items()):
        if pairs[name]:
            color = _color(block)
            axis.plot(pairs[name], [place] * 2, "-", color=color, linewidth=2, alpha=0.6)
            for value, face in zip(pairs[name], (color, "white"), strict=True):
                axis.plot(value, place, "o", color=color, mfc=face, markersize=5)
    if not any(pairs.values()):
        axis.set_axis_off()
        return
    axis.set_ylim(len(of) - 0.4, -0.6)
    name_lines(axis, [""] * len(of), shown=False)
    axis.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    x = "cosine with own answer (full), the others' (open)"
    if published is not None:
        mark(axis, published)
        x += f"\n(dashed: own, {short(published)}, as published)"
    raw = next((values for name, values in pairs.items() if of[name]["arm"] == "raw"), [])
    answer = "raw: " + " own, ".join(map(short, raw)) + " others'" if raw else ""
    dress(axis, title="Eight pairs of the source's kind", x=x, y="", answer=answer)


def _related(of: Runs, name: str) -> list[float]:
    """Return a run's cosine of related and of unrelated vectors; nothing where there is none."""
    rows = [row_of(of, name, f"eight_{which}") for which in ("related", "unrelated")]
    return [row["value"] for row in rows if row is not None]


def _spread(axis: Axes, of: Runs) -> None:
    """Draw alignment against uniformity: both lower is better."""
    named: list[tuple[float, float, str]] = []
    for name, block in of.items():
        both = [row_of(of, name, metric) for metric in ("uniformity_answers", "alignment")]
        if both[0] is None or both[1] is None:
            continue
        x, y = both[0]["value"], both[1]["value"]
        axis.plot(x, y, "o", color=_color(block), markersize=5)
        if block["kind"] != "trained" or not block["settings"]["control_of"]:
            named.append((y, x, block["arm"]))
    axis.margins(x=0.2, y=0.12)
    low, high = axis.get_xlim()
    # Left points are named beside them, right ones above them, where there is room.
    for left, column, align, above in ((True, 0.38, "left", 0.0), (False, 0.99, "right", 0.15)):
        here = sorted(one for one in named if (one[1] < (low + high) / 2) == left)
        places = _places(axis, [y for y, *_ in here], above=above)
        for (y, x, arm), place in zip(here, places, strict=True):
            axis.annotate(
                arm,
                (x, y),
                xytext=(column, place),
                textcoords="axes fraction",
                fontsize=6.5,
                ha=align,
                va="center",
                arrowprops={
                    "arrowstyle": "-",
                    "color": GREY,
                    "linewidth": 0.4,
                    "relpos": (0, 0.5) if left else (0.5, 0),
                    "shrinkA": 1,
                },
            )
    dress(
        axis,
        title="Near one's answer, far from others?",
        x="uniformity (left: spread out)",
        y="alignment (down: near)",
    )


def _places(axis: Axes, ascending: list[float], *, above: float) -> list[float]:
    """Return heights of labels, in fractions of the axes: as near theirs as no two overlap."""
    if not ascending:
        return []
    low, high = axis.get_ylim()
    gap = min(0.085, 0.96 / len(ascending))
    found: list[float] = []
    for y in ascending:
        place = (y - low) / (high - low) + above
        found.append(place if not found else max(place, found[-1] + gap))
    top = 0.98
    for index in reversed(range(len(found))):
        found[index] = min(found[index], top)
        top = found[index] - gap
    return found


def _rebuilt(axis: Axes, of: Runs) -> None:
    """Draw what decoding gives back."""
    there = {n: b for n, b in of.items() if row_of(of, n, "reconstruction_r2") is not None}
    for place, (name, block) in enumerate(there.items()):
        for metric, face in (
            ("reconstruction_r2", _color(block)),
            ("reconstruction_centred", "white"),
        ):
            row = row_of(of, name, metric)
            if row is not None:
                value = max(row["value"], -0.5)
                axis.plot(value, place, "o", color=_color(block), mfc=face, markersize=4.5)
    axis.set_ylim(len(there) - 0.4, -0.6)
    axis.set_xlim(-0.55, 1.05)
    name_lines(axis, [block["arm"] for block in there.values()], shown=True)
    axis.tick_params(axis="y", labelsize=SMALL - 1.5)
    mark(axis, 0)
    dress(
        axis,
        title="What comes back?",
        x="R² (full, cut at −.5),\ncosine around the mean (open)",
        y="",
    )


def _pairs(axis: Axes, of: Runs) -> None:
    """Draw retrieval against the pairs that trained."""
    curve = learning_curve(of)
    metrics = {"mrr": OURS, "recall@1": PALETTE[2]}
    for metric, color in metrics.items():
        rows = [row_of(of, name, metric) for name in curve.values()]
        ends = {
            key: [np.nan if row is None or row[key] is None else row[key] for row in rows]
            for key in ("value", "low", "high")
        }
        line = Line(x=list(curve), **ends)
        draw_line(axis, line, color=color, label=metric, marker="o", markersize=4, linewidth=1.8)
        pca = next((name for name, block in of.items() if block["arm"] == "pca"), None)
        level = None if pca is None else row_of(of, pca, metric)
        if level is not None:
            axis.axhline(level["value"], color=color, linewidth=1, linestyle=(0, (3, 3)))
    if len(curve) < 2:
        axis.clear()
        axis.set_axis_off()
        return
    axis.set_xscale("log")
    axis.set_xticks(list(curve), [f"{pairs:,}" for pairs in curve])
    axis.minorticks_off()
    axis.set_ylim(0, 1.3 * axis.get_ylim()[1])
    legend(axis, loc="upper left", ncols=2)
    dress(axis, title="How many pairs does it take?", x="training pairs (dashed: PCA)", y="score")


def learning_curve(of: Runs) -> dict[int, str]:
    """Return training pairs -> run, for the largest set of arms that differ in nothing else."""
    groups: dict[str, dict[int, str]] = {}
    for name, block in of.items():
        if block["kind"] != "trained" or not block.get("training"):
            continue
        fixed = {k: v for k, v in block["settings"].items() if k not in ("pairs", "control_of")}
        pairs = block["training"][0]["pairs"]
        groups.setdefault(repr(sorted(fixed.items())), {})[pairs] = name
    largest = max(groups.values(), key=len, default={})
    return dict(sorted(largest.items()))
