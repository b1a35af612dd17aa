"""Settings of run `original` (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass

from mneme.core.config import require
from mneme.lattice.config import AdapterConfig, CellConfig


@dataclass(frozen=True, kw_only=True)
class OriginalConfig:
    """The source's run, fixed before it was ever run here."""

    width: int
    """Numbers D of a vector."""
    pairs: int
    """Pairs."""
    train_pairs: int
    """First pairs, which are the batch of every step; below `pairs`."""
    test_pairs: int
    """Further pairs with the same correlation, on which the end is measured; at least 2."""
    correlations: tuple[float, ...]
    """Cosine rho of a question with its answer, 0 to 1, one run each."""
    steps: int
    """Full-batch steps."""
    learning_rate: float
    """Of AdamW, constant."""
    adapter: AdapterConfig
    """Adapter."""
    cell: CellConfig
    """Lattice."""

    def __post_init__(self) -> None:
        require(self.width >= 2, "width", "at least 2", self.width)
        adapter = self.adapter
        divides = adapter.strategy != "attention_based" or self.width % adapter.groups == 0
        require(divides, "adapter.groups", f"a divisor of width = {self.width}", adapter.groups)
        same = adapter.strategy != "identity" or self.width == self.cell.surface_size
        rule = f"another than identity for width {self.width}, surface {self.cell.surface_size}"
        require(same, "adapter.strategy", rule, adapter.strategy)
        inside = 2 <= self.train_pairs < self.pairs
        require(inside, "train_pairs", f"2 to {self.pairs - 1}", self.train_pairs)
        require(self.test_pairs >= 2, "test_pairs", "at least 2", self.test_pairs)
        known = all(0 <= rho < 1 for rho in self.correlations)
        require(known, "correlations", "at least 0, below 1", self.correlations)
        require(self.steps >= 1, "steps", "at least 1", self.steps)
        require(self.learning_rate > 0, "learning_rate", "above 0", self.learning_rate)
