"""Figure of `results/statistics.json`: are spacings, pairs and counts those of the sine process?

A run or curve that a config leaves out leaves its line out; why lengths are missing stands beside
the legend. Exact curves are the file's own: the report computes nothing.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mneme.report.style import (
    ACCENT,
    BLACK,
    DASHES,
    GREY,
    OURS,
    PALETTE,
    SMALL,
    Line,
    Runs,
    control_style,
    draw_line,
    dress,
    legend,
    new_figure,
    row_of,
    settled,
    short,
    told,
)
from mneme.report.zeta import NOTES as ARMS

PREFIX = "sampled_"
COLORS = {"e0": BLACK, "carry": ACCENT, "primes": PALETTE[4], "e2": PALETTE[3]}
"""Arms drawn first, and their colours: those of `mdn`, where the zeros leave them free."""
SPARE = (PALETTE[2], PALETTE[5], PALETTE[7], GREY)
"""Colours of other arms, where fewer than four of the first were sampled."""
NOTES = {
    "zeta": "the zeros",
    "gue": "random matrices",
    "shuffled": "zeros, order lost",
    "scrambled": "zeros, phases lost",
}
EXACT: dict[str, dict[str, Any]] = {
    "gue": {"color": "#b9c6cf", "linewidth": 6, "label": "GUE, exact", "zorder": 0},
    "wigner": {"color": BLACK, "linewidth": 0.9, "linestyle": DASHES[4], "label": "Wigner surmise"},
    "poisson": {"color": BLACK, "linewidth": 0.9, "linestyle": DASHES[2], "label": "Poisson"},
}
"""Look of the exact curves: GUE's is wide and pale, so that others can lie on it."""
LINEAR = 0.7  # part of a variance's axis, below what is large for GUE and the zeros, kept linear


def statistics_figure(runs: Runs) -> Figure:
    """Draw spacing law, pair correlation, number variance and rigidity beside the exact ones.

    Parameters
    ----------
    runs : mapping
        Run name -> block of `results/statistics.json`, with `rows` and `curves`: the zeros are
        `zeta`, sampled rollouts `sampled_<arm>`, all others are controls.

    Returns
    -------
    Figure
        Four panels and their legend; four sampled runs at most, the others are named.
    """
    figure = new_figure(
        16,
        11,
        title="Are zeros spaced like eigenvalues of random matrices, and sampled rollouts too?",
        note="Blue: the zeros. Wide pale line: GUE (sine process), exact. Grey: controls. Other "
        "colours: rollouts sampled from models. Bands: 95 % intervals over independent stretches "
        "or windows.",
    )
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 0.42))
    law, pairs = (figure.add_subplot(grid[0, i]) for i in range(2))
    variance, rigidity = (figure.add_subplot(grid[1, i]) for i in range(2))
    names = figure.add_subplot(grid[:, 2])
    _density(law, runs, "spacing_law", title="How far apart are neighbours?")
    _density(pairs, runs, "pair_correlation", title="How often is another at distance r?")
    _variance(variance, runs, "number_variance", title="How much do counts vary?")
    _variance(rigidity, runs, "rigidity", title="How straight is the staircase?")
    law.set_xlabel("spacing s, mean spacings")
    pairs.set_xlabel("distance r, mean spacings")
    law.set_ylabel("density p(s)")
    pairs.set_ylabel("density of pairs (GUE: 1 − (sin πr / πr)²)")
    variance.set_ylabel("number variance Σ²(L), zeros²")
    rigidity.set_ylabel("rigidity Δ₃(L), zeros²")
    names.set_axis_off()
    legend(names, law, pairs, variance, rigidity, loc="upper left", fontsize=9)
    names.text(0, 0.02, "\n".join(_missing(runs)), fontsize=SMALL, color=GREY, va="bottom")
    return settled(figure)


def sampled_of(runs: Runs) -> list[str]:
    """Return the sampled runs to draw, four at most, the arms of `COLORS` first."""
    arms = [run.removeprefix(PREFIX) for run in runs if run.startswith(PREFIX)]
    order = [*(arm for arm in COLORS if arm in arms), *(arm for arm in arms if arm not in COLORS)]
    return [PREFIX + arm for arm in order[: len(COLORS)]]


def controls_of(runs: Runs) -> list[str]:
    """Return the series that are neither the zeros nor sampled."""
    return [run for run in runs if run != "zeta" and not run.startswith(PREFIX)]


def _styles(runs: Runs) -> dict[str, dict[str, Any]]:
    """Return the look of every run to draw, in the order of the legend; the zeros lie on top."""
    styles: dict[str, dict[str, Any]] = {}
    if "zeta" in runs:
        styles["zeta"] = {"color": OURS, "linewidth": 2.2, "zorder": 4}
    spare = iter(SPARE)
    for run in sampled_of(runs):
        arm = run.removeprefix(PREFIX)
        styles[run] = {"color": COLORS.get(arm) or next(spare), "linewidth": 1.4, "zorder": 3}
    styles |= {run: control_style(place) for place, run in enumerate(controls_of(runs))}
    return {run: {**style, "label": _label(run)} for run, style in styles.items()}


def _label(run: str) -> str:
    note = NOTES.get(run) or ARMS.get(run.removeprefix(PREFIX))
    return f"{run}: {note}" if note else run


