"""Units of what the prime arms read: rows come in sizes that differ by orders of magnitude.

Legend: B rows, F columns, J anchors.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mneme.zeta.prime_config import CANDIDATES
from mneme.zeta.prime_rows import Rows

CLIP = 8.0
"""Standardised inputs are cut here; heights beyond the training range stay within."""


class RowScaler(nn.Module):
    """Rows in units of the training rows, with heavy tails drawn in; nothing of it is trained.

    Parameters
    ----------
    columns : int
        Columns F of a row.
    anchors : int
        Residuals J among them, after the candidates.
    """

    shift_F: Tensor
    scale_F: Tensor
    typical_J: Tensor

    def __init__(self, columns: int, anchors: int) -> None:
        super().__init__()
        self.residuals = slice(CANDIDATES, CANDIDATES + anchors)
        self.register_buffer("shift_F", torch.zeros(columns))
        self.register_buffer("scale_F", torch.ones(columns))
        self.register_buffer("typical_J", torch.ones(anchors))

    @torch.no_grad()
    def standardise(self, rows: Rows) -> None:
        """Take the units of inputs from training rows (B, F)."""
        typical = np.median(np.abs(rows[:, self.residuals]), axis=0)
        self.typical_J.copy_(torch.from_numpy(np.maximum(typical, 1e-7)))
        inputs_BF = self._squash(torch.from_numpy(rows).to(self.typical_J.device))
        self.shift_F.copy_(inputs_BF.mean(0))
        self.scale_F.copy_(inputs_BF.std(0).clamp_min(1e-3))

    def _squash(self, rows_BF: Tensor) -> Tensor:
        """Residuals are heavy-tailed: their inverse hyperbolic sine in typical units."""
        left, middle, right = rows_BF.tensor_split([self.residuals.start, self.residuals.stop], -1)
        return torch.cat([left, torch.asinh(middle / self.typical_J), right], -1)

    def forward(self, rows_BF: Tensor) -> Tensor:
        """Return rows (..., F) in these units, within +-`CLIP`."""
        return ((self._squash(rows_BF) - self.shift_F) / self.scale_F).clamp(-CLIP, CLIP)
