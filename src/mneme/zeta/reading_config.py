"""Settings of what is read of series and runs (no torch, no scipy here).

Legend: H horizon.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mneme.core.config import require
from mneme.core.seeds import numpy_generator

KEPT = 13 * 256
"""Spacings kept of each GUE spectrum: joints must fall between windows."""
INTERVAL_STEP = 0.5
"""Longest step between starts of the statistics' intervals, mean spacings."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Sizes of the surrogates."""

    surrogate_size: int
    """Spacings of each surrogate; fewer where there are fewer zeros."""
    seed: int
    """Seed of matrices, orders and phases; the same under every training seed."""

    def __post_init__(self) -> None:
        require(self.surrogate_size >= 2560, "surrogate_size", "at least 2560", self.surrogate_size)


@dataclass(frozen=True, kw_only=True)
class FloorConfig:
    """How exactly the Bayes predictor of the sine process is averaged."""

    contexts: tuple[int, ...]
    """Past spacings seen, ascending from 0, 1, 2; below `window`."""
    pasts: tuple[int, ...]
    """Pasts averaged over at each context (contexts 0, 1, 2 are quadratures and use none)."""
    windows: int
    """Windows of fresh GUE spacings that pasts are cut from."""
    window: int
    """Their length, spacings."""
    seed: int
    """Seed of the spectra."""

    def __post_init__(self) -> None:
        ascends = self.contexts[:3] == (0, 1, 2) and sorted(set(self.contexts)) == list(
            self.contexts
        )
        require(ascends, "contexts", "ascending from 0, 1, 2", self.contexts)
        matched = len(self.pasts) == len(self.contexts)
        require(matched, "pasts", "one number a context", self.pasts)
        used = min(self.pasts[3:], default=1) >= 1
        require(used, "pasts", "at least 1 each from context 3 on", self.pasts)
        require(self.contexts[-1] < self.window, "contexts", "below window", self.contexts)
        require(self.windows >= 10, "windows", "at least 10", self.windows)


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """Which references are read."""

    orders: tuple[int, ...]
    """Orders p of the static autoregressions, spacings."""
    walk_order: int
    """Order P of the one that is refitted while walking forward."""
    walk_windows: tuple[int, ...]
    """Windows before the target's that it may be fitted on; the validation windows choose."""
    horizon: int
    """Longest rollout, spacings."""
    samples: int
    """Sampled rollouts a window, for the energy score."""
    bayes_context: int
    """Spacings that the sine process's Bayes predictor sees of each GUE test window, at most."""

    def __post_init__(self) -> None:
        require(bool(self.orders) and min(self.orders) >= 1, "orders", "at least 1", self.orders)
        require(self.walk_order >= 1, "walk_order", "at least 1", self.walk_order)
        some = bool(self.walk_windows) and min(self.walk_windows) >= 1
        require(some, "walk_windows", "at least 1 each", self.walk_windows)
        require(self.horizon >= 1, "horizon", "at least 1", self.horizon)
        require(self.samples >= 2, "samples", "at least 2", self.samples)
        require(self.bayes_context >= 1, "bayes_context", "at least 1", self.bayes_context)


@dataclass(frozen=True, kw_only=True)
class MdnConfig:
    """How `results/mdn.json` reads the measured runs."""

    horizons: tuple[int, ...]
    """Rollout lengths H of err_step, err_cum and the energy score, spacings, ascending."""
    context_edges: tuple[int, ...]
    """First context of each bin of the NLL by context, the last one past the end (256)."""
    height_parts: int
    """Equal parts of the test windows on the curve of NLL along height."""
    pit_bins: int
    """Bins of the PIT histogram."""
    block: int
    """Neighbouring windows that the bootstrap draws together."""
    resamples: int
    """Bootstrap resamples."""

    def __post_init__(self) -> None:
        ordered = bool(self.horizons) and all(a < b for a, b in pairwise((0, *self.horizons)))
        require(ordered, "horizons", "ascending from 1 on", self.horizons)
        ordered = len(self.context_edges) > 1 and all(
            a < b for a, b in pairwise((0, *self.context_edges))
        )
        require(ordered, "context_edges", "two or more, ascending from 1 on", self.context_edges)
        for name in ("height_parts", "pit_bins", "block"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.resamples >= 100, "resamples", "at least 100", self.resamples)

    def chance(self, *purpose: str) -> dict[str, Any]:
        """Return the bootstrap's arguments: equal draws for equal purposes, whatever the run."""
        generator = numpy_generator(0, "bootstrap", *purpose)
        return {"block": self.block, "resamples": self.resamples, "generator": generator}


@dataclass(frozen=True, kw_only=True)
class StatisticsConfig:
    """What is read, how finely."""

    longest_spacing: float
    """End of the spacing law's histogram, mean spacings."""
    longest_pair: float
    """End of the pair correlation, mean spacings."""
    bins: int
    """Bins of both histograms, at least 2."""
    lengths: tuple[float, ...]
    """Interval lengths L, mean spacings, ascending multiples of `step`; above H/2 left out."""
    step: float
    """Grid on which intervals start; divides 0.5, mean spacings."""
    resamples: int
    """Bootstrap resamples."""

    def __post_init__(self) -> None:
        require(self.longest_spacing > 0, "longest_spacing", "above 0", self.longest_spacing)
        require(self.longest_pair > 0, "longest_pair", "above 0", self.longest_pair)
        require(self.bins >= 2, "bins", "at least 2", self.bins)
        require(self.resamples >= 100, "resamples", "at least 100", self.resamples)
        require(0 < self.step <= INTERVAL_STEP, "step", "above 0, at most 0.5", self.step)
        whole = _whole(INTERVAL_STEP, self.step)
        require(whole, "step", "a divisor of 0.5", self.step)
        rising = bool(self.lengths) and list(self.lengths) == sorted(set(self.lengths))
        whole = rising and all(_whole(length, self.step) for length in self.lengths)
        require(whole, "lengths", f"ascending multiples of step = {self.step}", self.lengths)


def _whole(length: float, step: float) -> bool:
    steps = length / step
    return 0 < steps < math.inf and abs(steps - round(steps)) < 1e-9