def _curves(runs: Runs, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every run to draw that has the curve."""
    for run in _styles(runs):
        curve = runs[run].get("curves", {}).get(key)
        if curve:
            yield run, curve


def _draw(axis: Axes, runs: Runs, key: str, **more: Any) -> None:
    """Draw a curve of all runs, and the exact ones of the run that reaches furthest."""
    styles = _styles(runs)
    for run, curve in _curves(runs, key):
        ends = {
            end: [math.nan if v is None else v for v in curve[end]]
            for end in ("value", "low", "high")
        }
        draw_line(axis, Line(x=list(curve["x"]), **ends), **styles[run], **more)
    longest = _longest(runs, key)
    for name, style in EXACT.items():
        if longest and name in longest:
            axis.plot(longest["x"], longest[name], **style)


def _longest(runs: Runs, key: str) -> Mapping[str, Any] | None:
    curves = [curve for _, curve in _curves(runs, key)]
    return max(curves, key=lambda curve: curve["x"][-1], default=None)


def _density(axis: Axes, runs: Runs, key: str, *, title: str) -> None:
    """Draw a density from 0 on."""
    _draw(axis, runs, key)
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    rows = {run: row_of(runs, run, f"{key}_mse") for run in _styles(runs)}
    found = [_valued(run, 1e4 * row["value"]) for run, row in rows.items() if row]
    words = "10⁴ × mean squared distance from GUE, noise removed: " + ", ".join(found)
    dress(
        axis,
        title=title,
        x="",
        y="",
        answer=textwrap.fill(words, 76) if found else "",
    )


def _valued(run: str, value: float) -> str:
    """Name a run and its value, with a space between at which no line is broken."""
    return f"{run.removeprefix(PREFIX)}\N{NO-BREAK SPACE}{short(value)}"


def _variance(axis: Axes, runs: Runs, key: str, *, title: str) -> None:
    """Draw a variance over L: linear where GUE and the zeros are, logarithmic above."""
    _draw(axis, runs, key, marker="o", markersize=3)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    if _longest(runs, key):
        _compress(axis, runs, key)
    dress(
        axis,
        title=title,
        x="length of the interval L, mean spacings",
        y="",
        answer=_apart(runs, key),
    )


def _compress(axis: Axes, runs: Runs, key: str) -> None:
    """Leave most of the axis to what is as small as GUE's; the rest goes on as decades."""
    curves = dict(_curves(runs, key))
    small = [value for curve in curves.values() for value in curve["gue"]]
    small += [value for value in curves.get("zeta", {"high": ()})["high"] if value is not None]
    edge = 1.15 * max(small)
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in axis.get_lines()])
    decades = math.log10(1.2 * max(np.nanmax(drawn) / edge, 1))
    # Matplotlib's linear part is linscale * 10 / 9 decades high.
    scale = 0.9 * decades * LINEAR / (1 - LINEAR)
    axis.set_yscale("symlog", linthresh=edge, linscale=scale)
    axis.set_ylim(0, edge * 10**decades)
    above = 10.0 ** np.arange(math.ceil(math.log10(1.3 * edge)), 9)
    below = [y for y in MaxNLocator(6).tick_values(0, edge) if 0 <= y < 0.97 * edge]
    axis.set_yticks([*below, *(y for y in above if y < edge * 10**decades)])
    axis.set_yticks([], minor=True)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axis.axhspan(edge, edge * 10**decades, color="#f3f3f3", zorder=-1, linewidth=0)
    axis.text(
        0.01,
        0.985,
        "shaded: logarithmic",
        transform=axis.transAxes,
        fontsize=SMALL,
        color=GREY,
        va="top",
    )


def _apart(runs: Runs, key: str) -> str:
    """Tell the zeros at the longest length, from where on they leave GUE, and sampled rollouts."""
    lines = []
    zeta = dict(_curves(runs, key)).get("zeta")
    if zeta:
        length = zeta["x"][-1]
        row = row_of(runs, "zeta", f"{key}@{length:g}")
        start = leaves_at(zeta)
        end = "" if start is None else f"; apart from L = {start:g} on"
        lines.append(f"L = {length:g}: zeta {told(row)}, GUE {short(zeta['gue'][-1])}{end}")
    reach = {run: c["x"][-1] for run, c in _curves(runs, key) if run.startswith(PREFIX)}
    if reach:
        length = max(reach.values())
        rows = {run: row_of(runs, run, f"{key}@{length:g}") for run in ["zeta", *reach]}
        found = [_valued(run, row["value"]) for run, row in rows.items() if row]
        lines.append(f"L = {length:g}: {', '.join(found)}")
    return "\n".join(lines)


def leaves_at(curve: Mapping[str, Any]) -> float | None:
    """Return the length from which on every interval leaves GUE out; None where the last has it."""
    start = None
    for x, low, high, gue in zip(*(curve[k] for k in ("x", "low", "high", "gue")), strict=True):
        apart = low is not None and high is not None and not low <= gue <= high
        start = (x if start is None else start) if apart else None
    return start


def _missing(runs: Runs) -> list[str]:
    """Tell what is not drawn and why, each reason once."""
    why: dict[str, list[str]] = {}
    for run in _styles(runs):
        curves = runs[run].get("curves", {}).values()
        reasons = [curve.get("reason") for curve in curves]
        reasons += [row["reason"] for row in runs[run]["rows"] if row["value"] is None]
        for reason in dict.fromkeys(reasons):
            if reason:
                why.setdefault(reason, []).append(run)
    lines = [f"{', '.join(names)}: {reason}" for reason, names in why.items()]
    others = [run for run in runs if run not in _styles(runs)]
    if others:
        lines.append(f"in the file, not drawn: {', '.join(others)}")
    return [part for line in lines for part in (*textwrap.wrap(line, 44), "")]
