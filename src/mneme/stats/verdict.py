"""From an interval to a verdict: p, equivalence, the n that would tell, supported or refuted.

Rows carry an interval, not the texts behind it, so p is that which belongs to the 95 % interval: t
is the distance to the tested value in standard errors, and a standard error is an end's distance
over Student's quantile at n - 1 degrees of freedom. Bootstrap intervals may be lopsided: the end
that faces the tested value counts. Thus p and interval never contradict each other.

An interval that does not hold its value is stretched to it. Where the facing end coincides with the
value there is no error to divide by: then p is that of n signs which are all alike.

References
----------
Altman and Bland (2011), How to obtain the P value from a confidence interval, BMJ 343:d2304.
Schuirmann (1987), A comparison of the two one-sided tests procedure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mneme.stats.rows import Interval

Direction = Literal["above", "below", "none"]
"""Claimed sign of an effect; none: that there is no effect."""
Verdict = Literal[
    "invalid measurement",
    "not testable as stated",
    "not measured",
    "supported",
    "refuted",
    "inconclusive",
]
Decided = Literal["supported", "refuted", "inconclusive"]
"""Verdicts that rest on numbers alone."""
ALPHA = 0.05
POWER = 0.8
RESERVE = 1.15
"""Units planned above the formula's: a pilot's error is itself uncertain, and a pilot that looks
too sure costs more power than one that looks too unsure wins (simulated: .76-.79 without)."""
_ROUNDING = 1e-12  # a width below this share of the value is rounding


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What measured effects say about a claim."""

    verdict: Decided
    """Supported, refuted, or neither."""
    detail: str | None
    """One clause that says how, where the verdict alone does not."""
    reason: str | None
    """Why nothing could be decided: there is no interval."""
    p: float | None
    """p of the claim being wrong: of an effect not beyond delta (twice the one-sided p, at most 1);
    for absence, of an effect of size delta or more."""
    needed_n: int | None
    """Units that give power .8 at delta; None when the interval has no width."""


def interval_p(interval: Interval, n: int, *, against: float) -> float:
    """Two-sided p of value = `against` that belongs to a 95 % interval.

    Parameters
    ----------
    interval : Interval
        Value and 95 % interval, all defined.
    n : int
        Independent units behind it, at least 2.
    against : float
        Tested value, in the interval's unit.

    Returns
    -------
    float
        0..1; .05 where the end touches `against`. Without width on that side: 1 where the value is
        `against`, else 2^(1-n).

    Raises
    ------
    ValueError
        The interval has an undefined end, or n is below 2.
    """
    t = _t(interval, n, against)
    return min(1.0, 2 * min(_below(t, n), _below(-t, n)))


def equivalence_p(interval: Interval, n: int, *, delta: float) -> float:
    """Larger of the two one-sided p: of an effect of delta or more, of one of -delta or less.

    Parameters
    ----------
    interval, n
        As in `interval_p`.
    delta : float
        Smallest effect that matters, above 0, in the interval's unit.

    Returns
    -------
    float
        0..1; .05 where an end of `equivalence_interval` touches a bound.

    Raises
    ------
    ValueError
        As in `interval_p`, or delta is not positive.
    """
    _require_delta(delta)
    return max(_below(_t(interval, n, delta), n), _below(-_t(interval, n, -delta), n))


def equivalence_interval(interval: Interval, n: int) -> Interval:
    """90 % interval from the 95 % one: each side shrinks by the ratio of Student's quantiles.

    Raises
    ------
    ValueError
        As in `interval_p`.
    """
    value, low, high = _ends(interval, n)
    share = _quantile(1 - ALPHA, n) / _quantile(1 - ALPHA / 2, n)
    return Interval(value, value - share * (value - low), value + share * (high - value))


