"""Correlation of paired values, and the trend of a metric over dwell lengths.

N texts, D dwell lengths, M = N * D pooled points, R resamples. In a dwell sweep every text is seen
at every dwell, so its points are one cluster: whole texts are resampled, and p flips the sign of
whole texts. A correlation of something constant is undefined and says so.

References
----------
Efron and Tibshirani (1993), An Introduction to the Bootstrap.
Field and Welsh (2007), Bootstrapping clustered data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mneme.stats.clusters import Ways, clustered_interval, clustered_p
from mneme.stats.intervals import (
    LEVEL,
    bootstrap_mean,
    finite,
    percentile_interval,
    resample_counts,
)
from mneme.stats.rows import Interval
from mneme.stats.tests import sign_flip_test

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Association:
    """A correlation or slope with its interval and two-sided p."""

    interval: Interval
    """Estimate and interval."""
    p: float | None
    """Two-sided p of no association; None when the estimate is undefined."""


@dataclass(frozen=True)
class DwellTrend:
    """How a metric moves with dwell."""

    pearson: Association
    """Pooled correlation with dwell in tokens."""
    spearman: Association
    """Pooled rank correlation with dwell."""
    per_doubling: Association
    """Slope per doubling of dwell (per log2 tokens), in the metric's unit."""
    per_token: Association
    """Slope per token of dwell, in the metric's unit."""


def pearson(
    x_N: ArrayLike, y_N: ArrayLike, *, resamples: int, generator: np.random.Generator
) -> Association:
    """Pearson's r of independent pairs, p of the t test, bootstrap interval over pairs.

    Parameters
    ----------
    x_N, y_N : array (N,)
        Paired finite numbers.
    resamples : int
        Bootstrap resamples.
    generator : numpy.random.Generator
        Source of the resamples.

    Returns
    -------
    Association
        Undefined with a reason below three pairs or when x or y is constant; without ends when
        some resamples are constant, which happens with very few pairs.

    Raises
    ------
    ValueError
        When the shapes differ or a number is not finite.
    """
    return _pairs(x_N, y_N, ranked=False, resamples=resamples, generator=generator)


def spearman(
    x_N: ArrayLike, y_N: ArrayLike, *, resamples: int, generator: np.random.Generator
) -> Association:
    """Spearman's rank correlation of independent pairs; everything else as in `pearson`."""
    return _pairs(x_N, y_N, ranked=True, resamples=resamples, generator=generator)


def _pairs(
    x_N: ArrayLike,
    y_N: ArrayLike,
    *,
    ranked: bool,
    resamples: int,
    generator: np.random.Generator,
) -> Association:
    x_N, y_N = finite("x", x_N, ndim=1), finite("y", y_N, ndim=1)
    if x_N.shape != y_N.shape:
        raise ValueError(f"x and y must be paired, got {len(x_N)} and {len(y_N)} values")
    if len(x_N) < 3:
        return Association(Interval.undefined("a correlation needs at least three pairs"), None)
    interval = _pooled(
        x_N[:, None], y_N[:, None], ranked=ranked, resamples=resamples, generator=generator
    )
    if interval.value is None:
        return Association(interval, None)
    from scipy.stats import beta

    half = len(x_N) / 2 - 1  # r of unrelated normal pairs is Beta on -1..1 (Student's t of r)
    tail = float(beta.sf(abs(interval.value), half, half, loc=-1, scale=2))
    return Association(interval, min(1.0, 2 * tail))


