"""The claims ledger as settings: what the sources say, and which measured rows decide it.

An address is phase, run and metric: the row of `results/<phase>.json` over all seeds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from mneme.core.config import require
from mneme.stats.verdict import Direction

Room = Literal["routing", "ttt", "zeta", "lattice"]
Phase = Literal[
    "env",
    "model",
    "adapters",
    "mixer",
    "hysteresis",
    "fatigue",
    "ttt_model",
    "ttt_adapter",
    "ttt_grid",
    "ttt_context",
    "zeros",
    "mdn",
    "slot_ablation",
    "diagnostics",
    "kernel",
    "statistics",
    "lattice",
]
"""Headline files that a claim may rest on."""


@dataclass(frozen=True, kw_only=True)
class EffectConfig:
    """A measured effect and the smallest size of it that matters."""

    phase: Phase
    """Headline file: `results/<phase>.json`."""
    run: str
    """Run in it."""
    metric: str
    """Its row over all seeds that holds the effect, usually a paired difference, spelt as there."""
    reference: float
    """Subtracted from value and interval, in the row's unit; 0 where the row is a difference."""
    direction: Direction
    """Claimed sign of value - reference; none: that there is no effect (equivalence)."""
    delta: float
    """Smallest effect that matters, above 0, in the row's unit."""

    def __post_init__(self) -> None:
        _require_text(self, "run", "metric")
        require(self.delta > 0, "delta", "above 0", self.delta)

    @property
    def address(self) -> str:
        """Return `phase run metric`."""
        return f"{self.phase} {self.run} {self.metric}"


@dataclass(frozen=True, kw_only=True)
class EffectAddress:
    """One value of a headline file."""

    phase: Phase
    """Headline file: `results/<phase>.json`."""
    run: str
    """Run in it."""
    metric: str
    """Its row over all seeds, or the dotted address of a number in the run's `published_keys`
    (`hysteresis.test_aba.switch_lag_BA`; entries of lists count from 0: `fatigue.tests.2.x`)."""

    def __post_init__(self) -> None:
        _require_text(self, "run", "metric")

    @property
    def address(self) -> str:
        """Return `phase run metric`."""
        return f"{self.phase} {self.run} {self.metric}"


@dataclass(frozen=True, kw_only=True)
class ClaimConfig:
    """One statement of a source, and how it is decided."""

    room: Room
    """Room whose claims are adjusted together for their number (Holm)."""
    source: int
    """Which of the five source documents, 1..5."""
    statement: str
    """The source's statement in our words."""
    published: str
    """Its published figure or figures; empty when there is none."""
    effects: tuple[EffectConfig, ...]
    """All must hold (intersection-union test: p is the largest); empty only with `untestable`."""
    positives: tuple[EffectConfig, ...]
    """Positive controls: each interval must lie wholly beyond its delta in its direction."""
    nulls: tuple[EffectConfig, ...]
    """Runs in which the effect cannot exist: no interval may reach its delta in its direction
    (direction none: on either side)."""
    original: EffectAddress | None
    """Value of run `original`, shown beside the published figure."""
    untestable: str | None
    """Why the claim cannot be tested as stated, or null."""
    note: str
    """What a reader should know; empty when nothing."""

    def __post_init__(self) -> None:
        require(1 <= self.source <= 5, "source", "1 to 5", self.source)
        _require_text(self, "statement")
        if self.untestable is None:
            require(bool(self.effects), "effects", "a list of at least one effect", [])
        else:
            _require_text(self, "untestable")
        _require_signed(self.positives)
        _require_distinct(self.addressed)

    @property
    def addressed(self) -> Iterator[EffectConfig]:
        """Yield effects, positive controls and nulls, in that order."""
        yield from (*self.effects, *self.positives, *self.nulls)


def require_claim_ids(names: Iterable[str]) -> None:
    """Raise ConfigError unless every id can be a run's name in a headline file."""
    for name in names:
        fits = re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None
        rule = "named by a letter, then letters, digits or _, all lower case"
        require(fits, "claims", rule, name)


def _require_text(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value.strip() != "", name, "a text that is not empty", value)


def _require_signed(positives: Iterable[EffectConfig]) -> None:
    for index, effect in enumerate(positives):
        rule = "above or below: a positive control shows an effect"
        require(effect.direction != "none", f"positives[{index}].direction", rule, "none")


def _require_distinct(effects: Iterable[EffectConfig]) -> None:
    """Refuse a row that stands twice against the same reference."""
    seen = set()
    for effect in effects:
        place = (effect.address, effect.reference)
        rule = "of different rows or references, controls included"
        require(place not in seen, "effects", rule, effect.address)
        seen.add(place)
