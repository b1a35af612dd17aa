"""Intervals over independent units (texts): bootstrap means, crossed seeds, proportions.

N texts, S seeds, R resamples. All bootstraps here are percentile intervals whose tail is widened so
that a mean of normal data gets Student's interval, which plain percentiles miss when N is small.
Studentised and bias-corrected (BCa) ones cover skewed means better (at 50 texts 94 % against 93 %
for skewness 2) but find differences where none are: 6.6 % of nulls with paired lags against 5.5 %.
Claims rest on paired differences, so percentiles it is, for everything.

Resamples are kept as counts (how often each text was drawn): a mean is then one matrix product, and
a cluster bootstrap the same as an ordinary one. Many means over the same texts can share theirs
(`Resamples`): each interval is what it would be alone, and drawing costs more than the products do.

References
----------
Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
Hesterberg (2015), What teachers should know about the bootstrap, section 5.3 (widened tail).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mneme.stats.rows import Interval, Row, row_of

LEVEL = 0.95  # the interval of every row
Floats = NDArray[np.float64]


class Resamples:
    """Resamples of texts, drawn once for every number of texts asked for.

    Parameters
    ----------
    count : int
        Resamples R.
    generator : numpy.random.Generator
        Their source, read when a number of texts is asked for the first time.
    """

    def __init__(self, count: int, generator: np.random.Generator) -> None:
        self.count, self.generator = count, generator
        self._drawn: dict[int, Floats] = {}

    def of(self, n: int) -> Floats:
        """Return how often each of n texts was drawn (R, N)."""
        if n not in self._drawn:
            drawn = resample_counts(n, resamples=self.count, generator=self.generator)
            self._drawn[n] = drawn
        return self._drawn[n]


def bootstrap_mean(
    values_N: ArrayLike,
    *,
    resamples: int,
    generator: np.random.Generator,
    level: float = LEVEL,
) -> Interval:
    """Mean over texts with its bootstrap interval.

    Parameters
    ----------
    values_N : array (N,)
        One finite number per independent text.
    resamples : int
        Bootstrap resamples R.
    generator : numpy.random.Generator
        Source of the resamples.
    level : float
        Coverage of the interval, 0..1.

    Returns
    -------
    Interval
        Equal values give an interval of zero width; a single text gives none, with the reason.

    Raises
    ------
    ValueError
        When there is no value, or one is not finite.
    """
    return mean_under(values_N, Resamples(resamples, generator), level=level)


def mean_under(values_N: ArrayLike, resamples: Resamples, *, level: float = LEVEL) -> Interval:
    """Mean over texts with its interval under given resamples, otherwise as `bootstrap_mean`."""
    values_N = finite("values", values_N, ndim=1)
    value = float(values_N.mean())
    if len(values_N) < 2:
        return Interval(value, None, None, "an interval needs at least two texts")
    low, high = float(values_N.min()), float(values_N.max())
    if low == high:
        return Interval(low, low, low)
    means_R = np.clip(resamples.of(len(values_N)) @ values_N / len(values_N), low, high)
    return percentile_interval(value, means_R, n=len(values_N), level=level)


def paired_mean_difference(
    a_N: ArrayLike,
    b_N: ArrayLike,
    *,
    resamples: int,
    generator: np.random.Generator,
    level: float = LEVEL,
) -> Interval:
    """Mean of a - b with its interval; entry n of both is the same text.

    Raises
    ------
    ValueError
        When the shapes differ, there is no text, or a value is not finite.
    """
    a_N, b_N = finite("a", a_N, ndim=1), finite("b", b_N, ndim=1)
    if a_N.shape != b_N.shape:
        raise ValueError(f"a and b must be paired by text, got {len(a_N)} and {len(b_N)} texts")
    return bootstrap_mean(a_N - b_N, resamples=resamples, generator=generator, level=level)


@dataclass(frozen=True)
class Crossed:
    """A mean over texts under several seeds: the interval is over texts, the spread over seeds."""

    interval: Interval
    """Mean of the texts' seed averages; texts resampled."""
    seed_means: tuple[float, ...]
    """Mean over texts of each seed, in the seeds' order."""
    n: int
    """Texts."""

    @property
    def seed_low(self) -> float:
        """Least seed mean."""
        return min(self.seed_means)

    @property
    def seed_high(self) -> float:
        """Greatest seed mean."""
        return max(self.seed_means)

    def rows(
        self, metric: str, *, unit: str, seeds: tuple[int, ...], control_of: str | None
    ) -> list[Row]:
        """Return the row over all seeds, then one row per seed (no interval: the spread)."""
        assert len(seeds) == len(self.seed_means)
        pairs = zip(seeds, self.seed_means, strict=True)
        return [
            row_of(metric, self.interval, n=self.n, unit=unit, control_of=control_of),
            *(
                Row(metric=metric, value=v, n=self.n, unit=unit, seed=s, control_of=control_of)
                for s, v in pairs
            ),
        ]


