"""Ideal learners of documents with a known law: what a run reaches of their gain, and misses.

Legend: S seeds, G groups, D documents with a metric, R resamples.

References
----------
Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 10 (ratios of means).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.core.headline import run_block
from mneme.stats.intervals import LEVEL, crossed_mean, percentile_interval, resample_counts
from mneme.stats.rows import Interval, Row, row_of
from mneme.ttt.context_config import ContextConfig, SetConfig
from mneme.ttt.context_curves import curves_of
from mneme.ttt.context_metrics import (
    IDEALS,
    Arrays,
    MeasuredRun,
    Values,
    document_metrics,
    grouped,
)

Floats = NDArray[np.float64]
_MISSED = ("nll", "nll_inside", "nll_beyond", "nll_position")
"""Metrics that a run is set against the ideal learners by."""
_INFORMATION = {
    "ideal_all": "all tokens of the document so far; the law that documents are drawn by is known",
    "ideal_far": "the last R + 1 tokens; the law that documents are drawn by is known",
}


def share_rows(run: MeasuredRun, each: str, one: SetConfig, config: ContextConfig) -> list[Row]:
    """Return the share of the ideal gain, beyond the receptive field and in bins out there."""
    seeds = run.of_set(each)
    if IDEALS[0] not in _ideals(seeds[0]):
        return []
    field = run.receptive_field
    losses = [document_metrics(arrays, one, field) for arrays in seeds]
    known = {k: document_metrics(a, one, field) for k, a in _ideals(seeds[0]).items()}
    far = [f"nll_position@{name}" for name, first, _ in one.bins if first > field + 1]
    rows: list[Row] = []
    for metric in ("nll_beyond", *far):
        if metric not in losses[0]:
            continue
        kept_D = losses[0][metric][0]
        group_D = seeds[0]["group_N"][kept_D]
        model_SG, all_G, far_G = (
            grouped(np.stack(parts), group_D).values_SG
            for parts in (
                [loss[metric][1] for loss in losses],
                [known["ideal_all"][metric][1]],
                [known["ideal_far"][metric][1]],
            )
        )
        name = metric.replace("nll_beyond", "share").replace("nll_position", "share")
        gained_SG, possible_G = far_G[0] - model_SG, far_G[0] - all_G[0]
        rows += _ratio_rows(run, f"{each}_ideal_{name}", gained_SG, possible_G, config)
    return rows


def _ratio_rows(
    run: MeasuredRun, metric: str, gained_SG: Floats, possible_G: Floats, config: ContextConfig
) -> list[Row]:
    chance = config.chance("share")
    told = {"n": len(possible_G), "unit": "fraction", "control_of": run.control_of}
    interval = share_of_gain(gained_SG.mean(axis=0), possible_G, **chance)
    rows = [row_of(metric, interval, **told)]
    if interval.value is not None and "@" not in metric:
        shares_S = gained_SG.mean(axis=1) / possible_G.mean()
        pairs = zip(run.seeds, shares_S, strict=True)
        rows += [Row(metric=metric, value=float(v), seed=seed, **told) for seed, v in pairs]
    return rows


def share_of_gain(
    gained_G: Floats,
    possible_G: Floats,
    *,
    resamples: int,
    generator: np.random.Generator,
    level: float = LEVEL,
) -> Interval:
    """Ratio of means over groups, both resampled together.

    Parameters
    ----------
    gained_G : array (G,)
        What the model is better than the learner with a short memory, nats.
    possible_G : array (G,)
        What the ideal learner is better than it.
    resamples, generator, level
        As in `stats.intervals.bootstrap_mean`.

    Returns
    -------
    Interval
        Undefined with a reason where the ideal learner gains nothing, or not surely.
    """
    if possible_G.mean() <= 0:
        return Interval.undefined("the ideal learner gains nothing beyond the receptive field")
    value, groups = float(gained_G.mean() / possible_G.mean()), len(possible_G)
    if groups < 2:
        return Interval(value, None, None, "an interval needs at least two groups")
    counts_RG = resample_counts(groups, resamples=resamples, generator=generator)
    gained_R, possible_R = counts_RG @ gained_G, counts_RG @ possible_G
    if possible_R.min() <= 0:
        return Interval(value, None, None, "the ideal learner does not gain in every resample")
    return percentile_interval(value, gained_R / possible_R, n=groups, level=level)


def ideal_rows(run: MeasuredRun, each: str, one: SetConfig, config: ContextConfig) -> list[Row]:
    """Return by how much a run misses the ideal learners, in all and bin by bin of tokens seen.

    Returns
    -------
    list of Row
        `<set>_nll_minus_<recipe>_<ideal>` and so on, nats, paired by document; of learners with a
        known loss alone.
    """
    seeds, field = run.of_set(each), run.receptive_field
    told = [document_metrics(arrays, one, field) for arrays in seeds]
    rows: list[Row] = []
    for kind, ideal in _ideals(seeds[0]).items():
        for metric, (kept_D, best_D) in document_metrics(ideal, one, field).items():
            name, at, bin_ = metric.partition("@")
            if name not in _MISSED:
                continue
            missed_SD = np.stack([loss[metric][1] for loss in told]) - best_D
            values_SG = grouped(missed_SD, seeds[0]["group_N"][kept_D]).values_SG
            crossed = crossed_mean(values_SG, **config.chance(each))
            named = f"{each}_{name}_minus_{run.recipe}_{kind}{at}{bin_}"
            told_rows = crossed.rows(named, unit="nats", seeds=run.seeds, control_of=run.control_of)
            rows += told_rows[:1] if at else told_rows
    return rows


def _ideals(arrays: Arrays) -> dict[str, dict[str, NDArray]]:
    """Return the ideal learners' losses as readings of their own."""
    frame = {key: arrays[key] for key in ("targets_N", "group_N", "document_N")}
    return {k: {**frame, "nll_NT": arrays[f"{k}_NT"]} for k in IDEALS if f"{k}_NT" in arrays}


def ideal_blocks(run: MeasuredRun, config: ContextConfig) -> dict[str, dict[str, Any]]:
    """Report the ideal learners on the documents of a run as runs of their own."""
    rows: dict[str, list[Row]] = {}
    drawn: dict[str, dict[str, Any]] = {}
    for each, one in config.sets_of(run.corpus).items():
        arrays = run.of_set(each)[0]
        for kind, ideal in _ideals(arrays).items():
            told = document_metrics(ideal, one, run.receptive_field)
            metrics = {
                metric: grouped(values_D[None], arrays["group_N"][kept_D])
                for metric, (kept_D, values_D) in told.items()
            }
            if kind == "ideal_all":
                entropy_N = np.asarray(arrays["entropy_N"], float)
                metrics["entropy_rate"] = grouped(entropy_N[None], arrays["group_N"])
            rows.setdefault(kind, []).extend(_ideal_rows(each, metrics, config))
            drawn.setdefault(kind, {})[each] = curves_of(metrics, each, config)
    return {
        f"{run.recipe}_{kind}": run_block(
            told,
            arm=kind,
            recipe=run.recipe,
            receptive_field=run.receptive_field,
            seeds=None,
            information=_INFORMATION[kind],
            curves=drawn[kind],
        )
        for kind, told in rows.items()
    }


def _ideal_rows(each: str, metrics: Mapping[str, Values], config: ContextConfig) -> Iterator[Row]:
    for metric, values in metrics.items():
        crossed = crossed_mean(values.values_SG, **config.chance(each))
        yield row_of(f"{each}_{metric}", crossed.interval, n=crossed.n, unit="nats")
