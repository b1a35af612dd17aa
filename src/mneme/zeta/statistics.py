"""Level statistics of spacings beside the sine process's: law, pairs, number variance, rigidity.

Input are sequences of consecutive spacings (stretches of a long series, or sampled rollouts); no
statistic ever reaches across a joint. Sequences of one unit are resampled together, so intervals
are over independent units. Everything is written as a function of sums over sequences, so that a
resample is one matrix product.

Legend: S sequences, H spacings of each, U units, X places of a curve, R resamples.

References
----------
Mehta (2004), Random Matrices, chapters 6 and 16 (pair correlation, number variance, Delta_3).
Pandey (1979), Statistical properties of many-particle spectra III, appendix (Delta_3 from Sigma^2).
Berry (1988), Semiclassical formula for the number variance of the Riemann zeros, Nonlinearity 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike, NDArray
from scipy.special import sici

from mneme.stats.intervals import LEVEL, finite, percentile_interval, resample_counts
from mneme.stats.rows import Interval, row_of
from mneme.zeta.reading_config import INTERVAL_STEP, StatisticsConfig
from mneme.zeta.sine_process import spacing_density

Floats = NDArray[np.float64]
EDGE = 2.0  # mean spacings left free at both ends: sequences begin and end at a zero
SAME = 1e-12  # a variance below this is rounding


def sequences_of(spacings: ArrayLike, length: int) -> Floats:
    """Cut a series into consecutive stretches of `length` spacings, (S, length); the rest is left.

    Raises
    ------
    ValueError
        When there are fewer than two stretches.
    """
    spacings = np.asarray(spacings, np.float64)
    count = len(spacings) // length
    if count < 2:
        raise ValueError(f"{len(spacings)} spacings give {count} stretches of {length}: need 2")
    return spacings[: count * length].reshape(count, length)


def statistics(
    sequences_SH: ArrayLike,
    units_S: ArrayLike,
    config: StatisticsConfig,
    *,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Read all statistics of some sequences, with 95 % intervals over units.

    Parameters
    ----------
    sequences_SH : array (S, H)
        Unfolded spacings, above 0.
    units_S : int array (S,)
        Unit of each sequence: stretches that depend on one another (all samples of one window)
        share a number.
    config : StatisticsConfig
        What is read.
    generator : numpy.random.Generator
        Source of the resamples.

    Returns
    -------
    dict
        JSON-ready. `rows`: spacing_mean, spacing_variance, spacing_correlation@1,
        spacing_law_mse and pair_correlation_mse (mean over bins of the squared difference to GUE's
        density, freed of noise: about 0, and negative half the time, where there is none),
        number_variance@L, rigidity@L. `curves`: spacing_law, pair_correlation, number_variance,
        rigidity, each with x, value, low, high, its references by name (gue, poisson, wigner) and
        a reason where lengths were left out.

    Raises
    ------
    ValueError
        When a spacing is not above 0, shapes disagree, or there are fewer than two units.
    """
    sequences_SH = finite("spacings", sequences_SH, ndim=2)
    if not (sequences_SH > 0).all():
        raise ValueError("spacings must be above 0: sampled rollouts need their floor applied")
    if sequences_SH.shape[1] < 2:
        raise ValueError("a sequence must have at least two spacings, got one: take longer ones")
    names, unit_S = np.unique(np.asarray(units_S), return_inverse=True)
    if len(unit_S) != len(sequences_SH) or len(names) < 2:
        raise ValueError(
            f"{len(sequences_SH)} sequences need one unit each and at least two units, got "
            f"{len(unit_S)} numbers of {len(names)} units"
        )
    counts_RU = resample_counts(len(names), resamples=config.resamples, generator=generator)
    boot = partial(_bootstrap, unit_S, counts_RU)
    rows, curves = [], {}
    for read in (_moments, _law, _pairs, _intervals):
        more, curve = read(sequences_SH, config, boot)
        rows += [row_of(name, each, n=len(names), unit=unit) for name, each, unit in more]
        curves |= curve
    return {"rows": [row.as_dict() for row in rows], "curves": curves}


Boot = Callable[..., list[Interval]]
Reading = tuple[list[tuple[str, Interval, str]], dict[str, Any]]


