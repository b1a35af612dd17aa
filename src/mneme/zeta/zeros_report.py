"""All ranges of `zeta.zeros`: compute, verify, compare with Arb, and the rows of `zeros.json`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mneme.stats.rows import Row
from mneme.zeta.completeness import (
    BLOCK_LIMIT,
    RUNNING_FROM,
    RUNNING_LIMIT,
    Completeness,
    bad_gram_points,
    place_limit,
    verify,
    verify_places,
)
from mneme.zeta.zeros import Log, ZeroRange, zeros, zeros_above
from mneme.zeta.zeros_config import BlockConfig, ZerosConfig

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One range with what was checked of it."""

    range: ZeroRange
    """Heights and how they were made."""
    completeness: Completeness
    """Means of S and the heights counted."""
    to_arb: Floats
    """Height minus Arb's zero at the indices compared."""
    rows: list[Row]
    """Its rows of `zeros.json`."""


def measure_zeros(
    config: ZerosConfig, *, threads: int, generator: np.random.Generator, log: Log
) -> dict[str, Measured]:
    """Compute and check every range.

    Parameters
    ----------
    config : ZerosConfig
        Ranges and checks.
    threads : int
        Stretches searched at a time; heights do not depend on it.
    generator : numpy.random.Generator
        Draws the indices and heights that Arb checks.
    log : callable
        Takes a line of progress about every 5 s, and one for each range.

    Returns
    -------
    dict
        Run name -> Measured; the series is run `zeta`, further runs are named by `config.blocks`.

    Raises
    ------
    ZerosError
        Zeros missing, added, or too far from Arb's.
    """
    made = {"zeta": lambda: zeros(1, config.count + 1, threads=threads, log=log)}
    for name, block in config.blocks.items():
        made[name] = lambda block=block: block_zeros(block, threads=threads, log=log)
    checks = {"zeta": config.arb_checks} | {n: b.arb_checks for n, b in config.blocks.items()}
    out = {}
    for name, make in made.items():
        log(f"{name}: computing")
        computed = make()
        counts = config.count_checks
        out[name] = check(computed, counts=counts, places=checks[name], generator=generator)
        log(
            f"{name}: {len(computed.heights):,} zeros up to {computed.heights[-1]:.2f} in "
            f"{computed.seconds:.1f} s, verified, within {np.abs(out[name].to_arb).max():.1e} of "
            f"Arb at {checks[name]} random indices"
        )
    return out


def block_zeros(block: BlockConfig, *, threads: int, log: Log) -> ZeroRange:
    """Compute the zeros of one block."""
    if block.first is not None:
        return zeros(block.first, block.first + block.count, threads=threads, log=log)
    assert block.height is not None
    return zeros_above(block.height, block.count, threads=threads, log=log)


def check(
    computed: ZeroRange, *, counts: int, places: int, generator: np.random.Generator
) -> Measured:
    """Verify one range and make its rows; `counts` heights and `places` indices go to Arb."""
    heights, first = computed.heights, computed.first
    complete = verify(heights, first=first, counts=counts, generator=generator)
    indices = np.sort(first + generator.choice(len(heights), places, replace=False))
    to_arb = verify_places(heights, first=first, indices=indices)
    rows = rows_of(computed, complete, to_arb)
    return Measured(range=computed, completeness=complete, to_arb=to_arb, rows=rows)


def rows_of(computed: ZeroRange, complete: Completeness, to_arb: Floats) -> list[Row]:
    """Return the rows of one range."""
    heights, count = computed.heights, len(computed.heights)
    top = float(heights[-1])
    blocks = len(complete.mean_s)
    rows = [
        Row(metric="count", value=count, unit="zeros"),
        Row(metric="first_index", value=computed.first, unit="index"),
        Row(metric="height", value=top, unit="height"),
        Row(metric="seconds", value=computed.seconds, unit="s"),
        Row(metric="zeros_per_second", value=count / computed.seconds, unit="zeros/s"),
        Row(
            metric="max_difference_to_arb",
            value=float(np.abs(to_arb).max()),
            n=len(to_arb),
            unit="height",
            reason=f"limit {place_limit(top):.1e}; float64 itself rounds by up to "
            f"{float(np.spacing(top)) / 2:.1e} there",
        ),
        Row(
            metric="max_block_mean_s",
            value=float(np.abs(complete.mean_s).max()),
            n=blocks,
            unit="zeros",
            reason=f"limit {BLOCK_LIMIT}",
        ),
        running_row(complete),
        Row(
            metric="counted_heights",
            value=len(complete.counted),
            unit="heights",
            reason="random heights and both ends: as many zeros below as Arb counts",
        ),
        Row(
            metric="counted_stretches",
            value=computed.stretches,
            unit="stretches",
            reason=f"as many zeros as Arb counts; {computed.searched_again} after a second search",
        ),
        Row(metric="smallest_gap", value=float(np.diff(heights).min()), n=count - 1, unit="height"),
    ]
    if computed.first == 1:
        bad, points = bad_gram_points(heights)
        share = len(bad) / points
        rows.append(Row(metric="bad_gram_points", value=share, n=points, unit="fraction"))
    return rows


def running_row(complete: Completeness) -> Row:
    """Return the largest |running mean of S| from block `RUNNING_FROM` on."""
    means = complete.running_s[RUNNING_FROM:]
    if not len(means):
        reason = f"fewer than {RUNNING_FROM + 1} blocks: too few for a running mean of S"
        return Row(metric="max_running_mean_s", value=None, unit="zeros", reason=reason)
    value = float(np.abs(means).max())
    unit, reason = "zeros", f"limit {RUNNING_LIMIT}"
    return Row(metric="max_running_mean_s", value=value, n=len(means), unit=unit, reason=reason)
