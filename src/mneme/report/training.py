"""Figures of `results/adapters.json` and `results/mixer.json`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mneme.report.routing import MIXER_NOTES
from mneme.report.style import (
    ACCENT,
    DASHES,
    GREY,
    OURS,
    PALETTE,
    Runs,
    draw_forest,
    draw_matrix,
    dress,
    legend,
    mark,
    name_lines,
    new_figure,
    row_of,
    seed_values,
    settled,
    told,
)

REPLACEMENTS = {
    "base": "no adapter",
    "uniform": "even mix",
    "known": "the domain's own adapter",
}
"""What the mixed model is set against, by the names of its contrasts."""


def adapters_figure(runs: Runs, domains: Sequence[str]) -> Figure:
    """Draw the loss of every adapter on every domain, for each run, and what was forgotten.

    Parameters
    ----------
    runs : mapping
        Run name -> block of `results/adapters.json`.
    domains : sequence of str
        Domains in order of training.
    """
    names = list(runs)
    figure = new_figure(
        4 + 3.2 * len(names),
        5.5,
        title="Adapters: what does each learn, and what does the newest one forget?",
        note="Held-out loss, nats/token (in brackets and as colour: change against the base; "
        "purple: better). Bars: 95 % intervals over chunks; ticks: single seeds.",
    )
    axes = figure.subplots(1, len(names) + 1, width_ratios=[1.0] * len(names) + [1.3])
    *matrices, last = np.atleast_1d(axes)
    limit = max((_changes(runs, name, domains)[0] for name in names), default=1.0)
    for place, (axis, name) in enumerate(zip(matrices, names, strict=True)):
        _loss_matrix(axis, runs, name, domains, limit=limit, first=place == 0)
    _forgetting(last, runs, names, domains)
    return settled(figure)


def mixer_figure(runs: Runs, domains: Sequence[str]) -> Figure:
    """Draw calibration curves and test accuracy of every mixer.

    Parameters
    ----------
    runs : mapping
        Mixer name -> block of `results/mixer.json`, with `curves`.
    domains : sequence of str
        Domain names: chance is one over their number.
    """
    figure = new_figure(
        16,
        6.2,
        title="Time Mixers: do they learn to tell the domains, and does mixing pay?",
        note="Left: mean over seeds. Bars: 95 % intervals over test chunks; ticks: single seeds. "
        "All on held-out text.",
    )
    curves, accuracy, loss = figure.subplots(1, 3, width_ratios=(1.3, 1, 0.9))
    _calibration(curves, runs)
    _accuracy(accuracy, runs, domains)
    _mixed_loss(loss, runs, domains)
    return settled(figure)


def _calibration(axis: Axes, runs: Runs) -> None:
    dress(axis, title="Does calibration converge?", x="epoch", y="validation NLL, nats")
    named = [name for name in runs if any(_epochs(runs, name))]
    for index, name in enumerate(named):
        mean = np.mean(_epochs(runs, name), axis=0)
        axis.plot(
            range(1, len(mean) + 1),
            mean,
            color=OURS if name == "ours" else PALETTE[1 + index % (len(PALETTE) - 1)],
            linestyle="-" if name == "ours" else DASHES[index % len(DASHES)],
            linewidth=2 if name == "ours" else 1.3,
            label=name,
        )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylim(bottom=0)
    legend(axis, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4)


def _epochs(runs: Runs, name: str) -> list[list[float]]:
    """Return validation NLL over epochs, a list a seed."""
    return runs[name].get("curves", {}).get("validation_nll", [])


def _accuracy(axis: Axes, runs: Runs, domains: Sequence[str]) -> None:
    shown = [name for name in runs if row_of(runs, name, "token_accuracy")]
    draw_forest(
        axis,
        [row_of(runs, name, "token_accuracy") for name in shown],
        [seed_values(runs, name, "token_accuracy") for name in shown],
        colors=[OURS if name == "ours" else GREY for name in shown],
    )
    name_lines(axis, [_note(name) for name in shown], shown=True)
    mark(axis, 1 / len(domains), color=ACCENT)
    ours = told(row_of(runs, "ours", "token_accuracy"))
    dress(
        axis,
        title="How often does it name the domain?",
        x="share of test tokens named rightly\n(dashed: chance)",
        y="",
        answer=f"ours: {ours}" if ours else "",
    )


def _mixed_loss(axis: Axes, runs: Runs, domains: Sequence[str]) -> None:
    """Forest of the mixed model's loss against what it could be replaced by."""
    lines = [(other, domain) for other in REPLACEMENTS for domain in domains]
    metrics = [f"held_out_loss.{domain}_minus_{other}" for other, domain in lines]
    draw_forest(
        axis,
        [row_of(runs, "mixed", metric) for metric in metrics],
        [seed_values(runs, "mixed", metric) for metric in metrics],
        colors=[OURS] * len(lines),
    )
    mark(axis, 0)
    name_lines(axis, [f"− {REPLACEMENTS[o]}\non {d}" for o, d in lines], shown=True)
    dress(
        axis,
        title="Does mixing pay?",
        x="loss of the mix minus the other's, nats/token\n(left: the mix is better)",
        y="",
    )