def _bootstrap(
    unit_S: NDArray[np.int64],
    counts_RU: Floats,
    function: Callable[..., Floats],
    sums: Sequence[Floats],
    unbias: bool = False,
) -> list[Interval]:
    """Intervals of function(total sums) -> (..., X), sums (S, X) resampled by unit."""
    units = counts_RU.shape[1]
    sums_U = []
    for each_SX in sums:
        total_UX = np.zeros((units, each_SX.shape[1]))
        np.add.at(total_UX, unit_S, each_SX)
        sums_U.append(total_UX)
    value_X = function(*(each.sum(axis=0) for each in sums_U))
    resampled_RX = function(*(counts_RU @ each for each in sums_U))
    if unbias:
        # A resample of a square is as much too large as the square itself was.
        bias_X = resampled_RX.mean(axis=0) - value_X
        value_X, resampled_RX = value_X - bias_X, resampled_RX - 2 * bias_X
    columns = zip(value_X, resampled_RX.T, strict=True)
    return [
        percentile_interval(float(value), column_R, n=units, level=LEVEL)
        for value, column_R in columns
    ]


def _curve(
    x_X: ArrayLike, intervals: list[Interval], reason: str | None, **references: ArrayLike
) -> dict[str, Any]:
    return {
        "x": np.asarray(x_X, float).tolist(),
        "value": [each.value for each in intervals],
        "low": [each.low for each in intervals],
        "high": [each.high for each in intervals],
        **{name: np.asarray(curve, float).tolist() for name, curve in references.items()},
        "reason": reason,
    }


def _moments(sequences_SH: Floats, config: StatisticsConfig, boot: Boot) -> Reading:
    """Mean, variance and lag-1 correlation of spacings."""
    (total, horizon), s = sequences_SH.shape, sequences_SH - 1.0  # about 1: keeps the digits
    product_S1 = (s[:, 1:] * s[:, :-1]).sum(axis=1, keepdims=True) * horizon / (horizon - 1)
    sums = [np.full((total, 1), float(horizon)), s.sum(axis=1, keepdims=True)]
    sums += [np.square(s).sum(axis=1, keepdims=True), product_S1]

    def moments(n: Floats, first: Floats, second: Floats, product: Floats) -> Floats:
        mean = first / n
        return np.concatenate([1 + mean, second / n - mean**2, product / n - mean**2], axis=-1)

    def correlation(*sums: Floats) -> Floats:
        found = moments(*sums)
        return found[..., 2:] / found[..., 1:2]

    mean, variance, _ = boot(moments, sums)
    vary = s.var(axis=1).min() > SAME
    lag_1 = Interval.undefined("the spacings of a sequence are all equal")
    rows = [
        ("spacing_mean", mean, "mean spacings"),
        ("spacing_variance", variance, "mean spacings squared"),
        ("spacing_correlation@1", boot(correlation, sums)[0] if vary else lag_1, "correlation"),
    ]
    return rows, {}


def _law(sequences_SH: Floats, config: StatisticsConfig, boot: Boot) -> Reading:
    """Histogram of spacings as a density; what lies beyond the last bin counts below the line."""
    total, horizon = sequences_SH.shape
    width = config.longest_spacing / config.bins
    hist_SX = _histogram(sequences_SH, width, config.bins) / (horizon * width)
    x_X = (np.arange(config.bins) + 0.5) * width
    fine = (np.arange(config.bins)[:, None] + (leggauss(4)[0] + 1) / 2) * width
    gue_X = spacing_density(fine) @ leggauss(4)[1] / 2  # mean over the bin, as in a histogram
    sums = [hist_SX, np.ones((total, 1))]

    rows = [("spacing_law_mse", _from_gue(sums, gue_X, boot), "density squared")]
    found = boot(lambda hist, n: hist / n, sums)
    wigner_X = 32 / np.pi**2 * x_X**2 * np.exp(-4 * x_X**2 / np.pi)
    return rows, {
        "spacing_law": _curve(x_X, found, None, gue=gue_X, wigner=wigner_X, poisson=np.exp(-x_X))
    }


