"""Measured runs -> the blocks of `results/ttt_context.json`: rows, differences, ideal, curves.

Documents are the same under every seed: seeds are averaged a group (play, conversation), then
groups are resampled, and the spread over seeds is told apart (`stats.intervals.crossed_mean`), a
row a seed where a metric has no setting.

Metrics begin with the set's name, their setting is last: `plays_nll_position@512-1023` (bin of
tokens seen). A difference of two runs of a recipe is `plays_nll_beyond_minus_<run>`, below 0 where
the first is better. `own_minus_<kind>` is below 0 where the document's own context is worth more
than that kind; `harm` is above 0 where another document's does damage. What an arm loses against
another is taken apart in three ways: by position, by `part_inside` + `part_beyond`, and on the
counted tokens by `counted_none_minus_<run>` (what its weights are worth before reading) +
`own_minus_none` (what reading adds). With the network that was never trained only the worth of
contexts is compared: `own_minus_other_minus_<run>` below 0 is what meta-training adds to it.

Legend: N documents, T targets, S seeds, G groups, R resamples.

References
----------
Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 10 (ratios of means).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.core.headline import run_block
from mneme.stats.intervals import LEVEL, crossed_mean, percentile_interval, resample_counts
from mneme.stats.rows import Interval, Row, row_of
from mneme.stats.tried import tried_row
from mneme.ttt.config import UNFITTED_ARMS, Arm
from mneme.ttt.context_config import ContextConfig, SetConfig
from mneme.ttt.context_metrics import (
    IDEALS,
    Arrays,
    MeasuredRun,
    Values,
    document_metrics,
    grouped,
    run_metrics,
)

Floats = NDArray[np.float64]
ORDER: tuple[Arm, ...] = (
    *("second", "first", "dynamic", "two_mlp", "full", "sliding"),
    "untrained",
)
"""Each arm is set against those after it."""
_COMPARED = (
    *("nll", "nll_inside", "nll_beyond", "nll_position", "nll_length", "part_inside"),
    *("part_beyond", "counted", "counted_none", "bits_per_byte", "bits_per_byte_beyond"),
)
"""Metrics that runs are compared by."""
_WORTH = ("own_minus_shuffled", "own_minus_other", "own_minus_none", "harm")
"""Metrics that runs are compared by with the network that was never trained: what it loses itself
is no measure of anything, what a context is worth to it is a baseline."""
_INFORMATION = {
    "ideal_all": "all tokens of the document so far; the law that documents are drawn by is known",
    "ideal_far": "the last R + 1 tokens; the law that documents are drawn by is known",
}


def context_runs(
    runs: Mapping[str, MeasuredRun],
    config: ContextConfig,
    *,
    bytes_per_token: Mapping[str, float],
) -> dict[str, dict[str, Any]]:
    """Report every run, what it differs by from others of its recipe, and the ideal learners.

    Parameters
    ----------
    runs : mapping
        Run name -> its readings.
    config : ContextConfig
        Sets, bins, resamples.
    bytes_per_token : mapping
        Set of text -> mean bytes of a token, > 0.

    Returns
    -------
    dict
        Run name -> block of the headline file: `rows`, `arm`, `recipe`, `receptive_field`,
        `seeds`, `curves` (set -> `nll_by_position`, `nll_by_length`), and the run's further keys;
        `<recipe>_ideal_all` and `<recipe>_ideal_far` where documents have an ideal learner.

    Raises
    ------
    ValueError
        When a set was not read, or on different documents by seeds or runs that are compared.
    """
    metrics = {
        name: {
            each: run_metrics(run, each, one, bytes_per_token=bytes_per_token.get(each))
            for each, one in config.sets_of(run.corpus).items()
        }
        for name, run in runs.items()
    }
    blocks: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        blocks[name] = run_block(
            _run_rows(name, runs, metrics, config),
            arm=run.arm,
            recipe=run.recipe,
            steps_factor=run.steps_factor,
            receptive_field=run.receptive_field,
            seeds=list(run.seeds),
            curves={each: _curves(m, each, config) for each, m in metrics[name].items()},
            **run.further,
        )
    for run in runs.values():
        if f"{run.recipe}_{IDEALS[0]}" not in blocks:
            blocks |= _ideal_blocks(run, config)
    return blocks


def _run_rows(
    name: str,
    runs: Mapping[str, MeasuredRun],
    metrics: Mapping[str, Mapping[str, Mapping[str, Values]]],
    config: ContextConfig,
) -> list[Row]:
    run = runs[name]
    rows: list[Row] = []
    for each, one in config.sets_of(run.corpus).items():
        rows += _mean_rows(run, each, metrics[name][each], config)
        rows += _share_rows(run, each, one, config)
        rows += _absent_rows(run, each, one, metrics[name][each])
        for other in _against(name, runs):
            _require_same(name, other, runs, each)
            untrained = runs[other].arm == "untrained"
            both = metrics[name], metrics[other]
            rows += _difference_rows(run, each, other, *both, config, untrained=untrained)
    return [*rows, tried_row(run.tried, control_of=run.control_of)]


def _mean_rows(
    run: MeasuredRun, each: str, metrics: Mapping[str, Values], config: ContextConfig
) -> list[Row]:
    return [
        row
        for metric, values in metrics.items()
        for row in _crossed_rows(run, each, metric, values.values_SG, config)
    ]


def _crossed_rows(
    run: MeasuredRun, each: str, metric: str, values_SG: Floats, config: ContextConfig
) -> list[Row]:
    crossed = crossed_mean(values_SG, **config.chance(each))
    unit = "bits" if metric.startswith("bits") else "nats"
    rows = crossed.rows(f"{each}_{metric}", unit=unit, seeds=run.seeds, control_of=run.control_of)
    return rows[:1] if "@" in metric else rows


def _absent_rows(
    run: MeasuredRun, each: str, one: SetConfig, metrics: Mapping[str, Values]
) -> list[Row]:
    """Say why a metric that was asked for is missing: no document is long enough."""
    needed = one.needed(run.receptive_field)
    wanted = {"counted": f"no document has {needed} tokens: adapted, lead-in and counted ones"}
    wanted["nll_beyond"] = f"no document has targets beyond {run.receptive_field + 1} tokens seen"
    for name, _, last in one.bins:
        wanted[f"nll_position@{name}"] = f"no document has {last} targets"
    for length in one.contexts:
        whole = one.contexts[-1] + one.counted_tokens
        if run.arm != "untrained":  # not followed over lengths
            wanted[f"nll_length@{length}"] = f"no document has {whole} tokens"
    return [
        Row(
            metric=f"{each}_{metric}",
            value=None,
            n=0,
            unit="nats",
            control_of=run.control_of,
            reason=reason,
        )
        for metric, reason in wanted.items()
        if metric not in metrics and not (metric == "counted" and run.arm in UNFITTED_ARMS)
    ]


def _against(name: str, runs: Mapping[str, MeasuredRun]) -> list[str]:
    """Return the runs of the same recipe whose arm comes later in `ORDER`."""
    own = runs[name]
    places = [
        (ORDER.index(run.arm), other) for other, run in runs.items() if run.recipe == own.recipe
    ]
    return [other for place, other in sorted(places) if place > ORDER.index(own.arm)]


def _require_same(name: str, other: str, runs: Mapping[str, MeasuredRun], each: str) -> None:
    ours, theirs = (runs[run].of_set(each)[0]["document_N"] for run in (name, other))
    if not np.array_equal(ours, theirs):
        raise ValueError(
            f"runs {name!r} and {other!r} were not read on the same documents of {each!r}: "
            "measure both again"
        )


def _difference_rows(
    run: MeasuredRun,
    each: str,
    other: str,
    ours: Mapping[str, Mapping[str, Values]],
    theirs: Mapping[str, Mapping[str, Values]],
    config: ContextConfig,
    *,
    untrained: bool,
) -> list[Row]:
    """Return run - other for every metric that both have, paired by group."""
    rows, compared = [], _WORTH if untrained else _COMPARED
    for metric, a in ours[each].items():
        b = theirs[each].get("counted" if metric == "counted_none" else metric)
        if b is None or metric.partition("@")[0] not in compared:
            continue
        assert np.array_equal(a.groups_G, b.groups_G), metric
        # Training seeds of two runs have nothing in common to pair: the other is averaged.
        differences_SG = a.values_SG - b.values_SG.mean(axis=0)
        kind, at, setting = metric.partition("@")
        name = f"{kind}_minus_{other}{at}{setting}"
        rows += _crossed_rows(run, each, name, differences_SG, config)
    return rows


def _share_rows(run: MeasuredRun, each: str, one: SetConfig, config: ContextConfig) -> list[Row]:
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


def _ideals(arrays: Arrays) -> dict[str, dict[str, NDArray]]:
    """Return the ideal learners' losses as readings of their own."""
    frame = {key: arrays[key] for key in ("targets_N", "group_N", "document_N")}
    return {k: {**frame, "nll_NT": arrays[f"{k}_NT"]} for k in IDEALS if f"{k}_NT" in arrays}


