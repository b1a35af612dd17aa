"""Settings of the room that several of its steps share: windows, model, training, runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mneme.core.config import require

Arm = Literal[
    "none",
    "prefix",
    "readout",
    "film",
    "gating",
    "cross",
    "carry",
    "carry_reset",
    "primes",
    "primes_window",
    "oracle",
    "primes_transformer",
]
System = Literal["zeta", "gue", "shuffled", "scrambled"]
SLOT_ARMS = ("prefix", "readout", "film", "gating", "cross")
"""Arms with memory slots: those that a slot ablation can cut."""
CARRY_ARMS = ("carry", "carry_reset")
"""Arms with the carried memory; `carry_reset` forgets everything where a window begins."""
PHASE_ARMS = ("primes", "primes_window", "oracle")
"""Arms without a transformer: a density head on prime features."""
WHOLE_ARMS = ("primes_window", "primes_transformer")
"""Arms whose windows are read whole: what they read is made from heights that have come, so there
is no rollout of them."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """SpacingMDN: a causal transformer with a Gaussian-mixture head."""

    layers: int
    """Transformer blocks, at least 1."""
    heads: int
    """Attention heads; divides `width`."""
    width: int
    """Width D of the stream."""
    components: int
    """Gaussians K of the mixture."""
    window: int
    """Spacings a window; the context is one less (each but the first is predicted)."""
    slots: int
    """Memory slots M of the arms that have them."""
    scale_floor: float
    """Least standard deviation of a component, in mean spacings."""

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "width", "components", "slots"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        even = self.width % (2 * self.heads) == 0
        require(even, "width", f"a multiple of 2 x heads = {2 * self.heads}", self.width)
        require(self.window >= 8, "window", "at least 8", self.window)
        require(self.scale_floor > 0, "scale_floor", "above 0", self.scale_floor)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a transformer arm is trained; equal for all arms."""

    steps: int
    """Optimiser steps."""
    batch: int
    """Windows a step."""
    learning_rate: float
    """Peak of the cosine schedule (AdamW)."""
    memory_learning_rate: float
    """Factor on the learning rate of memory parameters."""
    warmup: int
    """Steps of linear warm-up."""
    weight_decay: float
    """AdamW's, on matrices only."""
    clip: float
    """Largest gradient norm."""
    eval_every: int
    """Steps between readings of the validation windows."""
    eval_windows: int
    """Validation windows of each such reading, evenly spaced; the last reading takes all."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "eval_every", "eval_windows"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(0 <= self.warmup <= self.steps, "warmup", "0..steps", self.warmup)
        for name in ("learning_rate", "memory_learning_rate", "clip"):
            require(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        require(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One arm on one system; controls are runs beside the real one."""

    arm: Arm
    """Where the memory sits; `PHASE_ARMS` have no transformer."""
    system: System
    """Whose spacings: the zeros', or a surrogate's."""
    position: Literal["rope", "learned", "distance"]
    """Position coding: the source's text, its code, and ours (`rope`, with values that turn by
    their distance in t, which needs the coarse height)."""
    slot_id: bool
    """Whether slots carry identity embeddings."""
    aux: Literal["none", "window_stats", "q3"]
    """What the memory's outputs must also tell about the window."""
    aux_weight: float
    """Weight of that loss."""
    regularise: bool
    """Whether the slots' regularisers and their ramps are on."""
    drift_weight: float
    """Weight of the drift loss at its end, 0 = off."""
    drift_every: int
    """Steps between drift losses."""
    drift_horizon: int
    """Rollout length of the drift loss, spacings."""
    drift_batch: int
    """Windows of each drift loss."""
    drift_schedule: Literal["constant", "linear", "exponential"]
    """How the drift weight reaches its end."""
    slot_dropout: float
    """Chance that a slot is dropped in a training window, 0 = off."""
    without_slot: int | None
    """Slot that is zero in training and reading (what a slot is worth to a model that never had
    it); null: none."""
    split: Literal["height", "source", "interpolation"]
    """Which windows train, select and test."""
    share: float
    """Share of the training windows used, evenly spaced blocks, 0..1."""
    control_of: str | None
    """Run that this one is a control of."""

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "share", "above 0, at most 1", self.share)
        require(0 <= self.slot_dropout < 1, "slot_dropout", "0..1", self.slot_dropout)
        for name in ("aux_weight", "drift_weight"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        for name in ("drift_every", "drift_horizon", "drift_batch"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        still = (*CARRY_ARMS, *PHASE_ARMS, *WHOLE_ARMS)
        rolls = self.drift_weight == 0 or self.arm not in still
        require(rolls, "drift_weight", f"0 for arm {self.arm}", self.drift_weight)
        held = self.arm == "prefix" or not self.regularise
        require(held, "regularise", f"false for arm {self.arm}", self.regularise)
        slots = self.arm in SLOT_ARMS
        told = self.aux == "none" or slots
        require(told, "aux", f"none where the arm has no slots ({self.arm})", self.aux)
        require(slots or not self.slot_id, "slot_id", "false without slots", self.slot_id)
        cut = slots or self.slot_dropout == 0
        require(cut, "slot_dropout", "0 without slots", self.slot_dropout)
        named = self.without_slot is None or (slots and self.without_slot >= 0)
        require(named, "without_slot", "null, or a slot of an arm with slots", self.without_slot)


@dataclass(frozen=True, kw_only=True)
class TriedConfig:
    """How many configurations were compared on validation windows before one was fixed.

    The fixed one is counted too. docs/log.md tells which they were; who tries others adds them.
    """

    transformer: int
    """Of the transformer and its training, shared by all arms that have one, at least 1."""
    carry: int
    """Of the carried memory, at least 1."""
    primes: int
    """Of the prime memories and their heads, at least 1."""
    primes_transformer: int
    """Of the transformer over the prime memory, beside the transformer's own, at least 1."""

    def __post_init__(self) -> None:
        for name in ("transformer", "carry", "primes", "primes_transformer"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))

    def behind(self, arm: Arm) -> int:
        """Return how many stand behind a run of `arm`."""
        if arm in CARRY_ARMS:
            return self.carry
        if arm == "primes_transformer":
            return self.primes_transformer
        return self.primes if arm in PHASE_ARMS else self.transformer


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """What is read of a trained run on its test windows."""

    full_stride: int
    """Targets read from each shifted window at full context: their contexts are at least
    `window - full_stride` spacings; divides the window."""
    horizon: int
    """Longest rollout, spacings."""
    samples: int
    """Sampled rollouts a window, at least 2."""

    def __post_init__(self) -> None:
        for name in ("full_stride", "horizon"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.samples >= 2, "samples", "at least 2", self.samples)
