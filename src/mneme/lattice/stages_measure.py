"""What the scripts of the rules that measure are told (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass

from mneme.core.config import require
from mneme.lattice.config import ArmConfig, RecipeConfig
from mneme.lattice.original_config import OriginalConfig
from mneme.lattice.planted_config import PlantedConfig

PLANTED = "planted"
"""Name of the planted pairs among the teachers."""


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """How vectors and texts are read."""

    saturation: float
    """BM25's k1, above 0: how soon further occurrences of a word stop to count."""
    length: float
    """BM25's b, 0 to 1: how much long answers are marked down."""
    timings: int
    """Times that some test questions are encoded for the latency; the fastest counts."""
    shown: int
    """How many they are; the pictured state of the lattice is averaged over the same."""

    def __post_init__(self) -> None:
        require(self.saturation > 0, "saturation", "above 0", self.saturation)
        require(0 <= self.length <= 1, "length", "0 to 1", self.length)
        for name in ("timings", "shown"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """How arms are read and compared."""

    read: ReadConfig
    """How vectors and texts are read."""
    resamples: int
    """Bootstrap resamples, at least 100."""
    margin: float
    """Recall@1 by which an arm may be below PCA and still count as not worse, above 0."""

    def __post_init__(self) -> None:
        require(self.resamples >= 100, "resamples", "at least 100", self.resamples)
        require(0 < self.margin < 1, "margin", "above 0, below 1", self.margin)


@dataclass(frozen=True, kw_only=True)
class MeasureStageConfig:
    """Rule `lattice_measure`."""

    teacher: str
    """Whose embeddings."""
    recipe: RecipeConfig
    """What its arms share."""
    arms: dict[str, ArmConfig]
    """Arms that were trained on them."""
    seeds: tuple[int, ...]
    """Training seeds."""
    read: ReadConfig
    """How they are read."""


@dataclass(frozen=True, kw_only=True)
class OriginalStageConfig:
    """Rule `lattice_original`."""

    original: OriginalConfig
    """The source's run."""
    seeds: tuple[int, ...]
    """Seeds under which it is repeated."""


@dataclass(frozen=True, kw_only=True)
class PlantedStageConfig:
    """Rule `lattice_planted`."""

    planted: PlantedConfig
    """Pairs and arms."""
    seeds: tuple[int, ...]
    """Training seeds."""
    read: ReadConfig
    """How arms are read."""


@dataclass(frozen=True, kw_only=True)
class LatticeStageConfig:
    """Rule `lattice`."""

    arms: dict[str, dict[str, ArmConfig]]
    """Teacher -> arms that were measured on its embeddings; `PLANTED` among them."""
    seeds: tuple[int, ...]
    """Training seeds."""
    measure: MeasureConfig
    """How they are compared."""
    tried: dict[str, int]
    """Teacher -> configurations compared before its recipe was fixed, where they were counted."""
