"""Settings of the dialogue adapters: which form, how trained, what is sampled from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mneme.core.config import require
from mneme.ttt.chat_config import SamplingConfig

Form = Literal["tinylora", "shared"]
"""PEFT's TinyLoRA (few numbers a linear layer, in the span of its largest singular vectors), or the
source's: vectors of rank one shared by all layers of a shape, and one number a layer."""
Control = Literal["none", "permuted"]
"""Which answers an adapter learns: the conversation's own, or those of other conversations."""


@dataclass(frozen=True, kw_only=True)
class AdapterRunConfig:
    """One trained adapter."""

    base: str
    """Name of the run whose weights are adapted."""
    form: Form
    """Which parameters are trained."""
    rank: int | None
    """Singular vectors that a change of a layer is made of, form tinylora only; null else."""
    vector: int | None
    """Trained numbers a layer, form tinylora only; null else."""
    learning_rate: float
    """Peak learning rate of the form."""
    control: Control
    """permuted: what is left of the gain when answers do not belong to their questions."""
    control_of: str | None
    """Adapter run that this one is a control of."""

    def __post_init__(self) -> None:
        for name in ("rank", "vector"):
            value = getattr(self, name)
            if self.form == "tinylora":
                known = value is not None and value >= 1
                require(known, name, "at least 1 for form tinylora", value)
            else:
                require(value is None, name, "null for form shared", value)
        require(self.learning_rate > 0, "learning_rate", "above 0", self.learning_rate)
        paired = (self.control == "permuted") <= (self.control_of is not None)
        require(paired, "control_of", "a run's name for control permuted", self.control_of)


@dataclass(frozen=True, kw_only=True)
class AdapterTrainingConfig:
    """Supervised training on answers (AdamW without decay, cosine schedule), for all adapters."""

    steps: int
    """Optimiser steps."""
    batch: int
    """Pieces of conversations a step."""
    tokens: int
    """Longest piece of a conversation, predicted tokens; longer conversations are cut."""
    warmup: int
    """Steps of linear warm-up, below `steps`."""
    clip: float
    """Largest gradient norm."""
    eval_every: int
    """Steps between readings of validation conversations."""
    eval_conversations: int
    """Validation conversations of a reading; all of them where there are fewer."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "tokens", "eval_every", "eval_conversations"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(0 <= self.warmup < self.steps, "warmup", f"0 to {self.steps - 1}", self.warmup)
        require(self.clip > 0, "clip", "above 0", self.clip)


@dataclass(frozen=True, kw_only=True)
class AdapterMeasureConfig:
    """What is read of a trained adapter."""

    conversations: int
    """Test conversations read; all of them where there are fewer."""
    updated: tuple[str, ...]
    """Adapters whose conversations are also read with updates at test time, with their controls."""
    prompts: tuple[str, ...]
    """What the other side says, one reply each."""
    reply_tokens: int
    """Longest reply, tokens."""
    sampling: SamplingConfig
    """How a reply is drawn."""

    def __post_init__(self) -> None:
        for name in ("conversations", "reply_tokens"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(len(self.prompts) >= 1, "prompts", "at least one text", self.prompts)
        for prompt in self.prompts:
            require(bool(prompt.strip()), "prompts", "texts that are not empty", prompt)


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Dialogue adapters of the room."""

    runs: dict[str, AdapterRunConfig]
    """Adapters by name."""
    training: AdapterTrainingConfig
    """How all are trained."""
    measure: AdapterMeasureConfig
    """What is read of all."""
    resamples: int
    """Bootstrap resamples of the intervals."""

    def __post_init__(self) -> None:
        require(self.resamples >= 1, "resamples", "at least 1", self.resamples)
        for name, run in self.runs.items():
            known = run.control_of is None or run.control_of in self.runs
            rule = f"null or one of {', '.join(self.runs)}"
            require(known, f"runs.{name}.control_of", rule, run.control_of)
