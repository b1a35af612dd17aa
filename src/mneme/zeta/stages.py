"""What the scripts of the room are told, one dataclass a rule."""

from __future__ import annotations

from dataclasses import dataclass

from mneme.zeta.carry_config import CarryConfig
from mneme.zeta.config import (
    ModelConfig,
    PredictConfig,
    RunConfig,
    TrainingConfig,
    TriedConfig,
)
from mneme.zeta.prime_config import RowConfig
from mneme.zeta.references import ReferenceConfig
from mneme.zeta.scores import MdnConfig
from mneme.zeta.statistics import StatisticsConfig
from mneme.zeta.transfer_config import TransferConfig


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
    """Carried memory, for arms that have one."""
    rows: RowConfig | None
    """What the prime memory tells, for arm `primes_transformer`."""
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
    """Carried memory, for arms that have one."""
    rows: RowConfig | None
    """What the prime memory tells, for arm `primes_transformer`."""
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
    tried: TriedConfig
    """Configurations compared before these."""
    transfer: TransferConfig
    """What was read elsewhere."""
    seeds: tuple[int, ...]
    """Training seeds."""


@dataclass(frozen=True, kw_only=True)
class StatisticsStageConfig:
    """Rule `statistics`."""

    statistics: StatisticsConfig
    """What is read."""
    sequence: int
    """Length of the sequences that a series is cut into, spacings: the bootstrap's units."""
