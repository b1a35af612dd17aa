"""Held-out losses of every adapter on every domain, and what each run forgot.

Losses are kept by chunk, so that differences are paired by chunk; intervals are over chunks and
know which of them are of one play or folder of files. Training seeds are crossed with chunks.

Legend: S training seeds, N chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mneme.core.headline import run_block
from mneme.routing.config import AdaptersConfig
from mneme.routing.sharing import Works, contrast_p, shared_mean
from mneme.stats.clusters import Ways
from mneme.stats.rows import Row

Losses = Sequence[Mapping[str, Mapping[str, Sequence[float]]]]
"""A seed each: adapter (or `base`) -> domain -> nats/token a chunk."""


def by_run(records: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    """Group (run, content) pairs by run, seeds in their order."""
    grouped: dict[str, list[Any]] = {}
    for run, content in records:
        grouped.setdefault(run, []).append(content)
    return grouped


def adapter_runs(
    losses: Mapping[str, Losses],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    config: AdaptersConfig,
    domains: Sequence[str],
    *,
    works: Works,
    resamples: int,
    original: str,
) -> dict[str, dict[str, Any]]:
    """Measure every adapter run.

    Parameters
    ----------
    losses : mapping
        Run -> a seed each -> adapter (or `base`) -> domain -> nats/token of each held-out chunk.
    histories : mapping
        Run -> a seed each -> training history.
    config : AdaptersConfig
        How each run trained.
    domains : sequence of str
        Domains in order of training.
    works : Works
        Works of the loss chunks, by domain (`mneme.routing.sharing.chunk_works`).
    resamples : int
        Bootstrap resamples.
    original : str
        Run that trains as the source does; its time goes under the source's key.

    Returns
    -------
    dict
        Run -> block with rows `loss.<adapter>.<domain>`, `gain.<domain>` (base minus own adapter),
        `forgetting.<domain>` (newest adapter minus the domain's own, on a domain trained before)
        and, for runs that differ from `none` in their protection only,
        `forgetting.<domain>_minus_none`; `p_values` of these; `histories`.
    """
    seeds, headline = config.seeds, config.headline
    values = {run: _values(by_seed, domains) for run, by_seed in losses.items()}
    blocks = {}
    for run, own in values.items():
        named = dict(own)
        if "none" in values and config.like_none(run):
            named |= {
                f"{key}_minus_none": value - values["none"][key]
                for key, value in own.items()
                if key.startswith("forgetting.")
            }
        control = headline if run == "none" else None
        further: dict[str, Any] = {"histories": list(histories[run])}
        if run == original:
            trained = histories[run][0]["domains"].values()
            seconds = round(sum(domain["seconds"] for domain in trained), 3)
            further["published_keys"] = {"timing": {"phase3_training_sec": seconds}}
        read = {key: (value, _ways(key, works)) for key, value in named.items()}
        rows = _rows(read, seeds=seeds, resamples=resamples, control_of=control)
        blocks[run] = run_block(rows, p_values=contrast_p(read), **further)
    return blocks


def _ways(metric: str, works: Works) -> Ways:
    """Return how the chunks share works on which a metric was read: those of its domain."""
    return works.ways(frozenset({metric.split(".")[-1].split("_minus_")[0]}))


def _rows(
    values: Mapping[str, tuple[np.ndarray, Ways]],
    *,
    seeds: Sequence[int],
    resamples: int,
    control_of: str | None,
) -> list[Row]:
    rows: list[Row] = []
    for metric, (values_SN, ways) in values.items():
        found = shared_mean(metric, values_SN, ways, resamples=resamples)
        rows += found.rows(metric, unit="nats/token", seeds=tuple(seeds), control_of=control_of)
    return rows


def _values(by_seed: Losses, domains: Sequence[str]) -> dict[str, np.ndarray]:
    """Return metric -> (S, N) values of one run."""
    loss = {
        (adapter, domain): np.array([seed[adapter][domain] for seed in by_seed])
        for adapter in ("base", *domains)
        for domain in domains
    }
    values = {f"loss.{adapter}.{domain}": v for (adapter, domain), v in loss.items()}
    newest = domains[-1]
    for domain in domains:
        values[f"gain.{domain}"] = loss["base", domain] - loss[domain, domain]
    for domain in domains[:-1]:
        values[f"forgetting.{domain}"] = loss[newest, domain] - loss[domain, domain]
    return values
