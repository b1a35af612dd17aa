"""Settings of the room that several of its steps share: adapter, lattice, training, arms.

A recipe fixes sizes, loss and steps; arms of one recipe differ in what an `ArmConfig` says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from mneme.core.config import require

Strategy = Literal[
    "hierarchical", "learned_linear", "attention_based", "autoencoder", "linear", "identity"
]
"""How an embedding becomes a surface: the source's four; `linear`, one bare linear layer each way;
`identity`, for vectors that are surfaces already."""
STRATEGIES = ("hierarchical", "learned_linear", "attention_based", "autoencoder")
"""The source's four."""
PCA_STRATEGIES = ("hierarchical", "autoencoder", "linear")
"""Those that end in a bare linear layer, so that they can start as principal components."""
Surface = Literal["single", "triple", "full"]
"""Faces of the box that carry the surface: one, one a direction, or all."""
Mode = Literal["surface_only", "autoencoder", "generator", "dialogue"]
"""What goes in and out: surface, embedding, condition -> embedding, question -> answer."""
Loss = Literal["infonce", "original"]
"""Symmetric InfoNCE with in-batch negatives, or the source's, positives only."""
Core = Literal["off", "lattice", "mlp", "curve", "frozen"]
"""What stands between surface in and surface out: nothing; the lattice; a dense network with as
many parameters; one learnt curve for all numbers, with as many; a lattice whose cell keeps its
random weights."""
BASELINES = (
    *("raw", "standardised", "pca", "pca_standardised", "pca_whitened"),
    *("projection", "truncation", "tfidf", "bm25"),
)
"""Embeddings as they are; standardised by feature, which every trained arm also does; codecs to as
many numbers as a surface has, principal components of standardised features among them, as they
are and scaled down; searches by words."""
FACES = {"single": 1, "triple": 3, "full": 6}
"""Faces of each kind of surface."""


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Encoder and decoder between embedding and surface."""

    strategy: Strategy
    """Form of the network."""
    dropout: float
    """Chance that a hidden unit is zeroed in training, 0 to below 1 (hierarchical only)."""
    groups: int
    """Feature groups that attend to one another (attention_based only); divides the width."""

    def __post_init__(self) -> None:
        require(0 <= self.dropout < 1, "dropout", "at least 0, below 1", self.dropout)
        require(self.groups >= 1, "groups", "at least 1", self.groups)


@dataclass(frozen=True, kw_only=True)
class CellConfig:
    """The lattice: its box, its one shared cell, and how long it runs."""

    kind: Literal["mlp", "gmlp"]
    """Learned part of the cell: a dense network of the neighbourhood, or one gated by it."""
    shape: tuple[int, int, int]
    """Cells along z, y, x; the surface comes in at z = 0 and goes out at the last z."""
    surface: Surface
    """Faces that carry the surface."""
    channels: int
    """Numbers a cell holds, at least one a face."""
    hidden: int
    """Hidden units of the cell."""
    steps: int
    """Steps from the input to the output; a signal moves one cell a step."""
    boundary: Literal["walls", "periodic"]
    """What lies beyond the box in y and x: zeros, or the other side (one face only; z always has
    walls, or input and output would be neighbours)."""
    dropout: float
    """Chance that the learned part of a cell's update is left out in training, 0 to below 1."""
    checkpointed: bool
    """Whether steps are computed again in the backward pass, to save memory."""

    def __post_init__(self) -> None:
        require(min(self.shape) >= 2, "shape", "three sizes of at least 2", self.shape)
        faces = FACES[self.surface]
        rule = f"at least {faces}, one a face"
        require(self.channels >= faces, "channels", rule, self.channels)
        require(self.hidden >= 1, "hidden", "at least 1", self.hidden)
        require(self.steps >= 0, "steps", "at least 0", self.steps)
        walls = self.surface == "single" or self.boundary == "walls"
        require(walls, "boundary", f"walls for a {self.surface} surface", self.boundary)
        require(0 <= self.dropout < 1, "dropout", "at least 0, below 1", self.dropout)

    @property
    def surface_size(self) -> int:
        """Return the numbers on the surface: 225, 555 or 1,110 for 11 x 15 x 15 cells."""
        depth, rows, columns = self.shape
        kinds = (rows * columns, depth * columns, depth * rows)
        return {"single": kinds[0], "triple": sum(kinds), "full": 2 * sum(kinds)}[self.surface]

    @property
    def crossing(self) -> int:
        """Return the steps that a signal needs from every input face to the face opposite."""
        depth, rows, columns = self.shape
        return depth - 1 if self.surface == "single" else max(depth, rows, columns) - 1


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Training, equal for all arms of a recipe (AdamW)."""

    loss: Loss
    """What is made small; the source's has no negatives, and keeps the last state."""
    temperature: float
    """Of InfoNCE; similarities are divided by it."""
    reconstruction: float
    """Weight of the reconstruction error beside InfoNCE, at least 0."""
    steps: int
    """Optimiser steps, those of the warm-up included."""
    warmup_steps: int
    """First steps of staged arms, which train the adapter on reconstruction alone; it is frozen
    afterwards."""
    batch: int
    """Pairs a step, at least 2."""
    learning_rate: float
    """Peak learning rate of the adapter."""
    core_learning_rate: float
    """Peak learning rate of what stands between surface in and surface out."""
    schedule: Literal["cosine", "constant"]
    """Cosine to 0, or constant."""
    weight_decay: float
    """AdamW's, on matrices only."""
    clip: float
    """Largest gradient norm."""
    eval_every: int
    """Steps between readings of the validation pairs; the best one is kept (InfoNCE)."""

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", "above 0", self.temperature)
        require(self.reconstruction >= 0, "reconstruction", "at least 0", self.reconstruction)
        for name in ("steps", "eval_every"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        inside = 0 <= self.warmup_steps < self.steps
        require(inside, "warmup_steps", f"0 to {self.steps - 1}", self.warmup_steps)
        require(self.batch >= 2, "batch", "at least 2 (negatives come from it)", self.batch)
        for name in ("learning_rate", "core_learning_rate", "clip"):
            require(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        require(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class ArmConfig:
    """What differs between the trained runs of a recipe."""

    strategy: Strategy
    """Adapter."""
    start: Literal["random", "pca"]
    """Whether the adapter starts at random or as the principal components of the training
    embeddings (strategies of `PCA_STRATEGIES` only)."""
    core: Core
    """What stands between surface in and surface out."""
    lattice_steps: int | None
    """Steps of the lattice instead of the recipe's; null keeps those."""
    answers: Literal["own", "permuted", "permuted_training"]
    """permuted: training and testing pair a question with a random answer (nothing but a leak could
    help); permuted_training: training does and testing does not (what the pairs teach)."""
    vectors: Literal["teacher", "noise"]
    """Embeddings, or Gaussian noise of the same size in place of the questions'."""
    trained: bool
    """False measures the initial network."""
    staged: bool
    """Whether the adapter is trained on reconstruction first and frozen then (`warmup_steps`)."""
    pairs: int | None
    """Training pairs that are used; null takes all (learning curve)."""
    loss: Loss | None
    """Loss instead of the recipe's; null keeps that."""
    steps: int | None
    """Optimiser steps instead of the recipe's; null keeps those."""
    control_of: str | None
    """Run that this one is a control of."""

    def __post_init__(self) -> None:
        able = self.start == "random" or self.strategy in PCA_STRATEGIES
        require(able, "start", f"random for strategy {self.strategy}", self.start)
        known = self.lattice_steps is None or self.core in ("lattice", "frozen")
        require(known, "lattice_steps", f"null for core {self.core}", self.lattice_steps)
        if self.lattice_steps is not None:
            require(self.lattice_steps >= 0, "lattice_steps", "at least 0", self.lattice_steps)
        enough = self.pairs is None or self.pairs >= 2
        require(enough, "pairs", "null or at least 2", self.pairs)
        require(self.steps is None or self.steps >= 1, "steps", "null or at least 1", self.steps)


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """What all arms of one comparison share."""

    adapter: AdapterConfig
    """Adapter; an arm's `strategy` takes the place of its own."""
    cell: CellConfig
    """Lattice."""
    fit: FitConfig
    """Training."""


def fit_of(arm: ArmConfig, fit: FitConfig) -> FitConfig:
    """Return the training of an arm: the recipe's, with the arm's own loss and steps.

    Raises
    ------
    ConfigError
        Fewer steps than the warm-up has.
    """
    return replace(fit, loss=arm.loss or fit.loss, steps=arm.steps or fit.steps)


def require_trainable(
    arm: ArmConfig, fit: FitConfig, *, train: int, arm_at: str, fit_at: str, train_at: str
) -> None:
    """Raise ConfigError unless an arm can be trained so with `train` pairs; `_at` are addresses."""
    warmed = not arm.staged or fit.warmup_steps > 0
    rule = f"at least 1 for the staged arm {arm_at.rpartition('.')[2]}"
    require(warmed, f"{fit_at}.warmup_steps", rule, fit.warmup_steps)
    longer = arm.steps is None or arm.steps > fit.warmup_steps
    rule = f"null or more than {fit.warmup_steps} (warmup_steps)"
    require(longer, f"{arm_at}.steps", rule, arm.steps)
    pairs = arm.pairs or train
    enough = fit.batch <= pairs <= train
    require(enough, f"{arm_at}.pairs", f"{fit.batch} (the batch) to {train} ({train_at})", pairs)
