"""Settings blocks of the room's rules that are not a block of `config.yaml` by themselves."""

from __future__ import annotations

from dataclasses import dataclass

from mneme.core.backbones import BackboneConfig
from mneme.routing.config import (
    AdapterRunConfig,
    AdaptersConfig,
    OriginalConfig,
    ProtocolConfig,
    RunConfig,
)
from mneme.routing.domains import require_domains
from mneme.routing.sequences import SequenceConfig


@dataclass(frozen=True, kw_only=True)
class StatesStageConfig:
    """Settings of rule `routing_states`."""

    backbone: BackboneConfig
    """Whose layer k."""
    resources: str
    """Folder of the shared resources."""
    domains: tuple[str, ...]
    """Domain names, in order."""
    batch: int
    """Chunks a pass."""


@dataclass(frozen=True, kw_only=True)
class TraceStageConfig:
    """Settings of rule `routing_trace`."""

    backbone: BackboneConfig
    """Whose layer k."""
    resources: str
    """Folder of the shared resources."""
    domains: tuple[str, ...]
    """Domain names, in order."""
    pair: tuple[str, str]
    """Domains A and B."""
    seed: int
    """Seed of shuffled segments."""
    sequences: SequenceConfig
    """Lengths."""
    contexts: dict[str, tuple[str, ...]]
    """Mixer -> kinds of sequences on which it is read."""

    def pair_index(self) -> tuple[int, int]:
        """Return the columns of domains A and B."""
        return self.domains.index(self.pair[0]), self.domains.index(self.pair[1])


@dataclass(frozen=True, kw_only=True)
class MeasureStageConfig:
    """Settings of rules `hysteresis` and `fatigue`."""

    domains: tuple[str, ...]
    """Domain names, in order."""
    pair: tuple[str, str]
    """Domains A and B."""
    seeds: tuple[int, ...]
    """Mixer seeds."""
    protocol: ProtocolConfig
    """Metrics."""
    runs: dict[str, RunConfig]
    """Runs."""
    original: OriginalConfig
    """The source's protocol."""
    tried: dict[str, int]
    """Run, `original` too -> configurations tried of its mixer."""

    def pair_index(self) -> tuple[int, int]:
        """Return the columns of domains A and B."""
        return self.domains.index(self.pair[0]), self.domains.index(self.pair[1])


@dataclass(frozen=True, kw_only=True)
class AdaptersStageConfig:
    """Settings of rule `routing_adapters`."""

    domains: tuple[str, ...]
    """Domain names, in order."""
    adapters: AdaptersConfig
    """Adapter runs."""
    resamples: int
    """Bootstrap resamples."""
    original: str
    """Run that trains as the source does."""
    tried: dict[str, int]
    """Run -> configurations tried."""


@dataclass(frozen=True, kw_only=True)
class OriginalStageConfig:
    """Settings of rule `routing_original`."""

    backbone: BackboneConfig
    """Which model generates."""
    resources: str
    """Folder of the shared resources."""
    domains: tuple[str, ...]
    """Domain names, in order."""
    pair: tuple[str, str]
    """Domains A and B."""
    seeds: tuple[int, ...]
    """Mixer and sampling seeds."""
    original: OriginalConfig
    """The source's protocol."""


@dataclass(frozen=True, kw_only=True)
class MixedStageConfig:
    """Settings of rule `routing_model`."""

    backbone: BackboneConfig
    """Which model is mixed on."""
    resources: str
    """Folder of the shared resources."""
    domains: tuple[str, ...]
    """Domain names, in order."""
    seeds: tuple[int, ...]
    """Mixer seeds; the adapters are those of the first adapter seed."""
    batch: int
    """Chunks a pass."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """What all adapter runs share: `AdaptersConfig` without the runs themselves."""

    rank: int
    """LoRA rank r."""
    alpha: float
    """LoRA alpha; the update is scaled by alpha / r."""
    sleep_weight: float
    """lambda of Active Sleep (and weight of the replayed loss), >= 0."""
    sleep_temperature: float
    """T of Active Sleep, > 0."""
    seeds: tuple[int, ...]
    """Training seeds of the adapters."""


@dataclass(frozen=True, kw_only=True)
class AdapterFitConfig:
    """Settings of rule `routing_adapter_fit`: one adapter run, all its seeds."""

    backbone: BackboneConfig
    """The frozen model."""
    resources: str
    """Folder of the shared resources."""
    adapters: LoraSettings
    """What all adapter runs share."""
    name: str
    """Name of the run."""
    run: AdapterRunConfig
    """The run."""
    domains: tuple[str, ...]
    """Domain names in order of training."""

    def __post_init__(self) -> None:
        require_domains(self.domains, "domains")
