"""Roll a prime arm out: its own predictions take the place of zeros that have not come yet.

The memory stays as it was at the last renewal before the rollout; its phases turn on with the
predicted heights, and the main sum is anchored at predicted zeros like at true ones.

Legend: W windows, S samples, H horizon, J anchors, L lags, P primes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mneme.zeta.mixture import Mixture
from mneme.zeta.prime_config import RowConfig
from mneme.zeta.prime_fit import predict
from mneme.zeta.prime_net import PrimeNet
from mneme.zeta.prime_rows import Phases, block_phases, rows_of
from mneme.zeta.prime_sum import MainSum
from mneme.zeta.primes import TURN, Complexes, Floats, Ints, prime_phases, primes_up_to, turns

TOGETHER = 128
"""Rollouts a pass: neighbouring heights share the main sum's grid."""


@dataclass
class Front:
    """Where rollouts stand: one column for each."""

    phases_PW: Complexes
    """p^(-it) at the start."""
    start_W: Floats
    """Heights of the zeros at the start."""
    level_W: Floats
    """Rounded levels there."""
    heights_JW: Floats
    """Heights of the last zeros, the present one first."""
    past_JW: Complexes
    """Main sums at the same zeros but the present one, whose sum is made next."""
    lags_LW: Floats
    """Last spacings, nearest first."""


def prime_rollout(
    net: PrimeNet,
    heights: Floats,
    levels: Floats,
    starts: Ints,
    config: RowConfig,
    *,
    horizon: int,
    phases: Phases,
    samples: int | None,
    generator: torch.Generator | None,
) -> NDArray[np.float32]:
    """Predict the spacings after some zeros, one after another.

    Parameters
    ----------
    net : PrimeNet
        Trained head.
    heights, levels : array (N,)
        A series from where the memory starts; nothing after a start is read for it.
    starts : array (W,)
        Indices of the present zeros, ascending, in different blocks of the memory: after a context
        of c spacings of window w that is w x window + c.
    config : RowConfig
        Settings of the rows.
    horizon : int
        Spacings H.
    phases : str
        As in `prime_rows`.
    samples : int, optional
        None: every prediction is the mean. Otherwise so many rollouts of samples.
    generator : torch.Generator, optional
        Source of the samples; needed exactly with them.

    Returns
    -------
    array (W, H), with samples (S, W, H)
        Predicted spacings, float32, mean spacings.
    """
    assert (samples is None) == (generator is None)
    main_sum = MainSum(primes_up_to(config.memory.limit), config.sum)
    fronts = _fronts(main_sum, heights, levels, starts, config, phases)
    copies = samples or 1
    parts = []
    for begin in range(0, len(starts), max(1, TOGETHER // copies)):
        part = fronts[begin : begin + max(1, TOGETHER // copies)]
        front = _join(part * copies)
        steps = [_step(net, main_sum, front, config, generator) for _ in range(horizon)]
        parts.append(np.stack(steps, -1).reshape(copies, len(part), horizon))
    spacings_SWH = np.concatenate(parts, 1).astype(np.float32)
    return spacings_SWH if samples else spacings_SWH[0]


def _fronts(
    main_sum: MainSum,
    heights: Floats,
    levels: Floats,
    starts: Ints,
    config: RowConfig,
    phases: Phases,
) -> list[Front]:
    """Read the memory at each start and sum at the zeros before it."""
    blocks = starts // config.memory.refresh
    assert (np.diff(blocks) > 0).all(), "starts lie in different blocks"
    stop = int(starts[-1]) + 1
    wanted = np.isin(np.arange(blocks[-1] + 1), blocks)
    series = prime_phases(
        heights[:stop], levels[:stop], config.memory, halo=config.halo, wanted=wanted
    )
    fronts = []
    for start, block in zip(starts, series, strict=True):
        span = slice(start - config.halo, start + 1)
        inside = slice(span.start - block.start, span.stop - block.start)
        phases_PB = block_phases(block, heights, inside, config, phases)
        here_B, _, _ = main_sum.sums(phases_PB, levels[span])
        gaps_B = np.diff(heights[span]) * levels[span][:-1] / TURN
        last = slice(-1, -config.sum.anchors - 1, -1)
        fronts.append(
            Front(
                phases_PW=phases_PB[:, -1:],
                start_W=heights[start : start + 1],
                level_W=levels[start : start + 1],
                heights_JW=heights[span][last, None],
                past_JW=here_B[last][1:, None],
                lags_LW=gaps_B[: -config.lags - 1 : -1, None],
            )
        )
    return fronts


def _join(fronts: list[Front]) -> Front:
    names = Front.__dataclass_fields__
    return Front(**{n: np.concatenate([getattr(f, n) for f in fronts], -1) for n in names})


def _step(
    net: PrimeNet,
    main_sum: MainSum,
    front: Front,
    config: RowConfig,
    generator: torch.Generator | None,
) -> Floats:
    """Predict one spacing in every column (W,) and move the front to the zero after it."""
    gone_W = front.heights_JW[0] - front.start_W
    level_W = np.round(front.level_W + gone_W * np.exp(-front.level_W) / TURN, 3)
    phases_PW = front.phases_PW * turns(gone_W, config.memory).conj()
    sums = main_sum.sums(phases_PW, level_W)
    past_JW = np.concatenate([sums[0][None], front.past_JW])
    ahead = main_sum.ahead(sums, past_JW, front.heights_JW[0] - front.heights_JW, level_W)
    mixture = predict(net, rows_of(ahead, front.lags_LW, level_W))
    spacing_W = _next(mixture, generator)
    present_W = front.heights_JW[0] + spacing_W * TURN / ahead.level
    front.heights_JW = np.concatenate([present_W[None], front.heights_JW[:-1]])
    front.past_JW = past_JW[:-1]
    front.lags_LW = np.concatenate([spacing_W[None], front.lags_LW[:-1]])
    return spacing_W


def _next(mixture: Mixture, generator: torch.Generator | None) -> Floats:
    """Mean or sample; a zero cannot lie before the present one."""
    drawn = mixture.mean() if generator is None else mixture.sample(generator)
    return drawn.double().clamp_min(1e-3).numpy()
