"""The frame of every headline file under `results/`: one writer, one schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mneme.core.artefacts import read_json, write_json
from mneme.core.config import plain


class RowLike(Protocol):
    """Anything that turns into a row record (`mneme.stats.rows.Row`)."""

    def as_dict(self) -> dict[str, Any]:
        """Return the record."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Headline:
    """Contents of one `results/<phase>.json`."""

    phase: str
    """Name of the rule and of the file."""
    code: str
    """Hash over the code of the stage that made it and of all stages upstream of it."""
    config: Any
    """The block of settings that was used."""
    provenance: Mapping[str, Any]
    """Device, threads, versions, backbone, hash of every input file, peak memory."""
    seconds: float
    """Wall time of the phase's last step, s; that of all its steps is in `summary.json`."""
    runs: Mapping[str, Mapping[str, Any]]
    """Run name -> {"rows": [...], further keys}."""
    published: Mapping[str, Any]
    """The source's figures, to set beside the measured ones."""


def run_block(rows: Sequence[RowLike], **further: Any) -> dict[str, Any]:
    """Return one entry of `Headline.runs`: the rows and any further JSON-ready keys."""
    return {"rows": [row.as_dict() for row in rows], **further}


def write_headline(path: str | Path, headline: Headline) -> None:
    """Write a headline file atomically."""
    write_json(path, plain(headline))


def value_of(headline: Mapping[str, Any], run: str, metric: str) -> float | None:
    """Return one value of a headline file as read by `read_headline`; raises KeyError by name."""
    for row in headline["runs"][run]["rows"]:
        if row["metric"] == metric and row["seed"] is None:
            return row["value"]
    raise KeyError(f"{headline['phase']}: run {run!r} has no metric {metric!r}")


def read_headline(path: str | Path) -> dict[str, Any]:
    """Read a headline file and check that it has the frame's keys."""
    content = read_json(path)
    missing = [f.name for f in dataclasses.fields(Headline) if f.name not in content]
    if missing:
        raise ValueError(f"{path} is not a headline file: {missing[0]} is missing")
    return content
