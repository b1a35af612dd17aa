"""Series without primes that go through the same pipeline as the zeros.

gue         bulk eigenvalues of the Gaussian unitary ensemble: every correlation of the sine process
shuffled    the zeros' spacings in random order: their law, and no memory at all
scrambled   the zeros' S(t) with random phases: the spacing law and the power spectrum of every
            block of 4096 (all that a linear predictor can use), and no relation between phases

References
----------
Dumitriu and Edelman (2002), Matrix models for beta ensembles, theorem 2.12 (tridiagonal form).
Schreiber and Schmitz (1996), Improved surrogate data for nonlinearity tests (IAAFT).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigvalsh_tridiagonal

from mneme.zeta.reading_config import KEPT  # the middle 81 % of each matrix
from mneme.zeta.unfold import heights_of

Floats = NDArray[np.float64]
Surrogate = Literal["gue", "shuffled", "scrambled"]
ORDER = 4096  # order of each random matrix; sterf costs O(n^2), so larger ones cost more a spacing
BLOCK = 16 * 256  # spacings whose phases are drawn together: the primes' frequencies drift < .3 %
ROUNDS = 100  # of IAAFT, which stops where rank order no longer changes


def surrogate(
    system: Surrogate,
    spacings: ArrayLike,
    heights: ArrayLike,
    *,
    size: int,
    generator: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Spacings of a surrogate and the heights that inverse unfolding gives them.

    Parameters
    ----------
    system : "gue" | "shuffled" | "scrambled"
        What replaces the zeros.
    spacings : array (n,)
        The zeros' unfolded spacings: the first `size` are shuffled or scrambled; unused by `gue`.
    heights : array (n + 1,)
        The zeros' heights; the surrogate starts at the first.
    size : int
        Spacings wanted; at most n for shuffled and scrambled.
    generator : numpy.random.Generator
        Source of the matrices, the order, the phases.

    Returns
    -------
    spacings : float64 array (size,)
        Above 0, mean about 1.
    heights : float64 array (size + 1,)
        t(u_0 + cumsum(spacings)), from the zeros' first height on.

    Raises
    ------
    ValueError
        Unknown system, or more spacings wanted than there are.
    """
    zeros = np.asarray(spacings, np.float64)
    if not 1 <= size <= len(zeros) and system != "gue":
        raise ValueError(
            f"{system}: size must be 1..{len(zeros)} (the zeros' spacings), got {size}"
        )
    if system == "gue":
        made = gue_spacings(size, generator=generator)
    elif system == "shuffled":
        made = generator.permutation(zeros[:size])
    elif system == "scrambled":
        made = scrambled_spacings(zeros[:size], generator=generator)
    else:
        raise ValueError(f"system must be one of gue, shuffled, scrambled, got {system!r}")
    return made, heights_of(float(np.asarray(heights)[0]), made)


def gue_spacings(size: int, *, generator: np.random.Generator) -> Floats:
    """Unfolded bulk spacings of independent GUE matrices, joined where windows of 256 end.

    Parameters
    ----------
    size : int
        Spacings wanted.
    generator : numpy.random.Generator
        Source of the matrices, drawn one after another: a longer series starts with a shorter one.

    Returns
    -------
    array (size,)
        Spacings, float64. Matrices change at multiples of `KEPT` = 3328 = 13 windows, so that no
        window of 256 spans two of them.
    """
    matrices = [_bulk(generator) for _ in range(-(-size // KEPT))]
    return np.concatenate(matrices)[:size]


def _bulk(generator: np.random.Generator) -> Floats:
    """Spacings in the middle of one spectrum, by the semicircle law's exact count."""
    diagonal = generator.standard_normal(ORDER)
    # chi_{2k} / sqrt 2 is the square root of a Gamma(k) variable.
    beside = np.sqrt(generator.standard_gamma(np.arange(ORDER - 1, 0, -1, dtype=np.float64)))
    eigenvalues = eigvalsh_tridiagonal(diagonal, beside, lapack_driver="sterf")
    first = (ORDER - 1 - KEPT) // 2
    x = eigenvalues[first : first + KEPT + 1] / (2 * np.sqrt(ORDER))  # the bulk ends at +-1
    return np.diff(ORDER / np.pi * (x * np.sqrt(1 - x**2) + np.arcsin(x)))


def scrambled_spacings(spacings: ArrayLike, *, generator: np.random.Generator) -> Floats:
    """Randomise the Fourier phases of S at the zeros, block by block, keeping the spacings' law.

    Spacings are 1 minus the steps of S from zero to zero, so the phases of both are the same up to
    known constants, and positive spacings are exactly what keeps u increasing. Each block of
    `BLOCK` spacings is made by IAAFT: phases drawn at random, then in turn the block's power
    spectrum and its exact set of spacings are put back, until the order no longer changes. The
    set (law, mean, hence S at the ends of blocks) is kept exactly, the spectrum nearly.

    Parameters
    ----------
    spacings : array (n,)
        Unfolded spacings.
    generator : numpy.random.Generator
        Source of the phases.

    Returns
    -------
    array (n,)
        A permutation within each block of the given spacings, float64.
    """
    s = np.asarray(spacings, np.float64)
    blocks = [s[start : start + BLOCK] for start in range(0, len(s), BLOCK)]
    return np.concatenate([_iaaft(block, generator) for block in blocks])


def _iaaft(s: Floats, generator: np.random.Generator) -> Floats:
    amplitude, ordered = np.abs(np.fft.rfft(s)), np.sort(s)
    angles = generator.uniform(0, 2 * np.pi, len(amplitude))
    ranks = np.full(len(s), -1)
    for _ in range(ROUNDS):
        angles[0] = 0.0  # the mean is no phase
        wave = np.fft.irfft(amplitude * np.exp(1j * angles), len(s))
        before = ranks.copy()
        ranks[np.argsort(wave, kind="stable")] = np.arange(len(s))
        if (ranks == before).all():
            break
        angles = np.angle(np.fft.rfft(ordered[ranks]))
    return ordered[ranks]
