"""The sine process's floor as a stage: settings, spectra, and floor.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mneme.core.config import plain
from mneme.core.seeds import numpy_generator
from mneme.zeta.reading_config import FloorConfig
from mneme.zeta.sine_process import Estimate, Floor, floors
from mneme.zeta.surrogates import gue_spacings


def floor_levels(config: FloorConfig) -> list[Floor]:
    """Compute the floor at each context, from spectra of its own."""
    spacings = gue_spacings(
        config.windows * config.window, generator=numpy_generator(config.seed, "zeta", "floor")
    )
    windows_WT = spacings.reshape(config.windows, config.window)
    return floors(config.contexts, config.pasts, windows_WT)


def as_json(levels: Sequence[Floor]) -> list[dict[str, Any]]:
    """Return the levels as JSON-ready builtins."""
    return [
        plain(level) | {name: list(getattr(level, name)) for name in ("nll", "crps", "mae")}
        for level in levels
    ]


def from_json(content: Sequence[dict[str, Any]]) -> list[Floor]:
    """Return the levels that `as_json` wrote."""
    return [
        Floor(
            context=level["context"],
            pasts=level["pasts"],
            **{name: Estimate(*level[name]) for name in ("nll", "crps", "mae")},
        )
        for level in content
    ]
