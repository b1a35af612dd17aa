"""Figure of how the runs of room `zeta` were trained: readings on the validation windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mneme.report.style import DASHES, PALETTE, SMALL, dress, legend, new_figure, settled
from mneme.report.zeta import FOCUS


def training_figure(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw what was read along the training of every run.

    Parameters
    ----------
    histories : mapping
        Run name -> history of each seed, as `zeta.fit` leaves it: `points` of `step`, `val_nll`,
        of a transformer `err_source@10`, and with slots `eff_percent`.
    """
    figure = new_figure(
        15,
        5.6,
        title="Training: where do likelihood, slots and rollouts go?",
        note="Validation windows; a line a run, seeds averaged. Equal steps for all transformer "
        "arms.",
    )
    axes = figure.subplots(1, 3)
    panels = (
        ("val_nll", "Does it converge?", "NLL, nats"),
        ("eff_percent", "Do slots gain weight?", "largest effect of a slot, % of the error"),
        ("err_source@10", "Do rollouts follow?", "|error| a step, context 10, 10 steps"),
    )
    for axis, (metric, title, y) in zip(axes, panels, strict=True):
        for place, (run, seeds) in enumerate(sorted(histories.items())):
            steps, values = _readings(seeds, metric)
            if len(steps):
                color = FOCUS.get(run, PALETTE[place % len(PALETTE)])
                style = DASHES[0] if run in FOCUS else DASHES[1 + place % 5]
                axis.plot(steps, values, color=color, linestyle=style, linewidth=1.6, label=run)
        dress(axis, title=title, x="optimiser step", y=y)
    legend(axes[0], *axes[1:], loc="center", fontsize=SMALL, ncols=2)
    return settled(figure)


def _readings(seeds: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[int], list[float]]:
    """Return steps and the mean over seeds of a reading, where every seed has it."""
    by_step: dict[int, list[float]] = {}
    for history in seeds:
        for point in history.get("points", ()):
            if point.get(metric) is not None:
                by_step.setdefault(point["step"], []).append(point[metric])
    steps = sorted(step for step, values in by_step.items() if len(values) == len(seeds))
    return steps, [float(np.mean(by_step[step])) for step in steps]
