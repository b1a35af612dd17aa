"""Z on a stretch of constant N: one Fourier transform, then any point from 12 neighbours.

The main sum, shifted to its middle frequency, is band-limited. It is sampled on a grid that
oversamples it at least twice by a non-uniform Fourier transform (sources log n, targets the
grid), and read between samples through a compact kernel whose transform was divided out of the
terms beforehand. Both steps spread over neighbours with the same kind of kernel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mneme.zeta.riemann_siegel import (
    TAU,
    Floats,
    LogTable,
    correction,
    main_sum_terms,
    theta_change,
)

STEP = 0.25
"""Distance of the samples of the main sum; dyadic, so that grid heights are exact."""
PER_STEP = 4
"""Points of the search grid a step."""
SPREAD, READ = 16, 12
"""Neighbours of the transform's kernel and of the reading kernel (errors 1e-15 and 3e-13)."""
DEGREE = 40
"""Largest degree of the Chebyshev interpolant of the corrections on a stretch."""
NEGLIGIBLE = 1e-14
"""Chebyshev coefficients of the highest degrees are dropped below this."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """exp(beta (sqrt(1 - (2x/width)^2) - 1)) on |x| <= width / 2.

    References
    ----------
    Barnett, Magland, af Klinteberg (2019), SIAM J. Sci. Comput. 41, C479: its error is about
    exp(-pi width sqrt(1 - 1/oversampling)).
    """

    width: int
    beta: float

    @classmethod
    def for_band(cls, width: int, half_band: float) -> Kernel:
        """Make the kernel for |frequency| <= half_band < pi, radians a grid step."""
        return cls(width=width, beta=0.97 * width / 2 * (TAU - half_band))

    def __call__(self, x: Floats) -> Floats:
        """Return the kernel at distances `x`, |x| <= width / 2, in grid steps."""
        inside = 1 - np.square(x * (2 / self.width))
        return np.exp(self.beta * (np.sqrt(np.maximum(inside, 0.0)) - 1))

    def transform(self, frequency: Floats) -> Floats:
        """Return the Fourier transform at `frequency`, radians a grid step."""
        nodes, weights = half_legendre(40)
        half = self.width / 2
        waves = np.cos(np.multiply.outer(frequency, half * nodes))
        return np.einsum("...n,n->...", waves, 2 * half * weights * self(half * nodes))


@functools.cache
def half_legendre(count: int) -> tuple[Floats, Floats]:
    """Return the positive half of the Gauss-Legendre rule with 2 x count nodes."""
    nodes, weights = np.polynomial.legendre.leggauss(2 * count)
    return nodes[count:], weights[count:]


def uniform_sum(
    turns: Floats, weights: NDArray[np.complex128], reach: int
) -> NDArray[np.complex128]:
    """Sum weights exp(-2 pi i turns j) over sources, for the integers |j| <= reach.

    Parameters
    ----------
    turns : (N,) float64 array
        Turns a grid step, |turns| < 1/2.
    weights : (N,) complex128 array
        Source strengths.
    reach : int
        Largest |j|.

    Returns
    -------
    (2 reach + 1,) complex128 array
        The sums, j ascending; error about 1e-14 of the sum of |weights|.

    References
    ----------
    Dutt, Rokhlin (1993), SIAM J. Sci. Comput. 14, 1368: non-uniform Fourier transform.
    """
    size = 1 << (4 * reach - 1).bit_length()
    kernel = Kernel.for_band(SPREAD, math.pi / 2)
    place = turns * size
    first = np.floor(place).astype(np.int64) - SPREAD // 2 + 1
    grid = np.zeros(size, dtype=np.complex128)
    for tap in range(SPREAD):
        at = first + tap
        part = weights * kernel(place - at)
        real = np.bincount(at % size, part.real, size)
        grid += real + 1j * np.bincount(at % size, part.imag, size)
    sums = np.fft.fft(grid)
    flat = flattening(size)[: reach + 1]
    return np.concatenate([sums[-reach:], sums[: reach + 1]]) * np.concatenate([flat[:0:-1], flat])


@functools.cache
def flattening(size: int) -> Floats:
    """Return 1 / the spreading kernel's transform at j = 0..size/4 of a transform of `size`."""
    kernel = Kernel.for_band(SPREAD, math.pi / 2)
    j = np.arange(size // 4 + 1, dtype=np.float64)
    return 1 / kernel.transform(TAU / size * j)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Z between two integer heights with one N; offsets are measured from `center`."""

    center: int
    low: int
    """Lowest offset."""
    high: int
    """Highest offset."""
    middle: float
    """Middle frequency of the main sum, radians per unit height."""
    turns: float
    """theta(center) in turns, modulo 1."""
    kernel: Kernel
    samples: NDArray[np.complex128]
    """Main sum on the grid, from offset `first` on, in steps of `STEP`."""
    first: float
    corrections: Floats
    """Chebyshev coefficients of C0..C4 on [low, high]."""

    @classmethod
    def between(cls, start: int, stop: int, *, turns: float, table: LogTable) -> Stretch:
        """Sample the main sum for start <= t <= stop; N is that of the middle.

        `turns` is `theta_turns` at `middle_of(start, stop)`; both it and the table are given, so
        that nothing here calls Arb and stretches can be made in any thread.
        """
        center = middle_of(start, stop)
        low, high = start - center, stop - center
        terms = main_sum_terms((start + stop) / 2)
        middle = math.log(terms) / 2
        offsets = table.frequencies(terms) - middle / TAU
        kernel = Kernel.for_band(READ, middle * STEP)
        strength = 1 / np.sqrt(np.arange(1, terms + 1)) / kernel.transform(TAU * STEP * offsets)
        phases = TAU * table.phases(center, terms)
        weights = strength * (np.cos(phases) - 1j * np.sin(phases))
        reach = round(max(high, -low) / STEP) + READ
        return cls(
            center=center,
            low=low,
            high=high,
            middle=middle,
            turns=turns,
            kernel=kernel,
            samples=uniform_sum(offsets * STEP, weights, reach),
            first=-reach * STEP,
            corrections=interpolant(lambda x: correction(center + x, terms), low, high),
        )

    def grid(self) -> tuple[Floats, Floats]:
        """Return offsets (P,) every `STEP / PER_STEP` from low to high, and Z there."""
        offsets = np.arange(self.low * 1.0, self.high + STEP / 2, STEP)
        begin = round((self.low - self.first) / STEP) - READ // 2 + 1
        sums = np.zeros((PER_STEP, len(offsets)), dtype=np.complex128)
        parts = np.arange(PER_STEP) / PER_STEP
        for tap in range(READ):
            weights = self.kernel(parts - (tap - READ // 2 + 1))
            sums += weights[:, None] * self.samples[begin + tap :][: len(offsets)]
        points = (offsets + STEP * parts[:, None]).T.ravel()
        last = len(points) - (PER_STEP - 1)
        flat = sums.T.ravel()[:last]
        return points[:last], self._rotate(points[:last], flat.real, flat.imag)

    def z(self, offsets: Floats) -> Floats:
        """Z at `offsets` (P,) between low and high."""
        place = (offsets - self.first) / STEP
        below = np.floor(place)
        part = place - below
        index = below.astype(np.int64) - READ // 2 + 1
        real, imag = np.zeros_like(part), np.zeros_like(part)
        for tap in range(READ):
            weights = self.kernel(part - (tap - READ // 2 + 1))
            samples = self.samples.take(index + tap)
            real += weights * samples.real
            imag += weights * samples.imag
        return self._rotate(offsets, real, imag)

    def _rotate(self, offsets: Floats, real: Floats, imag: Floats) -> Floats:
        phase = theta_change(self.center, offsets, self.middle) + TAU * self.turns
        waves = np.cos(phase) * real - np.sin(phase) * imag
        scaled = (2 * offsets - (self.low + self.high)) / (self.high - self.low)
        return 2 * waves + np.polynomial.chebyshev.chebval(scaled, self.corrections)


def middle_of(start: int, stop: int) -> int:
    """Return the integer height that a stretch's offsets are measured from."""
    return (start + stop) // 2


def interpolant(function: Callable[[Floats], Floats], low: float, high: float) -> Floats:
    """Return Chebyshev coefficients of `function` on [low, high], without a negligible end."""
    nodes = np.polynomial.chebyshev.chebpts1(DEGREE + 1)
    values = function((low + high) / 2 + (high - low) / 2 * nodes)
    waves = np.cos(np.outer(np.arange(DEGREE + 1), np.arccos(nodes)))
    coefficients = np.einsum("kn,n->k", waves, values) * (2 / (DEGREE + 1))
    coefficients[0] /= 2
    return np.polynomial.chebyshev.chebtrim(coefficients, NEGLIGIBLE)
