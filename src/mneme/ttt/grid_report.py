"""Readings of the memory grid -> the blocks of `results/ttt_grid.json` and its table.

Metrics (a number a prompt, mean over prompts; `x@0.5x20` is adapt ratio .5 of 20 repeats, `x` alone
is each prompt's mean over cells):

====================== ====== ==================================================================
name                   unit   meaning
====================== ====== ==================================================================
pre, post              nats   loss of the counted tokens with fast weights as trained, and after
                              the text's own first part
delta                  nats   pre - post: above 0 the context helped
percent                %      100 delta / pre
percent_<kind>         %      the same after a control context
delta_minus_<kind>     nats   gain of the own context less that of a control context
harm                   nats   loss added by another prompt's context
swept_percent          %      `percent` of the sweep's cell and prompts, `@<rate>/<chunk>`
source_...             ...    the source's own measure (second part alone) of the same
<metric>_minus_<run>   ...    this run less another, same prompts and seeds
configurations_tried   count  of the run's recipe, the one in use among them
====================== ====== ==================================================================

Prompts are the same under every seed: seeds are averaged per prompt, then prompts are resampled.

Legend: S seeds, C cells, N prompts, R trials, L settings of the sweep.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mneme.core.headline import run_block
from mneme.stats.intervals import bootstrap_mean, crossed_mean, finite
from mneme.stats.rows import Row, row_of
from mneme.stats.tried import tried_row
from mneme.ttt.grid_config import GridConfig
from mneme.ttt.grid_texts import CONTROLS

Floats = NDArray[np.float64]
Arrays = Mapping[str, NDArray]
Net = Literal["base", "adapter", "untrained"]
COMPARED = ("pre", "delta", "percent", "delta_minus_other", "source_pre", "source_percent")
"""Metrics that runs are compared by."""
COLUMNS = (
    *("run", "seed", "prompt", "adapt_ratio", "repeats", "trial", "context_tokens"),
    *("counted_tokens", "pre", "post", "delta", "percent"),
    *(f"post_{kind}" for kind in CONTROLS),
)
"""Columns of the table; losses in nats."""


@dataclass(frozen=True, kw_only=True)
class MeasuredGrid:
    """One network's readings under every seed."""

    net: Net
    """What it is: trained, with an adapter on top, or with the weights that training began with."""
    recipe: str
    """Its recipe."""
    seeds: tuple[int, ...]
    """Training seeds."""
    readings: tuple[Arrays, ...]
    """Arrays under each seed, as `grid.measure_grid` gives them."""
    sweeps: tuple[Sequence[Mapping[str, Any]], ...]
    """Under each seed, as `grid.sweep` gives it; empty where none was made."""
    against: tuple[str, ...]
    """Runs that this one is compared with."""
    tried: int
    """Configurations of its recipe that were tried."""
    control_of: str | None
    """Run that this one is a control of."""

    def __post_init__(self) -> None:
        assert len(self.seeds) == len(self.readings) >= 1
        for arrays in self.readings:
            if not _same_texts(arrays, self.readings[0]):
                raise ValueError("seeds read different prompts or cells: measure the grid again")


def _same_texts(a: Arrays, b: Arrays) -> bool:
    keys = ("ratio_C", "repeats_C", "prompt_N", "length_CN", "adapted_CN")
    return all(np.array_equal(a[key], b[key]) for key in keys)


def grid_runs(runs: Mapping[str, MeasuredGrid], config: GridConfig) -> dict[str, dict[str, Any]]:
    """Report every network.

    Parameters
    ----------
    runs : mapping
        Run name -> its readings.
    config : GridConfig
        How intervals are made.

    Returns
    -------
    dict
        Run name -> block: `rows`, `net`, `recipe`, `compared_with`, `seeds`, `prompts` (count),
        `adapt_ratios`, `repeats`, `sweep` (list of settings with `delta` and `delta_minus_other`
        as value, low, high; or a reason).

    Raises
    ------
    ValueError
        When a run is compared with one that is missing or read other prompts or cells.
    """
    metrics = {name: _stacked(run.readings) for name, run in runs.items()}
    blocks = {}
    for name, run in runs.items():
        found = dict(metrics[name])
        for other in run.against:
            found |= _differences(name, other, runs, metrics)
        blocks[name] = run_block(
            [
                *_rows(name, run, found, config),
                *_swept_rows(name, run, config),
                tried_row(run.tried, control_of=run.control_of),
            ],
            net=run.net,
            recipe=run.recipe,
            compared_with=list(run.against),
            seeds=list(run.seeds),
            prompts=len(run.readings[0]["prompt_N"]),
            adapt_ratios=list(config.adapt_ratios),
            repeats=list(config.repeats),
            sweep=_sweep(name, run, config),
        )
    return blocks


