"""What a predictor gives on the test windows -> scores: likelihood, CRPS, error, PIT, rollouts.

Every predictor, neural or not, is read through one set of arrays, its *readings*, a mapping with
these keys; all scores become one number a window before any interval is made:

===================== ========= ===================================================================
key                   shape     meaning
===================== ========= ===================================================================
spacings_WN           (W, T+1)  the test windows themselves, mean spacings
nll_WT                (W, T)    negative log-likelihood of spacing i + 1 given i + 1 before it, nats
crps_WT               (W, T)    continuous ranked probability score, mean spacings (optional, as
                                are all below)
abs_error_WT          (W, T)    |mean of the prediction - spacing|
pit_WT                (W, T)    predictive distribution function at the spacing, 0..1
nll_full_WX           (W, X)    the same at full context, any X targets a window
crps_full_WX          (W, X)
abs_error_full_WX     (W, X)
rollout_mean_WH       (W, H)    predicted spacings after a context of 128
rollout10_WH          (W, 10)   predicted spacings after a context of 10
sampled_SWH           (S, W, H) sampled rollouts after a context of 128
===================== ========= ===================================================================

Legend: W windows, N spacings of a window, T targets of a window (N - 1), X targets at full context,
K mixture components, H horizon, S samples or seeds, C context bins, P height parts, R resamples.

References
----------
Gneiting and Raftery (2007), Strictly proper scoring rules, prediction, and estimation.
Grimit et al. (2006), The CRPS for circular variables: closed form of the CRPS of a normal mixture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from mneme.stats.blocks import block_starts, block_weights, too_few_blocks
from mneme.stats.intervals import LEVEL
from mneme.stats.rows import Interval

Floats = NDArray[np.float64]
Readings = Mapping[str, NDArray]

ROLLOUT_CONTEXT = 128
"""Spacings before a rollout, for err_step, err_cum and the energy score."""
SOURCE_CONTEXT = 10
"""Spacings before the source's own rollout, which is as long."""
CHUNK_FLOATS = 2_000_000
"""Numbers of the largest intermediate array."""
_LOG_ROOT_2_PI = 0.5 * math.log(2 * math.pi)
_PER_TARGET = {"nll": "nll", "crps": "crps", "mae": "abs_error"}


