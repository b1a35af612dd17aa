"""Zeros n in [first, last): planned into stretches, searched in threads, counted against Arb.

Arb counts the zeros of every stretch rigorously; a stretch with another number is searched again
on a finer grid, and if the numbers still differ that is an error. A stretch's result depends on
its two ends only, so any number of threads gives the same bits.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import lambertw

from mneme.zeta.arb import ZerosError, arb_zeros, count_below
from mneme.zeta.riemann_siegel import (
    TAU,
    LogTable,
    correction_polynomials,
    main_sum_terms,
    theta_turns,
)
from mneme.zeta.stretch import Stretch, middle_of
from mneme.zeta.zero_search import brackets, refine
from mneme.zeta.zeros_config import LARGEST_HEIGHT

Floats = NDArray[np.float64]
Log = Callable[[str], None]

METHOD = (
    "Riemann-Siegel with C0..C4 on a grid of 1/16: the main sum of each stretch by one non-uniform "
    "Fourier transform, sign changes and every minimum without one, refinement inside brackets by "
    "Chandrupatla's method; zeros n <= 500 from Arb. Verified, not proven: the number of zeros of "
    "every stretch equals Arb's rigorous count."
)
FROM_ARB = 500
"""Zeros that Arb gives directly: below, what C0..C4 leave out costs more than 1e-10."""
LONGEST = 4096
"""Longest stretch, units of height."""
FINER = 32
"""How much finer the grid is when a stretch is searched again."""
LOG_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class ZeroRange:
    """Zeros n = first .. first + len(heights) - 1."""

    heights: Floats
    """Ordinates (n,), ascending, float64."""
    first: int
    """Index of the first, from 1."""
    seconds: float
    """Wall time, s."""
    stretches: int
    """Stretches, each with a number of zeros equal to Arb's rigorous count."""
    searched_again: int
    """Stretches that needed the finer grid."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One stretch of the plan."""

    start: int
    stop: int
    turns: float
    """theta at the middle, turns modulo 1."""


def zeros(first: int, last: int, *, threads: int, log: Log) -> ZeroRange:
    """Compute the ordinates of the zeros n in [first, last) of zeta on the critical line.

    Parameters
    ----------
    first, last : int
        1 <= first < last; heights must stay below 2^28 (n about 7e8).
    threads : int
        Stretches searched at a time, at least 1; the result does not depend on it.
    log : callable
        Takes a line of progress about every 5 s.

    Returns
    -------
    ZeroRange
        Heights within 1e-9 of Arb's up to 8e6, where float64 itself becomes coarser than that;
        above, within its spacing (1.5e-8 at 1e8).

    Raises
    ------
    ZerosError
        A range outside the limits, or a stretch whose zeros are not as many as Arb counts.

    References
    ----------
    Edwards (1974), Riemann's Zeta Function, chapters 6-8.
    Odlyzko, Schoenhage (1988), Trans. AMS 309, 797: band-limited interpolation of the main sum.
    """
    begin = time.perf_counter()
    if not 1 <= first < last:
        raise ZerosError(f"zeros [first, last) need 1 <= first < last, got [{first}, {last})")
    if gram_height(last) >= LARGEST_HEIGHT - 100:
        raise ZerosError(f"zeros up to n = {last} lie above 2^28: choose a lower range")
    parts = []
    if first <= FROM_ARB:
        parts.append(arb_zeros(first, min(last - 1, FROM_ARB) - first + 1))
    start_index = max(first, FROM_ARB + 1)
    pieces, again = [], 0
    if start_index < last:
        pieces = plan(height_before(start_index), height_after(last - 1))
        below = count_below(pieces[0].start)
        for found, repeated in searched(pieces, threads=threads, log=log):
            parts.append(found[max(0, start_index - 1 - below) :])
            below += len(found)
            again += repeated
    return ZeroRange(
        heights=np.concatenate(parts)[: last - first],
        first=first,
        seconds=time.perf_counter() - begin,
        stretches=len(pieces),
        searched_again=again,
    )


def zeros_above(height: float, count: int, *, threads: int, log: Log) -> ZeroRange:
    """Compute the first `count` zeros above `height`; their indices come from Arb's count."""
    first = count_below(height) + 1
    return zeros(first, first + count, threads=threads, log=log)


def plan(start: int, stop: int) -> list[Piece]:
    """Cut [start, stop] where N of the main sum changes, and further into equal parts."""
    edges = [start]
    for terms in itertools.count(main_sum_terms(start) + 1):
        edge = min(math.ceil(TAU * terms**2), stop)
        parts = math.ceil((edge - edges[-1]) / LONGEST)
        base = edges[-1]
        edges += [base + round((edge - base) * (k + 1) / parts) for k in range(parts)]
        if edge == stop:
            break
    pairs = itertools.pairwise(edges)
    return [Piece(start=a, stop=b, turns=theta_turns(middle_of(a, b))) for a, b in pairs]


def searched(pieces: list[Piece], *, threads: int, log: Log) -> Iterator[tuple[Floats, bool]]:
    """Yield the zeros of each piece in turn, counted, and whether it was searched again."""
    correction_polynomials()  # made here: Arb's precision is the process's, workers never call it
    table = LogTable.of(main_sum_terms(pieces[-1].stop))
    told, total, below = time.perf_counter(), 0, count_below(pieces[0].start)
    pool = ThreadPoolExecutor(threads)
    try:
        results = pool.map(lambda piece: search(piece, table), pieces)
        for piece, found in zip(pieces, results, strict=True):
            up_to = count_below(piece.stop)
            repeated = len(found) != up_to - below
            if repeated:
                found = search(piece, table, finer=FINER)
                agree(piece, found, up_to - below)
            yield found, repeated
            below, total = up_to, total + len(found)
            if time.perf_counter() - told > LOG_EVERY_S:
                told = time.perf_counter()
                log(f"{total:,} zeros, height {piece.stop:,}, every stretch counted")
    finally:
        pool.shutdown(cancel_futures=True)


def search(piece: Piece, table: LogTable, *, finer: int = 1) -> Floats:
    """Return the zeros of one piece, ascending; the grid is `finer` times the usual one."""
    stretch = Stretch.between(piece.start, piece.stop, turns=piece.turns, table=table)
    x, y = stretch.grid()
    if finer > 1:
        x = np.linspace(x[0], x[-1], (len(x) - 1) * finer + 1)
        y = stretch.z(x)
    return stretch.center + refine(stretch.z, brackets(stretch.z, x, y))


def agree(piece: Piece, found: Floats, counted: int) -> None:
    """Raise unless as many zeros were found as Arb counts."""
    if len(found) != counted:
        raise ZerosError(
            f"{len(found)} zeros found between heights {piece.start} and {piece.stop} where Arb "
            f"counts {counted}, even on the finer grid: this range cannot be verified"
        )


def gram_height(n: float) -> float:
    """Height where the smooth count theta/pi + 1 equals n - 1/2: about where zero n lies."""
    return TAU * math.exp(1 + lambertw((n - 11 / 8) / math.e).real)


def height_before(n: int) -> int:
    """Return an integer height below zero n (and above most that come before it)."""
    height = math.floor(gram_height(n))
    while count_below(height) >= n:
        height -= 1
    return height


def height_after(n: int) -> int:
    """Return an integer height above zero n."""
    height = math.ceil(gram_height(n))
    while count_below(height) < n:
        height += 1
    return height
