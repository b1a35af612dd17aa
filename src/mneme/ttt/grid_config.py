"""Settings of the memory grid: prompts, ratios, repeats, and a sweep of the inner loop.

No torch here: the settings of the room are read before any job starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mneme.core.config import require
from mneme.core.seeds import numpy_generator
from mneme.ttt.statements import STATEMENTS


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Gain against the inner loop's learning rate and chunk size, on few prompts and one cell."""

    learning_rates: tuple[float, ...]
    """Inner learning rates, rising, above 0."""
    chunks: tuple[int, ...]
    """Tokens an inner step, rising; those beyond the model's window are refused with a reason."""
    prompts: int
    """Statements read, the first so many, at least 2."""
    adapt_ratio: float
    """First part of the repeated statement that is adapted to, between 0 and 1."""
    repeats: int
    """Times that the statement is repeated."""

    def __post_init__(self) -> None:
        for name in ("learning_rates", "chunks"):
            _require_rising(name, getattr(self, name))
        require(self.learning_rates[0] > 0, "learning_rates", "above 0", self.learning_rates)
        require(self.chunks[0] >= 1, "chunks", "at least 1", self.chunks)
        most = len(STATEMENTS)
        require(2 <= self.prompts <= most, "prompts", f"2 to {most}", self.prompts)
        require(0 < self.adapt_ratio < 1, "adapt_ratio", "between 0 and 1", self.adapt_ratio)
        require(self.repeats >= 1, "repeats", "at least 1", self.repeats)


@dataclass(frozen=True, kw_only=True)
class GridRecipeConfig:
    """What the models of one recipe read."""

    max_tokens: int
    """Longest text, tokens; what is beyond is cut off."""
    source_measure: bool
    """Whether the source's own measure is taken besides ours: the second part alone, without the
    text before it, before and after adapting to the first."""
    sweep: SweepConfig | None
    """Gain against the inner loop's settings; null: none."""

    def __post_init__(self) -> None:
        require(self.max_tokens >= 4, "max_tokens", "at least 4", self.max_tokens)


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """The memory grid."""

    prompts: int
    """Statements read, the first so many, at least 2."""
    adapt_ratios: tuple[float, ...]
    """First parts of the repeated statement that are adapted to, rising, between 0 and 1."""
    repeats: tuple[int, ...]
    """Times that a statement is repeated, rising."""
    trials: int
    """Draws of the control contexts; own context and none do not depend on them."""
    batch: int
    """Contexts in memory at a time."""
    resamples: int
    """Bootstrap resamples of an interval over prompts."""
    recipes: dict[str, GridRecipeConfig]
    """By recipe, of every run that is measured."""

    def __post_init__(self) -> None:
        most = len(STATEMENTS)
        require(2 <= self.prompts <= most, "prompts", f"2 to {most}", self.prompts)
        _require_rising("adapt_ratios", self.adapt_ratios)
        inside = self.adapt_ratios[0] > 0 and self.adapt_ratios[-1] < 1
        require(inside, "adapt_ratios", "between 0 and 1", self.adapt_ratios)
        _require_rising("repeats", self.repeats)
        require(self.repeats[0] >= 1, "repeats", "at least 1", self.repeats)
        for name in ("trials", "batch", "resamples"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))

    def chance(self, *purpose: str) -> dict[str, Any]:
        """Return how an interval for `purpose` is made: resamples and their own generator."""
        generator = numpy_generator(0, "ttt_grid", *purpose)
        return {"resamples": self.resamples, "generator": generator}


def _require_rising(name: str, values: tuple[Any, ...]) -> None:
    rises = bool(values) and all(low < high for low, high in pairwise(values))
    require(rises, name, "rising, with at least one value", values)
