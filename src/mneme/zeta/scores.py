"""One measured run: its scores on the test windows under every seed, and the curves of figures.

A run's readings (`mneme.zeta.measure`) are reduced file by file to `Scores`, which are small; rows
and differences between runs (`mneme.zeta.mdn`) are made of those.

Legend: W windows, T targets of a window, H horizon, C context bins, S seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.stats.blocks import block_bands
from mneme.stats.rows import Interval
from mneme.zeta.measure import ROLLOUT_CONTEXT, Readings, by_context, pit_histogram, window_metrics
from mneme.zeta.reading_config import MdnConfig

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What is kept of the readings of one run under one seed."""

    metrics: dict[str, Floats]
    """Metric name -> one number a window (W,); `_full` without windows that begin at a joint."""
    context_WC: Floats
    """NLL of each window averaged over bins of context length, nats."""
    pit_WT: NDArray[np.float32] | None
    """PIT values; None where the run has none (a likelihood alone)."""
    targets: int
    """Targets T of a window."""
    step_WH: Floats | None
    """Mean |error| per step up to each horizon 1..H; None without rollouts."""
    cum_WH: Floats | None
    """|sum of predictions - sum of truth| at each horizon 1..H."""


def score(
    readings: Readings, config: MdnConfig, *, joined_W: NDArray[np.bool_] | None = None
) -> Scores:
    """Reduce the readings of one run under one seed; errors as in `window_metrics`.

    Parameters
    ----------
    readings, config : mapping, MdnConfig
        What was read, and how it is reduced.
    joined_W : bool array (W,), optional
        Windows that begin at a joint of the series: the shifted windows that give them long
        contexts lie across it, so the `_full` metrics leave them out.
    """
    metrics = window_metrics(readings, horizons=config.horizons)
    if joined_W is not None and joined_W.any():
        metrics = _within_stretches(metrics, joined_W)
    step_WH = cum_WH = None
    if "rollout_mean_WH" in readings:
        horizon = config.horizons[-1]
        truth_WH = readings["spacings_WN"][:, ROLLOUT_CONTEXT : ROLLOUT_CONTEXT + horizon]
        error_WH = np.asarray(readings["rollout_mean_WH"], float)[:, :horizon] - truth_WH
        step_WH = np.cumsum(np.abs(error_WH), axis=1) / np.arange(1, horizon + 1)
        cum_WH = np.abs(np.cumsum(error_WH, axis=1))
    return Scores(
        metrics=metrics,
        context_WC=by_context(readings["nll_WT"], config.context_edges),
        pit_WT=np.asarray(readings["pit_WT"], np.float32) if "pit_WT" in readings else None,
        targets=readings["nll_WT"].shape[1],
        step_WH=step_WH,
        cum_WH=cum_WH,
    )


def _within_stretches(metrics: dict[str, Floats], joined_W: NDArray[np.bool_]) -> dict[str, Floats]:
    """Leave windows out of the metrics at long contexts, and such metrics where none is left."""
    long = {name for name in metrics if name.endswith("_full")}
    return {
        name: values_W[~joined_W] if name in long else values_W
        for name, values_W in metrics.items()
        if name not in long or not joined_W.all()
    }


@dataclass(frozen=True, kw_only=True)
class MeasuredRun:
    """One run (or reference) on the test windows of its system."""

    scores: tuple[Scores, ...]
    """Under each seed; one entry where nothing is trained by chance."""
    seeds: tuple[int, ...] | None
    """Training seeds, in the order of `scores`; None where there are none."""
    system: str
    """Whose spacings: zeta, gue, shuffled, scrambled."""
    windows: NDArray[np.int64]
    """Test windows (W,), ascending: runs with the same ones on one system are paired."""
    heights_W: Floats
    """Height t at the start of each."""
    information: str
    """What it may use: the information set that its NLL declares."""
    beyond: bool
    """Whether it remembers what lies before the window, so that no target has a short context."""
    control_of: str | None
    """Run that it is a control of."""
    against: tuple[str, ...]
    """Runs on the same windows that it is compared with, by paired differences."""
    further: Mapping[str, Any]
    """JSON-ready keys to keep beside the rows (what was chosen, parameters, ...)."""

    def __post_init__(self) -> None:
        assert len(self.scores) == (1 if self.seeds is None else len(self.seeds))
        counts = {len(scores.context_WC) for scores in self.scores}
        if counts != {len(self.windows)} or len(self.heights_W) != len(self.windows):
            raise ValueError(
                f"a run on {len(self.windows)} test windows has readings of {sorted(counts)}: "
                "measure it again"
            )

    @property
    def targets(self) -> int:
        """Targets T of a window: those of the last context bin end there."""
        return self.scores[0].targets

    def stacked(self, metric: str) -> Floats | None:
        """Return a metric under every seed, (S, W); None where the run does not have it."""
        values = [scores.metrics[metric] for scores in self.scores if metric in scores.metrics]
        return np.stack(values) if len(values) == len(self.scores) else None


def curves(run: MeasuredRun, config: MdnConfig) -> dict[str, Any]:
    """Return what figures draw, seeds averaged, with bands over blocks of windows.

    Returns
    -------
    dict
        `nll_by_context` (first, last context of each bin; value, low, high), `nll_by_height`
        (height at the middle of each part), `pit` (edges, share), and, with rollouts,
        `error_by_horizon` (horizon, and value, low, high of err_step and err_cum).
    """
    edges = config.context_edges
    context_WC = np.mean([scores.context_WC for scores in run.scores], axis=0)
    nll_W = np.mean([scores.metrics["nll"] for scores in run.scores], axis=0)
    found: dict[str, Any] = {
        "nll_by_context": {
            "first": list(edges[:-1]),
            "last": [edge - 1 for edge in edges[1:]],
            **_band(block_bands(context_WC, **config.chance("by_context"))),
        },
        "nll_by_height": _along_height(nll_W, run.heights_W, config),
    }
    pits = [scores.pit_WT for scores in run.scores if scores.pit_WT is not None]
    if pits:
        found["pit"] = {
            "edges": np.linspace(0, 1, config.pit_bins + 1).tolist(),
            "share": pit_histogram(np.stack(pits), bins=config.pit_bins).tolist(),
        }
    if all(scores.step_WH is not None for scores in run.scores):
        found["error_by_horizon"] = {
            "horizon": list(range(1, config.horizons[-1] + 1)),
            "err_step": _horizon_band([scores.step_WH for scores in run.scores], config),
            "err_cum": _horizon_band([scores.cum_WH for scores in run.scores], config),
        }
    return found


def _horizon_band(values: Sequence[Floats | None], config: MdnConfig) -> dict[str, list]:
    values_SWH = np.stack([v for v in values if v is not None])
    return _band(block_bands(values_SWH.mean(axis=0), **config.chance("by_horizon")))


def _along_height(nll_W: Floats, heights_W: Floats, config: MdnConfig) -> dict[str, list]:
    parts = np.array_split(np.arange(len(nll_W)), min(config.height_parts, len(nll_W)))
    bands = [
        block_bands(nll_W[part, None], **config.chance("by_height", str(index)))[0]
        for index, part in enumerate(parts)
    ]
    return {"height": [float(heights_W[part].mean()) for part in parts], **_band(bands)}


def _band(intervals: Sequence[Interval]) -> dict[str, list[float | None]]:
    return {
        "value": [interval.value for interval in intervals],
        "low": [interval.low for interval in intervals],
        "high": [interval.high for interval in intervals],
    }
