"""Traces -> named values per seed and text: what both `hysteresis` and `fatigue` read off.

Legend: S training seeds, N texts, T position, K domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.routing.config import ProtocolConfig
from mneme.routing.measure import return_gap, switch_lag
from mneme.routing.sharing import Works, contrast_p, pieces_of, shared_mean
from mneme.stats.censored import kaplan_meier_median
from mneme.stats.rows import Row

Floats = NDArray[np.float64]
Trace = Mapping[str, NDArray[Any]]
"""Weights `mixer/context/n` (S, N, T, K) float32, and the works of the passages (`works.a1`)."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One metric of one run, a number per seed and text."""

    values_SN: Floats
    """Values; a lag never reached is the segment's length (restricted)."""
    unit: str
    """Unit."""
    pieces: frozenset[str]
    """Passages that were read for it: texts that share works in these depend on each other."""
    observed_SN: NDArray[np.bool_] | None = None
    """For lags: False where the threshold was never reached."""


Values = dict[str, Measured]


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Weights of one mixer on one kind of sequence, cut at the known boundaries."""

    middle_SNTK: NDArray[np.float32] | None
    """Middle segment; None for `reset`."""
    last_SNTK: NDArray[np.float32]
    """Last segment."""
    domains: tuple[int, int, int]
    """Domain of each segment."""
    pieces: frozenset[str]
    """Passages read up to the end of the last segment."""
    middle_pieces: frozenset[str]
    """Passages read up to the end of the middle segment."""


def segments(
    trace: Trace, mixer: str, context: str, n: int, *, size: int, pair: tuple[int, int]
) -> Segments:
    """Cut the weights `mixer/context/n` of a trace at their boundaries."""
    weights = trace[f"{mixer}/{context}/{n}"]
    a, b = pair
    domains = {"same_domain": (a, a, a), "other": (a, a, a), "swapped": (b, a, b)}
    middle = None if context == "reset" else weights[:, :, size : size + n]
    return Segments(
        middle_SNTK=middle,
        last_SNTK=weights[:, :, -size:],
        domains=domains.get(context, (a, b, a)),
        pieces=pieces_of(context),
        middle_pieces=pieces_of(context, segments=2),
    )


def lag(
    weights_SNT: NDArray[np.floating], threshold: float, run_tokens: int, *, pieces: frozenset[str]
) -> Measured:
    """Measure switch lags, restricted to the segment's length."""
    lag_SN, observed_SN = switch_lag(weights_SNT, threshold=threshold, run_tokens=run_tokens)
    lag_SN = lag_SN.astype(float)
    return Measured(values_SN=lag_SN, unit="tokens", pieces=pieces, observed_SN=observed_SN)


def gaps(
    reference: Segments, second: Segments, *, tokens: int, domain: int, prefix: str = "return_gap"
) -> Values:
    """Distances of the last segments, over the first `tokens` tokens and over the whole segment."""
    values: Values = {}
    pieces = reference.pieces | second.pieces
    for suffix, stop in (("", tokens), ("@whole", reference.last_SNTK.shape[2])):
        found = return_gap(
            reference.last_SNTK[:, :, :stop], second.last_SNTK[:, :, :stop], domain=domain
        )
        for name, values_SN in found.items():
            unit = "weight" if name in ("euclidean", "mean_difference") else ""
            metric = f"{prefix}_{name}{suffix}"
            values[metric] = Measured(values_SN=values_SN, unit=unit, pieces=pieces)
    return values


def contrast(run: Values, control: Values, name: str) -> Values:
    """Differences run minus control, paired by seed and text, of the metrics both have."""
    return {
        f"{metric}_minus_{name}": Measured(
            values_SN=value.values_SN - control[metric].values_SN,
            unit=value.unit,
            pieces=value.pieces | control[metric].pieces,
        )
        for metric, value in run.items()
        if metric in control
    }


def rows_of(
    values: Values,
    protocol: ProtocolConfig,
    works: Works,
    *,
    seeds: Sequence[int],
    control_of: str | None,
) -> list[Row]:
    """Turn values into rows: mean with its interval over texts and works, then one row a seed."""
    rows: list[Row] = []
    for metric, measured in values.items():
        crossed = shared_mean(
            metric,
            measured.values_SN,
            works.ways(measured.pieces),
            resamples=protocol.resamples,
        )
        rows += crossed.rows(metric, unit=measured.unit, seeds=tuple(seeds), control_of=control_of)
    return rows


def p_values(values: Values, works: Works) -> dict[str, float]:
    """Return two-sided p values of every contrast (`*_minus_*`), of texts that share works."""
    return contrast_p({k: (m.values_SN, works.ways(m.pieces)) for k, m in values.items()})


def median_rows(values: Values, control_of: str | None) -> list[Row]:
    """Kaplan-Meier medians of every lag, over texts and seeds pooled."""
    rows = []
    for name, measured in values.items():
        if measured.observed_SN is None:
            continue
        median, reason = kaplan_meier_median(measured.values_SN, measured.observed_SN)
        count = measured.values_SN.shape[1]
        rows.append(
            Row(
                metric=f"{name}_median",
                value=median,
                n=count,
                unit="tokens",
                control_of=control_of,
                reason=reason,
            )
        )
    return rows


def censored_shares(values: Values) -> dict[str, float]:
    """Share of texts (over seeds) whose lag was never reached, by metric."""
    return {
        name: float(1 - measured.observed_SN.mean())
        for name, measured in values.items()
        if measured.observed_SN is not None
    }
