"""Settings of the stages that open trained models again: slot ablation, diagnostics, kernel.

No torch here: the settings of the room are read before any job starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mneme.core.config import require

Floats = NDArray[np.float64]
Kind = Literal["zero", "mean", "resampled"]
KINDS: tuple[Kind, ...] = ("zero", "mean", "resampled")


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass of an ablation over the test windows."""

    kinds: tuple[Kind, ...]
    """Ways to cut."""
    horizons: tuple[int, ...]
    """Rollout lengths, ascending, spacings."""
    every: int
    """Every so-manieth test window is read."""
    one_step: bool
    """Whether one-step predictions are read beside the rollouts."""


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """What is cut, and on what it is measured."""

    kinds: tuple[Kind, ...]
    """Ways to cut a slot; the first is read on all test windows."""
    context: int
    """Spacings before a rollout."""
    horizons: tuple[int, ...]
    """Rollout lengths, spacings; the shortest is `rollout_effect`'s, read on all test windows."""
    rollout_every: int
    """Further kinds are rolled out over the shortest horizon on every so-manieth test window."""
    further_every: int
    """Everything else about further kinds and horizons is read on every so-manieth; at least
    `rollout_every`."""
    quantile_every: int
    """The 99 % quantile is read at every so-manieth target."""
    rows: int
    """Rows in memory at a time, variants times windows."""

    def __post_init__(self) -> None:
        known = bool(self.kinds) and set(self.kinds) <= set(KINDS)
        require(known, "kinds", f"some of {', '.join(KINDS)}", self.kinds)
        positive = bool(self.horizons) and min(self.horizons) >= 1
        require(positive, "horizons", "at least 1", self.horizons)
        for name in ("context", "rollout_every", "further_every", "quantile_every", "rows"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        fewer = self.rollout_every <= self.further_every
        rule = f"at most further_every = {self.further_every}"
        require(fewer, "rollout_every", rule, self.rollout_every)

    def passes(self) -> list[Pass]:
        """Return the passes over the windows, those over most windows first."""
        short = (min(self.horizons),)
        horizons, every = tuple(sorted(self.horizons)), self.further_every
        everything = Pass(kinds=self.kinds, horizons=horizons, every=every, one_step=True)
        if every == 1:
            return [everything]
        first = Pass(kinds=self.kinds[:1], horizons=short, every=1, one_step=True)
        rolled = Pass(
            kinds=self.kinds[1:], horizons=short, every=self.rollout_every, one_step=False
        )
        more = rolled.kinds and rolled.every < every
        return [first, *([rolled] if more else []), everything]


@dataclass(frozen=True, kw_only=True)
class DiagnosticsConfig:
    """On what the diagnostics are measured."""

    windows: int
    """Test windows read, evenly spaced; all of them where there are fewer."""
    gradient_windows: int
    """Of these, windows whose gradients are taken one by one, evenly spaced."""
    permutations: int
    """Orders of the slots tried, none of which leaves a slot in its place."""
    context: int
    """Spacings before a rollout."""
    horizon: int
    """Rollout length, spacings."""
    rows: int
    """Rows in memory at a time, variants times windows."""

    def __post_init__(self) -> None:
        for name in ("windows", "gradient_windows", "permutations", "context", "horizon", "rows"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class KernelConfig:
    """Which pairs of positions are read."""

    windows: int
    """Test windows read, evenly spaced; all of them where there are fewer."""
    max_lag: int
    """Largest lag, spacings; queries start at this position."""
    max_distance: float
    """Largest distance, mean spacings: well below `max_lag`, so that no closer pair is missed."""
    bin_width: float
    """Width of a distance bin, mean spacings."""
    rows: int
    """Windows in memory at a time: maps take layers x heads x T^2 numbers each."""

    def __post_init__(self) -> None:
        for name in ("windows", "max_lag", "rows"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.bin_width > 0, "bin_width", "above 0", self.bin_width)
        within = self.bin_width <= self.max_distance <= 0.8 * self.max_lag
        require(within, "max_distance", "one bin or more, at most 0.8 max_lag", self.max_distance)

    def edges(self) -> Floats:
        """Return the edges of the distance bins (R + 1,), from 0."""
        bins = round(self.max_distance / self.bin_width)
        return self.bin_width * np.arange(bins + 1, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class SymbolicConfig:
    """How long, and among what, a formula is looked for."""

    symbols: tuple[str, ...]
    """Functions allowed beside constants and the variable, by Operon's names (`sin`, `div`)."""
    length: int
    """Most nodes of a formula."""
    population: int
    """Formulas alive at a time."""
    evaluations: int
    """Formulas tried in one search, constants' polishing counted in."""
    polish: int
    """Levenberg-Marquardt steps that every formula's constants get."""
    restarts: int
    """Searches from different starts."""

    def __post_init__(self) -> None:
        require(len(self.symbols) > 0, "symbols", "at least one function", self.symbols)
        require(self.length >= 3, "length", "at least 3", self.length)
        for name in ("population", "evaluations", "restarts"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.polish >= 0, "polish", "at least 0", self.polish)


@dataclass(frozen=True, kw_only=True)
class KernelStageConfig:
    """What is read of the attention, and how formulas are looked for in it."""

    pairs: KernelConfig
    """Which pairs of positions are read."""
    symbolic: SymbolicConfig
    """Size of the search for formulas."""
