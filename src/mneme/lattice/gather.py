"""What was measured of a teacher, as one record a run, and the arrays and facts it is kept as.

Legend: S seeds, N questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mneme.lattice.measure import Reading
from mneme.lattice.retrieval import METRICS, Spread

Kind = Literal["trained", "raw", "codec", "words"]
"""A network; the embeddings as they are or standardised; a codec that no gradient trained; a search
by words, which has no vectors."""
Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """One run, under every seed, on the test pairs of one teacher."""

    kind: Kind
    """What it is."""
    seeds: tuple[int | None, ...]
    """Its seeds; (None,) where nothing is drawn."""
    readings: tuple[Reading, ...]
    """One a seed."""
    numbers: int | None
    """Numbers that a vector takes; None for words."""
    parameters: int | None
    """Numbers that encoder and decoder need; None for words."""
    core_parameters: int
    """Numbers of what stands behind the encoder."""
    encode_s: float | None
    """Seconds for encoding a question among others, at best; None where nothing is encoded."""
    states: NDArray[np.float32] | None = field(default=None)
    """Mean size of the lattice's state in its middle slice, (steps + 1, Z, X), first seed."""

    def __post_init__(self) -> None:
        assert len(self.seeds) == len(self.readings) >= 1


def packed(runs: Mapping[str, Measured]) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Return arrays (`<run>/<metric>` (S, N), `<run>/states`) and JSON-ready facts by run."""
    arrays, facts = {}, {}
    for name, run in runs.items():
        for metric in METRICS:
            arrays[f"{name}/{metric}"] = np.stack([r.scores[metric] for r in run.readings])
        for metric in run.readings[0].eight:
            arrays[f"{name}/{metric}"] = np.stack([r.eight[metric] for r in run.readings])
        if run.states is not None:
            arrays[f"{name}/states"] = run.states
        facts[name] = {
            "kind": run.kind,
            "seeds": list(run.seeds),
            "readings": [
                {"values": r.values, "spread": None if r.spread is None else asdict(r.spread)}
                for r in run.readings
            ],
            "eight": list(run.readings[0].eight),
            "numbers": run.numbers,
            "parameters": run.parameters,
            "core_parameters": run.core_parameters,
            "seconds": run.encode_s,
        }
    return arrays, facts


def unpacked(arrays: Mapping[str, NDArray], facts: Mapping[str, Json]) -> dict[str, Measured]:
    """Return what `packed` was given, runs in the order of the facts."""
    runs = {}
    for name, told in facts.items():
        readings = [
            Reading(
                scores={metric: arrays[f"{name}/{metric}"][place] for metric in METRICS},
                values=dict(one["values"]),
                spread=None if one["spread"] is None else Spread(**one["spread"]),
                eight={m: arrays[f"{name}/{m}"][place] for m in told["eight"]},
            )
            for place, one in enumerate(told["readings"])
        ]
        runs[name] = Measured(
            kind=told["kind"],
            seeds=tuple(told["seeds"]),
            readings=tuple(readings),
            numbers=told["numbers"],
            parameters=told["parameters"],
            core_parameters=told["core_parameters"],
            encode_s=told["seconds"],
            states=arrays.get(f"{name}/states"),
        )
    return runs


def by_teacher(paths: Iterable[str]) -> dict[str, str]:
    """Return teacher -> its file, of files `.../<teacher>/<name>`."""
    return {str(path).split("/")[-2]: str(path) for path in paths}
