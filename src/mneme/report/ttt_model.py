"""Figure of `results/ttt_model.json`: how the arms of every recipe were trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mneme.report.style import SMALL, Line, Runs, draw_line, dress, legend, new_figure, settled
from mneme.report.ttt_context import NAMES, STYLES, arm_of


def model_figure(runs: Runs) -> Figure:
    """Draw what was read along the training of every run.

    Parameters
    ----------
    runs : mapping
        Run name -> block of `results/ttt_model.json`: `arm`, `recipe`, and `history`, one a seed,
        with `points` of `step`, `val_nll`, `train_loss`, with an inner loop `inner_norm` besides.

    Returns
    -------
    Figure
        A line of panels a recipe: validation loss by step and by time, inner gradients.
    """
    recipes = sorted({block["recipe"] for block in runs.values()})
    figure = new_figure(
        14,
        3.9 * max(len(recipes), 1) + 1.1,
        title="Training: equal tokens, and equal time",
        note="Validation documents, read as at test time; a line a run, mean over seeds, band: "
        "least and greatest seed. Grey: controls.",
    )
    axes = figure.subplots(max(len(recipes), 1), 3, squeeze=False)
    for line, recipe in zip(axes, recipes, strict=False):
        here = {run: block for run, block in runs.items() if block["recipe"] == recipe}
        for axis, (metric, x) in zip(
            line, (("val_nll", "step"), ("val_nll", "time"), ("inner_norm", "step")), strict=True
        ):
            for run, block in sorted(here.items()):
                points = readings(block["history"], metric, x=x)
                if points is not None:
                    arm = arm_of(block)
                    # a run read once has no line, only a point
                    look = STYLES[arm] | ({"marker": "o"} if len(points.x) == 1 else {})
                    draw_line(axis, points, label=f"{run}: {NAMES[arm]}", **look)
        dress(
            line[0],
            title=f"{recipe}: at equal tokens",
            x="optimiser step",
            y="validation loss, nats a token",
        )
        dress(
            line[1], title="At equal time", x="training time, s", y="validation loss, nats a token"
        )
        dress(
            line[2],
            title="How steep is the inner loss?",
            x="optimiser step",
            y="norm of inner gradients",
        )
        legend(line[0], *line[1:], loc="best", fontsize=SMALL)
    return settled(figure)


def readings(seeds: Sequence[Mapping[str, Any]], metric: str, *, x: str) -> Line | None:
    """Return a reading along training, mean and range over seeds; None where no seed has it.

    Time is the seeds' mean, steps taken to last equally long.
    """
    by_step: dict[int, list[float]] = {}
    for history in seeds:
        for point in history.get("points", ()):
            if point.get(metric) is not None:
                by_step.setdefault(point["step"], []).append(point[metric])
    steps = sorted(step for step, values in by_step.items() if len(values) == len(seeds))
    if not steps:
        return None
    whole = max(point["step"] for history in seeds for point in history["points"])
    seconds = float(np.mean([history.get("seconds", math.nan) for history in seeds]))
    scale = 1.0 if x == "step" else seconds / whole
    return Line(
        x=[scale * step for step in steps],
        value=[float(np.mean(by_step[step])) for step in steps],
        low=[min(by_step[step]) for step in steps],
        high=[max(by_step[step]) for step in steps],
    )
