"""What the density head of the prime arms reads at each zero: the main sum's candidates, few lags.

A row belongs to the zero at which it is known and serves the spacing that follows. Arm `primes`
takes the phases of primes from the memory (differences of heights only); arm `oracle` takes them
from the height itself, so that nothing is remembered.

Legend: N zeros, B zeros of a block, P primes, J anchors, F columns, K asked zeros, W windows,
T position.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mneme.zeta.prime_config import RowConfig
from mneme.zeta.prime_sum import Ahead, MainSum
from mneme.zeta.primes import (
    TURN,
    Block,
    Complexes,
    Floats,
    Ints,
    prime_phases,
    primes_up_to,
)

Rows = NDArray[np.float32]
Phases = Literal["memory", "height"]
FIRST = 0
"""Column of the first candidate, mean spacings."""


class PrimeData(NamedTuple):
    """Rows and the spacings that followed them, window by window."""

    rows_WTF: Rows
    """(W, T, F) float32."""
    truth_WT: NDArray[np.float32]
    """(W, T) float32, mean spacings."""


def prime_rows(
    heights: Floats, levels: Floats, asked: Ints, config: RowConfig, *, phases: Phases
) -> Rows:
    """Compute rows at the asked zeros, carrying the memory over all zeros up to the last of them.

    Parameters
    ----------
    heights : array (N,)
        Increasing heights of consecutive zeros, from where the memory starts.
    levels : array (N,)
        log(t / 2 pi) of each, rounded (`unfold.level_of`).
    asked : array (K,)
        Indices of zeros, ascending, unique.
    config : RowConfig
        Settings.
    phases : str
        `memory`: only differences of heights enter. `height`: p^(-it) is computed from t.

    Returns
    -------
    array (K, F)
        float32. Row k reads zeros up to asked[k] and none after it.

    Raises
    ------
    ValueError
        An asked zero comes before the first renewal of the memory that has enough zeros behind it.
    """
    blocks = asked // config.memory.refresh
    start = blocks * config.memory.refresh
    if len(asked) and start[0] < config.halo:
        raise ValueError(
            f"zero {asked[0]} has no renewal of the memory with {config.halo} zeros before it: "
            f"ask for zeros from index {-(-config.halo // config.memory.refresh)} x refresh on"
        )
    main_sum = MainSum(primes_up_to(config.memory.limit), config.sum)
    rows_KF = np.empty((len(asked), config.columns), np.float32)
    last = int(asked[-1]) + 1 if len(asked) else 0
    series = heights[:last], levels[:last]
    wanted = np.isin(np.arange(-(-last // config.memory.refresh)), blocks)
    for block in prime_phases(*series, config.memory, halo=config.halo, wanted=wanted):
        at = slice(*np.searchsorted(asked, [block.start, block.stop]))
        span = slice(block.start - config.halo, block.stop)
        phases_PB = block_phases(block, heights, slice(-config.halo, None), config, phases)
        rows_BF = block_rows(main_sum, phases_PB, heights[span], levels[span], config)
        rows_KF[at] = rows_BF[asked[at] - block.start]
    return rows_KF


def block_rows(
    main_sum: MainSum, phases_PB: Complexes, heights_B: Floats, levels_B: Floats, config: RowConfig
) -> Rows:
    """Compute the rows of consecutive zeros after the first `halo`, with one memory for all."""
    halo, anchors = config.halo, config.sum.anchors
    here_B, ahead_GB, level = main_sum.sums(phases_PB, levels_B)
    count = len(heights_B) - halo
    back = halo + np.arange(count) - np.arange(anchors)[:, None]
    gaps_JB = heights_B[halo:] - heights_B[back]
    sums = (here_B[halo:], ahead_GB[:, halo:], level)
    ahead = main_sum.ahead(sums, here_B[back], gaps_JB, levels_B[halo:])
    spacings_B = np.diff(heights_B) * levels_B[:-1] / TURN
    lags = halo - 1 + np.arange(count) - np.arange(config.lags)[:, None]
    return rows_of(ahead, spacings_B[lags], levels_B[halo:])


def rows_of(ahead: Ahead, lags_LB: Floats, level_B: Floats) -> Rows:
    """Join candidates, lags (nearest first) and level to rows (B, F)."""
    steep_B = np.maximum(np.abs(ahead.slope), 1e-6)
    shape = [np.log(steep_B), *np.log(np.maximum(ahead.bumps, 1e-6))]
    bend = np.arcsinh(ahead.curvature / steep_B * np.sign(ahead.slope))
    parts = [ahead.first, ahead.second - ahead.first, *shape, bend]
    return np.concatenate(
        [np.stack(parts), ahead.residuals / steep_B, lags_LB, level_B[None]]
    ).T.astype(np.float32)


def block_phases(
    block: Block, heights: Floats, inside: slice, config: RowConfig, phases: Phases
) -> Complexes:
    """Return p^(-it) at some of a block's zeros.

    Parameters
    ----------
    block : Block
        With `config.halo` zeros before its start.
    heights : array (N,)
        The series' heights.
    inside : slice
        Zeros relative to `block.start`, from -halo on.
    config : RowConfig
        Settings.
    phases : str
        As in `prime_rows`.

    Returns
    -------
    array (P, B)
        complex128.
    """
    stop = None if inside.stop is None else inside.stop + config.halo
    chosen = slice(inside.start + config.halo, stop)
    if phases == "memory":
        return block.phases_PB[:, chosen]
    heights_B = heights[block.start - config.halo : block.stop][chosen]
    return np.exp(-1j * np.log(primes_up_to(config.memory.limit))[:, None] * heights_B)