def dwell_trend(
    values_ND: ArrayLike,
    dwell_D: ArrayLike,
    *,
    resamples: int,
    generator: np.random.Generator,
    ways: Ways | None = None,
) -> DwellTrend:
    """Correlations and slopes of a metric over dwell, texts as clusters.

    Parameters
    ----------
    values_ND : array (N, D)
        Metric of text n at dwell d (under several seeds: first averaged over them).
    dwell_D : array (D,)
        Dwell lengths, tokens, all different, at least two.
    resamples : int
        Bootstrap and sign-flip resamples.
    generator : numpy.random.Generator
        Source of the resamples.
    ways : Ways, optional
        How texts share works; left out, they share none.

    Returns
    -------
    DwellTrend
        Slopes are least squares, the mean of the texts' own slopes. A correlation of a constant
        metric is undefined with a reason; its slope is 0. p flips the signs of the texts' slopes
        (of their jackknife shares for Spearman), however a text's points depend on each other.
        Given `ways`, intervals are stretched and p is Student's of the same slopes and shares
        (`mneme.stats.clusters`).

    Raises
    ------
    ValueError
        When shapes disagree, dwells repeat, or a number is not finite.
    """
    values_ND, dwell_D = finite("values", values_ND, ndim=2), finite("dwell", dwell_D, ndim=1)
    texts, lengths = values_ND.shape
    if len(dwell_D) != lengths or lengths < 2 or len(set(dwell_D)) < lengths or dwell_D.min() <= 0:
        raise ValueError(f"dwell must be {lengths} >= 2 distinct positive lengths, got {dwell_D}")
    chance = {"resamples": resamples, "generator": generator}
    points = np.tile(dwell_D, (texts, 1)), values_ND
    slopes_N = _slopes(values_ND, dwell_D)
    return DwellTrend(
        pearson=_correlation(*points, slopes_N, ranked=False, ways=ways, **chance),
        spearman=_correlation(*points, slopes_N, ranked=True, ways=ways, **chance),
        per_doubling=_slope(_slopes(values_ND, np.log2(dwell_D)), ways=ways, **chance),
        per_token=_slope(slopes_N, ways=ways, **chance),
    )


def _slopes(values_ND: Floats, x_D: Floats) -> Floats:
    """Least-squares slope of each text; their mean is the pooled slope, all texts sharing x."""
    centred_D = x_D - x_D.mean()
    # Taking off the text's mean changes nothing but rounding: equal values give exactly 0.
    return (values_ND - values_ND[:, :1]) @ centred_D / np.square(centred_D).sum()


def _slope(
    slopes_N: Floats, *, ways: Ways | None, resamples: int, generator: np.random.Generator
) -> Association:
    interval = bootstrap_mean(slopes_N, resamples=resamples, generator=generator)
    if ways is not None:
        interval = clustered_interval(interval, slopes_N, ways)
    return _with_p(interval, slopes_N, ways=ways, resamples=resamples, generator=generator)


def _correlation(
    x_ND: Floats,
    y_ND: Floats,
    slopes_N: Floats,
    *,
    ranked: bool,
    ways: Ways | None,
    resamples: int,
    generator: np.random.Generator,
) -> Association:
    """Correlate all points; p is that of the texts' slopes, of their shares where ranked."""
    interval = _pooled(x_ND, y_ND, ranked=ranked, resamples=resamples, generator=generator)
    shares_N = _pseudo_values(x_ND, y_ND, ranked=ranked)
    if ways is not None:
        spread_N = slopes_N if shares_N is None else shares_N
        interval = clustered_interval(interval, spread_N, ways, correlation=True)
    parts_N = shares_N if ranked else slopes_N
    return _with_p(interval, parts_N, ways=ways, resamples=resamples, generator=generator)


def _with_p(
    interval: Interval,
    parts_N: Floats | None,
    *,
    ways: Ways | None,
    resamples: int,
    generator: np.random.Generator,
) -> Association:
    """Add p of the texts' parts in the estimate: by their works, else by flips of their signs."""
    if interval.value is None or parts_N is None:
        return Association(interval, None)
    if ways is not None:
        return Association(interval, clustered_p(parts_N, ways))
    p = sign_flip_test(parts_N, resamples=resamples, generator=generator, alternative="two-sided")
    return Association(interval, p)


def _pseudo_values(x_ND: Floats, y_ND: Floats, *, ranked: bool) -> Floats | None:
    """Jackknife shares of the texts in a pooled correlation; None where one holds all of it.

    A text's own rank covariance will not do: it also moves the ranks of all other texts, and flips
    that leave this out reject a true null in 14 % of cases when scatter grows with dwell.
    """
    texts = len(x_ND)
    counts_RN = np.concatenate([np.ones((1, texts)), 1 - np.eye(texts)])
    share = _least_spread(ranked=ranked)
    if texts < 2 or (_still(counts_RN, x_ND, share) | _still(counts_RN, y_ND, share)).any():
        return None
    r_R = (_rank_correlations if ranked else _correlations)(counts_RN, x_ND, y_ND)
    return texts * r_R[0] - (texts - 1) * r_R[1:]


