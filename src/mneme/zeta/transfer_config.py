"""Settings of the reading elsewhere: trained runs on blocks of zeros at other heights."""

from __future__ import annotations

from dataclasses import dataclass

from mneme.core.config import require


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """What is read on the blocks of `zeros.blocks`."""

    runs: tuple[str, ...]
    """Runs on the zeros that are read there, as they were trained on the series."""
    skip: int
    """Windows at the start of a block that are not read: memories fill there."""
    walk: int
    """Windows below each that the walking linear prediction is refitted on; at most `skip`."""
    block: int
    """Neighbouring windows that the bootstrap draws together."""

    def __post_init__(self) -> None:
        require(len(set(self.runs)) == len(self.runs), "runs", "different ones", self.runs)
        require(self.skip >= 1, "skip", "at least 1", self.skip)
        require(1 <= self.walk <= self.skip, "walk", f"1..skip = {self.skip}", self.walk)
        require(self.block >= 1, "block", "at least 1", self.block)
