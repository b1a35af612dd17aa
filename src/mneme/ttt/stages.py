"""What the scripts of the room are told, one dataclass a rule (no torch here)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mneme.ttt.adapter_config import (
    AdapterMeasureConfig,
    AdapterRunConfig,
    AdapterTrainingConfig,
)
from mneme.ttt.config import Arm, RecipeConfig, RunConfig
from mneme.ttt.context_config import ContextConfig
from mneme.ttt.corpus_config import CorpusConfig, MarkovConfig
from mneme.ttt.grid_config import GridConfig
from mneme.ttt.material import MarkovMaterial, TextMaterial, markov_material, text_material


@dataclass(frozen=True, kw_only=True)
class PrepareStageConfig:
    """Rule `ttt_prepare`."""

    name: str
    """Name of the corpus."""
    corpus: CorpusConfig
    """Its settings."""


@dataclass(frozen=True, kw_only=True)
class TrainedConfig:
    """What is needed to train a run, or to open it again."""

    name: str
    """Name of the run."""
    arm: Arm
    """Its arm."""
    recipe_name: str
    """Name of its recipe."""
    recipe: RecipeConfig
    """Its recipe."""
    corpus: CorpusConfig | None
    """Its corpus of text; None for chains."""
    markov: MarkovConfig | None
    """The law of its chains; None for text."""
    seeds: tuple[int, ...]
    """Training seeds."""

    def text(self, arrays: Mapping[str, np.ndarray]) -> TextMaterial:
        """Return the run's material from prepared tokens."""
        assert self.corpus is not None
        return text_material(arrays, self.corpus)

    def chains(self) -> MarkovMaterial:
        """Return the run's material, drawn."""
        assert self.markov is not None
        return markov_material(self.markov)


@dataclass(frozen=True, kw_only=True)
class FitStageConfig(TrainedConfig):
    """Rule `ttt_fit`."""


@dataclass(frozen=True, kw_only=True)
class MeasureStageConfig(TrainedConfig):
    """Rule `ttt_measure`."""

    context: ContextConfig
    """What is read: the sets of this run's corpus."""


@dataclass(frozen=True, kw_only=True)
class ModelStageConfig:
    """Rule `ttt_model`."""

    runs: dict[str, RunConfig]
    """All runs."""
    tried: dict[str, int]
    """Recipe -> configurations tried before it was fixed."""
    seeds: tuple[int, ...]
    """Training seeds."""


@dataclass(frozen=True, kw_only=True)
class ContextStageConfig:
    """Rule `ttt_context`."""

    runs: dict[str, RunConfig]
    """The runs that are measured."""
    recipes: dict[str, RecipeConfig]
    """Their recipes."""
    context: ContextConfig
    """How they were read."""
    tried: dict[str, int]
    """Recipe -> configurations tried before it was fixed."""
    seeds: tuple[int, ...]
    """Training seeds."""


@dataclass(frozen=True, kw_only=True)
class AdapterFitStageConfig:
    """Rule `ttt_adapter_fit`."""

    name: str
    """Name of the adapter run."""
    run: AdapterRunConfig
    """Its settings."""
    base: TrainedConfig
    """The run whose weights are adapted."""
    training: AdapterTrainingConfig
    """How it is trained."""
    measure: AdapterMeasureConfig
    """What is read."""


@dataclass(frozen=True, kw_only=True)
class AdapterStageConfig:
    """Rule `ttt_adapter`."""

    runs: dict[str, AdapterRunConfig]
    """All adapters."""
    tried: dict[str, int]
    """Adapter -> configurations tried before it was fixed."""
    resamples: int
    """Bootstrap resamples."""
    seeds: tuple[int, ...]
    """Training seeds."""


@dataclass(frozen=True, kw_only=True)
class GridStageConfig:
    """Rule `ttt_grid`."""

    bases: dict[str, TrainedConfig]
    """Trained runs that are measured, with and without their adapters."""
    adapters: dict[str, AdapterRunConfig]
    """Adapters on them."""
    grid: GridConfig
    """Cells, prompts, sweeps."""
    tried: dict[str, int]
    """Recipe -> configurations tried before it was fixed."""
    seeds: tuple[int, ...]
    """Training seeds."""
