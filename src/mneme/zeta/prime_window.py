"""Prime memory that begins anew with each window: what at most 255 spacings tell of the primes.

So short a memory does not keep neighbouring primes apart by itself. But tapered sums
D(w) = sum over past j of a(t_k - t_j) exp(i w (t_j - t_k)) at frequencies w below log(limit) are,
by the explicit formula, linear in the unknown p^(-i t_k) with known coefficients, and nearly
without noise. A Gaussian prior over them (modulus about 1, any phase) makes the best linear guess a
matrix that depends on the length of the memory only. Guesses shrink to 0 where nothing is known.

Legend: W windows, T position, P primes, Q prime powers, M frequencies, J anchors, F columns.

References
----------
Iwaniec & Kowalski (2004), Analytic Number Theory, theorem 5.12 (Weil's explicit formula).
Montgomery (1973), The pair correlation of zeros of the zeta function (power beyond the limit).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mneme.zeta.prime_config import WindowMemoryConfig, WindowRowConfig
from mneme.zeta.prime_rows import PrimeData, Rows, rows_of
from mneme.zeta.prime_sum import MainSum
from mneme.zeta.primes import TURN, Complexes, Floats, Ints, primes_up_to

LEVEL = 11.5
"""Level for which the power of unresolved frequencies is taken; it varies slowly."""
UNRESOLVED = 80
"""Pseudo-lines that stand for prime powers above the limit."""


class Reader(NamedTuple):
    """How a memory of one length is read."""

    length: float
    """Units of t."""
    frequencies_M: Floats
    """Where sums are taken."""
    smooth_M: Complexes
    """Sum of the taper over one point a unit of t."""
    guess_MP: Floats
    """(2 M, 2 P) real and imaginary parts of sums -> those of p^(-it)."""


def taper_at(ages: Floats, config: WindowMemoryConfig) -> Floats:
    """Return the taper at ages 0..1 (in lengths), 0 outside; any shape."""
    edge = np.clip(np.minimum(ages, 1 - ages) / config.taper, 0, 1)
    return (1 - np.cos(np.pi * edge)) / 2


def taper_transform(frequencies: Floats, length: float, config: WindowMemoryConfig) -> Complexes:
    """Integral of taper(x / length) exp(-i w x) over x: a box convolved with half a sine."""
    flat, edge = (1 - config.taper) * length, frequencies * config.taper * length / np.pi
    near = np.abs(np.abs(edge) - 1) < 1e-6
    bell = np.cos(np.pi / 2 * edge) / np.where(near, 1, 1 - edge**2)
    bell = np.where(near, np.pi / 4, bell)
    size = flat * np.sinc(frequencies * flat / TURN) * bell
    return size.astype(complex) * np.exp(-0.5j * length * frequencies)


def readers(config: WindowMemoryConfig) -> list[Reader]:
    """Compute how memories of all lengths are read, shortest first."""
    lengths = np.geomspace(config.shortest, config.longest, config.lengths)
    return [_reader(float(length), config) for length in lengths]


def _reader(length: float, config: WindowMemoryConfig) -> Reader:
    primes = primes_up_to(config.limit)
    powers, weights = _prime_powers(primes, config.limit)
    top = np.log(config.limit) + 0.5
    frequencies_M = np.linspace(0.05, top, int(np.ceil(top * length / np.pi)) + 2)
    lines = _response(frequencies_M, np.log(powers), -weights / TURN, length, config)
    # sums over primes above the limit: Montgomery's form factor, min(w / L, 1) L / 2 pi
    beyond = np.linspace(np.log(config.limit), top + 40 / length, UNRESOLVED)
    amount = np.sqrt(np.minimum(beyond, LEVEL) * (beyond[1] - beyond[0])) / TURN
    unresolved = _response(frequencies_M, beyond, amount, length, config)
    power = (lines @ lines.T + unresolved @ unresolved.T) / 2
    power += config.noise * length * np.eye(len(power))
    guess: Floats = np.linalg.solve(power, lines) / 2
    at_primes = np.concatenate([np.flatnonzero(np.isin(powers, primes))] * 2)
    at_primes[len(primes) :] += len(powers)
    smooth_M = taper_transform(frequencies_M, length, config)
    return Reader(length, frequencies_M, smooth_M, guess[:, at_primes])


def _prime_powers(primes: Ints, limit: int) -> tuple[Ints, Floats]:
    """Prime powers n up to a limit, ascending, and Lambda(n) / sqrt n."""
    pairs = [(p**m, np.log(p) / p ** (m / 2)) for p in primes.tolist() for m in range(1, 20)]
    pairs = sorted(pair for pair in pairs if pair[0] <= limit)
    return np.array([n for n, _ in pairs]), np.array([weight for _, weight in pairs])


def _response(
    frequencies_M: Floats,
    lines_Q: Floats,
    amounts_Q: Floats,
    length: float,
    config: WindowMemoryConfig,
) -> Floats:
    """Return the sums (2 M) that the real and imaginary part of a line's phase (2 Q) cause."""
    here = taper_transform(frequencies_M[:, None] - lines_Q, length, config) * amounts_Q
    mirror = taper_transform(frequencies_M[:, None] + lines_Q, length, config) * amounts_Q
    real, imag = here + mirror, 1j * (here - mirror)
    return np.block([[real.real, imag.real], [real.imag, imag.imag]])


