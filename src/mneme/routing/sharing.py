"""What texts share: plays, folders of source files, conversations.

Files of one folder are one cluster: passages of neighbouring files resemble each other
(docs/decisions/clustered_intervals.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.routing.works import PREFIX, works_within
from mneme.stats.clusters import Ways, ways_of

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


def pieces_of(context: str, *, segments: int = 3) -> frozenset[str]:
    """Return the passages of the first segments of a kind of sequence."""
    return frozenset(piece for part in PIECES[context][:segments] for piece in part)


@dataclass(frozen=True, kw_only=True)
class Works:
    """Works of all passages of the text tuples."""

    names: Mapping[str, NDArray[np.str_]]
    """Passage (`a1`, `b_long`, ...) -> work of each tuple's, (N,); empty where several were
    joined."""
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
    missing = sorted(frozenset.union(*map(pieces_of, PIECES)) - set(names))
    if missing:
        raise ValueError(
            f"the traces do not say of which works the passages {missing[0]} are: delete the "
            "room's folders prepare and trace and run snakemake again"
        )
    return Works(names=names)