def _from_gue(sums: Sequence[Floats], gue_X: Floats, boot: Boot) -> Interval:
    """Return the mean squared difference of a curve to GUE's, without the noise's share."""

    def apart(curve: Floats, n: Floats) -> Floats:
        return np.square(curve / n - gue_X).mean(axis=-1, keepdims=True)

    return boot(apart, sums, unbias=True)[0]


def _pairs(sequences_SH: Floats, config: StatisticsConfig, boot: Boot) -> Reading:
    """Pair correlation: the sum over lags k of the densities of u_{i+k} - u_i.

    Each lag is averaged over its own number of pairs, so the ends of a sequence do no harm.
    """
    total, horizon = sequences_SH.shape
    width = config.longest_pair / config.bins
    u_SP = np.cumsum(np.pad(sequences_SH, [(0, 0), (1, 0)]), axis=1)
    density_SX, reason = np.zeros((total, config.bins)), None
    for lag in range(1, horizon + 1):
        distance_SP = u_SP[:, lag:] - u_SP[:, :-lag]
        if distance_SP.min() >= config.longest_pair:
            break
        count = _histogram(distance_SP, width, config.bins)
        density_SX += count / (distance_SP.shape[1] * width)
    else:
        reason = f"sequences of {horizon} spacings are too short for some pairs: counts are low"
    x_X = (np.arange(config.bins) + 0.5) * width
    gue_X = np.asarray(1 - np.sinc(x_X) ** 2, np.float64)
    sums = [density_SX, np.ones((total, 1))]

    rows = [("pair_correlation_mse", _from_gue(sums, gue_X, boot), "density squared")]
    found = boot(lambda density, n: density / n, sums)
    poisson = np.ones(config.bins)
    return rows, {"pair_correlation": _curve(x_X, found, reason, gue=gue_X, poisson=poisson)}


def _histogram(values_SN: Floats, width: float, bins: int) -> Floats:
    """Count per sequence, (S, bins); what lies beyond the last bin is dropped."""
    rows = len(values_SN)
    place = np.minimum(values_SN / width, bins).astype(np.int64)
    place += (bins + 1) * np.arange(rows)[:, None]
    counts = np.bincount(place.ravel(), minlength=rows * (bins + 1)).astype(np.float64)
    return counts.reshape(rows, -1)[:, :bins]


def _intervals(sequences_SH: Floats, config: StatisticsConfig, boot: Boot) -> Reading:
    """Read number variance and Delta_3 over all intervals of each length on the grid."""
    horizon = sequences_SH.shape[1]
    lengths = [length for length in config.lengths if length <= horizon / 2]
    if not lengths:
        none = Interval.undefined(f"sequences of {horizon} spacings are too short")
        return [("number_variance", none, ""), ("rigidity", none, "")], {}
    steps = [round(length / config.step) for length in lengths]
    parts = [_interval_sums(s_H, steps, config.step) for s_H in sequences_SH]
    n_SX, first_SX, second_SX, intervals_SX, rigidity_SX = np.stack(parts, axis=1)
    cut = len(lengths) < len(config.lengths)
    reason = f"lengths above {horizon / 2:g}, half a sequence, are left out" if cut else None
    variance = boot(lambda n, a, b: b / n - (a / n) ** 2, [n_SX, first_SX, second_SX])
    rigidity = boot(lambda n, a: a / n, [intervals_SX, rigidity_SX])
    x_X = np.array(lengths)
    rows = [
        (f"{name}@{length:g}", each, "zeros squared")
        for name, found in (("number_variance", variance), ("rigidity", rigidity))
        for length, each in zip(lengths, found, strict=True)
    ]
    gue = {"number_variance": gue_number_variance(x_X), "rigidity": gue_rigidity(x_X)}
    return rows, {
        "number_variance": _curve(x_X, variance, reason, gue=gue["number_variance"], poisson=x_X),
        "rigidity": _curve(x_X, rigidity, reason, gue=gue["rigidity"], poisson=x_X / 15),
    }


