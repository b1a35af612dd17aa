"""Where the next zeros lie, as remembered phases of primes tell it: the Riemann-Siegel main sum.

Z(t) = 2 Re[exp(i theta) sum_n n^(-1/2 - it) V(n)], with V falling softly from 1 to 0 around
n = sqrt(t / 2 pi), is real and vanishes at the zeros of zeta on the critical line. The powers
n^(-it) are products of the remembered p^(-it); theta at the present zero and its slope, which L
gives only to 1e-3, follow from Z = 0 at the last zeros. Then Z is known ahead, up to the errors of
the memory, and its first two roots are candidates for the next two zeros. Nothing is fitted.

Legend: B zeros (or windows), P primes, N integers, J past zeros, G coarse grid, X fine grid.

References
----------
Berry & Keating (1992), A new asymptotic representation for zeta(1/2 + it) and quantum spectral
determinants, eqs. (3.17)-(3.20) (the softly cut main sum).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc

from mneme.zeta.prime_config import SumConfig
from mneme.zeta.primes import TURN, Complexes, Floats, Ints

AHEAD = np.arange(-1.5, 6.01, 0.5)
"""Coarse grid, mean spacings from the present zero: four points per period of the fastest wave."""
FINE = np.arange(0, 73) / 16
"""Fine grid on which sign changes are looked for, mean spacings."""
ROUNDING = 1.5e-4
"""Typical error of theta' = L/2 when L is rounded to 1e-3: its standard deviation."""


class Ahead(NamedTuple):
    """What the sum says about the zeros after the present one."""

    first: Floats
    """(B,) distance of the first root, mean spacings, at most the end of the fine grid."""
    second: Floats
    """(B,) distance of the second root, mean spacings, likewise."""
    slope: Floats
    """(B,) derivative at the first root, per mean spacing."""
    curvature: Floats
    """(B,) second derivative there."""
    bumps: Floats
    """(2, B) largest modulus before the first root, and between the first and the second."""
    level: Floats
    """(B,) L as the past zeros tell it, finer than its rounded value."""
    residuals: Floats
    """(J, B) value of the sum at past zeros, nearest first: 0 if all were known; signed so that
    the sum grows away from the present zero."""