def mixture_scores(
    log_weights: ArrayLike, means: ArrayLike, scales: ArrayLike, truth: ArrayLike
) -> dict[str, NDArray[np.float32]]:
    """Score Gaussian mixtures at what came.

    Parameters
    ----------
    log_weights, means, scales : array (..., K)
        Log weights (their exponentials sum to 1), means and standard deviations (> 0).
    truth : array (...)
        Spacings that came.

    Returns
    -------
    dict
        `nll`, `crps`, `abs_error`, `pit`, each (...), float32; computed in float64.

    Raises
    ------
    ValueError
        When shapes disagree, a scale is not positive, or weights do not sum to 1.
    """
    log_w, mu, sigma, truth = (np.asarray(a, float) for a in (log_weights, means, scales, truth))
    _check_mixture(log_w, mu, sigma, truth)
    components = log_w.shape[-1]
    log_w, mu, sigma = (a.reshape(-1, components) for a in (log_w, mu, sigma))
    out = {name: np.empty(truth.size, np.float32) for name in ("nll", "crps", "abs_error", "pit")}
    step = max(1, CHUNK_FLOATS // components**2)  # the CRPS holds K x K numbers a target
    for start in range(0, truth.size, step):
        here = slice(start, start + step)
        scores = _mixture_scores(log_w[here], mu[here], sigma[here], truth.ravel()[here])
        for name, values in scores.items():
            out[name][here] = values
    return {name: values.reshape(truth.shape) for name, values in out.items()}


def _check_mixture(log_weights: Floats, means: Floats, scales: Floats, truth: Floats) -> None:
    shapes = {log_weights.shape, means.shape, scales.shape}
    if len(shapes) != 1 or log_weights.shape[:-1] != truth.shape:
        raise ValueError(f"a mixture must be {truth.shape} x K for all three, got {shapes}")
    if not (scales > 0).all():
        raise ValueError(f"scales must be positive, got {scales.min()}")
    total = np.exp(log_weights).sum(axis=-1)
    if not np.allclose(total, 1.0, atol=1e-4):
        raise ValueError(f"weights must sum to 1, got {total.ravel()[np.argmax(abs(total - 1))]}")


def _mixture_scores(log_w: Floats, means: Floats, scales: Floats, truth: Floats) -> dict:
    w = np.exp(log_w)
    w /= w.sum(axis=-1, keepdims=True)
    away = truth[:, None] - means
    z = away / scales
    terms = log_w - np.log(scales) - 0.5 * z * z - _LOG_ROOT_2_PI
    peak = terms.max(axis=-1)
    between = means[:, :, None] - means[:, None, :]
    spread = np.sqrt(scales[:, :, None] ** 2 + scales[:, None, :] ** 2)
    apart = np.einsum("nj,njk,nk->n", w, _mean_distance(between, spread), w)
    return {
        "nll": -peak - np.log(np.exp(terms - peak[:, None]).sum(axis=-1)),
        "crps": (w * _mean_distance(away, scales)).sum(axis=-1) - 0.5 * apart,
        "abs_error": np.abs((w * away).sum(axis=-1)),
        "pit": np.clip((w * ndtr(z)).sum(axis=-1), 0.0, 1.0),
    }


def _mean_distance(mean: Floats, scale: Floats) -> Floats:
    """E|X| of a normal X."""
    z = mean / scale
    bell = np.exp(-0.5 * z * z - _LOG_ROOT_2_PI)
    return mean * (2 * ndtr(z) - 1) + 2 * scale * bell


def window_metrics(readings: Readings, *, horizons: Sequence[int]) -> dict[str, Floats]:
    """Return every score of a predictor as one number a window.

    Parameters
    ----------
    readings : mapping
        As in the module's table.
    horizons : sequence of int
        Rollout lengths H, spacings.

    Returns
    -------
    dict
        Metric name -> (W,): `nll`, `crps`, `mae` (means over the window's targets, contexts 1..T),
        `nll_full`, `crps_full`, `mae_full`, `err_step@H`, `err_cum@H`, `err_growth@H` (err_step@H
        less the error of the first step), `err_source@10`, `energy_score@H`: what the readings have
        arrays for.

    Raises
    ------
    ValueError
        When an array's shape does not fit the windows, or holds a number that is not finite.
    """
    _check_readings(readings, horizons)
    windows_WN = np.asarray(readings["spacings_WN"], float)
    scores = {}
    for name, key in _PER_TARGET.items():
        for suffix, source in (("", f"{key}_WT"), ("_full", f"{key}_full_WX")):
            if source in readings:
                scores[name + suffix] = np.asarray(readings[source], float).mean(axis=1)
    if "rollout_mean_WH" in readings:
        truth_WH = windows_WN[:, ROLLOUT_CONTEXT:]
        predicted_WH = np.asarray(readings["rollout_mean_WH"], float)
        for horizon in horizons:
            here = predicted_WH[:, :horizon], truth_WH[:, :horizon]
            scores[f"err_step@{horizon}"] = err_step(*here)
            scores[f"err_cum@{horizon}"] = err_cum(*here)
            first_W = err_step(predicted_WH[:, :1], truth_WH[:, :1])
            scores[f"err_growth@{horizon}"] = scores[f"err_step@{horizon}"] - first_W
    if "rollout10_WH" in readings:
        truth_WH = windows_WN[:, SOURCE_CONTEXT : 2 * SOURCE_CONTEXT]
        predicted_WH = np.asarray(readings["rollout10_WH"], float)
        scores[f"err_source@{SOURCE_CONTEXT}"] = err_step(predicted_WH, truth_WH)
    if "sampled_SWH" in readings:
        for horizon in horizons:
            truth_WH = windows_WN[:, ROLLOUT_CONTEXT : ROLLOUT_CONTEXT + horizon]
            sampled_SWH = readings["sampled_SWH"][:, :, :horizon]
            scores[f"energy_score@{horizon}"] = energy_score(sampled_SWH, truth_WH)
    return scores


def _check_readings(readings: Readings, horizons: Sequence[int]) -> None:
    missing = [key for key in ("spacings_WN", "nll_WT") if key not in readings]
    if missing:
        raise ValueError(f"the readings lack {missing[0]}: measure the run again")
    windows, length = readings["spacings_WN"].shape
    longest = max(horizons)
    rolled = {"rollout_mean_WH": longest, "sampled_SWH": longest, "rollout10_WH": SOURCE_CONTEXT}
    for key, values in readings.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{key} must be finite, got {values[~np.isfinite(values)][0]}")
        if values.shape[values.ndim - 2] != windows:
            raise ValueError(f"{key} must have {windows} windows, got shape {values.shape}")
        if key.endswith("_WT") and values.shape[1] != length - 1:
            raise ValueError(f"{key} must have {length - 1} targets, got shape {values.shape}")
        if key in rolled and values.shape[-1] < rolled[key]:
            raise ValueError(f"{key} must reach horizon {rolled[key]}, got shape {values.shape}")
    if {"rollout_mean_WH", "sampled_SWH"} & set(readings) and length < ROLLOUT_CONTEXT + longest:
        raise ValueError(
            f"horizon {longest} after {ROLLOUT_CONTEXT} spacings is beyond a window of {length}"
        )


def err_step(predicted_WH: Floats, truth_WH: Floats) -> Floats:
    """Return the mean |error| per step of a rollout, (W,), mean spacings."""
    return np.abs(predicted_WH - truth_WH).mean(axis=1)


def err_cum(predicted_WH: Floats, truth_WH: Floats) -> Floats:
    """Return |sum of predictions - sum of truth| after the last step, (W,), mean spacings."""
    return np.abs((predicted_WH - truth_WH).sum(axis=1))


def energy_score(sampled_SWH: ArrayLike, truth_WH: ArrayLike) -> Floats:
    """Energy score of sampled trajectories, fair in the number of samples.

    mean_s |x_s - y| - sum_(s, s') |x_s - x_s'| / (2 S (S - 1)), norms over the H steps.

    Parameters
    ----------
    sampled_SWH : array (S, W, H)
        At least two sampled trajectories a window.
    truth_WH : array (W, H)
        What came.

    Returns
    -------
    array (W,)
        Mean spacings; its mean is least for the true law whatever S.

    Raises
    ------
    ValueError
        When shapes disagree or there are fewer than two samples.

    References
    ----------
    Gneiting and Raftery (2007), section 4.3; Ferro (2014), Fair scores for ensemble forecasts.
    """
    sampled_SWH, truth_WH = np.asarray(sampled_SWH, float), np.asarray(truth_WH, float)
    samples = len(sampled_SWH)
    if sampled_SWH.shape[1:] != truth_WH.shape or samples < 2:
        raise ValueError(
            f"sampled must be (S >= 2, *{truth_WH.shape}), got shape {sampled_SWH.shape}"
        )
    off_WSH = np.moveaxis(sampled_SWH - truth_WH, 0, 1)  # y cancels in x - x'
    near_W = np.linalg.norm(off_WSH, axis=2).mean(axis=1)
    gram_WSS = off_WSH @ np.swapaxes(off_WSH, 1, 2)
    square_WS = np.einsum("wss->ws", gram_WSS)
    apart_WSS = square_WS[:, :, None] + square_WS[:, None, :] - 2 * gram_WSS
    diagonal = np.arange(samples)
    apart_WSS[:, diagonal, diagonal] = 0.0  # rounding would put a root of 1e-16 there
    far_W = np.sqrt(np.maximum(apart_WSS, 0.0)).sum(axis=(1, 2))
    return near_W - far_W / (2 * samples * (samples - 1))


def pit_histogram(pit: ArrayLike, *, bins: int) -> Floats:
    """Return the share of PIT values in each of `bins` equal bins of 0..1; flat when calibrated."""
    counts, _ = np.histogram(np.asarray(pit, float), bins=bins, range=(0.0, 1.0))
    return counts / counts.sum()


def ks_distance(pit: ArrayLike) -> float:
    """Return the Kolmogorov-Smirnov distance of PIT values from uniform: max |F(p) - p|, 0..1."""
    ordered = np.sort(np.asarray(pit, float).ravel())
    step = np.arange(len(ordered) + 1) / len(ordered)
    return float(max((step[1:] - ordered).max(), (ordered - step[:-1]).max()))


def ks_interval(
    pit_SWT: ArrayLike,
    *,
    block: int,
    resamples: int,
    generator: np.random.Generator,
    level: float = LEVEL,
) -> Interval:
    """KS distance of the PIT from uniform, mean over seeds, with a block interval.

    A resampled distance is biased upwards (a greatest deviation of noisier data), so it is not cut
    at percentiles: the interval is the distance +- the `level` quantile of max |F* - F|, where F*
    is the distribution function of resampled blocks. It holds the true distance at least as often
    as it says, by the triangle inequality. There is no p: neighbouring targets depend.

    Parameters
    ----------
    pit_SWT : array (S, W, T)
        PIT values under each seed, 0..1.
    block, resamples, generator, level
        As in `stats.blocks.block_mean`.
    """
    pit_SWT = np.asarray(pit_SWT, float)
    value = float(np.mean([ks_distance(pit_WT) for pit_WT in pit_SWT]))
    windows = pit_SWT.shape[1]
    reason = too_few_blocks(windows, block=block)
    if reason:
        return Interval(value, None, None, reason)
    starts_RB = block_starts(windows, block=block, resamples=resamples, generator=generator)
    weights_RW = block_weights(starts_RB, windows=windows, block=block)
    away_R = np.zeros(resamples)
    for pit_WT in pit_SWT:
        share_WG = _distribution(pit_WT, points=200)
        centred_WG = share_WG - share_WG.mean(axis=0)
        away_R += np.abs(weights_RW @ centred_WG / windows).max(axis=1)
    half = float(np.quantile(away_R / len(pit_SWT), level))
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def _distribution(pit_WT: Floats, *, points: int) -> Floats:
    """Each window's distribution function at `points` even points of 0..1."""
    cell_WT = np.minimum((pit_WT * points).astype(int), points - 1)
    flat = cell_WT + points * np.arange(len(pit_WT))[:, None]
    counts = np.bincount(flat.ravel(), minlength=points * len(pit_WT))
    return np.cumsum(counts.reshape(len(pit_WT), points), axis=1) / pit_WT.shape[1]


def by_context(values_WT: ArrayLike, edges: Sequence[int]) -> Floats:
    """Average each window over bins of context length.

    Parameters
    ----------
    values_WT : array (W, T)
        Column i has context i + 1.
    edges : sequence of int
        First context of each bin, ascending, the last one past the end: bin c holds contexts
        edges[c] .. edges[c + 1] - 1, all within 1..T.

    Returns
    -------
    array (W, C)

    Raises
    ------
    ValueError
        When edges do not ascend within 1..T + 1.
    """
    values_WT = np.asarray(values_WT, float)
    order = all(a < b for a, b in pairwise(edges))
    if len(edges) < 2 or not order or edges[0] < 1 or edges[-1] > values_WT.shape[1] + 1:
        raise ValueError(
            f"context edges must ascend within 1..{values_WT.shape[1] + 1}, got {list(edges)}"
        )
    bins = [values_WT[:, a - 1 : b - 1].mean(axis=1) for a, b in pairwise(edges)]
    return np.stack(bins, axis=1)