def _ideal_blocks(run: MeasuredRun, config: ContextConfig) -> dict[str, dict[str, Any]]:
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
            drawn.setdefault(kind, {})[each] = _curves(metrics, each, config)
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


def _curves(metrics: Mapping[str, Values], each: str, config: ContextConfig) -> dict[str, Any]:
    """Return what figures draw: seeds averaged, bands over groups, null where undefined."""
    one = config.sets[each]
    position = [(f"nll_position@{name}", first, last) for name, first, last in one.bins]
    found: dict[str, Any] = {
        "nll_by_position": {
            "first": [first for _, first, _ in position],
            "last": [last for _, _, last in position],
            **_band([metric for metric, _, _ in position], metrics, each, config),
        }
    }
    lengths = [f"nll_length@{length}" for length in one.contexts]
    if any(metric in metrics for metric in lengths):
        ends = _band(lengths, metrics, each, config)
        found["nll_by_length"] = {"length": list(one.contexts), **ends}
    return found


def _band(
    names: Sequence[str], metrics: Mapping[str, Values], each: str, config: ContextConfig
) -> dict[str, list[float | None]]:
    reason = "no document is long enough"
    intervals = [
        crossed_mean(metrics[name].values_SG, **config.chance(each)).interval
        if name in metrics
        else Interval.undefined(reason)
        for name in names
    ]
    return {
        "value": [interval.value for interval in intervals],
        "low": [interval.low for interval in intervals],
        "high": [interval.high for interval in intervals],
    }
