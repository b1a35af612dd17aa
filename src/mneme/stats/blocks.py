"""Intervals over ordered windows that depend on their neighbours: the tapered block bootstrap.

W windows in order, S seeds, R resamples, B blocks of a resample. Everything is as in `intervals`
(percentiles with a widened tail, seeds averaged per window first, their spread apart) except that
whole runs of neighbouring windows are drawn, so that their dependence is in the interval. The tail
is widened for the number of blocks: they, not the windows, are the independent units.

Deviations from the mean are tapered towards the ends of a block, where neighbours are torn apart.
Plain blocks leave out some of the dependence there: at correlation .5 to the next window and 39
blocks of 20 they claim 6.2 % of nulls, tapered ones 5.5 %.

References
----------
Kunsch (1989), The jackknife and the bootstrap for general stationary observations.
Politis and Romano (1992), A circular block-resampling procedure for stationary data.
Paparoditis and Politis (2001), Tapered block bootstrap.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mneme.stats.intervals import LEVEL, Crossed, finite, percentile_interval
from mneme.stats.rows import Interval

Floats = NDArray[np.float64]


def block_mean(
    values_W: ArrayLike,
    *,
    block: int,
    resamples: int,
    generator: np.random.Generator,
    level: float = LEVEL,
) -> Interval:
    """Mean over ordered windows with its block-bootstrap interval.

    Parameters
    ----------
    values_W : array (W,)
        One finite number per window, in order.
    block : int
        Windows drawn together, at least 1 (then it is the ordinary bootstrap).
    resamples : int
        Bootstrap resamples R.
    generator : numpy.random.Generator
        Source of the resamples.
    level : float
        Coverage of the interval, 0..1.

    Returns
    -------
    Interval
        Equal values give an interval of zero width; fewer than two blocks give none, with the
        reason.

    Raises
    ------
    ValueError
        When there is no value, one is not finite, or the block is below 1.
    """
    values_W = finite("values", values_W, ndim=1)
    value, windows = float(values_W.mean()), len(values_W)
    reason = too_few_blocks(windows, block=block)
    if reason:
        return Interval(value, None, None, reason)
    low, high = float(values_W.min()), float(values_W.max())
    if low == high:
        return Interval(low, low, low)
    starts_RB = block_starts(windows, block=block, resamples=resamples, generator=generator)
    means_R = np.clip(value + _deviations(values_W - value, starts_RB, block), low, high)
    return percentile_interval(value, means_R, n=windows // block, level=level)


def paired_block_difference(
    a_W: ArrayLike,
    b_W: ArrayLike,
    *,
    block: int,
    resamples: int,
    generator: np.random.Generator,
    level: float = LEVEL,
) -> Interval:
    """Mean of a - b with its interval; entry w of both is the same window.

    Raises
    ------
    ValueError
        When the shapes differ, there is no window, a value is not finite, or the block below 1.
    """
    a_W, b_W = finite("a", a_W, ndim=1), finite("b", b_W, ndim=1)
    if a_W.shape != b_W.shape:
        raise ValueError(f"a and b must be paired by window, got {len(a_W)} and {len(b_W)} windows")
    return block_mean(a_W - b_W, block=block, resamples=resamples, generator=generator, level=level)


def crossed_block_mean(
    values_SW: ArrayLike,
    *,
    block: int,
    resamples: int,
    generator: np.random.Generator,
    level: float = LEVEL,
) -> Crossed:
    """Mean where every seed saw the same windows (for a paired difference pass a_SW - b_SW).

    Each window is first averaged over seeds, then blocks of windows are resampled; the spread over
    seeds is told apart, as in `intervals.crossed_mean`.
    """
    values_SW = finite("values", values_SW, ndim=2)
    interval = block_mean(
        values_SW.mean(axis=0), block=block, resamples=resamples, generator=generator, level=level
    )
    return Crossed(interval, tuple(map(float, values_SW.mean(axis=1))), values_SW.shape[1])


def block_bands(
    values_WM: ArrayLike,
    *,
    block: int,
    resamples: int,
    generator: np.random.Generator,
    level: float = LEVEL,
) -> list[Interval]:
    """Interval of each of M means over the same windows: the band around a curve.

    Parameters
    ----------
    values_WM : array (W, M)
        Finite numbers, windows in order.
    block, resamples, generator, level
        As in `block_mean`.

    Returns
    -------
    list of Interval
        One a column, each for its own mean (no simultaneous band).
    """
    values_WM = finite("values", values_WM, ndim=2)
    windows, mean_M = len(values_WM), values_WM.mean(axis=0)
    reason = too_few_blocks(windows, block=block)
    if reason:
        return [Interval(float(mean), None, None, reason) for mean in mean_M]
    starts_RB = block_starts(windows, block=block, resamples=resamples, generator=generator)
    weights_RW = block_weights(starts_RB, windows=windows, block=block)
    away_RM = weights_RW @ (values_WM - mean_M) / windows
    return [
        percentile_interval(float(mean), mean + away_R, n=windows // block, level=level)
        for mean, away_R in zip(mean_M, away_RM.T, strict=True)
    ]


def too_few_blocks(windows: int, *, block: int) -> str | None:
    """Say why `windows` windows give no interval at this block length; None when they do.

    Raises
    ------
    ValueError
        When the block is below 1.
    """
    if block < 1:
        raise ValueError(f"block must be at least 1 window, got {block}")
    if windows < 2 * block:
        return f"an interval needs at least two blocks of {block} windows, there are {windows}"
    return None


def block_starts(
    windows: int, *, block: int, resamples: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """First windows of the blocks drawn, shape (R, ceil(W / block)), 0..W-1.

    Blocks run on from the last window to the first, so every window is drawn equally often.
    """
    return generator.integers(windows, size=(resamples, math.ceil(windows / block)))


def block_weights(starts_RB: NDArray[np.int64], *, windows: int, block: int) -> Floats:
    """Weight of each window in each resample, shape (R, W), for statistics that are no plain mean.

    Weights times deviations from the mean, divided by W, are a resampled mean's deviation.

    Parameters
    ----------
    starts_RB : int array (R, B)
        As `block_starts` gives them for the same `windows` and `block`.
    """
    resamples = len(starts_RB)
    drawn_RBK = (starts_RB[:, :, None] + np.arange(block)) % windows
    flat = drawn_RBK.reshape(resamples, -1) + windows * np.arange(resamples)[:, None]
    weight = np.tile(_taper(block), starts_RB.size)
    weights = np.bincount(flat.ravel(), weight, minlength=resamples * windows).astype(np.float64)
    return weights.reshape(resamples, windows) * _scale(starts_RB, windows, block)


def _deviations(centred_W: Floats, starts_RB: NDArray[np.int64], block: int) -> Floats:
    """Resampled means of centred values by the sums of all W blocks: cheaper than by weights."""
    windows = len(centred_W)
    around = np.concatenate([centred_W, centred_W[: block - 1]])
    sums_W = np.convolve(around, _taper(block), mode="valid")  # the taper is symmetric
    return sums_W[starts_RB].sum(axis=1) * _scale(starts_RB, windows, block) / windows


def _taper(block: int) -> Floats:
    """Trapezium that rises over .43 of the block at either end; its mean square is 1."""
    place = (np.arange(block) + 0.5) / block
    rise = np.minimum(1.0, np.minimum(place, 1 - place) / 0.43)
    return rise / math.sqrt(np.square(rise).mean())


def _scale(starts_RB: NDArray[np.int64], windows: int, block: int) -> float:
    """Whole blocks hold a few windows more than W: scale their variance back."""
    return math.sqrt(windows / (block * starts_RB.shape[1]))


def suggested_block(values_W: ArrayLike) -> int:
    """Suggest a block length from the data's own correlation, windows (config holds the choice).

    The automatic rule of Politis and White for the circular bootstrap: the lag m after which
    correlations are negligible, then (2 G^2 / D)^(1/3) W^(1/3) with G and D from the flat-top
    weighted autocovariances up to 2 m.

    Parameters
    ----------
    values_W : array (W,)
        One finite number per window, in order; at least 16.

    Returns
    -------
    int
        1..W // 2; 1 when the values are equal.

    Raises
    ------
    ValueError
        When there are fewer than 16 values or one is not finite.

    References
    ----------
    Politis and White (2004), Automatic block-length selection for the dependent bootstrap, with
    the correction of Patton, Politis and White (2009).
    """
    values_W = finite("values", values_W, ndim=1)
    windows = len(values_W)
    if windows < 16:
        raise ValueError(f"a block length needs at least 16 windows, got {windows}")
    if np.ptp(values_W) == 0:
        return 1
    quiet = max(5, math.ceil(math.sqrt(math.log10(windows))))
    most = min(math.ceil(math.sqrt(windows)) + quiet, windows // 2)
    centred = values_W - values_W.mean()
    covariance = np.array(
        [centred[lag:] @ centred[: windows - lag] / windows for lag in range(most + 1)]
    )
    loud = np.abs(covariance / covariance[0]) > 2 * math.sqrt(math.log10(windows) / windows)
    ends = [lag for lag in range(most - quiet + 1) if not loud[lag + 1 : lag + 1 + quiet].any()]
    reach = min(2 * max(ends[0] if ends else most, 1), most)
    lag = np.arange(1, reach + 1)
    weight = np.clip(2 * (1 - lag / reach), 0.0, 1.0)  # flat top: 1 up to half the reach
    slope = 2 * float((weight * lag * covariance[1 : reach + 1]).sum())
    spectrum = float(covariance[0] + 2 * (weight * covariance[1 : reach + 1]).sum())
    if spectrum <= 0:
        return 1
    length = (2 * slope**2 / (4 / 3 * spectrum**2)) ** (1 / 3) * windows ** (1 / 3)
    return int(np.clip(round(length), 1, windows // 2))