class MainSum:
    """Tables of the main sum for one choice of primes and integers."""

    def __init__(self, primes: Ints, config: SumConfig) -> None:
        self.config = config
        self.n = np.arange(1, config.integers + 1)
        self.log_n = np.log(self.n)
        self.primes = primes[primes <= config.integers]
        self.steps = _products(self.primes, config.integers)
        self.fine_XG, self.slope_G = _interpolation()

    def powers(self, phases_PB: Complexes) -> Complexes:
        """Multiply p^(-it) (P, B) to n^(-it) (N, B), complex64; 0 where a prime is missing."""
        powers_NB = np.zeros((len(self.n), phases_PB.shape[1]), np.complex64)
        powers_NB[0] = 1
        powers_NB[self.primes - 1] = phases_PB[: len(self.primes)]
        for at, prime, rest in self.steps:
            powers_NB[at] = powers_NB[prime] * powers_NB[rest]
        return powers_NB

    def weights(self, level_B: Floats) -> NDArray[np.float32]:
        """Return V(n) / sqrt n, (N, B) float32; levels come in few distinct values."""
        levels, place = np.unique(level_B, return_inverse=True)
        width = self.config.cut * np.exp(-levels / 2)
        table = erfc((self.log_n[:, None] - levels / 2) / (np.sqrt(2) * width)) / 2
        return (table / np.sqrt(self.n)[:, None]).astype(np.float32)[:, place]

    def sums(self, phases_PB: Complexes, level_B: Floats) -> tuple[Complexes, Complexes, float]:
        """Sum at the present zeros and on the coarse grid ahead.

        Returns
        -------
        here_B : array (B,)
            sum_n n^(-1/2 - it) V(n) at the present zeros.
        ahead_GB : array (G, B)
            The same on the coarse grid, slowed down by exp(i L/4 x) so that it varies least.
        level : float
            The first column's level, for which the grid's unit and the slowing down are; others
            must lie near (not the mean, which would tell of later zeros).
        """
        level = float(level_B[0])
        terms_NB = self.powers(phases_PB) * self.weights(level_B)
        grid_GN = np.exp(1j * (AHEAD * TURN / level)[:, None] * (level / 4 - self.log_n))
        return terms_NB.sum(0), grid_GN.astype(np.complex64) @ terms_NB, level

    def ahead(
        self,
        sums: tuple[Complexes, Complexes, float],
        past_JB: Complexes,
        gaps_JB: Floats,
        level_B: Floats,
    ) -> Ahead:
        """Anchor the sum at past zeros and find its next roots.

        Parameters
        ----------
        sums : tuple
            What `sums` returned.
        past_JB : array (J, B)
            Sums at the present zero and the J - 1 before it, each as known then.
        gaps_JB : array (J, B)
            Distances t_k - t_{k-j} of these zeros, in t.
        level_B : array (B,)
            Rounded level of the present zeros.
        """
        _, ahead_GB, level = sums
        bend_B = np.exp(-level_B) / (2 * TURN)  # theta'' = 1 / 2t
        turn_B, tilt_B, residuals_JB = _anchor(past_JB, gaps_JB, level_B, bend_B)
        rate_B = level_B / 2 + tilt_B - level / 4  # of theta, beyond what slowing down has taken
        z_XB, start_B = self._line(ahead_GB, turn_B, rate_B * TURN / level)
        found = _roots(z_XB.astype(float), start_B.astype(float))
        scale_B = (level_B + 2 * tilt_B) / level
        return Ahead(
            first=found.first * scale_B,
            second=found.second * scale_B,
            slope=found.slope / scale_B,
            curvature=found.curvature / scale_B**2,
            bumps=found.bumps,
            level=level_B + 2 * tilt_B,
            residuals=residuals_JB * np.where(start_B < 0, -1.0, 1.0),
        )

    def _line(
        self, ahead_GB: Complexes, turn_B: Complexes, rate_B: Floats
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Z on the fine grid less its value at 0, and its slope there; rates a mean spacing.

        theta'' is left out: over 4 mean spacings it turns theta by less than 1 / t.
        """
        turned_GB = ahead_GB * (2 * turn_B).astype(np.complex64)
        real_XB, imag_XB = self.fine_XG @ turned_GB.real, self.fine_XG @ turned_GB.imag
        angle_XB = FINE[:, None].astype(np.float32) * rate_B.astype(np.float32)
        z_XB = real_XB * np.cos(angle_XB) - imag_XB * np.sin(angle_XB)
        start_B = self.slope_G @ turned_GB.real - rate_B.astype(np.float32) * imag_XB[0]
        return z_XB - z_XB[0], start_B


def _products(primes: Ints, largest: int) -> list[tuple[Ints, Ints, Ints]]:
    """Rows (n - 1) of composite integers and of two factors of each, by number of prime factors."""
    least = np.zeros(largest + 1, int)
    for p in primes[::-1]:
        least[p::p] = p
    factors = np.full(largest + 1, -1)  # -1: has a prime that is not remembered
    factors[1] = 0
    for n in range(2, largest + 1):
        if least[n] and factors[n // least[n]] >= 0:
            factors[n] = factors[n // least[n]] + 1
    steps = []
    for count in range(2, factors.max() + 1):
        at = np.flatnonzero(factors == count)
        steps.append((at - 1, least[at] - 1, at // least[at] - 1))
    return steps


def _interpolation() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Least-squares interpolation of slowed-down sums: coarse -> fine grid, and slope at 0.

    Their frequencies lie within +-pi/2 a mean spacing; the margin serves columns whose level
    differs from the grid's, and integers beyond the cut.
    """
    band = 1.1 * np.pi / 2
    known = np.sinc(band / np.pi * (AHEAD[:, None] - AHEAD)) + 1e-12 * np.eye(len(AHEAD))
    asked = np.sinc(band / np.pi * (FINE[:, None] - AHEAD))
    y = -band * AHEAD  # the slope of sin(y) / y at x = 0, y = band (x - x_G)
    slope = band * np.where(y == 0, 0, (y * np.cos(y) - np.sin(y)) / np.where(y == 0, 1, y) ** 2)
    fine_XG = np.linalg.solve(known, asked.T).T
    return fine_XG.astype(np.float32), np.linalg.solve(known, slope).astype(np.float32)


def _anchor(
    past_JB: Complexes, gaps_JB: Floats, level_B: Floats, bend_B: Floats
) -> tuple[Complexes, Floats, Floats]:
    """Find exp(i theta) at the present zero and theta's slope beyond L/2 from the past zeros.

    theta in closed form minimises the sum of squares of Z there; slope and a last turn of theta
    are one weighted least-squares step, the slope shrunk by the size that rounding L allows.
    """
    turned_JB = past_JB * np.exp(1j * (bend_B / 2 * gaps_JB - level_B / 2) * gaps_JB)
    square_B = (turned_JB**2).sum(0)
    turn_B = np.sqrt(-square_B.conj() / np.maximum(np.abs(square_B), 1e-30))
    left_JB, rate_JB = 2 * (turn_B * turned_JB).real, -2 * (turn_B * turned_JB).imag
    far_JB = -gaps_JB * rate_JB
    aa, ab, bb = (rate_JB**2).sum(0), (rate_JB * far_JB).sum(0), (far_JB**2).sum(0)
    bb = bb + (left_JB**2).mean(0) / ROUNDING**2
    ya, yb = -(rate_JB * left_JB).sum(0), -(far_JB * left_JB).sum(0)
    det = np.maximum(aa * bb - ab**2, 1e-30)
    shift_B, tilt_B = (ya * bb - yb * ab) / det, (yb * aa - ya * ab) / det
    residuals_JB = left_JB + shift_B * rate_JB + tilt_B * far_JB
    return turn_B * np.exp(1j * shift_B), tilt_B, residuals_JB


class _Roots(NamedTuple):
    first: Floats
    second: Floats
    slope: Floats
    curvature: Floats
    bumps: Floats


def _roots(z_XB: Floats, start_B: Floats) -> _Roots:
    """First two roots of z, which is 0 at x = 0 and leaves it with slope `start_B`."""
    sign_XB = np.where(z_XB < 0, -1, 1)
    sign_XB[0] = np.where(start_B < 0, -1, 1)
    changes_XB = np.cumsum(sign_XB[1:] != sign_XB[:-1], axis=0)
    first, slope, curvature = _root(z_XB, sign_XB, changes_XB, 1)
    second, _, _ = _root(z_XB, sign_XB, changes_XB, 2)
    before_XB = np.concatenate([np.zeros((1, z_XB.shape[1]), int), changes_XB])
    bumps = np.stack([np.abs(np.where(before_XB == i, z_XB, 0)).max(0) for i in (0, 1)])
    roots = _Roots(first, second, slope, curvature, bumps)
    return _with_pairs(roots, z_XB, before_XB == 0)


def _with_pairs(roots: _Roots, z_XB: Floats, before_XB: NDArray[np.bool_]) -> _Roots:
    """Put in pairs of roots between two points of the grid, where they come first.

    There the parabola through a least |z| and its neighbours has its vertex beyond 0.
    """
    low_XB, mid_XB, high_XB = z_XB[:-2], z_XB[1:-1], z_XB[2:]
    bend_XB, lean_XB = high_XB - 2 * mid_XB + low_XB, (high_XB - low_XB) / 2
    least_XB = (np.abs(lean_XB) <= np.abs(bend_XB)) & (bend_XB * mid_XB > 0) & before_XB[2:]
    least_XB &= 2 * np.abs(mid_XB * bend_XB) < lean_XB**2
    columns = np.flatnonzero(least_XB.any(0))
    at = np.argmax(least_XB[:, columns], axis=0)
    mid, bend, lean = (part[at, columns] for part in (mid_XB, bend_XB, lean_XB))
    vertex, depth = at + 1 - lean / bend, mid - lean**2 / (2 * bend)
    half, step = np.sqrt(-2 * depth / bend), FINE[1]
    first, second, slope, curvature, bumps = (part.copy() for part in roots)
    first[columns], second[columns] = (vertex - half) * step, (vertex + half) * step
    slope[columns], curvature[columns] = -bend * half / step, bend / step**2
    bumps[1, columns] = np.abs(depth)
    return _Roots(first, second, slope, curvature, bumps)


def _root(z_XB: Floats, sign_XB: Ints, changes_XB: Ints, which: int) -> tuple[Floats, ...]:
    """Root, slope and curvature by the cubic through the four points around a sign change."""
    last, columns = len(FINE) - 1, np.arange(z_XB.shape[1])
    at_B = np.argmax(changes_XB >= which, axis=0)
    from_B = np.clip(at_B - 1, 0, last - 3)
    c0, c1, c2, c3 = _cubic(*(z_XB[from_B + i, columns] for i in range(4)))
    low_B = (at_B - from_B).astype(float)
    high_B, x_B = low_B + 1, low_B + 0.5
    sign_B = sign_XB[at_B, columns]
    for _ in range(6):  # Newton's steps, halving where they leave the bracket
        value = ((c3 * x_B + c2) * x_B + c1) * x_B + c0
        rate = (3 * c3 * x_B + 2 * c2) * x_B + c1
        below = np.where(value < 0, -1, 1) == sign_B
        low_B, high_B = np.where(below, x_B, low_B), np.where(below, high_B, x_B)
        newton_B = x_B - value / np.where(rate == 0, 1, rate)
        inside = (newton_B >= low_B) & (newton_B <= high_B)
        x_B = np.where(inside, newton_B, (low_B + high_B) / 2)
    step = FINE[1]
    none_B = changes_XB[-1] < which
    slope = ((3 * c3 * x_B + 2 * c2) * x_B + c1) / step
    curvature = (6 * c3 * x_B + 2 * c2) / step**2
    return np.where(none_B, FINE[-1], (from_B + x_B) * step), slope, curvature


def _cubic(y0: Floats, y1: Floats, y2: Floats, y3: Floats) -> tuple[Floats, ...]:
    """Coefficients, lowest first, of the cubic through (0, y0) .. (3, y3)."""
    return (
        y0,
        (-11 * y0 + 18 * y1 - 9 * y2 + 2 * y3) / 6,
        (2 * y0 - 5 * y1 + 4 * y2 - y3) / 2,
        (y3 - 3 * y2 + 3 * y1 - y0) / 6,
    )
