"""What the scripts of the room are told, one dataclass a rule."""

from __future__ import annotations

from dataclasses import dataclass

from mneme.zeta.carry_config import CarryConfig
from mneme.zeta.config import ModelConfig, PredictConfig, RunConfig, TrainingConfig
from mneme.zeta.references import ReferenceConfig
from mneme.zeta.scores import MdnConfig
from mneme.zeta.statistics import StatisticsConfig


@dataclass(frozen=True, kw_only=True)
class FitStageConfig:
    """Rule `zeta_fit`."""

    name: str
    """Name of the run."""
    run: RunConfig
    """Its settings."""
    model: ModelConfig
    """Transformer."""
    training: TrainingConfig
    """Training."""
    carry: CarryConfig | None
    """Carried memory, for arm `carry`."""
    seeds: tuple[int, ...]
    """Training seeds."""


@dataclass(frozen=True, kw_only=True)
class MeasureStageConfig:
    """Rule `zeta_measure`."""

    name: str
    """Name of the run."""
    run: RunConfig
    """Its settings."""
    model: ModelConfig
    """Transformer."""
    carry: CarryConfig | None
    """Carried memory, for arm `carry`."""
    predict: PredictConfig
    """What is read."""
    seeds: tuple[int, ...]
    """Training seeds."""


@dataclass(frozen=True, kw_only=True)
class ReferenceStageConfig:
    """Rule `zeta_references`."""

    references: ReferenceConfig
    """Which references."""
    window: int
    """Spacings a window."""


@dataclass(frozen=True, kw_only=True)
class MdnStageConfig:
    """Rule `mdn`."""

    runs: dict[str, RunConfig]
    """All runs."""
    mdn: MdnConfig
    """How readings are reduced."""
    seeds: tuple[int, ...]
    """Training seeds."""


@dataclass(frozen=True, kw_only=True)
class StatisticsStageConfig:
    """Rule `statistics`."""

    statistics: StatisticsConfig
    """What is read."""
    sequence: int
    """Length of the sequences that a series is cut into, spacings: the bootstrap's units."""