def _interval_sums(s_H: Floats, steps: Sequence[int], step: float) -> Floats:
    """Return sums (5, X) of one sequence: intervals, N - L, its square; intervals, Delta_3."""
    u_P = np.append(0.0, np.cumsum(s_H))
    fitting = max(0, int((u_P[-1] - 2 * EDGE) / step))
    starts_N = EDGE + step * np.arange(fitting, dtype=np.float64)
    below_N = np.searchsorted(u_P, starts_N, side="right")
    prefix = _prefix_sums(u_P)
    every = round(INTERVAL_STEP / step)
    sums = np.zeros((5, len(steps)))
    for x, gap in enumerate(steps):
        count = len(starts_N) - gap
        if count < 1:
            continue
        excess_N = below_N[gap:] - below_N[:count] - gap * step
        sums[:3, x] = count, excess_N.sum(), np.square(excess_N).sum()
        chosen = slice(0, count, every)
        low_N, high_N = below_N[:count][chosen], below_N[gap:][chosen]
        spread_N = _rigidity_of(prefix, starts_N[:count][chosen], gap * step, low_N, high_N)
        sums[3:, x] = len(spread_N), spread_N.sum()
    return sums


def _prefix_sums(u_P: Floats) -> Floats:
    """Sum v, v^2 and j v up to each point, (3, P + 1); v = u - midpoint, j the point's number."""
    v_P = u_P - u_P[-1] / 2
    terms = np.stack([v_P, v_P**2, np.arange(len(v_P)) * v_P])
    return np.pad(np.cumsum(terms, axis=1), [(0, 0), (1, 0)])


def _rigidity_of(
    prefix: Floats,
    starts_N: Floats,
    length: float,
    low_N: NDArray[np.int64],
    high_N: NDArray[np.int64],
) -> Floats:
    """Delta_3 of intervals: least mean square of the staircase about a line, exactly.

    With y = (u - centre) / L in -1/2..1/2 the staircase's moments are sums over its points:
    <N> = sum (1/2 - y), <N y> = sum (1/4 - y^2) / 2, <N^2> = sum (2 k - 1)(1/2 - y_k), and
    Delta_3 = <N^2> - <N>^2 - 12 <N y>^2.
    """
    middle = prefix[0, -1] - prefix[0, -2]  # the last v is half the sequence's extent
    centre_N = starts_N + length / 2 - middle
    points_N = high_N - low_N
    v, squares, numbered = prefix[:, high_N] - prefix[:, low_N]
    first = (v - points_N * centre_N) / length
    second = (squares - 2 * centre_N * v + points_N * centre_N**2) / length**2
    ranked = (2 * numbered + (1 - 2 * low_N) * v - centre_N * points_N**2) / length
    mean, tilt = points_N / 2 - first, points_N / 8 - second / 2
    return points_N**2 / 2 - ranked - mean**2 - 12 * tilt**2


def gue_number_variance(lengths_X: ArrayLike) -> Floats:
    """Sigma^2(L) of the sine process, exactly.

    Parameters
    ----------
    lengths_X : array (...)
        Interval lengths, above 0, mean spacings.

    References
    ----------
    Mehta (2004), section 16.1: [ln(2 pi L) + gamma + 1 - cos - Ci] / pi^2 + L [1 - 2 Si / pi].
    """
    lengths_X = np.asarray(lengths_X, np.float64)
    z = 2 * np.pi * lengths_X
    si, ci = sici(z)
    logs = np.log(z) + np.euler_gamma + 1 - np.cos(z) - ci
    return logs / np.pi**2 + lengths_X * (1 - 2 / np.pi * si)


def gue_rigidity(lengths_X: ArrayLike) -> Floats:
    """Delta_3(L) of the sine process: 2/L^4 times the integral of (L^3 - 2 L^2 r + r^3) Sigma^2(r).

    Parameters
    ----------
    lengths_X : array (X,)
        Interval lengths, above 0, mean spacings.
    """
    x, weights = leggauss(10)
    values = []
    for length in np.atleast_1d(np.asarray(lengths_X, np.float64)):
        panels = max(8, int(np.ceil(2 * length)))  # Sigma^2 oscillates once a mean spacing
        r = ((np.arange(panels)[:, None] + (x + 1) / 2) / panels).ravel()
        shape = (1 - 2 * r + r**3) * np.tile(weights, panels) / panels
        values.append(float(shape @ gue_number_variance(r * length)))
    return np.array(values)
