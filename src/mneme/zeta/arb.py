"""Rigorous values from Arb (python-flint): counts, indices and single zeros.

Arb's working precision belongs to the process, not to the thread: call these from one thread only.
"""

from __future__ import annotations

import numpy as np
from flint import acb, arb, ctx
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BITS = 100
"""Working precision of zeros and counts; a height of 1e8 keeps 20 decimals."""


class ZerosError(ValueError):
    """Zeros that are missing, added, out of place, or asked for where they cannot be computed."""


def count_below(height: float) -> int:
    """Return N(height), the number of zeros with ordinate in (0, height), as Arb proves it.

    Raises
    ------
    ZerosError
        `height` is closer to a zero than Arb decides at `BITS` bits.
    """
    with ctx.workprec(BITS):
        count = arb(float(height)).zeta_nzeros().unique_fmpz()
    if count is None:
        raise ZerosError(f"Arb cannot count the zeros below {height!r}: move it off the zero there")
    return int(count)


def arb_zeros(first: int, count: int) -> Floats:
    """Return zeros n = first .. first + count - 1, each the float64 nearest to Arb's ball."""
    with ctx.workprec(BITS):
        return np.array([float(zero.imag.mid()) for zero in acb.zeta_zeros(first, count)])


def difference_to_arb(heights: Floats, indices: NDArray[np.int64]) -> Floats:
    """Return height minus Arb's zero of the same index, for pairs of (K,) heights and indices.

    Includes the rounding of the heights themselves to float64: 1.2e-10 at 1e6, 7.5e-9 at 1e8.
    """
    with ctx.workprec(BITS):
        pairs = zip(indices.tolist(), heights.tolist(), strict=True)
        return np.array([float(arb(t) - acb.zeta_zero(n).imag) for n, t in pairs])
