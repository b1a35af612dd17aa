"""Settings of the planted control (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass

from mneme.core.config import require
from mneme.lattice.config import ArmConfig, RecipeConfig, require_trainable


@dataclass(frozen=True, kw_only=True)
class PlantedConfig:
    """Pairs whose answer is a known local rule of the question, and who is to find it."""

    train: int
    """Training pairs, more than half of the surface's numbers (PCA is fitted on both sides)."""
    val: int
    """Pairs on which the best state is chosen, at least 2."""
    test: int
    """Pairs that are searched, at least 2."""
    seed: int
    """Seed of the pairs."""
    recipe: RecipeConfig
    """What its arms share; the vectors are as wide as the surface, one face."""
    arms: dict[str, ArmConfig]
    """Arms, at least one."""

    def __post_init__(self) -> None:
        cell, fit = self.recipe.cell, self.recipe.fit
        single = cell.surface == "single"
        require(single, "recipe.cell.surface", "single, as the rule has one face", cell.surface)
        least = cell.surface_size // 2 + 1
        rule = f"at least {least} (more than half of {cell.surface_size} numbers)"
        require(self.train >= least, "train", rule, self.train)
        for name in ("val", "test"):
            require(getattr(self, name) >= 2, name, "at least 2", getattr(self, name))
        require(len(self.arms) >= 1, "arms", "at least one", self.arms)
        for name, arm in self.arms.items():
            other = arm.control_of
            known = other is None or (other in self.arms and other != name)
            require(known, f"arms.{name}.control_of", "null or another of these arms", other)
            require_trainable(
                arm,
                fit,
                train=self.train,
                arm_at=f"arms.{name}",
                fit_at="recipe.fit",
                train_at="train",
            )
