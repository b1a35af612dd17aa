"""Riemann-Siegel: theta, the correction terms C0..C4, and Z(t) = exp(i theta(t)) zeta(1/2 + it).

Phases reach millions of turns, so they are reduced before they are rounded: theta at a stretch's
centre comes from Arb, and log n / 2 pi is kept as a short head plus a tail, whose product with an
integer height is exact. What float64 then rounds is the distance from the centre only.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from flint import acb, arb, arb_series, ctx
from numpy.typing import ArrayLike, NDArray

from mneme.zeta.zeros_config import LARGEST_HEIGHT

Floats = NDArray[np.float64]

TAU = 2 * math.pi
HEAD_BITS = 24
"""Integer heights below this have exact products with the heads of log n / 2 pi."""
WORK_BITS = 160


def theta(t: ArrayLike) -> Floats:
    """Riemann-Siegel theta by its asymptotic series.

    Parameters
    ----------
    t : array of float64
        Heights, at least 10; error below 1e-9 there and below rounding from 100 on.

    Returns
    -------
    float64 array
        theta(t) = arg Gamma(1/4 + it/2) - t/2 log pi, radians.

    References
    ----------
    Edwards (1974), Riemann's Zeta Function, section 6.5.
    """
    t = np.asarray(t, dtype=np.float64)
    return t / 2 * np.log(t / (TAU * math.e)) - math.pi / 8 + theta_tail(t)


def theta_tail(t: ArrayLike) -> Floats:
    """Return the descending powers of theta's series: 1/48t + 7/5760t^3 + 31/80640t^5."""
    r = 1 / np.asarray(t, dtype=np.float64)
    return r * (1 / 48 + r * r * (7 / 5760 + r * r * (31 / 80640)))


def theta_turns(t: int) -> float:
    """Return theta(t) / 2 pi modulo 1, correctly rounded from Arb's log-gamma."""
    with ctx.workprec(WORK_BITS):
        height = arb(t)
        value = acb(arb("0.25"), height / 2).lgamma().imag - height / 2 * arb.pi().log()
        turns = value / (2 * arb.pi())
        return float(turns - turns.floor().mid())


def theta_change(t0: int, offset: Floats, slope: float) -> Floats:
    """theta(t0 + offset) - theta(t0) - slope x offset without cancellation of large numbers.

    Parameters
    ----------
    t0 : int
        Centre, above 10.
    offset : float64 array
        Distance from the centre, above -t0.
    slope : float
        Frequency taken out, radians per unit height.

    Returns
    -------
    float64 array
        Radians, exact up to rounding of its own size.
    """
    t = t0 + offset
    curved = t * np.log1p(offset / t0) - offset
    linear = offset * (math.log(t0 / TAU) / 2 - slope)
    return curved / 2 + linear + theta_tail(t) - theta_tail(t0)


@dataclass(frozen=True)
class LogTable:
    """log n / 2 pi for n = 1..count, each a head of `HEAD_BITS` binary places plus a tail."""

    heads: Floats
    tails: Floats

    @classmethod
    def of(cls, count: int) -> LogTable:
        """Make the table from Arb's logarithms."""
        heads, tails = np.empty(count), np.empty(count)
        with ctx.workprec(WORK_BITS):
            for n in range(1, count + 1):
                turns = arb(n).log() / (2 * arb.pi())
                head = round(float(turns) * 2**HEAD_BITS) / 2**HEAD_BITS
                heads[n - 1], tails[n - 1] = head, float(turns - arb(head))
        return cls(heads, tails)

    def frequencies(self, terms: int) -> Floats:
        """Return log n / 2 pi, n = 1..terms: turns per unit height."""
        return self.heads[:terms] + self.tails[:terms]

    def phases(self, height: int, terms: int) -> Floats:
        """Return height x log n / 2 pi modulo 1, n = 1..terms, within 2e-15 (height < 2^28)."""
        assert 0 < height < LARGEST_HEIGHT, height
        return np.mod(height * self.heads[:terms], 1.0) + height * self.tails[:terms]


@functools.cache
def correction_polynomials() -> tuple[Floats, ...]:
    """Taylor coefficients of C0..C4 in x = p - 1/2, ascending, error below 1e-15 for |x| <= .55.

    References
    ----------
    Edwards (1974), section 7.6; Gabcke (1979) for the size of what is left out:
    below .017 t^(-11/4).
    """
    length, orders = 64, 12
    with ctx.workprec(400):
        before, ctx.cap = ctx.cap, length + orders
        try:
            pi = arb.pi()
            x = arb_series([0, 1])
            psi = (x * x * (2 * pi) + 3 * pi / 8).cos() / (x * (2 * pi)).cos()
            d = [[psi[k] for k in range(length + orders)]]
            for _ in range(orders):
                d.append([k * c for k, c in enumerate(d[-1])][1:])
        finally:
            ctx.cap = before
        q = pi * pi
        terms: tuple[dict[int, arb], ...] = (
            {0: arb(1)},
            {3: -1 / (96 * q)},
            {2: 1 / (64 * q), 6: 1 / (18432 * q**2)},
            {1: -1 / (64 * q), 5: -1 / (3840 * q**2), 9: -1 / (5308416 * q**3)},
            {
                0: 1 / (128 * q),
                4: arb(19) / (24576 * q**2),
                8: arb(11) / (5898240 * q**3),
                12: 1 / (2038431744 * q**4),
            },
        )
        return tuple(
            np.array([float(sum(w * d[m][k] for m, w in term.items())) for k in range(length)])
            for term in terms
        )


def correction(t: Floats, terms: int) -> Floats:
    """Return what Riemann-Siegel adds to the main sum of `terms` terms: C0..C4.

    Parameters
    ----------
    t : float64 array
        Heights.
    terms : int
        N of the main sum; `floor(sqrt(t / 2 pi))`, or one beside it close to where that changes.

    Returns
    -------
    float64 array
        (-1)^(N-1) (t/2pi)^(-1/4) sum_k C_k(p) (t/2pi)^(-k/2), p = sqrt(t / 2 pi) - N.
    """
    root = np.sqrt(t / TAU)
    x = root - terms - 0.5
    total = np.zeros_like(root)
    for coefficients in reversed(correction_polynomials()):
        total = total / root + np.polynomial.polynomial.polyval(x, coefficients)
    return (-1) ** (terms - 1) * total / np.sqrt(root)


def main_sum_terms(t: float) -> int:
    """N = floor(sqrt(t / 2 pi))."""
    return int(math.sqrt(t / TAU))


def hardy_z(t: Floats) -> Floats:
    """Z at any heights, one cosine per term: plain and slow, the oracle of the fast grid.

    Parameters
    ----------
    t : (P,) float64 array
        Heights, at least 200.

    Returns
    -------
    (P,) float64 array
        Z(t); phases are rounded in float64, so the error grows as 1e-16 t log t.
    """
    t = np.atleast_1d(np.asarray(t, dtype=np.float64))
    out = np.empty_like(t)
    for i, height in enumerate(t):
        terms = main_sum_terms(height)
        n = np.arange(1, terms + 1)
        waves = np.cos(theta(height) - height * np.log(n)) / np.sqrt(n)
        out[i] = 2 * waves.sum() + correction(np.array([height]), terms)[0]
    return out
