"""Right-censored lags: some texts never switch before their segment ends.

A lag is (time, observed): the tokens until it happened, or the tokens watched in vain.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mneme.stats.intervals import LEVEL, bootstrap_mean, finite
from mneme.stats.rows import Interval

Floats = NDArray[np.float64]


def restricted(time_N: ArrayLike, observed_N: ArrayLike, *, horizon: float) -> Floats:
    """min(lag, horizon) of every text: known even when censored, so it can be averaged and paired.

    Parameters
    ----------
    time_N : array (...)
        Tokens until the switch (>= 0), or tokens watched where it never came (> 0).
    observed_N : bool array (...)
        False where censored.
    horizon : float
        Tokens up to which lags are compared; every censored text was watched at least as long.

    Raises
    ------
    ValueError
        A censored time of 0 or below the horizon, a negative time, or shapes that differ.
    """
    time_N, observed_N = _lags(time_N, observed_N)
    if horizon <= 0:
        raise ValueError(f"horizon must be positive, got {horizon}")
    short = ~observed_N & (time_N < horizon)
    if short.any():
        raise ValueError(
            f"horizon {horizon} is beyond a censored text's {time_N[short][0]:g} tokens: "
            "compare lags only as far as every text was watched"
        )
    return np.minimum(time_N, horizon)


def restricted_mean(
    time_N: ArrayLike,
    observed_N: ArrayLike,
    *,
    horizon: float,
    resamples: int,
    generator: np.random.Generator,
    level: float = LEVEL,
) -> Interval:
    """Mean of min(lag, horizon) over texts, tokens, with its bootstrap interval.

    It equals the area under the Kaplan-Meier curve up to the horizon, as every text was watched
    that far. Arguments and errors as in `restricted` and `bootstrap_mean`.

    References
    ----------
    Royston and Parmar (2013), Restricted mean survival time.
    """
    values_N = restricted(time_N, observed_N, horizon=horizon)
    return bootstrap_mean(values_N, resamples=resamples, generator=generator, level=level)


def kaplan_meier_median(
    time_N: ArrayLike, observed_N: ArrayLike
) -> tuple[float, None] | tuple[None, str]:
    """Kaplan-Meier median lag: the least time by which half of the texts have switched.

    Parameters
    ----------
    time_N : array (...)
        Tokens, as in `restricted`; all entries are pooled.
    observed_N : bool array (...)
        False where censored.

    Returns
    -------
    median : float or None
        Tokens; None when fewer than half switch while watched.
    reason : str or None
        Why there is no median.

    References
    ----------
    Kaplan and Meier (1958), Nonparametric estimation from incomplete observations.
    """
    from scipy.stats import CensoredData, ecdf

    time_N, observed_N = _lags(time_N, observed_N)
    survival = ecdf(CensoredData(uncensored=time_N[observed_N], right=time_N[~observed_N])).sf
    reached = np.asarray(survival.probabilities) <= 0.5 + 1e-12  # products of fractions round
    if not reached.any():
        share = 1 - float(survival.probabilities[-1])
        return None, f"only {share:.0%} of the texts switch while watched"
    return float(survival.quantiles[reached.argmax()]), None


def _lags(time_N: ArrayLike, observed_N: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    observed = np.asarray(observed_N)
    time = finite("time", time_N, ndim=observed.ndim)
    if observed.dtype != np.bool_ or observed.shape != time.shape:
        raise ValueError(f"observed must be bool of shape {time.shape}, got {observed.dtype}")
    if time.min() < 0 or (time[~observed] == 0).any():
        raise ValueError("a lag must be at least 0, and a censored one above 0")
    return time, observed
