"""Run `original` -> its blocks of `results/lattice.json`, beside the source's curve.

A run a correlation: `original_0` and `original_0_27`. Metrics: `loss@k` and `similarity@k` (before
step k, the last one after all steps), `loss_minus_published@k` where the source gives a figure,
`largest_miss` of those; `recall_raw@1`, `recall_before@1`, `recall_after@1` and, likewise with
`raw_`, `before_`, `after_` before it, effective rank, `similarity` (cosine with one's own answer)
and `negative_cosine` (with other answers), all of test pairs; `recall_change@1` (after - raw);
`collapsed` (fraction of seeds). Values are means over seeds (each draws its own vectors and
weights) with Student's interval, with the seeds beside them. `parameters`, `compression` and
`batch` stand beside the source's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mneme.core.headline import run_block
from mneme.lattice import published as source
from mneme.stats.intervals import student_mean
from mneme.stats.rows import Row, row_of

Json = Mapping[str, Any]
PUBLISHED: dict[str, Any] = {
    "document": {
        "original.loss": {str(epoch): loss for epoch, loss in source.LOSS.items()},
        "original.similarity": {str(epoch): value for epoch, value in source.SIMILARITY.items()},
        "original.raw_similarity": source.BASELINE_SIMILARITY,
        "original.parameters": source.PARAMETERS,
        "original.compression": source.COMPRESSION,
        "original.batch": source.BATCH,
        "original.criteria": source.CRITERIA,
    }
}
"""The source's figures: where they stand -> address -> value; epoch 10 is its final one."""


def original_runs(told: Mapping[str, Sequence[Json]]) -> dict[str, dict[str, Any]]:
    """Report every correlation.

    Parameters
    ----------
    told : mapping
        Run name -> what `original.run_original` returned, one a seed.

    Returns
    -------
    dict
        Run name -> block: `rows`, `kind`, `rho`, `loss` and `similarity` (a list a seed),
        `parameters`, `verdict`.
    """
    return {
        name: run_block(
            [*_rows(seeds)],
            kind="original",
            rho=seeds[0]["rho"],
            loss=[one["loss"] for one in seeds],
            similarity=[one["similarity"] for one in seeds],
            parameters=seeds[0]["parameters"],
            verdict=verdict(seeds),
        )
        for name, seeds in told.items()
    }


def original_name(rho: float) -> str:
    """Return the name of the run with a correlation.

    Examples
    --------
    >>> original_name(0.27)
    'original_0_27'
    """
    return f"original_{rho:g}".replace(".", "_")


def verdict(seeds: Sequence[Json]) -> str:
    """Say in words whether the trained surfaces have collapsed."""
    flagged = [one["after"]["reason"] for one in seeds if one["after"]["collapsed"]]
    if not flagged:
        return "not collapsed"
    return f"COLLAPSED in {len(flagged)} of {len(seeds)} seeds: {flagged[0]}"


def _rows(seeds: Sequence[Json]) -> Iterator[Row]:
    numbers = [one["seed"] for one in seeds]
    for what in ("loss", "similarity"):
        for step in range(len(seeds[0][what])):
            yield from _each(f"{what}@{step}", [one[what][step] for one in seeds], numbers)
    shared = [epoch for epoch in source.LOSS if epoch < len(seeds[0]["loss"])]
    misses = {e: [one["loss"][e] - source.LOSS[e] for one in seeds] for e in shared}
    for epoch, values in misses.items():
        yield from _each(f"loss_minus_published@{epoch}", values, numbers)
    largest = np.abs([misses[epoch] for epoch in shared]).max(0)
    yield from _each("largest_miss", largest.tolist(), numbers)
    for when in ("raw", "before", "after"):
        found = [one[when] for one in seeds]
        yield from _each(f"recall_{when}@1", [one["recall@1"] for one in found], numbers)
        for metric in ("effective_rank", "similarity", "negative_cosine"):
            yield from _each(f"{when}_{metric}", [one[metric] for one in found], numbers)
    change = [one["after"]["recall@1"] - one["raw"]["recall@1"] for one in seeds]
    yield from _each("recall_change@1", change, numbers)
    for metric in ("parameters", "compression", "batch"):
        yield Row(metric=metric, value=seeds[0][metric])
    flagged = [float(one["after"]["collapsed"]) for one in seeds]
    yield Row(
        metric="collapsed",
        value=float(np.mean(flagged)),
        unit="fraction of seeds",
        reason=verdict(seeds) if any(flagged) else None,
    )


def _each(metric: str, values: Sequence[float], seeds: Sequence[int]) -> Iterator[Row]:
    """Yield the mean over seeds, then, where there are several, each seed's value."""
    yield row_of(metric, student_mean(values), n=len(values), unit="")
    if len(seeds) > 1:
        pairs = zip(seeds, values, strict=True)
        yield from (Row(metric=metric, value=value, seed=seed) for seed, value in pairs)
