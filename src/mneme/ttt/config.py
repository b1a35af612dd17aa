"""Settings of the room that several of its steps share: model, inner loop, training, runs.

A recipe fixes corpus, sizes, tokens and steps; runs of one recipe differ in their arm, and a run
that is to train as long as a dearer one in its steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mneme.core.config import require

Arm = Literal["full", "sliding", "two_mlp", "dynamic", "first", "second", "naive", "untrained"]
"""Full attention; sliding window; sliding window with both MLPs and none trained at test time;
sliding window with dynamic evaluation; fast weights meta-trained to first or second order; the same
network with the weights of `two_mlp`, which was trained without updates; the same with the weights
that training begins with."""
TTT_ARMS = ("first", "second", "naive", "untrained")
"""Arms whose fast weights are trained at test time."""
LONGER_ARMS = ("first", "sliding")
"""Arms that may be trained for more steps than their recipe says: those with cheaper steps."""
UNFITTED_ARMS = ("dynamic", "naive", "untrained")
"""Arms that are measured without a training of their own."""
BORROWED_ARMS: dict[Arm, Arm] = {"dynamic": "sliding", "naive": "two_mlp"}
"""Arms that are measured with the weights of another one, at equal tokens."""
BASELINES = ("naive", "untrained")
"""Arms that update their fast weights and were not trained to: `context.untrained_kinds`."""
ONE_MLP_ARMS = ("full", "sliding", "dynamic")
"""Arms with one MLP a block."""
Objective = Literal["all_chunks", "split"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Transformer whose last blocks carry a fast and a static MLP.

    References
    ----------
    Shazeer 2020 (SwiGLU); Su et al. 2021 (rotary positions); Henry et al. 2020 (QK-norm).
    """

    blocks: int
    """Blocks L, at least 1."""
    width: int
    """Width D of the stream."""
    heads: int
    """Attention heads; divides `width`."""
    hidden: int
    """Hidden width of the SwiGLU MLPs of a model with one MLP a block; with a second MLP in some
    blocks all are narrower, so that parameters stay equal."""
    ttt_blocks: int
    """Last blocks with a fast and a static MLP, 1 to `blocks` (arms with one MLP ignore it)."""
    window: int
    """Tokens a position attends to, itself included (full attention ignores it)."""
    rope_base: float | None
    """Base of the rotary positions; null: no positions."""
    qk_norm: bool
    """Whether queries and keys are normalised (RMS) before rotation."""
    tied: bool
    """Whether the head shares the embedding's weights."""

    def __post_init__(self) -> None:
        for name in ("blocks", "heads", "width", "hidden", "window"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        even = self.width % (2 * self.heads) == 0 or self.rope_base is None
        divides = self.width % self.heads == 0
        require(
            divides and even, "width", f"a multiple of 2 x heads = {2 * self.heads}", self.width
        )
        fits = 1 <= self.ttt_blocks <= self.blocks
        require(fits, "ttt_blocks", f"1 to {self.blocks}", self.ttt_blocks)
        turns = self.rope_base is None or self.rope_base > 1
        require(turns, "rope_base", "null or above 1", self.rope_base)

    @property
    def shared_hidden(self) -> int:
        """Return the hidden width of every MLP when `ttt_blocks` blocks carry two."""
        return round(self.hidden * self.blocks / (self.blocks + self.ttt_blocks))

    @property
    def receptive_field(self) -> int:
        """Return how many tokens back a sliding window can see through all blocks."""
        return self.blocks * (self.window - 1)


@dataclass(frozen=True, kw_only=True)
class InnerConfig:
    """The inner loop: one clipped gradient step on the fast weights after every chunk."""

    chunk: int
    """Tokens b a step, at most the model's window."""
    learning_rate: float
    """Of plain gradient descent; 0 leaves the fast weights as they are."""
    clip: float
    """Largest global norm of one sample's gradient."""

    def __post_init__(self) -> None:
        require(self.chunk >= 1, "chunk", "at least 1", self.chunk)
        require(self.learning_rate >= 0, "learning_rate", "at least 0", self.learning_rate)
        require(self.clip > 0, "clip", "above 0", self.clip)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The outer loop (AdamW, cosine schedule), equal for all arms of a recipe."""

    steps: int
    """Optimiser steps."""
    batch: int
    """Sequences a step."""
    micro_batch: int
    """Sequences at a time, a divisor of `batch`; gradients are accumulated."""
    tokens: int
    """Predicted tokens a sequence."""
    learning_rate: float
    """Peak learning rate."""
    warmup: int
    """Steps of linear warm-up, below `steps`."""
    weight_decay: float
    """AdamW's, on matrices only."""
    clip: float
    """Largest gradient norm."""
    objective: Objective
    """all_chunks: mean loss of all chunks before their own update; split: adapt on the first part,
    loss on the second."""
    adapt_share: float
    """First part of objective split, share of the sequence."""
    inner_warmup: int
    """Outer steps over which the inner learning rate grows linearly to its value."""
    inner_start: float
    """Share of the inner learning rate that warm-up begins with."""
    checkpointed: bool
    """Whether inner steps are computed again in the backward pass, to save memory."""
    eval_every: int
    """Steps between readings of validation documents."""
    eval_documents: int
    """Validation sequences of a reading."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "micro_batch", "tokens", "eval_every", "eval_documents"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        divides = self.batch % self.micro_batch == 0
        require(divides, "micro_batch", f"a divisor of batch = {self.batch}", self.micro_batch)
        require(0 <= self.warmup < self.steps, "warmup", f"0 to {self.steps - 1}", self.warmup)
        for name in ("learning_rate", "clip"):
            require(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        require(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)
        require(0 < self.adapt_share < 1, "adapt_share", "between 0 and 1", self.adapt_share)
        both = self.objective != "split" or 0 < round(self.adapt_share * self.tokens) < self.tokens
        rule = f"a share that leaves some of {self.tokens} tokens on both sides"
        require(both, "adapt_share", rule, self.adapt_share)
        require(self.inner_warmup >= 0, "inner_warmup", "at least 0", self.inner_warmup)
        require(0 < self.inner_start <= 1, "inner_start", "above 0, at most 1", self.inner_start)


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """What all arms of one comparison share."""

    corpus: str
    """A name of `corpora`, or `markov`."""
    model: ModelConfig
    """Network."""
    inner: InnerConfig
    """Inner loop."""
    training: TrainingConfig
    """Outer loop."""

    def __post_init__(self) -> None:
        holds = self.inner.chunk <= self.model.window
        rule = f"at most the window (k = {self.model.window}): k >= b"
        require(holds, "inner.chunk", rule, self.inner.chunk)
        read = self.training.tokens
        window = self.model.window
        require(read >= window, "training.tokens", f"at least the window (k = {window})", read)
        seen = self.training.objective != "all_chunks" or read > self.inner.chunk
        rule = f"above inner.chunk = {self.inner.chunk}, or no loss sees an update"
        require(seen, "training.tokens", rule, read)


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """A recipe as it is written: its network by name."""

    corpus: str
    """A name of `corpora`, or `markov`."""
    size: str
    """A name of `sizes`."""
    inner: InnerConfig
    """Inner loop."""
    training: TrainingConfig
    """Outer loop."""

    def sized(self, sizes: Mapping[str, ModelConfig]) -> RecipeConfig:
        """Return the recipe with its network.

        Raises
        ------
        ConfigError
            There is no such size, or it does not fit the inner loop or the sequences.
        """
        rule = f"one of {', '.join(sorted(sizes))}"
        require(self.size in sizes, "size", rule, self.size)
        further = {"inner": self.inner, "training": self.training}
        return RecipeConfig(corpus=self.corpus, model=sizes[self.size], **further)


@dataclass(frozen=True, kw_only=True)
class TriedConfig:
    """How many configurations were compared on validation material before one was fixed.

    The fixed one is counted too. docs/log.md tells which they were; who tries others adds them.
    """

    recipes: dict[str, int]
    """For each recipe, at least 1."""
    adapters: dict[str, int]
    """For each adapter, at least 1."""

    def __post_init__(self) -> None:
        for name in ("recipes", "adapters"):
            for key, count in getattr(self, name).items():
                require(count >= 1, f"{name}.{key}", "at least 1", count)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One network: trained, or (arms `dynamic`, `naive` and `untrained`) only measured."""

    recipe: str
    """A name of `recipes`."""
    arm: Arm
    """What differs between the runs of a recipe."""
    steps_factor: float
    """Training steps as a multiple of the recipe's: 1 for equal tokens; above 1 an arm whose steps
    are cheaper trains as long as the run that it is a control of."""
    control_of: str | None
    """Run that this one is a control of."""

    def __post_init__(self) -> None:
        fits = 1 <= self.steps_factor <= 100
        require(fits, "steps_factor", "1 to 100", self.steps_factor)
        equal = self.arm in LONGER_ARMS or self.steps_factor == 1
        rule = f"1 for arm {self.arm}: only {' and '.join(LONGER_ARMS)} may train longer"
        require(equal, "steps_factor", rule, self.steps_factor)

    @property
    def plain(self) -> bool:
        """Whether this is the sliding window at equal tokens, which others are set against."""
        return self.arm == "sliding" and self.steps_factor == 1

    def own(self, recipe: RecipeConfig) -> RecipeConfig:
        """Return the recipe with the steps, and readings on the way, of this run."""
        training = recipe.training
        steps, every = (round(n * self.steps_factor) for n in (training.steps, training.eval_every))
        return replace(recipe, training=replace(training, steps=steps, eval_every=every))