def _note(name: str) -> str:
    return f"{name}\n{MIXER_NOTES[name]}" if name in MIXER_NOTES else name


def _changes(runs: Runs, run: str, domains: Sequence[str]) -> tuple[float, np.ndarray, list]:
    """Return the largest change, changes against the base, and the losses' texts."""
    changes, text = np.full((len(domains) + 1, len(domains)), np.nan), []
    for i, adapter in enumerate(("base", *domains)):
        cells = []
        for j, domain in enumerate(domains):
            row = row_of(runs, run, f"loss.{adapter}.{domain}")
            base = row_of(runs, run, f"loss.base.{domain}")
            if row is not None and base is not None:
                changes[i, j] = row["value"] - base["value"]
            change = "" if not np.isfinite(changes[i, j]) else f"\n({_signed(changes[i, j])})"
            cells.append("" if row is None else f"{row['value']:.3f}{change if i else ''}")
        text.append(cells)
    known = changes[np.isfinite(changes)]
    return float(np.abs(known).max(initial=1e-6)), changes, text


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _loss_matrix(
    axis: Axes, runs: Runs, run: str, domains: Sequence[str], *, limit: float, first: bool
) -> None:
    _, changes, text = _changes(runs, run, domains)
    draw_matrix(axis, changes, text, limit=limit)
    dress(axis, title=run, x="text of", y="adapter" if first else "")
    axis.set_xticks(range(len(domains)), domains)
    axis.set_yticks(
        range(len(domains) + 1), ("base", *domains) if first else [""] * (len(domains) + 1)
    )
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _forgetting(axis: Axes, runs: Runs, names: Sequence[str], domains: Sequence[str]) -> None:
    lines = [(run, domain) for domain in domains[:-1] for run in names]
    metrics = [(run, f"forgetting.{domain}") for run, domain in lines]
    draw_forest(
        axis,
        [row_of(runs, run, metric) for run, metric in metrics],
        [seed_values(runs, run, metric) for run, metric in metrics],
        colors=[OURS if run == "sleep" else GREY for run, _ in lines],
    )
    mark(axis, 0)
    several = len(domains) > 2
    name_lines(axis, [f"{run}\n{domain}" if several else run for run, domain in lines], shown=True)
    saved = told(row_of(runs, "sleep", f"forgetting.{domains[0]}_minus_none"), unit="nats/token")
    dress(
        axis,
        title="How much is forgotten?",
        x=f"loss on {', '.join(domains[:-1])}:\nnewest adapter minus its own, nats/token",
        y="",
        answer=f"sleep minus none: {saved}" if saved else "",
    )
