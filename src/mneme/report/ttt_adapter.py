"""Figure of `results/ttt_adapter.json`: what adapters learn of answers, and of what kind it is."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mneme.report.style import (
    BLACK,
    GREY,
    PALETTE,
    Runs,
    control_style,
    draw_forest,
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

MEASURES = {
    "distinct_2": "different pairs of words",
    "repetition": "words said again within 16",
}
"""What is read of a reply, and how it is named."""


def adapter_figure(runs: Runs) -> Figure:
    """Draw training curves, the change of the loss on held-out answers, and the replies' variety.

    Parameters
    ----------
    runs : mapping
        Adapter run -> its block of `results/ttt_adapter.json`.
    """
    figure = new_figure(
        16,
        2.6 + max(3.4, 0.75 * len(runs)),
        title="Dialogue adapters: does a frozen network learn to answer?",
        note="Loss on answers alone; the base reads without updates. Grey: controls, trained on "
        "answers of other conversations. Bars: 95 % intervals over conversations or prompts; "
        "ticks: single seeds.",
    )
    curves, change, replies = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
    styles = _styles(runs)
    _curves(curves, runs, styles)
    _change(change, runs, styles)
    _replies(replies, runs, styles)
    return settled(figure)


def _styles(runs: Runs) -> dict[str, dict[str, object]]:
    """Give real runs colours and controls greys, by their order."""
    styles: dict[str, dict[str, object]] = {}
    controls = 0
    for run, block in runs.items():
        if _control_of(block) is not None:
            styles[run] = control_style(controls)
            controls += 1
        else:
            place = len(styles) - controls
            styles[run] = {"color": PALETTE[place % len(PALETTE)], "linestyle": "-", "linewidth": 2}
    return styles


def _control_of(block: object) -> str | None:
    rows = block["rows"]  # type: ignore[index]
    return rows[0]["control_of"] if rows else None


def _curves(axis: Axes, runs: Runs, styles: dict) -> None:
    """Draw the validation loss minus that before training, so that bases compare."""
    answers = []
    for run, block in runs.items():
        curves = block.get("curves")
        if not curves:
            continue
        seeds = np.asarray(curves["val_nll"], float)
        gain = (seeds - seeds[:, :1]).mean(axis=0)
        axis.plot(curves["step"], gain, label=run, **styles[run])
        if _control_of(block) is None:
            answers.append(
                f"{run} from {short(seeds[:, 0].mean())} to {short(seeds[:, -1].mean())}"
            )
    axis.axhline(0, color=BLACK, linewidth=1, zorder=0)
    dress(
        axis,
        title="Does training converge?",
        x="optimiser step",
        y="validation loss minus that of the base, nats/token",
        answer=", ".join(answers),
    )
    legend(axis)


def _change(axis: Axes, runs: Runs, styles: dict) -> None:
    """Draw the change on test conversations, and what the control leaves of it."""
    lines = [(run, "change", run) for run in runs]
    for run, block in runs.items():
        prefix = "dialogue_nll.minus_"
        names = {r["metric"] for r in block["rows"] if r["metric"].startswith(prefix)}
        lines += [
            (run, f"minus_{name}", f"{run}\nminus {name}")
            for name in sorted(metric.removeprefix(prefix) for metric in names)
        ]
    metrics = [(run, f"dialogue_nll.{kind}") for run, kind, _ in lines]
    draw_forest(
        axis,
        [row_of(runs, run, metric) for run, metric in metrics],
        [seed_values(runs, run, metric) for run, metric in metrics],
        colors=[str(styles[run]["color"]) for run, _ in metrics],
    )
    mark(axis, 0)
    name_lines(axis, [name for _, _, name in lines], shown=True)
    dress(
        axis,
        title="Are unseen answers better predicted?",
        x="test loss with the adapter minus without, nats/token\n(left: better)",
        y="",
        answer=_answer(runs),
    )


def _answer(runs: Runs) -> str:
    """Tell both losses and the change of every real run in numbers."""
    lines = []
    for run in (run for run, block in runs.items() if _control_of(block) is None):
        kinds = ("before", "after", "change")
        before, after, change = (row_of(runs, run, f"dialogue_nll.{kind}") for kind in kinds)
        if before and after and change:
            ends = f"{short(before['value'])} to {short(after['value'])}"
            lines.append(f"{run}: {ends}, {told(change)}")
    return "\n".join(lines)


def _replies(axis: Axes, runs: Runs, styles: dict) -> None:
    """Draw base above adapter for every measure and run."""
    rows, colors, names = [], [], []
    real = [run for run, block in runs.items() if _control_of(block) is None]
    for metric, meaning in MEASURES.items():
        for place, (run, kind) in enumerate((r, k) for r in real for k in ("base", "adapter")):
            rows.append(row_of(runs, run, f"{metric}.{kind}"))
            colors.append(str(styles[run]["color"]) if kind == "adapter" else GREY)
            name = f"{run}: {kind}"
            names.append(name if place else f"{meaning}\n{name}")
    draw_forest(axis, rows, [[]] * len(rows), colors=colors)
    name_lines(axis, names, shown=True)
    axis.set_xlim(-0.02, 1.02)
    dress(
        axis,
        title="Are replies less repetitive?",
        x="share of a reply's pairs of words, or words",
        y="",
    )
