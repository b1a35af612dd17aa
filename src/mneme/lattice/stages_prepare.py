"""What the scripts of rules `lattice_prepare` and `lattice_embed` are told (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass

from mneme.core.config import require
from mneme.lattice.prepare import PairsConfig
from mneme.lattice.teacher_config import TeacherConfig


@dataclass(frozen=True, kw_only=True)
class PrepareStageConfig:
    """Rule `lattice_prepare`."""

    pairs: PairsConfig
    """Sizes and split."""


@dataclass(frozen=True, kw_only=True)
class EmbedStageConfig:
    """Rule `lattice_embed`."""

    name: str
    """Name of the teacher in the catalogue."""
    teacher: TeacherConfig
    """Its settings."""
    resources: str
    """Folder of the shared resources: embedded models, and embeddings made before."""
    batch: int
    """Texts a pass, at least 1."""

    def __post_init__(self) -> None:
        require(self.batch >= 1, "batch", "at least 1", self.batch)
