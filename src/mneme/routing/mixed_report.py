"""Held-out losses of the mixed model -> rows of results/mixer.json (no torch).

Legend: S mixer seeds, N chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mneme.core.headline import run_block
from mneme.core.seeds import numpy_generator
from mneme.stats.intervals import crossed_mean

RUNS = {"mixed": "mixer", "mixed_uniform": "uniform", "mixed_known": "known"}
"""Run -> gates: the mixer's own, 1/K each, one-hot on the true domain."""


def mixed_report(
    losses: Sequence[Mapping[str, Mapping[str, Sequence[float]]]],
    *,
    domains: Sequence[str],
    seeds: Sequence[int],
    resamples: int,
) -> dict[str, dict[str, Any]]:
    """Report the mixed model over mixer seeds.

    Parameters
    ----------
    losses : sequence of mapping
        A seed each, in the order of `seeds`: gates -> domain -> nats/token of each chunk.
    domains, seeds : sequence
        Names and mixer seeds.
    resamples : int
        Bootstrap resamples.

    Returns
    -------
    dict
        `mixed`, `mixed_uniform`, `mixed_known` -> block with rows `held_out_loss.<domain>`; `mixed`
        also holds them minus the known-domain gates', paired by chunk.
    """
    blocks = {}
    for run, gates in RUNS.items():
        values = {
            f"held_out_loss.{domain}": np.array([seed[gates][domain] for seed in losses])
            for domain in domains
        }
        if run == "mixed":
            values |= {
                f"held_out_loss.{domain}_minus_known": values[f"held_out_loss.{domain}"]
                - np.array([seed["known"][domain] for seed in losses])
                for domain in domains
            }
        rows = [
            row
            for metric, values_SN in values.items()
            for row in crossed_mean(
                values_SN, resamples=resamples, generator=numpy_generator(0, "bootstrap", metric)
            ).rows(
                metric,
                unit="nats/token",
                seeds=tuple(seeds),
                control_of=None if run == "mixed" else "mixed",
            )
        ]
        blocks[run] = run_block(rows)
    return blocks
