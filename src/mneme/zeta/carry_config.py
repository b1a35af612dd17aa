"""Settings of the carried memory (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass

from mneme.core.config import require


@dataclass(frozen=True, kw_only=True)
class CarryConfig:
    """The oscillator bank and its readout."""

    oscillators: int
    """Oscillators M, at least 2."""
    highest: float
    """Upper end of the even grid of frequencies at the start, radians per unit of height."""
    memory: float
    """Memory length at the start, units of height: decays start at 1 / memory."""
    shortest: float
    """Least memory length that can be learnt, units of height; below `memory`."""
    mobility: float
    """Steps of the bank's frequencies and log decays, as a multiple of the optimiser's."""
    channels: int
    """Forecast curves C."""
    offsets: int
    """Points J of each curve, at least 2."""
    first_offset: float
    """First point, spacings from the present zero (negative: in the past)."""
    last_offset: float
    """Last point, spacings from the present zero."""
    recent: int
    """Recent spacings R that the readout sees beside the curves."""
    features: int
    """Features F: width of both layers of the readout."""
    refresh: int
    """Training steps between exact recomputations of all carried states."""

    def __post_init__(self) -> None:
        for name in ("channels", "recent", "features", "refresh"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("oscillators", "offsets"):
            require(getattr(self, name) >= 2, name, "at least 2", getattr(self, name))
        require(self.highest > 0, "highest", "above 0", self.highest)
        require(self.mobility >= 0, "mobility", "at least 0", self.mobility)
        bounded = 0 < self.shortest < self.memory
        require(bounded, "shortest", f"above 0, below memory = {self.memory}", self.shortest)
        ordered = self.first_offset < self.last_offset
        require(ordered, "last_offset", f"above {self.first_offset}", self.last_offset)