def crossed_mean(
    values_SN: ArrayLike,
    *,
    resamples: int,
    generator: np.random.Generator,
    level: float = LEVEL,
) -> Crossed:
    """Mean where every seed saw the same texts (for a paired difference pass a_SN - b_SN).

    Seeds are crossed with texts, not nested: each text is first averaged over seeds, then texts
    are resampled; the spread over seeds (min-max of their means) is told apart.
    """
    return crossed_under(values_SN, Resamples(resamples, generator), level=level)


def crossed_under(values_SN: ArrayLike, resamples: Resamples, *, level: float = LEVEL) -> Crossed:
    """Mean under several seeds with its interval under given resamples, as `crossed_mean`."""
    values_SN = finite("values", values_SN, ndim=2)
    interval = mean_under(values_SN.mean(axis=0), resamples, level=level)
    return Crossed(interval, tuple(map(float, values_SN.mean(axis=1))), values_SN.shape[1])


def student_mean(values_N: ArrayLike, *, level: float = LEVEL) -> Interval:
    """Mean of a few independent runs (seeds) with Student's interval; one value gives none.

    Raises
    ------
    ValueError
        When there is no value, or one is not finite.
    """
    values_N = finite("values", values_N, ndim=1)
    value, n = float(values_N.mean()), len(values_N)
    if n < 2:
        return Interval(value, None, None, "an interval needs at least two runs")
    from scipy.special import stdtrit

    reach = float(stdtrit(n - 1, (1 + level) / 2) * values_N.std(ddof=1)) / math.sqrt(n)
    return Interval(value, value - reach, value + reach)


def wilson(successes: int, n: int, *, level: float = LEVEL) -> Interval:
    """Proportion of independent trials with Wilson's interval.

    Raises
    ------
    ValueError
        Unless 0 <= successes <= n and n >= 1.

    References
    ----------
    Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"successes must be 0..n with n >= 1, got {successes} of {n}")
    from scipy.stats import binomtest

    ends = binomtest(int(successes), int(n)).proportion_ci(confidence_level=level, method="wilson")
    return Interval(successes / n, float(ends.low), float(ends.high))


def resample_counts(n: int, *, resamples: int, generator: np.random.Generator) -> Floats:
    """Draw n of n texts with replacement, R times: how often each was drawn, shape (R, N)."""
    draws_RN = generator.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return (
        np.bincount(draws_RN.ravel(), minlength=resamples * n).reshape(resamples, n).astype(float)
    )


def percentile_interval(value: float, statistics_R: Floats, *, n: int, level: float) -> Interval:
    """Cut the bootstrap distribution at `level`, tail widened for n units (n >= 2)."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    from scipy.special import ndtr, stdtrit

    quantile = float(stdtrit(n - 1, (1 + level) / 2))
    tail = float(ndtr(-math.sqrt(n / (n - 1)) * quantile))
    low, high = np.quantile(statistics_R, (tail, 1 - tail))
    return Interval(value, float(low), float(high))


def finite(name: str, values: ArrayLike, *, ndim: int) -> Floats:
    """Check that `values` has `ndim` axes, is not empty and holds finite numbers only."""
    array = np.asarray(values, float)
    if array.ndim != ndim or array.size == 0:
        raise ValueError(f"{name} must have {ndim} axes and an entry, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    return array
