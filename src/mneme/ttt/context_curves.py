"""What figures of the long-context experiment draw: seeds averaged, bands over groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mneme.stats.intervals import crossed_mean
from mneme.stats.rows import Interval
from mneme.ttt.context_config import ContextConfig
from mneme.ttt.context_metrics import Values


def curves_of(metrics: Mapping[str, Values], each: str, config: ContextConfig) -> dict[str, Any]:
    """Return the curves of one run on one set.

    Parameters
    ----------
    metrics : mapping
        Metric -> a number a seed and group.
    each : str
        Name of the set.
    config : ContextConfig
        Bins, lengths, resamples.

    Returns
    -------
    dict
        `nll_by_position` (`first`, `last`), `nll_by_length` (`length`) where lengths were read;
        each with `value`, `low`, `high` in nats, null where undefined.
    """
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