def window_phases(
    heights_Z: Floats, level: float, tables: list[Reader], config: WindowMemoryConfig
) -> Complexes:
    """Guess p^(-i t_k) at zeros k = 1.. of one window from zeros 0..k.

    Parameters
    ----------
    heights_Z : array (T + 1,)
        Heights of the window's zeros, increasing; only differences enter.
    level : float
        Rounded level of the first.
    tables : list of Reader
        `readers(config)`.
    config : WindowMemoryConfig
        Settings.

    Returns
    -------
    array (P, T)
        complex128, of modulus at most 1; 0 where the memory is shorter than the shortest.
    """
    x_Z = heights_Z - heights_Z[0]
    phases_PT = np.zeros((tables[0].guess_MP.shape[1] // 2, len(x_Z) - 1), complex)
    # half a mean spacing of empty taper does no harm, and uses more of the window
    room_T = x_Z[1:] + np.pi / level
    which_T = np.searchsorted([table.length for table in tables], room_T, side="right") - 1
    for which in np.unique(which_T[which_T >= 0]):
        table, k = tables[which], 1 + np.flatnonzero(which_T == which)
        past_Z = x_Z[: k[-1] + 1]
        taper_kZ = taper_at((x_Z[k][:, None] - past_Z) / table.length, config)
        angles_ZM = past_Z[:, None] * table.frequencies_M
        turns_ZM = np.cos(angles_ZM) + 1j * np.sin(angles_ZM)
        sums_kM = (taper_kZ @ turns_ZM) * turns_ZM[k].conj() - level / TURN * table.smooth_M
        parts_kP = np.concatenate([sums_kM.real, sums_kM.imag], axis=1) @ table.guess_MP
        real_kP, imag_kP = np.split(parts_kP, 2, axis=1)
        phases_PT[:, k - 1] = (real_kP + 1j * imag_kP).T
    phases_PT /= np.maximum(np.abs(phases_PT), 1)
    return phases_PT


def window_rows(
    heights_Z: Floats,
    levels_Z: Floats,
    main_sum: MainSum,
    tables: list[Reader],
    config: WindowRowConfig,
) -> Rows:
    """Compute the rows (T, F) of one window's zeros 1..T from zeros 0..k of the window."""
    phases_PT = window_phases(heights_Z, float(levels_Z[0]), tables, config.window_memory)
    x_Z, level_T = heights_Z - heights_Z[0], levels_Z[1:]
    k_T = np.arange(1, len(x_Z))
    back_JT = k_T - np.arange(config.sum.anchors)[:, None]
    known, back_JT = back_JT >= 0, np.maximum(back_JT, 0)
    gaps_JT = np.where(known, x_Z[k_T] - x_Z[back_JT], 0)
    past_JT = np.where(known, _sums_at(main_sum, phases_PT, level_T, x_Z)[k_T - 1, back_JT], 0)
    sums = main_sum.sums(phases_PT, level_T)
    ahead = main_sum.ahead(sums, past_JT, gaps_JT, level_T)
    spacings = np.diff(x_Z) * levels_Z[:-1] / TURN
    lag_LT = k_T - 1 - np.arange(config.lags)[:, None]
    lags_LT = np.where(lag_LT >= 0, spacings[np.maximum(lag_LT, 0)], 1.0)
    extra = [np.log(k_T)[:, None], np.abs(phases_PT[: config.sizes]).T]
    return np.concatenate([rows_of(ahead, lags_LT, level_T), *extra], axis=1).astype(np.float32)


def _sums_at(main_sum: MainSum, phases_PT: Complexes, level_T: Floats, x_Z: Floats) -> Complexes:
    """Return main sums (T, Z) at all zeros of the window by what is known at zero T + 1."""
    terms_NT = main_sum.powers(phases_PT) * main_sum.weights(level_T)
    angles_NZ = main_sum.log_n[:, None] * x_Z
    turns_NZ = (np.cos(angles_NZ) + 1j * np.sin(angles_NZ)).astype(np.complex64)
    return (terms_NT * turns_NZ[:, 1:]).T @ turns_NZ.conj()


def window_data(
    heights: Floats,
    spacings: Floats,
    levels: Floats,
    windows: Ints,
    config: WindowRowConfig,
    *,
    window: int,
) -> PrimeData:
    """Compute the rows of all targets of some windows, each from its own spacings only.

    Parameters
    ----------
    heights, spacings, levels : array (n + 1,), (n,), (n + 1,)
        A series.
    windows : array (W,)
        Window indices.
    config : WindowRowConfig
        Settings.
    window : int
        Spacings of a window; its targets are all but the first.

    Returns
    -------
    PrimeData
        Position i of window w serves spacing w x window + i + 1 and reads the i + 1 before it.
    """
    tables = readers(config.window_memory)
    main_sum = MainSum(primes_up_to(config.window_memory.limit), config.sum)
    rows_WTF = np.empty((len(windows), window - 1, config.columns), np.float32)
    for row, first in enumerate(windows * window):
        zeros = slice(first, first + window)
        rows_WTF[row] = window_rows(heights[zeros], levels[zeros], main_sum, tables, config)
    asked_WT = windows[:, None] * window + np.arange(1, window)
    return PrimeData(rows_WTF, spacings[asked_WT].astype(np.float32))