def reading_metrics(arrays: Arrays) -> dict[str, Floats]:
    """Reduce one seed's readings to metric -> a number a cell and prompt (C, N), trials averaged.

    Raises
    ------
    ValueError
        When a loss is not finite.
    """
    found = _one_measure(arrays, "")
    if "source_none_CN" in arrays:
        found |= _one_measure(arrays, "source_")
    return found


def _one_measure(arrays: Arrays, prefix: str) -> dict[str, Floats]:
    pre, post = (finite(k, arrays[f"{prefix}{k}_CN"], ndim=2) for k in ("none", "own"))
    after = {
        kind: finite(kind, arrays[f"{prefix}{kind}_RCN"], ndim=3).mean(axis=0) for kind in CONTROLS
    }
    found = {"pre": pre, "post": post, "delta": pre - post, "percent": 100 * (pre - post) / pre}
    for kind, loss in after.items():
        found[f"percent_{kind}"] = 100 * (pre - loss) / pre
        found[f"delta_minus_{kind}"] = loss - post
    found["harm"] = after["other"] - pre
    return {f"{prefix}{name}": values for name, values in found.items()}


def _stacked(readings: Sequence[Arrays]) -> dict[str, Floats]:
    """Return metric -> (S, C, N)."""
    told = [reading_metrics(arrays) for arrays in readings]
    return {metric: np.stack([one[metric] for one in told]) for metric in told[0]}


def _differences(
    name: str,
    other: str,
    runs: Mapping[str, MeasuredGrid],
    metrics: Mapping[str, Mapping[str, Floats]],
) -> dict[str, Floats]:
    """Return `<metric>_minus_<other>`; an adapter and its base share their seed, so seeds pair."""
    if other not in runs:
        raise ValueError(f"run {name!r} is compared with {other!r}, which was not measured")
    same_seeds = runs[name].seeds == runs[other].seeds
    if not same_seeds or not _same_texts(runs[name].readings[0], runs[other].readings[0]):
        raise ValueError(
            f"runs {name!r} and {other!r} did not read the same prompts and cells under the same "
            "seeds: measure both again"
        )
    both = [m for m in COMPARED if m in metrics[name] and m in metrics[other]]
    return {f"{m}_minus_{other}": metrics[name][m] - metrics[other][m] for m in both}


def _unit(metric: str) -> str:
    return "percent" if "percent" in metric else "nats"


def _rows(
    name: str, run: MeasuredGrid, metrics: Mapping[str, Floats], config: GridConfig
) -> Iterator[Row]:
    """Yield each metric over all cells (with its seeds), then cell by cell."""
    arrays = run.readings[0]
    cells = list(zip(arrays["ratio_C"].tolist(), arrays["repeats_C"].tolist(), strict=True))
    for metric, values_SCN in metrics.items():
        unit, prompts = _unit(metric), values_SCN.shape[2]
        crossed = crossed_mean(values_SCN.mean(axis=1), **config.chance(name, metric))
        yield from crossed.rows(metric, unit=unit, seeds=run.seeds, control_of=run.control_of)
        for place, (ratio, repeats) in enumerate(cells):
            cell = cell_name(metric, ratio, repeats)
            crossed = crossed_mean(values_SCN[:, place], **config.chance(name, cell))
            told = {"n": prompts, "unit": unit, "control_of": run.control_of}
            yield row_of(cell, crossed.interval, **told)
        yield from _refused_rows(metric, run)


def cell_name(metric: str, ratio: float, repeats: int) -> str:
    """Return the name of a metric's row in one cell.

    Examples
    --------
    >>> cell_name("percent", 0.95, 20)
    'percent@0.95x20'
    """
    return f"{metric}@{ratio:g}x{repeats}"