def needed_n(interval: Interval, n: int, *, direction: Direction, delta: float) -> int | None:
    """Units that give power .8 at delta, if they scatter as those behind the interval.

    Parameters
    ----------
    interval, n, delta
        As in `equivalence_p`.
    direction : {"above", "below", "none"}
        Above, below: to tell an effect of that sign and of size delta from 0, two-sided at 5 %.
        None: to get the 90 % interval inside +-delta where there is no effect.

    Returns
    -------
    int or None
        At least 2. n (z s / delta)^2 + z_a^2 / 2 with s the standard error of the side that faces 0
        (for absence the larger one) and z = z_a + z_power; the second term is Guenther's, for
        Student's quantiles; and `RESERVE` more. None when the interval has no width.

    Raises
    ------
    ValueError
        As in `equivalence_p`.

    References
    ----------
    Guenther (1981), Sample size formulas for normal theory T tests.
    Julious (2004), Sample sizes for clinical trials with normal data (equivalence: z of .9).
    """
    from scipy.special import ndtri  # slow to import

    _require_delta(delta)
    below, above = _standard_errors(interval, n)
    facing = {"above": below or above, "below": above or below, "none": max(below, above)}
    if facing[direction] == 0:
        return None
    absence = direction == "none"
    z_alpha = float(ndtri(1 - ALPHA if absence else 1 - ALPHA / 2))
    z_power = float(ndtri((1 + POWER) / 2 if absence else POWER))
    units = n * ((z_alpha + z_power) * facing[direction] / delta) ** 2 + z_alpha**2 / 2
    return max(2, math.ceil(RESERVE * units))


def judge(interval: Interval, n: int | None, *, direction: Direction, delta: float) -> Judgement:
    """Decide one effect, before the adjustment for the number of claims.

    Parameters
    ----------
    interval : Interval
        Effect with its 95 % interval; undefined ends are inconclusive, with the interval's reason.
    n : int or None
        Independent units behind it; None or below 2 is inconclusive.
    direction : {"above", "below", "none"}
        Claimed sign, or that there is no effect.
    delta : float
        Smallest effect that matters, above 0.

    Returns
    -------
    Judgement
        Above: supported where the interval lies above delta, refuted where it lies below. Below is
        its mirror image. None: supported where the 90 % interval lies inside +-delta, refuted where
        the 95 % interval lies outside. Otherwise inconclusive.

    Raises
    ------
    ValueError
        When delta is not positive.
    """
    _require_delta(delta)
    reason = _undecidable(interval, n)
    if reason is not None or n is None:
        return _inconclusive(reason)
    if direction == "none":
        p = equivalence_p(interval, n, delta=delta)
        verdict, detail = _absent(interval, n, delta)
    else:
        sign = 1 if direction == "above" else -1
        p = min(1.0, 2 * _below(-sign * _t(interval, n, sign * delta), n))
        verdict, detail = _present(interval, n, delta, sign=sign)
    needed = needed_n(interval, n, direction=direction, delta=delta)
    if verdict == "inconclusive":
        few = needed is not None and needed > n
        detail = f"power .8 needs n = {needed}" if few else "too near delta to tell"
    return Judgement(verdict=verdict, detail=detail, reason=None, p=p, needed_n=needed)


def conjunction(judgements: Sequence[Judgement]) -> Judgement:
    """All effects of a claim together: supported when all are, refuted when any is.

    Parameters
    ----------
    judgements : sequence of Judgement
        At least one. The first refuted gives detail and reason, else the inconclusive one that is
        farthest from telling, else the first.

    Returns
    -------
    Judgement
        p is the largest (None when one is unknown), needed_n the largest of those that are as
        undecided as the whole.

    References
    ----------
    Berger (1982), Multiparameter hypothesis testing and acceptance sampling (intersection-union).
    """
    first = min(judgements, key=_farthest)
    known = [one.p for one in judgements if one.p is not None]
    alike = [one.needed_n for one in judgements if one.verdict == first.verdict]
    return replace(
        first,
        p=max(known) if len(known) == len(judgements) else None,
        needed_n=max((needed for needed in alike if needed is not None), default=None),
    )


