"""Figures of `results/adapters.json` and `results/mixer.json`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mneme.report.routing import MIXER_NOTES
from mneme.report.style import (
    DASHES,
    GREY,
    OURS,
    PALETTE,
    Runs,
    draw_forest,
    draw_matrix,
    dress,
    legend,
    name_lines,
    new_figure,
    row_of,
    seed_values,
)


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
        note="Held-out loss, nats/token; colour: change against the base (purple: better). Right: "
        "loss on an earlier domain, newest adapter minus its own, 95 % intervals over chunks.",
    )
    widths = [1.0] * len(names) + [1.3]
    axes = figure.subplots(1, len(names) + 1, width_ratios=widths)
    limit = max(_changes(runs, name, domains)[0] for name in names)
    for place, (axis, name) in enumerate(zip(axes, names, strict=False)):
        _loss_matrix(axis, runs, name, domains, limit=limit, first=place == 0)
    _forgetting(axes[-1], runs, names, domains)
    return figure


def mixer_figure(runs: Runs, domains: Sequence[str]) -> Figure:
    """Draw calibration curves and test accuracy of every mixer.

    Parameters
    ----------
    runs : mapping
        Mixer name -> block of `results/mixer.json`, with `curves`.
    domains : sequence of str
        Domain names: chance is one over their number.
    """
    mixers = [name for name in runs if runs[name].get("curves")]
    figure = new_figure(
        14,
        6,
        title="Time Mixers: does calibration teach them the domain?",
        note="Left: validation loss over epochs, mean over seeds. Right: accuracy on test texts "
        "with 95 % intervals over chunks; ticks: single seeds; dashed: chance.",
    )
    curves, accuracy = figure.subplots(1, 2, width_ratios=(1.2, 1))
    dress(curves, title="Calibration", x="epoch", y="validation NLL of the domain, nats")
    for index, name in enumerate(mixers):
        by_seed = runs[name]["curves"].get("validation_nll", [])
        if by_seed and by_seed[0]:
            mean = np.mean([seed for seed in by_seed], axis=0)
            curves.plot(
                range(1, len(mean) + 1),
                mean,
                color=OURS if name == "ours" else PALETTE[(index + 1) % len(PALETTE)],
                linestyle="-" if name == "ours" else DASHES[index % len(DASHES)],
                linewidth=2 if name == "ours" else 1.3,
                label=name,
            )
    curves.xaxis.get_major_locator().set_params(integer=True)
    legend(curves, loc="center right")
    shown = [name for name in runs if row_of(runs, name, "token_accuracy")]
    draw_forest(
        accuracy,
        [row_of(runs, name, "token_accuracy") for name in shown],
        [seed_values(runs, name, "token_accuracy") for name in shown],
        color=[OURS if name == "ours" else GREY for name in shown],
    )
    name_lines(accuracy, [_note(name) for name in shown], shown=True)
    accuracy.axvline(1 / len(domains), color=GREY, linewidth=1, linestyle=DASHES[1])
    dress(accuracy, title="Accuracy by token", x="share of test tokens named rightly", y="")
    return figure


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
            cells.append("" if row is None else f"{row['value']:.2f}")
        text.append(cells)
    known = changes[np.isfinite(changes)]
    return float(np.abs(known).max(initial=1e-6)), changes, text


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
        color=[OURS if run == "sleep" else GREY for run, _ in lines],
    )
    several = len(domains) > 2
    name_lines(axis, [f"{run}\n{domain}" if several else run for run, domain in lines], shown=True)
    dress(axis, title="Forgetting", x=f"on {', '.join(domains[:-1])}, nats/token", y="")
