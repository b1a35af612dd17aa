"""Windows that a model is read on, with what else it needs to know of each.

Legend: W windows, N spacings of a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mneme.zeta.network import Material, Network


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowSet:
    """Windows in order."""

    spacings_WN: Tensor
    """Mean spacings, floating point."""
    level_W: Tensor | None
    """Coarse height at the start of each; None for models that do not ask for it."""

    @classmethod
    def of(cls, network: Network, material: Material, rows: NDArray[np.int64]) -> WindowSet:
        """Return windows `rows` of the material, as the network reads them."""
        places = torch.as_tensor(rows, device=material.spacings_WT.device)
        return cls(
            spacings_WN=material.spacings_WT[places], level_W=network.level(material, places)
        )

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.spacings_WN)

    def take(self, rows: slice | NDArray[np.int64]) -> WindowSet:
        """Return some of the windows."""
        level_W = None if self.level_W is None else self.level_W[rows]
        return WindowSet(spacings_WN=self.spacings_WN[rows], level_W=level_W)

    def spread(self, most: int) -> WindowSet:
        """Return up to `most` windows, evenly spaced."""
        rows = np.linspace(0, len(self) - 1, min(most, len(self))).round().astype(np.int64)
        return self.take(rows)

    def split(self, size: int) -> Iterator[WindowSet]:
        """Yield the windows in parts of `size`."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    def repeat(self, times: int) -> WindowSet:
        """Return all windows `times` times, one whole set after another."""
        level_W = None if self.level_W is None else self.level_W.repeat(times)
        return WindowSet(spacings_WN=self.spacings_WN.repeat(times, 1), level_W=level_W)

    def like(self, other: Tensor) -> WindowSet:
        """Return the same on the device and in the type of `other`."""
        level_W = None if self.level_W is None else self.level_W.to(other)
        return WindowSet(spacings_WN=self.spacings_WN.to(other), level_W=level_W)
