"""Fatigue: A -> B(n) -> A over dwell lengths n, against controls, from traces of mixing weights.

The whole-segment share of deep tokens rises with n by itself (1 - lag / n under a gate of constant
lag), so the headline shares are those of tokens at least 32 after the boundary and of the last 16
tokens, and `deep_crystallization_ratio_excess` reads each text from its own entry on
(`mneme.routing.settled`). B(n) is the first n tokens of the longest B: a share at n is a mean over
a prefix of one trajectory, and the points of a curve over dwell are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mneme.core.headline import run_block
from mneme.core.seeds import numpy_generator
from mneme.routing.config import ProtocolConfig, RunConfig
from mneme.routing.measure import (
    avg_weight,
    deep_crystallization_ratio,
    deep_crystallization_ratio_after,
    deep_crystallization_ratio_last,
    tail_area,
)
from mneme.routing.readings import (
    Measured,
    Trace,
    Values,
    censored_shares,
    contrast,
    gaps,
    lag,
    median_rows,
    p_values,
    rows_of,
    segments,
)
from mneme.routing.settled import LEAST_TOKENS, SETTLE_TOKENS, settled_excess, shortest_dwell
from mneme.routing.sharing import Works, works_of
from mneme.stats.correlation import Association, dwell_trend
from mneme.stats.rows import Row, row_of

AFTER_TOKENS = 32
LAST_TOKENS = 16
AREA_TOKENS = 32

TREND_METRICS = (
    "deep_crystallization_ratio",
    "deep_crystallization_ratio_after_32",
    "deep_crystallization_ratio_last_16",
    "deep_crystallization_ratio_excess",
    "avg_weight",
    "switch_lag",
    "relax_time_0.99",
    "tail_area_32",
    "return_gap_cosine",
)

TREND_PARTS = ("pearson", "spearman", "per_doubling", "per_token")


def fatigue(
    trace: Trace,
    runs: Mapping[str, RunConfig],
    protocol: ProtocolConfig,
    *,
    pair: tuple[int, int],
    seeds: tuple[int, ...],
) -> dict[str, dict[str, Any]]:
    """Measure every run at every dwell length and the trends over dwell.

    Parameters
    ----------
    trace : mapping of str to ndarray, (S, N, T, K) float32
        `mneme.routing.trace.trace` on `fatigue_families`.
    runs, protocol, pair, seeds
        As in `mneme.routing.hysteresis.hysteresis`.

    Returns
    -------
    dict
        Run name -> block: rows `metric@n` and `metric.trend` (Pearson, Spearman, slope a doubling
        of dwell, slope a token), contrasts `_minus_<control>` of both, and `p_values` of every
        contrast, at each dwell and over them.
    """
    lengths, works = protocol.dwell_tokens, works_of(trace)
    values = {name: run_values(trace, run, protocol, pair=pair) for name, run in runs.items()}
    blocks = {}
    for name, run in runs.items():
        own = values[name]
        if run.context == "real":
            null = RunConfig(mixer=run.mixer, context="same_domain", control_of=None)
            controls = {"aa": run_values(trace, null, protocol, pair=pair)}
            controls |= {
                other: values[other]
                for other, control in runs.items()
                if control.control_of == name and control.context != "same_domain"
            }
            own = [_with_contrasts(at, i, controls) for i, at in enumerate(own)]
        rows, p, censored = [], {}, {}
        for n, at in zip(lengths, own, strict=True):
            named = {f"{metric}@{n}": measured for metric, measured in at.items()}
            rows += [
                row
                for row in rows_of(named, protocol, works, seeds=seeds, control_of=run.control_of)
                if row.seed is None or row.metric.split("@")[0] in TREND_METRICS
            ]
            rows += median_rows(named, run.control_of)
            p |= p_values(named, works)
            censored |= censored_shares(named)
        for metric in _trended(own):
            trend_rows, trend_p = trend(
                own, metric, protocol, works, seeds=seeds, control=run.control_of
            )
            rows += trend_rows
            p |= trend_p
        rows += undefined_rows(own, run, protocol)
        blocks[name] = run_block(
            rows, p_values=p, censored=censored, context=run.context, mixer=run.mixer
        )
    return blocks


def run_values(
    trace: Trace, run: RunConfig, protocol: ProtocolConfig, *, pair: tuple[int, int]
) -> list[Values]:
    """Measure one run at every dwell length, in their order.

    `deep_crystallization_ratio_excess` is the share of deep tokens since the text's own entry minus
    the same at the longest dwell (`mneme.routing.settled`): 0 on average for a gate that flickers
    with one probability after it has entered, whatever its lag, and below 0 at short dwells for one
    that becomes deeper. `settled_share` is the share of texts that have tokens enough for it.
    """
    values = [_at(trace, run, protocol, n, pair=pair) for n in protocol.dwell_tokens]
    longest, size = protocol.dwell_tokens[-1], protocol.segment_tokens
    own = segments(trace, run.mixer, run.context, longest, size=size, pair=pair)
    if own.middle_SNTK is None:
        return values
    excess_SND, settled_SND = settled_excess(
        own.middle_SNTK[..., own.domains[1]],
        protocol.dwell_tokens,
        deep_weight=protocol.deep_weight,
        run_tokens=protocol.run_tokens,
    )
    for i, (n, at) in enumerate(zip(protocol.dwell_tokens, values, strict=True)):
        found = {"settled_share": settled_SND[..., i].astype(float)}
        if n >= shortest_dwell(protocol.run_tokens):
            found["deep_crystallization_ratio_excess"] = excess_SND[..., i]
        for metric, values_SN in found.items():
            at[metric] = Measured(values_SN=values_SN, unit="fraction", pieces=own.middle_pieces)
    return values


def _at(
    trace: Trace, run: RunConfig, protocol: ProtocolConfig, n: int, *, pair: tuple[int, int]
) -> Values:
    size = protocol.segment_tokens
    own = segments(trace, run.mixer, run.context, n, size=size, pair=pair)
    last_SNT = own.last_SNTK[..., own.domains[2]]
    values: Values = {
        "switch_lag": lag(last_SNT, protocol.threshold, protocol.run_tokens, pieces=own.pieces),
        "relax_time_0.99": lag(last_SNT, 0.99, protocol.run_tokens, pieces=own.pieces),
        "tail_area_32": Measured(
            values_SN=tail_area(last_SNT, AREA_TOKENS), unit="tokens", pieces=own.pieces
        ),
    }
    if run.context != "swapped":
        reference = segments(trace, run.mixer, "same_domain", n, size=size, pair=pair)
        second = own
        if run.context == "same_domain":
            second = segments(trace, run.mixer, "other", n, size=size, pair=pair)
        values |= gaps(reference, second, tokens=protocol.gap_tokens, domain=pair[0])
    if own.middle_SNTK is not None:
        middle_SNT = own.middle_SNTK[..., own.domains[1]]
        values |= _dwell_values(middle_SNT, protocol, pieces=own.middle_pieces)
    return values


def _dwell_values(
    middle_SNT: np.ndarray, protocol: ProtocolConfig, *, pieces: frozenset[str]
) -> Values:
    """Measure the middle segment: shares of deep tokens, mean weight, lag of entry."""
    deep = protocol.deep_weight
    entry_SN = lag(middle_SNT, deep, protocol.run_tokens, pieces=pieces).values_SN
    found = {
        "deep_crystallization_ratio": (deep_crystallization_ratio(middle_SNT, deep), "fraction"),
        "avg_weight": (avg_weight(middle_SNT), "weight"),
        "entry_lag": (entry_SN, "tokens"),
    }
    after, valid = deep_crystallization_ratio_after(middle_SNT, deep, AFTER_TOKENS)
    if valid.all():
        found["deep_crystallization_ratio_after_32"] = (after, "fraction")
    last, valid = deep_crystallization_ratio_last(middle_SNT, deep, LAST_TOKENS)
    if valid.all():
        found["deep_crystallization_ratio_last_16"] = (last, "fraction")
    return {
        name: Measured(values_SN=values_SN, unit=unit, pieces=pieces)
        for name, (values_SN, unit) in found.items()
    }


def _with_contrasts(at: Values, index: int, controls: Mapping[str, list[Values]]) -> Values:
    out = dict(at)
    for name, control in controls.items():
        out |= contrast(at, control[index], name)
    return out


def _trended(own: list[Values]) -> list[str]:
    """Metrics with a trend: `TREND_METRICS` and their contrasts, at three dwells or more."""
    names = [m for at in own for m in at if m.split("_minus_")[0] in TREND_METRICS]
    return [m for m in dict.fromkeys(names) if sum(m in at for at in own) >= 3]


def trend(
    own: list[Values],
    metric: str,
    protocol: ProtocolConfig,
    works: Works,
    *,
    seeds: tuple[int, ...],
    control: str | None,
) -> tuple[list[Row], dict[str, float]]:
    """Correlate one metric with dwell: correlations and slopes, clustered by text and work."""
    lengths = [n for n, at in zip(protocol.dwell_tokens, own, strict=True) if metric in at]
    values_SND = np.stack([at[metric].values_SN for at in own if metric in at], axis=-1)
    first = next(at[metric] for at in own if metric in at)
    unit = first.unit
    found = dwell_trend(
        values_SND.mean(axis=0),
        np.asarray(lengths, dtype=float),
        resamples=protocol.resamples,
        generator=numpy_generator(0, "trend", metric),
        ways=works.ways(first.pieces),
    )
    parts: dict[str, tuple[Association, str]] = {
        "pearson": (found.pearson, ""),
        "spearman": (found.spearman, ""),
        "per_doubling": (found.per_doubling, f"{unit}/doubling"),
        "per_token": (found.per_token, f"{unit}/token"),
    }
    rows, p = [], {}
    for part, (association, part_unit) in parts.items():
        name = f"{metric}.{part}"
        count = values_SND.shape[1]
        rows.append(row_of(name, association.interval, n=count, unit=part_unit, control_of=control))
        if association.p is not None:
            p[name] = association.p
    slopes = [dwell_slope(values_SND[i], np.log2(lengths)) for i in range(len(seeds))]
    rows += [
        Row(
            metric=f"{metric}.per_doubling",
            value=slope,
            n=values_SND.shape[1],
            unit=f"{unit}/doubling",
            seed=seed,
            control_of=control,
        )
        for seed, slope in zip(seeds, slopes, strict=True)
    ]
    return rows, p


def undefined_rows(own: list[Values], run: RunConfig, protocol: ProtocolConfig) -> list[Row]:
    """Say which metrics are not defined, at which dwell, and why."""
    rows = []
    for metric in TREND_METRICS:
        missing = [n for n, at in zip(protocol.dwell_tokens, own, strict=True) if metric not in at]
        why = {f"{metric}@{n}": _why(metric, run, n) for n in missing}
        if len(own) - len(missing) < 3:
            reason = "the metric is defined at fewer than three dwell lengths"
            why |= {f"{metric}.{part}": reason for part in TREND_PARTS}
        rows += [
            Row(metric=name, value=None, control_of=run.control_of, reason=reason)
            for name, reason in why.items()
        ]
    return rows


def _why(metric: str, run: RunConfig, n: int) -> str:
    if metric == "return_gap_cosine":
        return "no B -> B' -> B sequence is read, so the return to B has no reference"
    if run.context == "reset":
        return "the second A is read alone: there is no middle segment"
    if metric == "deep_crystallization_ratio_last_16":
        return f"a stay of {n} tokens is shorter than {LAST_TOKENS}"
    if metric == "deep_crystallization_ratio_excess":
        return f"fewer than {LEAST_TOKENS} tokens of a stay of {n} are {SETTLE_TOKENS} after entry"
    return f"no token of a stay of {n} is {AFTER_TOKENS} or more after entry"


def dwell_slope(values_ND: np.ndarray, x_D: np.ndarray) -> float:
    """Least-squares slope of the mean over texts."""
    centred = np.asarray(x_D) - np.mean(x_D)
    means_D = values_ND.mean(axis=0)
    # Taking off the first changes nothing but rounding: equal means give exactly 0.
    return float((means_D - means_D[0]) @ centred / np.square(centred).sum())
