"""Catalogue entry of a frozen language model (settings only; loading is `mneme.nn.backbone`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mneme.core.config import require


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which causal language model of transformers, in which precision, and how it is obtained."""

    source: Literal["embedded", "hub", "local"]
    """embedded: converted from the locked assets; hub: model hub; local: a directory."""
    name: str
    """Hub id (org/name), or directory of a saved model."""
    revision: str | None
    """Hub commit (40 hex digits), null for the newest when first asked for, which is kept below
    `resources/revisions/`; must be null unless source is hub."""
    init: Literal["pretrained", "random"]
    """random: weights drawn from the architecture's own initialiser; speed and memory only."""
    dtype: Literal["float32", "bfloat16"]
    """Precision of the frozen weights."""
    gate_layer: int
    """Layer k whose output the Time Mixer reads; adapters sit above it (0 = embeddings)."""
    target_modules: tuple[str, ...]
    """Names of the linear layers that carry an adapter; GPT-2 has others than Llama and its kin."""
    license_url: str
    """Page where the licence is read and, for gated models, accepted."""

    def __post_init__(self) -> None:
        require(self.gate_layer >= 0, "gate_layer", "at least 0", self.gate_layer)
        targets = self.target_modules
        require(len(targets) > 0, "target_modules", "a list of at least one name", targets)
        if self.revision is not None:
            known = len(self.revision) == 40 and set(self.revision) <= set("0123456789abcdef")
            require(known, "revision", "null or a commit of 40 hex digits", self.revision)
            require(self.source == "hub", "revision", "null unless source is hub", self.revision)