def _least_spread(*, ranked: bool) -> float:
    """Moments lose their digits long before ranks do, when one text lies far from all others."""
    return 0.0 if ranked else 1e-5


def _pooled(
    x_ND: Floats,
    y_ND: Floats,
    *,
    ranked: bool,
    resamples: int,
    generator: np.random.Generator,
) -> Interval:
    """Correlation of all points; the interval resamples texts (rows)."""
    for values, name in ((x_ND, "x"), (y_ND, "y")):
        if np.ptp(values) <= _hair(values):
            return Interval.undefined(f"{name} is the same everywhere: no correlation is defined")
    texts = len(x_ND)
    counts_RN = resample_counts(texts, resamples=resamples, generator=generator)
    counts_RN = np.concatenate([np.ones((1, texts)), counts_RN])  # row 0: as observed
    share = _least_spread(ranked=ranked)
    still_R = _still(counts_RN, x_ND, share) | _still(counts_RN, y_ND, share)
    correlate = _rank_correlations if ranked else _correlations
    r_R = correlate(counts_RN[~still_R], x_ND, y_ND)
    value = float(r_R[0])
    if texts < 2:
        return Interval(value, None, None, "an interval needs at least two texts")
    if still_R.any():
        reason = f"{still_R.sum()} of {resamples} resamples are constant: too few data for an end"
        return Interval(value, None, None, reason)
    return percentile_interval(value, r_R[1:], n=texts, level=LEVEL)


def _hair(values: Floats) -> float:
    """Spread that is rounding only: values this close count as equal."""
    return 1e-12 * float(np.abs(values).max())


def _still(counts_RN: Floats, values_ND: Floats, share: float) -> NDArray[np.bool_]:
    """Which resamples hold one value only, or spread over less than `share` of the whole."""
    drawn_RN = counts_RN > 0
    low_R = np.where(drawn_RN, values_ND.min(axis=1), np.inf).min(axis=1)
    high_R = np.where(drawn_RN, values_ND.max(axis=1), -np.inf).max(axis=1)
    return high_R - low_R <= max(_hair(values_ND), share * float(np.ptp(values_ND)))


def _correlations(counts_RN: Floats, x_ND: Floats, y_ND: Floats) -> Floats:
    """Pearson's r when text n is drawn `counts` times, by weighted moments."""
    x, y = (x_ND - x_ND.mean()) / x_ND.std(), (y_ND - y_ND.mean()) / y_ND.std()
    moments_N5 = np.stack([x, y, x * x, y * y, x * y], axis=-1).mean(axis=1)
    moments_R5 = counts_RN @ moments_N5 / counts_RN.sum(axis=1, keepdims=True)
    x, y, xx, yy, xy = moments_R5.T
    return np.clip((xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y)), -1.0, 1.0)


def _rank_correlations(counts_RN: Floats, x_ND: Floats, y_ND: Floats) -> Floats:
    """Spearman's r when text n is drawn `counts` times; ranks are those within the resample."""
    counts_RM = np.repeat(counts_RN, x_ND.shape[1], axis=1)
    middle_R1 = (counts_RM.sum(axis=1, keepdims=True) + 1) / 2
    a_RM = _counted_ranks(counts_RM, x_ND.ravel()) - middle_R1
    b_RM = _counted_ranks(counts_RM, y_ND.ravel()) - middle_R1
    ab_R, aa_R, bb_R = (
        np.einsum("rm,rm,rm->r", counts_RM, u, v)
        for u, v in ((a_RM, b_RM), (a_RM, a_RM), (b_RM, b_RM))
    )
    return np.clip(ab_R / np.sqrt(aa_R * bb_R), -1.0, 1.0)


def _counted_ranks(counts_RM: Floats, values_M: Floats) -> Floats:
    """Mid-ranks when point m occurs `counts` times: one sort serves every resample."""
    _, group_M, sizes = np.unique(values_M, return_inverse=True, return_counts=True)
    order = np.argsort(group_M, kind="stable")
    starts = np.cumsum(sizes) - sizes
    tied_RG = np.add.reduceat(np.take(counts_RM, order, axis=1), starts, axis=1)
    middle_RG = np.cumsum(tied_RG, axis=1) - (tied_RG - 1) / 2
    return np.take(middle_RG, group_M, axis=1)
