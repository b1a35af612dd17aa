"""Tests of paired differences: sign flips for a difference, two one-sided tests for its absence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mneme.stats.intervals import bootstrap_mean, finite
from mneme.stats.rows import Interval

Alternative = Literal["two-sided", "greater", "less"]
EQUIVALENCE_LEVEL = 0.90  # two one-sided tests at 5 % each


def sign_flip_test(
    differences_N: ArrayLike,
    *,
    resamples: int,
    generator: np.random.Generator,
    alternative: Alternative,
) -> float:
    """Permutation p of the mean of paired differences: under the null each sign is a coin's.

    Parameters
    ----------
    differences_N : array (N,)
        Run minus control, one finite number per text.
    resamples : int
        Random sign patterns; all 2^N are enumerated instead when there are no more than that.
    generator : numpy.random.Generator
        Source of the signs.
    alternative : {"two-sided", "greater", "less"}
        What the mean is under the alternative; greater means above 0.

    Returns
    -------
    float
        p, at least 2^-N (enumerated) or 1 / (resamples + 1); 1 when every difference is 0.

    Raises
    ------
    ValueError
        When there is no difference, one is not finite, or the alternative is unknown.

    References
    ----------
    Fisher (1935), The Design of Experiments, section 21.
    Phipson and Smyth (2010), Permutation p-values should never be zero.
    """
    differences_N = finite("differences", differences_N, ndim=1)
    exact = len(differences_N) < 60 and 2 ** len(differences_N) <= resamples
    flips_RN = (
        _all_flips(len(differences_N))
        if exact
        else generator.integers(2, size=(resamples, len(differences_N)), dtype=np.int8)
    )
    observed = differences_N.sum()
    sums_R = observed - 2 * (flips_RN @ differences_N)
    # Patterns that tie with the observed one count, whatever the order of summation did to them.
    slack = 1e-12 * float(np.abs(differences_N).sum())
    if alternative == "two-sided":
        extreme = int((np.abs(sums_R) >= abs(observed) - slack).sum())
    elif alternative == "greater":
        extreme = int((sums_R >= observed - slack).sum())
    elif alternative == "less":
        extreme = int((sums_R <= observed + slack).sum())
    else:
        raise ValueError(f"alternative must be two-sided, greater or less, got {alternative!r}")
    return extreme / len(sums_R) if exact else (extreme + 1) / (resamples + 1)


def _all_flips(n: int) -> NDArray[np.int64]:
    return np.arange(2**n)[:, None] >> np.arange(n) & 1


@dataclass(frozen=True)
class Equivalence:
    """Whether a mean difference is as good as none."""

    interval: Interval
    """Mean difference with its 90 % interval."""
    equivalent: bool
    """True when that interval lies inside +-delta."""
    p: float
    """The larger of the two one-sided p (difference above -delta, below +delta)."""


def equivalence(
    differences_N: ArrayLike,
    *,
    delta: float,
    resamples: int,
    generator: np.random.Generator,
) -> Equivalence:
    """Two one-sided tests: is the mean difference inside +-delta?

    Parameters
    ----------
    differences_N : array (N,)
        Run minus control, one finite number per text.
    delta : float
        Smallest difference that matters, > 0, in the differences' unit.
    resamples : int
        Bootstrap resamples and sign patterns.
    generator : numpy.random.Generator
        Source of both.

    Returns
    -------
    Equivalence
        The verdict is the interval's; p is from sign flips of the differences shifted to either
        bound (right when they scatter symmetrically). One text is never equivalent.

    Raises
    ------
    ValueError
        When delta is not positive, or a difference is missing or not finite.

    References
    ----------
    Schuirmann (1987), A comparison of the two one-sided tests procedure.
    """
    if not delta > 0:
        raise ValueError(f"delta must be positive, got {delta}")
    differences_N = finite("differences", differences_N, ndim=1)
    interval = bootstrap_mean(
        differences_N, resamples=resamples, generator=generator, level=EQUIVALENCE_LEVEL
    )
    above = sign_flip_test(
        differences_N + delta, resamples=resamples, generator=generator, alternative="greater"
    )
    below = sign_flip_test(
        differences_N - delta, resamples=resamples, generator=generator, alternative="less"
    )
    low, high = interval.low, interval.high
    inside = low is not None and high is not None and -delta < low and high < delta
    return Equivalence(interval, inside, max(above, below))
