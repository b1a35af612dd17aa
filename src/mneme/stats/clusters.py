"""Means over texts that share works: how much wider an interval has to be.

A text is put together of pieces (a first passage of A, one of B, ...). Other texts hold passages of
the same works (plays, folders of source files), by each kind of piece in another grouping: the ways
of sharing are crossed, not nested. With r_n a text's distance from the mean of all N, the squared
error of that mean is taken as

    V = max(V_0, V_0 + sum_w (V_w - V_0)),       V_0 = sum_n r_n^2 / (N (N - 1)),
    V_w = sum_g (mean without the texts of work g - mean)^2,

that of single texts, and what each way w adds to it (multiway clustering; V_w by the jackknife, as
works are few). It is never below V_0. Its degrees of freedom are Satterthwaite's,

    V^2 / (V_0^2 / (N - 1) + sum_w max(0, V_w - V_0)^2 / d_w),    at most N - 1,

d_w being those of V_w when texts are alike in scatter and do not depend on each other. A bootstrap
interval over texts is stretched by sqrt(V / V_0) and by the ratio of Student's quantiles, so that
it keeps its skewness, and stays what it is where no work is shared.

N texts, G works of one way.

References
----------
Cameron, Gelbach and Miller (2011), Robust inference with multiway clustering.
Bell and McCaffrey (2002), Bias reduction in standard errors for linear regression with multi-stage
samples (jackknife and degrees of freedom).
MacKinnon, Nielsen and Webb (2023), Fast and reliable jackknife and bootstrap methods for
cluster-robust inference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mneme.stats.intervals import LEVEL, finite
from mneme.stats.rows import Interval

Floats = NDArray[np.float64]
ONE_WORK = "all texts hold passages of one work: an interval needs at least two works"
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Ways:
    """Ways in which texts share works, ready to be applied to any values of these texts."""

    moves: tuple[Floats, ...]
    """By way, (N, G): values times this are the mean without each work, minus the mean."""
    freedom: tuple[float, ...]
    """By way: degrees of freedom d_w of its jackknife."""
    units: int | None
    """Works of the way that has fewest; None where no work is shared."""
    reason: str | None = None
    """Why there can be no interval."""


@dataclass(frozen=True)
class ClusteredError:
    """Standard error of a mean."""

    error: float
    """sqrt(V), in the values' unit."""
    freedom: float
    """Degrees of freedom, at most N - 1."""
    stretch: float
    """Half-width of a 95 % interval over that of single texts, at least 1."""


def ways_of(labels: Sequence[ArrayLike]) -> Ways:
    """Prepare ways of sharing.

    Parameters
    ----------
    labels : sequence of array (N,)
        By way, the work of each text's piece: anything that can be told apart and sorted.

    Returns
    -------
    Ways
        Without ways in which no two texts share a work, and without repeated ones.

    Raises
    ------
    ValueError
        Ways are of different numbers of texts.
    """
    moves: dict[bytes, tuple[Floats, float]] = {}
    fewest, reason, lengths = None, None, set()
    for way in labels:
        works, index_N = np.unique(np.asarray(way), return_inverse=True)
        lengths.add(len(index_N))
        if len(works) == len(index_N):
            continue
        fewest = len(works) if fewest is None else min(fewest, len(works))
        if len(works) == 1:
            reason = ONE_WORK
            continue
        moves[_partition(index_N)] = _moves(index_N)
    if len(lengths) > 1:
        raise ValueError(f"every way must name a work for every text, got {sorted(lengths)} texts")
    parts = list(moves.values())
    return Ways(tuple(m for m, _ in parts), tuple(d for _, d in parts), fewest, reason)


def _partition(index_N: NDArray[np.int64]) -> bytes:
    """Name a grouping by the first text of each group, whatever its groups are called."""
    _, first, index_N = np.unique(index_N, return_index=True, return_inverse=True)
    return first[index_N].tobytes()


def _moves(index_N: NDArray[np.int64]) -> tuple[Floats, float]:
    """Return what leaving each work out does to the mean, and the degrees of freedom of its sum."""
    texts, inside_NG = len(index_N), np.eye(int(index_N.max()) + 1)[index_N]
    sizes_G = inside_NG.sum(axis=0)
    moves_NG = (sizes_G / texts - inside_NG) / (texts - sizes_G)
    products_GG = moves_NG.T @ moves_NG
    return moves_NG, float(np.trace(products_GG) ** 2 / np.square(products_GG).sum())


