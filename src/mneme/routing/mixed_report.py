"""Held-out losses of the mixed model -> rows of results/mixer.json (no torch).

Legend: S mixer seeds, N chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mneme.core.headline import run_block
from mneme.routing.sharing import Works, contrast_p, shared_mean
from mneme.stats.clusters import Ways
from mneme.stats.rows import Row, row_of

Losses = Mapping[str, Sequence[float]]
"""Domain -> nats/token of each chunk."""


def mixed_report(
    mixer: Sequence[Losses],
    *,
    uniform: Losses,
    known: Mapping[str, Losses],
    domains: Sequence[str],
    works: Works,
    seeds: Sequence[int],
    resamples: int,
) -> dict[str, dict[str, Any]]:
    """Report the mixed model over mixer seeds.

    Parameters
    ----------
    mixer : sequence of mapping
        Losses under the mixer's gates, a seed each, in the order of `seeds`.
    uniform : mapping
        Losses under gates of 1/K.
    known : mapping
        Adapter (or `base`) -> losses of that adapter alone (`losses.json` of its run).
    domains, seeds : sequence
        Names and mixer seeds.
    works : Works
        Works of the loss chunks, by domain.
    resamples : int
        Bootstrap resamples.

    Returns
    -------
    dict
        Runs `mixed`, `mixed_uniform` and `mixed_known` (every domain under its own adapter), each a
        block with rows `held_out_loss.<domain>`; `mixed` also holds them minus the base's, the
        uniform gates' and the known domain's, paired by chunk, with their `p_values`.
    """
    arrays = {
        "mixed": {d: np.array([seed[d] for seed in mixer]) for d in domains},
        "mixed_uniform": {d: np.array([uniform[d]]) for d in domains},
        "mixed_known": {d: np.array([known[d][d]]) for d in domains},
    }
    base = {d: np.array([known["base"][d]]) for d in domains}
    blocks = {}
    for run, by_domain in arrays.items():
        ways = {d: works.ways(frozenset({d})) for d in domains}
        values = {f"held_out_loss.{d}": (v, ways[d]) for d, v in by_domain.items()}
        if run == "mixed":
            others = {"base": base, **{k.split("_")[1]: arrays[k] for k in list(arrays)[1:]}}
            values |= {
                f"held_out_loss.{d}_minus_{name}": (by_domain[d] - other[d], ways[d])
                for name, other in others.items()
                for d in domains
            }
        rows = [
            row
            for metric, (values_SN, shared) in values.items()
            for row in _rows(metric, values_SN, shared, run, seeds=seeds, resamples=resamples)
        ]
        blocks[run] = run_block(rows, p_values=contrast_p(values))
    return blocks


def _rows(
    metric: str,
    values_SN: np.ndarray,
    ways: Ways,
    run: str,
    *,
    seeds: Sequence[int],
    resamples: int,
) -> list[Row]:
    """Return the row over seeds; rows a seed only for what depends on the mixer's seed."""
    found = shared_mean(metric, values_SN, ways, resamples=resamples)
    control = None if run == "mixed" else "mixed"
    if run == "mixed":
        return found.rows(metric, unit="nats/token", seeds=tuple(seeds), control_of=control)
    return [row_of(metric, found.interval, n=found.n, unit="nats/token", control_of=control)]
