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
`own_minus_none` (what reading adds). The worth of contexts is compared
with the arms that were not meta-trained (of the one never trained, nothing else is):
`own_minus_other_minus_<run>` below 0 is what meta-training adds to `naive`, any training to
`untrained`. That it is the reading that gains, not the weights, shows in what grows with what was
read: `beyond_minus_inside_minus_<run>`, `nll_length_gain@L`. Full attention is compared only where
as many tokens were seen as in training.

Legend: N documents, T targets, S seeds, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.core.headline import run_block
from mneme.stats.intervals import crossed_mean
from mneme.stats.rows import Row
from mneme.stats.tried import tried_row
from mneme.ttt.config import BASELINES, UNFITTED_ARMS, Arm
from mneme.ttt.context_config import ContextConfig, SetConfig
from mneme.ttt.context_curves import curves_of
from mneme.ttt.context_ideal import ideal_blocks, ideal_rows, share_rows
from mneme.ttt.context_metrics import IDEALS, MeasuredRun, Values, run_metrics

Floats = NDArray[np.float64]
ORDER: tuple[Arm, ...] = (
    *("second", "first", "dynamic", "naive", "two_mlp", "full", "sliding"),
    "untrained",
)
"""Each arm is set against those after it."""
_COMPARED = (
    *("nll", "nll_inside", "nll_beyond", "nll_position", "nll_length", "part_inside"),
    *("part_beyond", "counted", "counted_none", "bits_per_byte", "bits_per_byte_beyond"),
    *("beyond_minus_inside", "nll_length_gain", "nll_trained", "nll_beyond_trained"),
)
"""Metrics that runs are compared by."""
_WORTH = ("own_minus_shuffled", "own_minus_other", "own_minus_none", "harm")
"""Metrics that runs are compared by with arms that were not meta-trained: what a context is worth
to them is a baseline. What the one never trained loses itself is no measure of anything."""


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
        `seeds`, `documents` (set -> windows read; a row's `n` counts plays), `curves` (set ->
        `nll_by_position`, `nll_by_length`), and the run's further keys; `<recipe>_ideal_all` and
        `<recipe>_ideal_far` where documents have an ideal learner.

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
            documents={each: m["nll"].documents for each, m in metrics[name].items()},
            curves={each: curves_of(m, each, config) for each, m in metrics[name].items()},
            **run.further,
        )
    for run in runs.values():
        if f"{run.recipe}_{IDEALS[0]}" not in blocks:
            blocks |= ideal_blocks(run, config)
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
        rows += share_rows(run, each, one, config)
        rows += ideal_rows(run, each, one, config)
        rows += _absent_rows(run, each, one, metrics[name][each])
        for other in _against(name, runs):
            _require_same(name, other, runs, each)
            both = metrics[name], metrics[other]
            chosen = _compared(run, runs[other], one)
            rows += _difference_rows(run, each, other, *both, config, chosen)
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
        if run.arm not in BASELINES:  # not followed over lengths
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


def _compared(run: MeasuredRun, other: MeasuredRun, one: SetConfig) -> Callable[[str], bool]:
    """Return whether two runs are compared by a metric."""
    names = {"untrained": _WORTH, "naive": (*_COMPARED, *_WORTH)}.get(other.arm, _COMPARED)
    most = run.trained_tokens if "full" in (run.arm, other.arm) else None
    last = {name: end for name, _, end in one.bins}

    def trained(name: str, at: str) -> bool:
        """Tell whether no counted target has more tokens before it than training had."""
        if most is None or name in ("nll_trained", "nll_beyond_trained"):
            return True
        if name == "nll_inside":
            return run.receptive_field + 1 <= most
        if name.startswith("nll_length"):
            return int(at) + one.counted_tokens - 1 <= most
        if name.startswith("counted"):
            return one.needed(run.receptive_field) - 1 <= most
        return (last[at] if at else one.tokens) <= most

    def chosen(metric: str) -> bool:
        name, _, at = metric.partition("@")
        return name in names and trained(name, at)

    return chosen


def _difference_rows(
    run: MeasuredRun,
    each: str,
    other: str,
    ours: Mapping[str, Mapping[str, Values]],
    theirs: Mapping[str, Mapping[str, Values]],
    config: ContextConfig,
    compared: Callable[[str], bool],
) -> list[Row]:
    """Return run - other for every metric that both have, paired by group."""
    rows: list[Row] = []
    for metric, a in ours[each].items():
        b = theirs[each].get("counted" if metric == "counted_none" else metric)
        if b is None or not compared(metric):
            continue
        assert np.array_equal(a.groups_G, b.groups_G), metric
        # Training seeds of two runs have nothing in common to pair: the other is averaged.
        differences_SG = a.values_SG - b.values_SG.mean(axis=0)
        kind, at, setting = metric.partition("@")
        name = f"{kind}_minus_{other}{at}{setting}"
        rows += _crossed_rows(run, each, name, differences_SG, config)
    return rows