def clustered_error(values_N: ArrayLike, ways: Ways) -> ClusteredError:
    """Return the standard error of the mean of texts that share works.

    Parameters
    ----------
    values_N : array (N,)
        One finite number per text, N at least 2.
    ways : Ways
        How these texts share works.

    Returns
    -------
    ClusteredError
        Equal values have no error, and a stretch of 1.

    Raises
    ------
    ValueError
        There are fewer than two values, one is not finite, or there is only one work.
    """
    values_N = finite("values", values_N, ndim=1)
    texts = len(values_N)
    if texts < 2 or ways.reason:
        raise ValueError(ways.reason or "an error needs at least two texts")
    if np.ptp(values_N) <= _ROUNDING * float(np.abs(values_N).max()):
        return ClusteredError(0.0, texts - 1.0, 1.0)
    centred_N = values_N - values_N.mean()
    single = float(np.square(centred_N).sum()) / (texts * (texts - 1))
    added = [float(np.square(centred_N @ moves_NG).sum()) - single for moves_NG in ways.moves]
    square = max(single, single + sum(added))
    scatter = single**2 / (texts - 1)
    scatter += sum(max(0.0, more) ** 2 / d for more, d in zip(added, ways.freedom, strict=True))
    freedom = min(square**2 / scatter, texts - 1.0)
    stretch = math.sqrt(square / single) * _quantile(freedom) / _quantile(texts - 1.0)
    return ClusteredError(math.sqrt(square), freedom, stretch)


def clustered_interval(
    interval: Interval, values_N: ArrayLike, ways: Ways, *, correlation: bool = False
) -> Interval:
    """Widen a 95 % interval over single texts to what the works they share allow.

    Parameters
    ----------
    interval : Interval
        Value and its 95 % interval over texts; undefined ends stay so.
    values_N : array (N,)
        What the value is the mean of: the texts' numbers, or their shares in a correlation.
    ways : Ways
        How the texts share works.
    correlation : bool
        The value is a correlation: its ends are moved on Fisher's scale and stay in -1..1. Those of
        a mean stay between the least and the greatest text.

    Returns
    -------
    Interval
        Without ends, with the reason, when all texts share one work.
    """
    value, low, high = interval.value, interval.low, interval.high
    if value is None or low is None or high is None:
        return interval
    if ways.reason:
        return Interval(value, None, None, ways.reason)
    values_N = finite("values", values_N, ndim=1)
    stretch = clustered_error(values_N, ways).stretch
    if stretch == 1.0 or low == high:
        return interval
    if correlation:
        low, high = (_fisher(value, end, stretch) for end in (low, high))
    else:
        least, greatest = float(values_N.min()), float(values_N.max())
        low = max(value + stretch * (low - value), least)
        high = min(value + stretch * (high - value), greatest)
    return Interval(value, low, high, interval.reason)


def _fisher(value: float, end: float, stretch: float) -> float:
    if abs(value) >= 1 - _ROUNDING or abs(end) >= 1 - _ROUNDING:
        return min(1.0, max(-1.0, value + stretch * (end - value)))
    middle = math.atanh(value)
    return math.tanh(middle + stretch * (math.atanh(end) - middle))


def clustered_p(values_N: ArrayLike, ways: Ways) -> float | None:
    """Two-sided p of a mean of 0, by Student's t with the error and freedom of `clustered_error`.

    Returns
    -------
    float or None
        Where values do not scatter: 1 when they are 0, else that of as many equal signs as there
        are works in the way with fewest (texts, where none is shared). None with a single text, or
        when all texts share one work.

    Raises
    ------
    ValueError
        A value is not finite.
    """
    values_N = finite("values", values_N, ndim=1)
    if len(values_N) < 2 or ways.reason:
        return None
    found, mean = clustered_error(values_N, ways), float(values_N.mean())
    if found.error == 0:
        return 1.0 if mean == 0 else 2.0 ** (1 - (ways.units or len(values_N)))
    from scipy.special import stdtr  # slow to import

    return float(2 * stdtr(found.freedom, -abs(mean) / found.error))


def _quantile(freedom: float) -> float:
    from scipy.special import stdtrit  # slow to import

    return float(stdtrit(freedom, (1 + LEVEL) / 2))
