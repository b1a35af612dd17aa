"""Measured runs -> the blocks of `results/mdn.json`: rows, paired differences, floor, curves.

Test windows are the same under every seed: seeds are averaged per window, then blocks of
neighbouring windows are resampled (`stats.blocks`).

Metrics (value per window, mean over windows): `nll` (window average, contexts 1..255), `nll_full`
(long contexts: the window less `predict.full_stride` spacings, or more; windows that begin at a
joint of a surrogate are left out), `crps`, `mae` and their `_full`, `err_step@H`, `err_cum@H`,
`err_growth@H` (err_step@H less the first step's error), `err_source@10`, `energy_score@H`,
`nll_context@a-b` (contexts a..b), `nll_fifth@1` .. `@5` (test windows from low to high), `pit_ks`.
A difference is named `<metric>_minus_<run>`, the setting last: `err_cum_minus_e0@100`; below 0 the
run is better than the other.

Legend: W windows, S seeds, C context bins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.core.headline import run_block
from mneme.stats.blocks import block_mean, crossed_block_mean
from mneme.stats.intervals import Crossed
from mneme.stats.rows import Interval, Row, row_of
from mneme.zeta.joints import after_joint
from mneme.zeta.measure import ks_distance, ks_interval
from mneme.zeta.scores import MdnConfig, MeasuredRun, curves
from mneme.zeta.sine_process import Estimate, Floor, window_average

Floats = NDArray[np.float64]
BAYES = "bayes_gue"
"""Name of the Bayes predictor on the GUE test windows, where it was read."""
FLOOR_RUN = "sine_floor"
"""Name of the floor among the runs."""
_NORMAL_95 = 1.959964


def mdn_runs(
    runs: Mapping[str, MeasuredRun], config: MdnConfig, *, floor: Sequence[Floor]
) -> dict[str, dict[str, Any]]:
    """Report every run, and the sine-process floor as one more.

    Parameters
    ----------
    runs : mapping
        Run name -> its scores; references (`kde`, `ar16`, ...) are runs like any other.
    config : MdnConfig
        What is read and how it is resampled.
    floor : sequence of Floor
        The Bayes predictor of the sine process at some contexts; GUE runs are set against it.

    Returns
    -------
    dict
        Run name -> block of the headline file: `rows`, `system`, `information`, `seeds`,
        `windows` (count), `curves`, and the run's further keys.

    Raises
    ------
    ValueError
        When a run is compared with one that is missing or was read on other windows.
    """
    blocks = {}
    for name, run in runs.items():
        rows = [*_rows(run, config)]
        for other in run.against:
            rows += _difference_rows(name, run, other, runs, config)
        if run.system == "gue" and floor and run.seeds is not None:
            rows += _floor_rows(run, floor, config, bayes=runs.get(BAYES))
        blocks[name] = run_block(
            rows,
            system=run.system,
            information=run.information,
            seeds=None if run.seeds is None else list(run.seeds),
            windows=len(run.windows),
            curves=curves(run, config),
            **run.further,
        )
    if floor:
        blocks[FLOOR_RUN] = floor_block(floor, config)
    return blocks


def _rows(run: MeasuredRun, config: MdnConfig) -> Iterator[Row]:
    for metric in run.scores[0].metrics:
        values_SW = run.stacked(metric)
        assert values_SW is not None, f"{metric} is missing under some seed"
        yield from _mean_rows(metric, values_SW, run, config)
    context_SWC = np.stack([scores.context_WC for scores in run.scores])
    for index, name in enumerate(_bins(config)):
        yield from _mean_rows(f"nll_context@{name}", context_SWC[:, :, index], run, config)
    nll_SW = np.stack([scores.metrics["nll"] for scores in run.scores])
    for index, part in enumerate(np.array_split(np.arange(nll_SW.shape[1]), 5), start=1):
        if len(part):
            yield from _mean_rows(f"nll_fifth@{index}", nll_SW[:, part], run, config)
    pits = [scores.pit_WT for scores in run.scores if scores.pit_WT is not None]
    if pits:
        yield from _ks_rows(np.stack(pits), run, config)


def _mean_rows(metric: str, values_SW: Floats, run: MeasuredRun, config: MdnConfig) -> list[Row]:
    crossed = crossed_block_mean(values_SW, **config.chance(metric))
    return _crossed_rows(metric, crossed, run)


def _crossed_rows(metric: str, crossed: Crossed, run: MeasuredRun) -> list[Row]:
    unit = "nats" if metric.startswith("nll") else "mean spacings"
    if run.seeds is None:
        return [row_of(metric, crossed.interval, n=crossed.n, unit=unit, control_of=run.control_of)]
    return crossed.rows(metric, unit=unit, seeds=run.seeds, control_of=run.control_of)


def _ks_rows(pit_SWT: NDArray, run: MeasuredRun, config: MdnConfig) -> Iterator[Row]:
    interval = ks_interval(pit_SWT, **config.chance("pit_ks"))
    told = {"n": pit_SWT.shape[1], "unit": "fraction", "control_of": run.control_of}
    yield row_of("pit_ks", interval, **told)
    for seed, pit_WT in zip(run.seeds or (), pit_SWT, strict=False):
        yield Row(metric="pit_ks", value=ks_distance(pit_WT), seed=seed, **told)


def _difference_rows(
    name: str, run: MeasuredRun, other: str, runs: Mapping[str, MeasuredRun], config: MdnConfig
) -> list[Row]:
    """Return run - other for every metric that both have, paired by window."""
    base = runs.get(other)
    if base is None:
        raise ValueError(f"run {name!r} is compared with {other!r}, which was not measured")
    if base.system != run.system or not np.array_equal(base.windows, run.windows):
        raise ValueError(
            f"runs {name!r} and {other!r} were not read on the same windows: "
            "compare runs of one system and split"
        )
    rows = []
    for metric in run.scores[0].metrics:
        ours_SW, theirs_SW = run.stacked(metric), base.stacked(metric)
        if ours_SW is not None and theirs_SW is not None:
            # Training seeds of two runs have nothing in common to pair: the other is averaged.
            crossed = crossed_block_mean(
                ours_SW - theirs_SW.mean(axis=0), **config.chance("difference", metric)
            )
            rows += _crossed_rows(_minus(metric, other), crossed, run)
    return rows


def _minus(metric: str, other: str) -> str:
    kind, at, setting = metric.partition("@")
    return f"{kind}_minus_{other}{at}{setting}"


def _bins(config: MdnConfig) -> list[str]:
    return [f"{a}-{b - 1}" if b - 1 > a else str(a) for a, b in pairwise(config.context_edges)]


def _floor_rows(
    run: MeasuredRun, floor: Sequence[Floor], config: MdnConfig, *, bayes: MeasuredRun | None
) -> list[Row]:
    """Return how far a GUE run is above the floor at the same contexts, seeds averaged.

    A run that remembers beyond the window has seen the longest context at every target: the floor
    is the one there, and windows that begin at a joint of two spectra, where such a memory is of
    another spectrum, are left out.

    With the Bayes predictor on the same windows, what these windows happen to hold cancels: the
    value is (run - Bayes), paired, plus how much lower the floor is where contexts are longer than
    those that predictor sees.
    """
    context_WC = np.mean([scores.context_WC for scores in run.scores], axis=0)
    nll_W = np.mean([scores.metrics["nll"] for scores in run.scores], axis=0)
    paired = bayes is not None and np.array_equal(bayes.windows, run.windows)
    seen = int(bayes.further["chosen"]["context"]) if bayes is not None and paired else None
    if bayes is not None and paired:
        context_WC = context_WC - bayes.scores[0].context_WC
        nll_W = nll_W - bayes.scores[0].metrics["nll"]
    told = [
        (f"nll_minus_floor@{name}", context_WC[:, index], np.arange(*pair))
        for index, (name, pair) in enumerate(
            zip(_bins(config), pairwise(config.context_edges), strict=True)
        )
    ]
    told.append(("nll_minus_floor", nll_W, np.arange(1, run.targets + 1)))
    joined_W = after_joint(run.system, run.windows, run.targets + 1)
    kept_W = ~joined_W if run.beyond else np.ones_like(joined_W)
    rows = []
    for metric, values_W, contexts in told if kept_W.any() else ():
        reached = np.full_like(contexts, run.targets) if run.beyond else contexts
        at_floor, error = _floor_at(floor, reached)
        if seen is not None:
            capped, _ = _floor_at(floor, np.minimum(contexts, seen))
            at_floor, error = at_floor - capped, error if reached[-1] > seen else 0.0
        above = block_mean(values_W[kept_W] - at_floor, **config.chance(metric))
        interval = _with_error(above, error)
        n, unit = int(kept_W.sum()), "nats"
        rows.append(row_of(metric, interval, n=n, unit=unit, control_of=run.control_of))
    return rows


def _floor_at(floor: Sequence[Floor], contexts: NDArray[np.int64]) -> tuple[float, float]:
    """Mean floor over contexts, nats, and its standard error (as if all one: the larger).

    Linear in log context between those computed, held beyond the last (an upper bound there).
    """
    known = [point for point in floor if point.context >= 1]
    at = np.log([point.context for point in known])
    value, error = (
        float(np.interp(np.log(contexts), at, [point.nll[part] for point in known]).mean())
        for part in (0, 1)
    )
    return value, error


def _with_error(interval: Interval, error: float) -> Interval:
    """Widen an interval by an independent standard error, end by end in quadrature."""
    if interval.value is None or interval.low is None or interval.high is None:
        return interval
    low = np.hypot(interval.value - interval.low, _NORMAL_95 * error)
    high = np.hypot(interval.high - interval.value, _NORMAL_95 * error)
    return Interval(interval.value, interval.value - float(low), interval.value + float(high))


def floor_block(floor: Sequence[Floor], config: MdnConfig) -> dict[str, Any]:
    """Report the Bayes predictor of the sine process as a run, with 95 % intervals.

    Returns
    -------
    dict
        Rows `nll`, `crps`, `mae` (average over the contexts of a window; beyond the last context
        computed the floor is held there, an upper bound) and `nll_context@n` etc. at each context
        computed; the curve `nll_by_context`.
    """
    longest = config.context_edges[-1] - 1
    rows = []
    for metric, estimate in window_average(floor, longest=longest).items():
        rows.append(_estimate_row(metric, estimate, None))
    for point in floor:
        for metric in ("nll", "crps", "mae"):
            row = _estimate_row(
                f"{metric}_context@{point.context}", getattr(point, metric), point.pasts
            )
            rows.append(row)
    ends = [_normal(point.nll) for point in floor]
    curve = {
        "first": [point.context for point in floor],
        "last": [point.context for point in floor],
        "value": [interval.value for interval in ends],
        "low": [interval.low for interval in ends],
        "high": [interval.high for interval in ends],
    }
    return run_block(
        rows,
        system="sine process",
        information="past spacings, as many as the context says; the process itself is known",
        seeds=None,
        curves={"nll_by_context": curve},
    )


def _estimate_row(metric: str, estimate: Estimate, pasts: int | None) -> Row:
    interval = _normal(estimate)
    return Row(
        metric=metric,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=pasts,
        unit="nats" if metric.startswith("nll") else "mean spacings",
    )


def _normal(estimate: Estimate) -> Interval:
    half = _NORMAL_95 * estimate.error
    return Interval(estimate.value, estimate.value - half, estimate.value + half)