def _refused_rows(metric: str, run: MeasuredGrid) -> Iterator[Row]:
    """Yield a row without a value for every cell that truncation makes another one's copy."""
    arrays = run.readings[0]
    keys = ("refused_ratio_F", "refused_repeats_F", "refused_same_F", "refused_prompts_F")
    prompts = len(arrays["prompt_N"])
    for ratio, repeats, same, count in zip(*(arrays[k].tolist() for k in keys), strict=True):
        pointed = cell_name(metric, ratio, same)
        reason = (
            f"truncated at {int(arrays['max_tokens'])} tokens, {count} of {prompts} prompts read "
            f"the same as with {same} repeats: see {pointed}"
        )
        cell = cell_name(metric, ratio, repeats)
        told = {"unit": _unit(metric), "control_of": run.control_of, "reason": reason}
        yield Row(metric=cell, value=None, **told)


def _swept_rows(name: str, run: MeasuredGrid, config: GridConfig) -> Iterator[Row]:
    """Yield the percent gained at every setting of the sweep, seeds averaged per prompt."""
    for settings in zip(*run.sweeps, strict=True):
        at = f"{settings[0]['learning_rate']:g}/{settings[0]['chunk']}"
        told = {"unit": "percent", "control_of": run.control_of}
        reasons = [one["reason"] for one in settings if one["reason"]]
        if reasons:
            yield Row(metric=f"swept_percent@{at}", value=None, reason=reasons[0], **told)
            continue
        none_SN, own_SN = (np.array([one[kind] for one in settings]) for kind in ("none", "own"))
        percent_N = (100 * (none_SN - own_SN) / none_SN).mean(axis=0)
        interval = bootstrap_mean(percent_N, **config.chance(name, "sweep", "percent", at))
        yield row_of(f"swept_percent@{at}", interval, n=len(percent_N), **told)


def _sweep(name: str, run: MeasuredGrid, config: GridConfig) -> list[dict[str, Any]]:
    """Return the gain at every setting of the inner loop, seeds averaged per prompt."""
    points = []
    for settings in zip(*run.sweeps, strict=True):
        first = settings[0]
        point = {"learning_rate": first["learning_rate"], "chunk": first["chunk"]}
        reasons = [one["reason"] for one in settings if one["reason"]]
        if reasons:
            points.append({**point, "delta": None, "delta_minus_other": None, "reason": reasons[0]})
            continue
        none, own, other = (
            np.mean([one[kind] for one in settings], axis=0) for kind in ("none", "own", "other")
        )
        values = {"delta": none - own, "delta_minus_other": other - own}
        at = f"{point['learning_rate']:g}/{point['chunk']}"
        for metric, values_N in values.items():
            interval = bootstrap_mean(values_N, **config.chance(name, "sweep", metric, at))
            ends = {"value": interval.value, "low": interval.low, "high": interval.high}
            point[metric] = ends
        points.append({**point, "reason": None})
    return points


def grid_table(runs: Mapping[str, MeasuredGrid], prompts: Sequence[str]) -> str:
    """Return all losses as CSV, a line a run, seed, prompt, cell and trial.

    Parameters
    ----------
    runs : mapping
        Run name -> its readings.
    prompts : sequence of str
        The prompts' names, at least as many as were read.

    Returns
    -------
    str
        A header, then `COLUMNS`; pre, post, delta and percent do not depend on the trial.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, run in runs.items():
        for seed, arrays in zip(run.seeds, run.readings, strict=True):
            for line in _table_lines(arrays, prompts):
                writer.writerow([name, seed, *line])
    return text.getvalue()


def _table_lines(arrays: Arrays, prompts: Sequence[str]) -> Iterator[list[Any]]:
    trials, cells, count = arrays["other_RCN"].shape
    for prompt, cell, trial in np.ndindex(count, cells, trials):
        length, adapted = (int(arrays[k][cell, prompt]) for k in ("length_CN", "adapted_CN"))
        pre, post = (float(arrays[k][cell, prompt]) for k in ("none_CN", "own_CN"))
        after = [float(arrays[f"{kind}_RCN"][trial, cell, prompt]) for kind in CONTROLS]
        losses = [pre, post, pre - post, 100 * (pre - post) / pre, *after]
        yield [
            prompts[prompt],
            f"{arrays['ratio_C'][cell]:g}",
            int(arrays["repeats_C"][cell]),
            trial,
            adapted,
            length - adapted,
            *(f"{loss:.6g}" for loss in losses),
        ]
