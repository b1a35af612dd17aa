"""Prime memory: sums of exp(i log p (t_j - t_k)) over past zeros, as a state that is carried along.

By Weil's explicit formula a smooth average of exp(i log p t_j) over zeros t_j is
-log p / (2 pi sqrt p), and next to nothing at frequencies that are no log of a prime power. So
F_p(k) = sum over past j of w(t_k - t_j) exp(i log p (t_j - t_k)), which sees only differences of
heights, holds the phase p^(-i t_k) of every prime at zero k. The window is
w(x) = (x/T)^m / m! exp(-x/T), m = order - 1: order 1 forgets exponentially; a higher order also
starts softly at x = 0, so that neighbouring primes leak into each other only as
(distance in log p x T)^-order.

The sums are renewed every `refresh` zeros; in between they only turn, which loses nothing because
the frequencies log p are known.

Legend: N zeros, B zeros of a block, P primes, M order.

References
----------
Iwaniec & Kowalski (2004), Analytic Number Theory, theorem 5.12 (Weil's explicit formula).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import factorial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc

from mneme.zeta.prime_config import MemoryConfig

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Complexes = NDArray[np.complexfloating]
TURN = 2 * np.pi


class Memory(NamedTuple):
    """The state at one zero: everything that is remembered of the zeros up to it."""

    sums_MP: Complexes
    """Window orders 1..M of the sums over past zeros, relative to the present zero."""
    height: float
    """Height of the present zero; enters only in differences."""
    elapsed: float
    """Height since the first zero ever read."""


def primes_up_to(limit: int) -> Ints:
    """Return the primes up to `limit`, ascending, int64."""
    sieve = np.ones(limit + 1, bool)
    sieve[:2] = False
    for n in range(2, int(limit**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = False
    return np.flatnonzero(sieve)


def start_memory(height: float, config: MemoryConfig) -> Memory:
    """Return the memory of a reader who has seen one zero, at `height`."""
    sums_MP = np.zeros((config.order, len(primes_up_to(config.limit))), complex)
    sums_MP[0] = 1
    return Memory(sums_MP, float(height), 0.0)


def turns(gaps_B: Floats, config: MemoryConfig) -> Complexes:
    """Return exp(i log p gap), shape (P, B), complex128, for gaps in t."""
    angles_PB = np.log(primes_up_to(config.limit))[:, None] * gaps_B
    return np.cos(angles_PB) + 1j * np.sin(angles_PB)


def remember(memory: Memory, heights_B: Floats, config: MemoryConfig) -> Memory:
    """Add zeros to a memory.

    Parameters
    ----------
    memory : Memory
        State at the zero before them.
    heights_B : array (B,)
        Heights of the zeros that follow, increasing, at least one.
    config : MemoryConfig
        Settings.

    Returns
    -------
    Memory
        State at the last of them.
    """
    last = heights_B[-1]
    turns_PB = turns(heights_B - memory.height, config)
    step = (last - memory.height) / config.time
    ages_B = (last - heights_B) / config.time
    fade_B, fade = np.exp(-ages_B), np.exp(-step)
    sums_MP = np.empty_like(memory.sums_MP)
    for m in range(config.order):
        sums_MP[m] = turns_PB @ (fade_B * ages_B**m / factorial(m))
        for q in range(m + 1):
            sums_MP[m] += memory.sums_MP[q] * (fade * step ** (m - q) / factorial(m - q))
    sums_MP *= turns_PB[:, -1].conj()
    return Memory(sums_MP, float(last), memory.elapsed + float(last - memory.height))


def phases_of(memory: Memory, level: float, config: MemoryConfig) -> Complexes:
    """Read p^(-i t) of every prime at the memory's zero.

    Parameters
    ----------
    memory : Memory
        State at a zero t.
    level : float
        log(t / 2 pi), rounded: the density of zeros is level / 2 pi.
    config : MemoryConfig
        Settings.

    Returns
    -------
    array (P,)
        complex128; of modulus 1 but for what leaks in from other frequencies. On points that know
        no primes it is noise, small where the memory is long.
    """
    primes = primes_up_to(config.limit)
    smooth_P = level / TURN * config.time / (1 + 1j * np.log(primes) * config.time) ** config.order
    filled = gammainc(config.order, max(memory.elapsed, 1e-3 * config.time) / config.time)
    scale_P = -TURN * np.sqrt(primes) / (np.log(primes) * config.time * filled)
    return (memory.sums_MP[-1] - smooth_P) * scale_P


class Block(NamedTuple):
    """Consecutive zeros between two renewals of the memory."""

    start: int
    """Index of the first zero, at which the memory was renewed."""
    stop: int
    """Index after the last zero."""
    memory: Memory
    """State at the first zero."""
    phases_PB: Complexes
    """p^(-i t_k) at zeros k = start - halo .. stop - 1, as the memory at `start` knows it."""


def prime_phases(
    heights: Floats, levels: Floats, config: MemoryConfig, *, halo: int, wanted: NDArray[np.bool_]
) -> Iterator[Block]:
    """Carry the prime memory over a series of zeros.

    Parameters
    ----------
    heights : array (N,)
        Increasing heights of zeros; only differences of them enter.
    levels : array (N,)
        log(t / 2 pi) of each, rounded.
    config : MemoryConfig
        Settings.
    halo : int
        Zeros before `start` for which a block tells phases too, where there are as many.
    wanted : array (ceil(N / refresh),)
        Blocks that are yielded; the memory reads all.

    Yields
    ------
    Block
        In order; zero k belongs to the block from start = refresh x floor(k / refresh), whose
        memory reads zeros up to `start`, itself included.
    """
    memory = start_memory(heights[0], config)
    for index, start in enumerate(range(0, len(heights), config.refresh)):
        stop = min(start + config.refresh, len(heights))
        if wanted[index]:
            gaps_B = heights[max(start - halo, 0) : stop] - heights[start]
            phases_P = phases_of(memory, levels[start], config)
            turned_PB = turns(gaps_B, config).conj() * phases_P[:, None]
            yield Block(start, stop, memory, turned_PB)
        if stop < len(heights):
            ahead_B = heights[start + 1 : stop + 1]
            memory = remember(memory, ahead_B, config)
