"""Is every zero there, once, and in its place? Turing's argument, Arb's counts, Arb's zeros.

S(t) = N(t) - theta(t)/pi - 1 averages to 0. One zero too few anywhere lowers it by 1 from there
on, a pair by 2, so block means of S show where; Arb's rigorous counts then fix the level at
random heights and at both ends. What passes is verified, not proven.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mneme.zeta.arb import ZerosError, count_below, difference_to_arb
from mneme.zeta.riemann_siegel import theta
from mneme.zeta.zeros_config import LEAST

Floats = NDArray[np.float64]

BLOCK = 200
"""Zeros a block."""
BLOCK_LIMIT = 0.05
"""Largest |mean S| of a block."""
RUNNING_LIMIT = 0.01
"""Largest |mean S| from the range's start on."""
RUNNING_FROM = 20
"""Blocks before the running mean is held to its limit: over less, S itself has not averaged out."""
BESIDE = 1e-6
"""Distance from a zero at which the ends are counted: above any error, below any gap."""
ARB_LIMIT = 1e-9
"""Largest difference to Arb where float64 is finer than that."""


@dataclass(frozen=True, kw_only=True)
class Completeness:
    """What was checked of a range, and held."""

    mean_s: Floats
    """Mean of S over each block of `BLOCK` zeros (the last has what is left over too)."""
    running_s: Floats
    """Mean of S from the start to each block's end."""
    counted: Floats
    """Heights where the number of zeros below equals Arb's rigorous count."""


def verify(
    heights: Floats, *, first: int, counts: int, generator: np.random.Generator
) -> Completeness:
    """Check that `heights` are the zeros n = first, first + 1, ... with none missing or added.

    Parameters
    ----------
    heights : (n,) float64 array
        Ordinates, at least `LEAST`.
    first : int
        Index of the first.
    counts : int
        Random heights where Arb counts, besides the two ends.
    generator : numpy.random.Generator
        Draws those heights.

    Returns
    -------
    Completeness
        The means of S and the heights counted.

    Raises
    ------
    ZerosError
        Heights out of order, a block or running mean of S beyond its limit, or another count
        than Arb's.

    References
    ----------
    Turing (1953), Proc. London Math. Soc. 3, 99; Edwards (1974), section 8.3 (the argument).
    """
    heights = np.asarray(heights, dtype=np.float64)
    gaps = np.diff(heights)
    if len(heights) < LEAST or not (np.isfinite(heights).all() and (gaps > 0).all()):
        raise ZerosError(f"heights must be at least {LEAST} finite, strictly ascending numbers")
    mean_s, running_s = means_of_s(heights, first)
    require_small(mean_s, heights, first, limit=BLOCK_LIMIT, begin=0, what="mean of S")
    options = {"limit": RUNNING_LIMIT, "begin": RUNNING_FROM, "what": "running mean of S"}
    require_small(running_s, heights, first, **options)
    k = np.sort(generator.choice(len(gaps), min(counts, len(gaps)), replace=False))
    inside = heights[k] + gaps[k] / 2
    at = np.concatenate([heights[:1] - BESIDE, inside, heights[-1:] + BESIDE])
    expected = np.concatenate([[first - 1], first + k, [first + len(heights) - 1]])
    for height, index in zip(at.tolist(), expected.tolist(), strict=True):
        counted = count_below(height)
        if counted != index:
            raise ZerosError(
                f"{index} zeros are listed below height {height:.6f} where Arb counts {counted}: "
                "zeros are missing, added or misplaced; compute this range again"
            )
    return Completeness(mean_s=mean_s, running_s=running_s, counted=at)


def verify_places(heights: Floats, *, first: int, indices: NDArray[np.int64]) -> Floats:
    """Compare zeros with Arb's of the same index.

    Parameters
    ----------
    heights : (n,) float64 array
        Ordinates of zeros first, first + 1, ...
    first : int
        Index of the first.
    indices : (K,) int64 array
        Which to compare, first .. first + n - 1.

    Returns
    -------
    (K,) float64 array
        Height minus Arb's zero.

    Raises
    ------
    ZerosError
        A difference above `place_limit`.
    """
    chosen = heights[indices - first]
    difference = difference_to_arb(chosen, indices)
    for n, t, d in zip(indices.tolist(), chosen.tolist(), difference.tolist(), strict=True):
        if not abs(d) <= place_limit(t):
            raise ZerosError(f"zero n = {n} is listed at {t!r}, {abs(d):.3g} away from Arb's zero")
    return difference


def place_limit(height: float) -> float:
    """Return the allowed difference to Arb: 1e-9, above 8e6 a unit in float64's last place."""
    return max(ARB_LIMIT, float(np.spacing(height)))


def means_of_s(heights: Floats, first: int) -> tuple[Floats, Floats]:
    """Mean of S(t) over t on each block of zeros, and from the start to each block's end.

    Parameters
    ----------
    heights : (n,) float64 array
        Zeros first, first + 1, ...
    first : int
        Index of the first: N(t) = first + k between heights[k] and heights[k + 1].

    Returns
    -------
    (blocks,), (blocks,) float64 arrays
        max(1, (n - 1) // BLOCK) blocks; N is a step function, theta is integrated by Simpson's
        rule on each gap (error below 1e-12).
    """
    gaps = np.diff(heights)
    middle = heights[:-1] + gaps / 2
    at = theta(heights)
    smooth = (at[:-1] + 4 * theta(middle) + at[1:]) / (6 * np.pi) + 1
    area = gaps * (first + np.arange(len(gaps)) - smooth)
    starts = BLOCK * np.arange(max(1, len(gaps) // BLOCK))
    areas, lengths = np.add.reduceat(area, starts), np.add.reduceat(gaps, starts)
    return areas / lengths, np.cumsum(areas) / np.cumsum(lengths)


def require_small(
    means: Floats, heights: Floats, first: int, *, limit: float, begin: int, what: str
) -> None:
    """Raise at the first of `means` from block `begin` on that is not within +-limit."""
    beyond = np.flatnonzero(~(np.abs(means[begin:]) <= limit))
    if len(beyond):
        block = begin + int(beyond[0])
        low, high = BLOCK * block, min(BLOCK * (block + 1), len(heights) - 1)
        raise ZerosError(
            f"{what} is {means[block]:.3f} at zeros {first + low}..{first + high} (heights "
            f"{heights[low]:.2f}..{heights[high]:.2f}), beyond +-{limit}: zeros are missing or "
            "added there or before; compute this range again"
        )


def bad_gram_points(heights: Floats) -> tuple[NDArray[np.int64], int]:
    """Gram points where Gram's law fails, from the zeros alone.

    Parameters
    ----------
    heights : (n,) float64 array
        All zeros from the first on.

    Returns
    -------
    (bad,) int64 array, int
        The m >= 0 with g_m up to the last zero where (-1)^m Z(g_m) < 0, theta(g_m) = m pi, and how
        many there are. Z changes sign at every zero, so the law fails where N(g_m) and m + 1
        differ by an odd number.

    References
    ----------
    Edwards (1974), section 6.5.
    """
    turns = theta(heights) / np.pi
    points = np.arange(max(0, int(np.floor(turns[-1])) + 1))
    below = np.searchsorted(turns, points)
    return points[(below - points - 1) % 2 != 0], len(points)
