"""Heights of zeros <-> unfolded spacings with mean 1, and what is left over: S(t) at the zeros.

A series is `heights` (n + 1,) in increasing order and `spacings` (n,) between them. Only this file
knows the smooth count u(t); inputs of headline arms are spacings and `level_of`, never t.

References
----------
Edwards (1974), Riemann's Zeta Function, section 6.7 (N(T) = theta(T)/pi + 1 + S(T)).
Odlyzko (1987), On the distribution of spacings between zeros of the zeta function, section 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import lambertw

Floats = NDArray[np.float64]
TURN = 2 * np.pi
LEVEL_DIGITS = 3  # digits of log(t / 2 pi) that headline arms may see


def unfold(heights: ArrayLike) -> Floats:
    """Smooth count of zeros u(t) = t/2pi * log(t / 2 pi e), so that u grows by 1 a zero.

    Parameters
    ----------
    heights : array (...)
        Heights t above 2 pi (the first zero lies at 14.13).

    Returns
    -------
    array (...)
        u, float64, above -1.

    Raises
    ------
    ValueError
        When a height is not finite or not above 2 pi, where u stops growing.
    """
    x = _heights(heights) / TURN
    return x * (np.log(x) - 1)


def spacings_of(heights: ArrayLike) -> Floats:
    """Unfolded spacings u(t_{k+1}) - u(t_k).

    Parameters
    ----------
    heights : array (n + 1,)
        Heights in increasing order.

    Returns
    -------
    array (n,)
        Spacings, float64, above 0, mean close to 1.

    Raises
    ------
    ValueError
        When heights are fewer than two, not increasing, or not above 2 pi.
    """
    t = _heights(heights)
    if t.ndim != 1 or len(t) < 2:
        raise ValueError(f"heights must be a list of at least two zeros, got shape {t.shape}")
    dt = np.diff(t)
    if not (dt > 0).all():
        at = int(np.argmin(dt))
        raise ValueError(f"heights must increase, but zero {at + 1} is not above zero {at}: sort")
    # u(t + dt) - u(t) written without the difference of two large numbers, which costs 3 digits.
    return (dt * (np.log(t[:-1] / TURN) - 1) + t[1:] * np.log1p(dt / t[:-1])) / TURN


def level_of(heights: ArrayLike) -> Floats:
    """Coarse height log(t / 2 pi), rounded to 1e-3: the mean density of zeros times 2 pi.

    Parameters
    ----------
    heights : array (...)
        Heights t above 2 pi.

    Returns
    -------
    array (...)
        One level a height, float64; 2 pi s / level is the gap in t of a spacing s.
    """
    logs: Floats = np.log(_heights(heights) / TURN)
    return logs.round(LEVEL_DIGITS)


def heights_of(start_height: float, spacings: ArrayLike) -> Floats:
    """Inverse unfolding: heights whose spacings are `spacings`, from `start_height` on.

    Parameters
    ----------
    start_height : float
        Height of the first zero, above 2 pi.
    spacings : array (n,)
        Unfolded spacings, above 0.

    Returns
    -------
    array (n + 1,)
        Heights t(u_0 + cumsum(s)), float64, increasing; the first is `start_height`.

    Raises
    ------
    ValueError
        When a spacing is not above 0 (or not finite), or the start is not above 2 pi.

    Notes
    -----
    u = x (log x - 1) with x = t / 2 pi gives x = exp(1 + W(u / e)), W Lambert's function.
    """
    s = np.asarray(spacings, np.float64)
    if s.ndim != 1 or not (np.isfinite(s) & (s > 0)).all():
        raise ValueError("spacings must be a list of finite numbers above 0: drop or repair them")
    u = unfold(start_height) + np.concatenate([[0.0], np.cumsum(s)])
    t = TURN * np.exp(1 + np.real(lambertw(u / np.e)))
    x = t / TURN
    t -= TURN * (x * (np.log(x) - 1) - u) / np.log(x)  # Newton: exp() has amplified W's last bit
    t[0] = start_height
    return t


def fluctuation(heights: ArrayLike, first_index: int) -> Floats:
    """S(t) at zeros: half-way up the jump, so that its running mean is 0.

    Parameters
    ----------
    heights : array (n,)
        Consecutive zeros' heights, above 2 pi.
    first_index : int
        Index of the first of them; the zero at 14.13 has index 1.

    Returns
    -------
    array (n,)
        S = N - 1/2 - theta(t)/pi - 1, float64, mostly within +-1. A missed pair of zeros lowers
        everything after it by 2.
    """
    if first_index < 1:
        raise ValueError(f"first_index counts zeros from 1, got {first_index}")
    t = _heights(heights)
    # theta(t)/pi + 1 = u + 7/8 + 1/(48 pi t) + 7/(5760 pi t^3) + ...
    smooth = unfold(t) + 7 / 8 + (1 / (48 * t) + 7 / (5760 * t**3)) / np.pi
    return first_index + np.arange(t.size, dtype=np.float64) - 0.5 - smooth


def _heights(heights: ArrayLike) -> Floats:
    t = np.asarray(heights, np.float64)
    if not (np.isfinite(t) & (t > TURN)).all():
        raise ValueError("heights must be finite and above 2 pi = 6.2832, where zeros can lie")
    return t