def _farthest(judgement: Judgement) -> tuple[int, float]:
    """Sort refuted before inconclusive before supported; a missing interval before a large n."""
    place = ("refuted", "inconclusive", "supported").index(judgement.verdict)
    needed = math.inf if judgement.needed_n is None else judgement.needed_n
    return place, -needed if judgement.verdict == "inconclusive" else 0.0


def after_holm(judgement: Judgement, p_holm: float | None) -> Judgement:
    """Take support back where the adjusted p is not below .05."""
    if judgement.verdict != "supported" or (p_holm is not None and p_holm < ALPHA):
        return judgement
    return replace(judgement, verdict="inconclusive", detail="not after Holm's adjustment")


def _undecidable(interval: Interval, n: int | None) -> str | None:
    if interval.value is None or interval.low is None or interval.high is None:
        return interval.reason
    if n is None:
        return "the row does not say n"
    return f"n is {n}: an interval needs at least 2" if n < 2 else None


def _inconclusive(reason: str | None) -> Judgement:
    return Judgement(verdict="inconclusive", detail=None, reason=reason, p=None, needed_n=None)


def _present(interval: Interval, n: int, delta: float, *, sign: int) -> tuple[Decided, str | None]:
    _, *ends = _ends(interval, n)
    low, high = sorted(sign * end for end in ends)
    if low > delta:
        return "supported", None
    if high >= delta:
        return "inconclusive", None
    if high < 0:
        return "refuted", "opposite in sign"
    return "refuted", "real but smaller than matters" if low > 0 else "smaller than matters"


def _absent(interval: Interval, n: int, delta: float) -> tuple[Decided, str | None]:
    _, low, high = _ends(equivalence_interval(interval, n), n)
    if -delta < low and high < delta:
        return "supported", None
    _, low, high = _ends(interval, n)
    if low > delta or high < -delta:
        return "refuted", "an effect that matters"
    return "inconclusive", None


def _ends(interval: Interval, n: int) -> tuple[float, float, float]:
    """Return value, low and high; rounding is no width."""
    if n < 2:
        raise ValueError(f"n must be at least 2, got {n}")
    value, low, high = interval.value, interval.low, interval.high
    if value is None or low is None or high is None:
        raise ValueError(f"the interval must be defined, got none: {interval.reason}")
    slack = _ROUNDING * max(abs(value), abs(low), abs(high))
    return value, low if low < value - slack else value, high if high > value + slack else value


def _standard_errors(interval: Interval, n: int) -> tuple[float, float]:
    """Return those of the lower and the upper side."""
    value, low, high = _ends(interval, n)
    quantile = _quantile(1 - ALPHA / 2, n)
    return (value - low) / quantile, (high - value) / quantile


def _t(interval: Interval, n: int, against: float) -> float:
    """Distance of the value above `against` in standard errors; infinite without any error."""
    value, _, _ = _ends(interval, n)
    below, above = _standard_errors(interval, n)
    error = below if against < value else above
    if error > 0:
        return (value - against) / error
    same = abs(value - against) <= _ROUNDING * max(abs(value), abs(against))
    return 0.0 if same else math.copysign(math.inf, value - against)


def _below(t: float, n: int) -> float:
    """Chance of a distance of t or less under no effect; of n equal signs where t is infinite."""
    from scipy.special import stdtr  # slow to import

    if math.isinf(t):
        return 2.0**-n if t < 0 else 1.0
    return float(stdtr(n - 1, t))


def _quantile(share: float, n: int) -> float:
    from scipy.special import stdtrit  # slow to import

    return float(stdtrit(n - 1, share))


def _require_delta(delta: float) -> None:
    if not delta > 0:
        raise ValueError(f"delta must be positive, got {delta}")
