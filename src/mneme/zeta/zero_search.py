"""From a function with simple real zeros to the zeros: brackets first, then refinement inside them.

Under the Riemann hypothesis Z has no positive minimum and no negative maximum, so wherever grid
values come closest to 0 without changing sign, a close pair hides: those places are looked at
again on finer and finer grids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Function = Callable[[Floats], Floats]

ZOOM = 32
"""How much finer each further look is."""
LOOKS = 5
"""Looks at a suspicious place, the first included: a grid of 1/16 ends at 6e-8."""
TOLERANCE = 1e-12
"""Width at which a bracket is closed, units of height; above float64 spacing up to 4096."""
BELOW_ZERO = -5e-324
"""Stands for a value of exactly 0, so that a zero on the grid lies in one bracket, not in two."""
STEPS = 100
"""Bisection alone would need 40."""


@dataclass(frozen=True)
class Brackets:
    """Intervals [a, b] (R,) with values of opposite sign at their ends."""

    a: Floats
    b: Floats
    at_a: Floats
    at_b: Floats


def brackets(f: Function, x: Floats, y: Floats) -> Brackets:
    """Bracket the zeros of `f` from its values on a grid, close pairs included.

    Parameters
    ----------
    f : callable
        Function (P,) -> (P,).
    x : (P,) float64 array
        Ascending grid, equidistant, fine enough that most neighbouring zeros are apart.
    y : (P,) float64 array
        f(x).

    Returns
    -------
    Brackets
        Ascending and disjoint; each holds an odd number of zeros.
    """
    found, x, y = [], x[None], y[None]
    for _ in range(LOOKS):
        y = np.where(y == 0, BELOW_ZERO, y)
        up = y > 0
        row, i = np.nonzero(up[:, 1:] != up[:, :-1])
        found.append(np.stack([x[row, i], x[row, i + 1], y[row, i], y[row, i + 1]]))
        size, same = np.abs(y), up[:, 1:] == up[:, :-1]
        low = (size[:, 1:-1] < size[:, :-2]) & (size[:, 1:-1] <= size[:, 2:])
        row, i = np.nonzero(low & same[:, 1:] & same[:, :-1])
        if not len(row):
            break
        x = np.linspace(x[row, i], x[row, i + 2], 2 * ZOOM + 1, axis=1)
        y = f(x.ravel()).reshape(x.shape)
    ends = np.concatenate(found, axis=1)
    return Brackets(*ends[:, np.argsort(ends[0])])


def refine(f: Function, within: Brackets) -> Floats:
    """Close every bracket on its zero by Chandrupatla's method, all of them at once.

    Parameters
    ----------
    f : callable
        Function (P,) -> (P,), continuous on every bracket.
    within : Brackets
        One zero each; no iterate leaves its bracket.

    Returns
    -------
    (R,) float64 array
        Zeros, in the order of the brackets, within `TOLERANCE` of a change of sign.

    References
    ----------
    Chandrupatla (1997), Adv. Eng. Softw. 28, 145: inverse quadratic interpolation where it is
    safe, bisection elsewhere.
    """
    zeros, open_ = np.empty(len(within.a)), np.arange(len(within.a))
    a, b, fa, fb = within.a, within.b, within.at_a, within.at_b
    share = inside(fa / (fa - fb), a, b)
    for _ in range(STEPS):
        x = a + share * (b - a)
        fx = f(x)
        same = (fx > 0) == (fa > 0)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = x, fx
        nearer = np.abs(fb) < np.abs(fa)
        best = np.where(nearer, b, a)
        done = (np.abs(b - a) < TOLERANCE) | (fa == 0) | (fb == 0)
        zeros[open_[done]] = best[done]
        if done.all():
            return zeros
        open_ = open_[~done]
        a, b, c, fa, fb, fc = (v[~done] for v in (a, b, c, fa, fb, fc))
        share = next_share(a, b, c, fa, fb, fc)
    raise AssertionError(f"{len(open_)} brackets did not close in {STEPS} steps")


def next_share(a: Floats, b: Floats, c: Floats, fa: Floats, fb: Floats, fc: Floats) -> Floats:
    """Where between a and b the next value is taken, in shares of b - a; c is the end dropped."""
    xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
    safe = (np.square(phi) < xi) & (np.square(1 - phi) < 1 - xi)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = fa / (fb - fa) * (fc / (fb - fc)) + (c - a) / (b - a) * fa / (fc - fa) * (
            fb / (fc - fb)
        )
    return inside(np.where(safe, share, 0.5), a, b)


def inside(share: Floats, a: Floats, b: Floats) -> Floats:
    """Keep half a tolerance away from both ends."""
    least = TOLERANCE / 2 / np.abs(b - a)
    return np.clip(share, least, 1 - least)
