"""What the script of rule `lattice_fit` is told (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass

from mneme.lattice.config import ArmConfig, RecipeConfig


@dataclass(frozen=True, kw_only=True)
class FitStageConfig:
    """Rule `lattice_fit`."""

    teacher: str
    """Whose embeddings."""
    name: str
    """Name of the arm."""
    arm: ArmConfig
    """Its settings."""
    recipe: RecipeConfig
    """What all arms of this teacher share."""
    seeds: tuple[int, ...]
    """Training seeds."""
