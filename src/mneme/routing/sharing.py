"""What texts share: plays, folders of source files, conversations.

Files of one folder are one cluster: passages of neighbouring files resemble each other
(docs/decisions/clustered_intervals.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mneme.core.seeds import numpy_generator
from mneme.routing.works import PREFIX, works_within
from mneme.stats.clusters import Ways, clustered_interval, clustered_p, ways_of
from mneme.stats.intervals import Crossed, crossed_mean

PIECES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "real": (("a1",), ("b_long",), ("a2",)),
    "blocked": (("a1",), ("b_long",), ("a2",)),
    "shuffled": (("a1",), ("b_long",), ("a2",)),
    "reset": ((), (), ("a2",)),
    "same_domain": (("a1",), ("a_long",), ("a2",)),
    "other": (("a1",), ("a_other_long",), ("a2",)),
    "swapped": (("b1",), ("a_long",), ("b2",)),
    "mixed": (("a1",), ("a_other_long", "b_long"), ("a2",)),
    "repeated": (("a1",), ("b_long",), ("a1",)),
    "repeated_aa": (("a1",), ("a_long",), ("a1",)),
}
"""Kind of sequence -> passages of its three segments (`mneme.routing.sequences`)."""

EVERY_DOMAIN = "all domains"
"""Chunks of all domains, one domain after another (no domain can be named so)."""


def pieces_of(context: str, *, segments: int = 3) -> frozenset[str]:
    """Return the passages of the first segments of a kind of sequence."""
    return frozenset(piece for part in PIECES[context][:segments] for piece in part)


@dataclass(frozen=True, kw_only=True)
class Works:
    """Works of all passages of the text tuples."""

    names: Mapping[str, NDArray[np.str_]]
    """Passage (`a1`, `b_long`, ...; of chunks: the domain) -> work of each tuple's or chunk's,
    (N,); empty where several were joined."""
    made: dict[frozenset[str], Ways] = field(default_factory=dict, compare=False)
    """Ways prepared so far."""

    def ways(self, pieces: frozenset[str]) -> Ways:
        """Return the ways in which values that were read from these passages share works."""
        if pieces not in self.made:
            self.made[pieces] = ways_of([clusters(self.names[piece]) for piece in sorted(pieces)])
        return self.made[pieces]

    def about(self) -> dict[str, Any]:
        """Describe the intervals for a file's provenance: method, clusters of each passage."""
        counts = {piece: len(set(clusters(names))) for piece, names in self.names.items()}
        return {
            "method": "clustered by works, crossed ways",
            "clusters": dict(sorted(counts.items())),
        }


def clusters(works: Iterable[str]) -> list[str]:
    """Return the cluster of each work: a file's folder, else the work; joined ones stay apart."""
    named = enumerate(map(str, works))
    return [work.rpartition("/")[0] or work or f"joined {place}" for place, work in named]


def works_of(arrays: Mapping[str, NDArray[Any]]) -> Works:
    """Read the works out of a file's arrays.

    Raises
    ------
    ValueError
        The file does not name them: it was made before they were kept.
    """
    names = {name.removeprefix(PREFIX): a for name, a in works_within(arrays).items()}
    pieces = sorted(frozenset.union(*map(pieces_of, PIECES)))
    if missing := [piece for piece in pieces if piece not in names]:
        raise ValueError(
            f"the traces do not say of which works the passages {missing[0]} are: delete the "
            "room's folders prepare and trace and run snakemake again"
        )
    return Works(names={piece: names[piece] for piece in pieces})


def chunk_works(
    arrays: Mapping[str, NDArray[Any]], domains: Sequence[str], part: Literal["loss", "test"]
) -> Works:
    """Read the works of held-out chunks out of the prepared material.

    Returns
    -------
    Works
        By domain, and of all of them in their order (`EVERY_DOMAIN`).

    Raises
    ------
    ValueError
        The material does not name them: it was made before they were kept.
    """
    keys = {domain: f"{PREFIX}{domain}.{part}" for domain in domains}
    if missing := [domain for domain, key in keys.items() if key not in arrays]:
        raise ValueError(
            f"the material does not say of which works the {part} chunks of {missing[0]} are: "
            "delete the room's folder prepare and run snakemake again"
        )
    names: dict[str, NDArray[Any]] = {domain: arrays[key] for domain, key in keys.items()}
    told = [f"{domain}: {work}" if work else "" for domain in domains for work in names[domain]]
    return Works(names={**names, EVERY_DOMAIN: np.asarray(told)})


def shared_mean(metric: str, values_SN: NDArray[Any], ways: Ways, *, resamples: int) -> Crossed:
    """Mean over texts crossed with seeds; its interval allows for the works that they share.

    Parameters
    ----------
    metric : str
        Name, from which the bootstrap is seeded.
    values_SN : ndarray, (S, N)
        A number per seed and text.
    ways : Ways
        How the texts share works.
    resamples : int
        Bootstrap resamples.
    """
    generator = numpy_generator(0, "bootstrap", metric)
    crossed = crossed_mean(values_SN, resamples=resamples, generator=generator)
    interval = clustered_interval(crossed.interval, values_SN.mean(axis=0), ways)
    return dataclasses.replace(crossed, interval=interval)


def contrast_p(values: Mapping[str, tuple[NDArray[Any], Ways]]) -> dict[str, float]:
    """Return two-sided p of every contrast (`*_minus_*`) that has one: values (S, N), ways."""
    found = {
        metric: clustered_p(values_SN.mean(axis=0), ways)
        for metric, (values_SN, ways) in values.items()
        if "_minus_" in metric
    }
    return {metric: p for metric, p in found.items() if p is not None}
