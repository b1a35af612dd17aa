"""Settings of the prime arms (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass

from mneme.core.config import require

CANDIDATES = 6
"""Columns before the residuals: first, second - first, four of shape."""


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """What the prime memory keeps, and for how long."""

    limit: int
    """Largest prime whose phase is kept; the zeros at t need primes up to sqrt(t / 2 pi)."""
    time: float
    """T of the window in units of t; the mean age of what is remembered is order x T."""
    order: int
    """Order M of the window: 1 forgets exponentially, 4 keeps neighbouring primes apart."""
    refresh: int
    """Zeros between renewals of the sums."""

    def __post_init__(self) -> None:
        require(self.limit >= 2, "limit", "at least 2", self.limit)
        require(self.time > 0, "time", "above 0", self.time)
        require(1 <= self.order <= 8, "order", "1..8", self.order)
        require(self.refresh >= 1, "refresh", "at least 1", self.refresh)


@dataclass(frozen=True, kw_only=True)
class SumConfig:
    """How the main sum is cut and anchored at past zeros."""

    integers: int
    """Terms of the sum, at most."""
    cut: float
    """Width of the soft end of the sum, in integers."""
    anchors: int
    """Past zeros J (the present one included) at which the sum is made to vanish."""

    def __post_init__(self) -> None:
        require(self.integers >= 1, "integers", "at least 1", self.integers)
        require(self.cut > 0, "cut", "above 0", self.cut)
        require(self.anchors >= 2, "anchors", "at least 2", self.anchors)


@dataclass(frozen=True, kw_only=True)
class RowConfig:
    """What a row is made of."""

    memory: MemoryConfig
    """The prime memory."""
    sum: SumConfig
    """The main sum."""
    lags: int
    """Recent spacings in a row."""

    def __post_init__(self) -> None:
        require(self.lags >= 1, "lags", "at least 1", self.lags)

    @property
    def halo(self) -> int:
        """Zeros before the present one that a row reads besides the memory."""
        return max(self.sum.anchors - 1, self.lags)

    @property
    def columns(self) -> int:
        """Columns F of a row."""
        return CANDIDATES + self.sum.anchors + self.lags + 1


@dataclass(frozen=True, kw_only=True)
class WindowMemoryConfig:
    """Memory inside a window."""

    limit: int
    """Largest prime power that is told apart."""
    taper: float
    """Share of the memory's length over which its two ends rise and fall, 0..0.5."""
    shortest: float
    """Shortest memory that is read, units of t."""
    longest: float
    """Longest memory, units of t."""
    lengths: int
    """Lengths in between for which there is a matrix (the longest that fits is used)."""
    noise: float
    """Power of what the explicit formula leaves out, per unit of length."""

    def __post_init__(self) -> None:
        require(self.limit >= 2, "limit", "at least 2", self.limit)
        require(0 < self.taper <= 0.5, "taper", "above 0, at most 0.5", self.taper)
        require(0 < self.shortest < self.longest, "shortest", "0..longest", self.shortest)
        require(self.lengths >= 2, "lengths", "at least 2", self.lengths)
        require(self.noise > 0, "noise", "above 0", self.noise)


@dataclass(frozen=True, kw_only=True)
class WindowRowConfig:
    """What a row is made of when the memory begins with the window."""

    window_memory: WindowMemoryConfig
    """The memory."""
    sum: SumConfig
    """The main sum."""
    lags: int
    """Recent spacings in a row; 1 stands for those before the window."""
    sizes: int
    """Smallest primes whose shrunken modulus is in a row: how much is known."""

    def __post_init__(self) -> None:
        require(self.lags >= 1, "lags", "at least 1", self.lags)
        require(self.sizes >= 0, "sizes", "at least 0", self.sizes)

    @property
    def columns(self) -> int:
        """Columns F of a row."""
        return CANDIDATES + self.sum.anchors + self.lags + 2 + self.sizes


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Shape of the density head."""

    width: int
    """Hidden width."""
    layers: int
    """Hidden layers."""
    components: int
    """Gaussians K, even: half around the candidate, half free."""
    scale_floor: float
    """Least standard deviation of a component, mean spacings."""

    def __post_init__(self) -> None:
        require(self.width >= 1, "width", "at least 1", self.width)
        require(self.layers >= 1, "layers", "at least 1", self.layers)
        even = self.components >= 2 and self.components % 2 == 0
        require(even, "components", "even, at least 2", self.components)
        require(self.scale_floor > 0, "scale_floor", "above 0", self.scale_floor)


@dataclass(frozen=True, kw_only=True)
class PrimeTraining:
    """How the head is trained."""

    steps: int
    """Optimiser steps."""
    batch: int
    """Rows a step."""
    learning_rate: float
    """Peak of the cosine schedule (AdamW)."""
    warmup: int
    """Steps of linear warm-up."""
    weight_decay: float
    """AdamW's, on matrices."""
    clip: float
    """Largest gradient norm."""
    eval_every: int
    """Steps between readings of the validation rows."""
    eval_rows: int
    """Validation rows of such a reading, evenly spaced; the last reading takes all."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "eval_every", "eval_rows"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(0 <= self.warmup <= self.steps, "warmup", "0..steps", self.warmup)
        for name in ("learning_rate", "clip"):
            require(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        require(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class PrimesConfig:
    """Everything of a prime arm."""

    rows: RowConfig
    """What the head reads."""
    head: HeadConfig
    """The head."""
    training: PrimeTraining
    """Its training."""


@dataclass(frozen=True, kw_only=True)
class WindowPrimesConfig:
    """Everything of arm `primes_window`."""

    rows: WindowRowConfig
    """What the head reads."""
    head: HeadConfig
    """The head."""
    training: PrimeTraining
    """Its training."""
