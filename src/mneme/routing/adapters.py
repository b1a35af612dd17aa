"""Held-out losses of every adapter on every domain, and what each run forgot.

Losses are kept by chunk, so that differences are paired by chunk and intervals are over chunks;
training seeds are crossed with chunks.

Legend: S training seeds, N chunks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mneme.core.headline import run_block
from mneme.core.seeds import numpy_generator
from mneme.routing.config import AdapterRunConfig, AdaptersConfig
from mneme.stats.intervals import crossed_mean
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
        `forgetting.<domain>_minus_none`; `histories`.
    """
    runs, seeds, headline = config.runs, config.seeds, config.headline
    values = {run: _values(by_seed, domains) for run, by_seed in losses.items()}
    blocks = {}
    for run, own in values.items():
        named = dict(own)
        if run != "none" and "none" in values and _alike(runs[run], runs["none"]):
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
        rows = _rows(named, seeds=seeds, resamples=resamples, control_of=control)
        blocks[run] = run_block(rows, **further)
    return blocks


def _rows(
    values: Mapping[str, np.ndarray],
    *,
    seeds: Sequence[int],
    resamples: int,
    control_of: str | None,
) -> list[Row]:
    rows: list[Row] = []
    for metric, values_SN in values.items():
        found = crossed_mean(
            values_SN, resamples=resamples, generator=numpy_generator(0, "bootstrap", metric)
        )
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


def _alike(run: AdapterRunConfig, none: AdapterRunConfig) -> bool:
    """Tell whether two runs differ in what protects the earlier domains and in nothing else."""
    return dataclasses.replace(run, protect="none") == none
