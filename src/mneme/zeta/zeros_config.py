"""Settings of the zeros (no scipy, no Arb here)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mneme.core.config import require

LARGEST_HEIGHT = 2**28
"""Heights from here on lose their exact phases in float64."""
LEAST = 201
"""Fewest zeros of a range: over less than a block of 200, S does not average out."""


def zeros_below(height: float) -> int:
    """Return the number of zeros below a height without S(t), which is less than 3 here.

    Riemann and von Mangoldt: t / 2 pi (log(t / 2 pi) - 1) + 7 / 8.
    """
    turns = height / (2 * math.pi)
    return max(0, math.floor(turns * (math.log(turns) - 1) + 7 / 8)) if turns > math.e else 0


LARGEST_INDEX = zeros_below(LARGEST_HEIGHT - 100) - 3
"""Greatest n of a zero that is computed."""
_BELOW = f"so low that {LEAST} zeros follow up to n = {LARGEST_INDEX} (height 2^28)"


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Zeros elsewhere: `count` of them from an index, or from a height on."""

    first: int | None
    """Index of the first zero, from 1; null where `height` is given."""
    height: float | None
    """Height above which the first zero lies; null where `first` is given."""
    count: int
    """Zeros, from 201 to as many as there are below height 2^28 from there on."""
    arb_checks: int
    """Random indices compared with Arb's zeros."""

    def __post_init__(self) -> None:
        one = (self.first is None) != (self.height is None)
        require(one, "first", "given where height is null, and null where it is given", self.first)
        require(self.first is None or self.first >= 1, "first", "at least 1", self.first)
        in_range = self.height is None or 0 <= self.height < LARGEST_HEIGHT
        require(in_range, "height", f"0..{LARGEST_HEIGHT}", self.height)
        if self.first is None:
            key, given, before = "height", self.height, zeros_below(self.height or 0.0)
        else:
            key, given, before = "first", self.first, self.first - 1
        room = LARGEST_INDEX - before
        require(room >= LEAST, key, _BELOW, given)
        require(LEAST <= self.count <= room, "count", f"{LEAST}..{room}", self.count)
        require(1 <= self.arb_checks <= self.count, "arb_checks", "1..count", self.arb_checks)


@dataclass(frozen=True, kw_only=True)
class ZerosConfig:
    """Which zeros are computed and how much of them Arb checks."""

    count: int
    """Zeros of the series everything is trained on: n = 1..count, from 201 to
    all below height 2^28."""
    arb_checks: int
    """Random indices of the series compared with Arb's zeros."""
    count_checks: int
    """Random heights a range where the number of zeros is compared with Arb's rigorous count."""
    blocks: dict[str, BlockConfig]
    """Ranges elsewhere, name -> block; the names are runs of `zeros.json`."""
    threads: int
    """Stretches searched at a time, at least 1; heights do not depend on it."""
    seed: int
    """Draws the indices and heights that Arb checks."""

    def __post_init__(self) -> None:
        most = LARGEST_INDEX
        require(LEAST <= self.count <= most, "count", f"{LEAST}..{most}", self.count)
        require(1 <= self.arb_checks <= self.count, "arb_checks", "1..count", self.arb_checks)
        require(self.count_checks >= 1, "count_checks", "at least 1", self.count_checks)
        require(self.threads >= 1, "threads", "at least 1", self.threads)
        require("zeta" not in self.blocks, "blocks", "named otherwise than 'zeta'", "zeta")
