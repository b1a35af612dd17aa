"""Density head of the prime arms: a row at a zero -> Gaussian mixture of the next spacing.

Half of the components stand around the main sum's first candidate, in units of the error that the
head expects there; the other half are free, for points that know no primes. How much weight each
half has is learnt, so that nothing but the rows tells zeros of zeta from points at random.

Legend: B rows, F columns, J anchors, K components.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mneme.zeta.mixture import Mixture
from mneme.zeta.prime_config import HeadConfig, RowConfig, WindowRowConfig
from mneme.zeta.prime_rows import FIRST, Rows
from mneme.zeta.prime_scale import RowScaler

FAR = 30.0
"""Residuals are cut at this many typical ones before they move the candidate."""


class PrimeNet(nn.Module):
    """Multilayer perceptron with a candidate to lean on."""

    error: Tensor

    def __init__(
        self, rows: RowConfig | WindowRowConfig, config: HeadConfig, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.config = config
        self.scaler = RowScaler(rows.columns, rows.sum.anchors)
        self.register_buffer("error", torch.ones(()))
        widths = [rows.columns] + [config.width] * config.layers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.out = nn.Linear(config.width, 3 * config.components + 1)
        self.kriging = nn.Linear(rows.sum.anchors, 1, bias=False)
        self._initialise(generator)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """Start from near scales over 4 e-foldings and free means spread around 1."""
        for layer in (*self.hidden, self.out):
            assert isinstance(layer, nn.Linear)
            bound = layer.in_features**-0.5
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.zero_()
        self.out.weight.mul_(0.1)
        self.kriging.weight.zero_()
        half = self.config.components // 2
        _, _, free, sharp, wide, _ = self._parts(self.out.bias)
        free.copy_(torch.linspace(-0.7, 0.7, half))
        sharp.copy_(torch.linspace(-1.0, 3.0, half))
        wide.fill_(-0.7)

    def _parts(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """Logits, near means, free means, near log scales, free scales, log unit of the near."""
        half = self.config.components // 2
        return outputs.split([2 * half, half, half, half, half, 1], -1)

    @torch.no_grad()
    def standardise(self, rows: Rows, truth: np.ndarray) -> None:
        """Take the units of inputs and of the candidate's error from training rows (B, F)."""
        self.scaler.standardise(rows)
        error = float(np.median(np.abs(rows[:, FIRST] - truth)))
        self.error.fill_(max(error, self.config.scale_floor))

    def forward(self, rows_BF: Tensor) -> Mixture:
        """Predict the spacing after each row (..., F)."""
        hidden = self.scaler(rows_BF)
        for layer in self.hidden:
            hidden = F.silu(layer(hidden))
        logits, near, free, sharp, wide, spread = self._parts(self.out(hidden))
        residuals = rows_BF[..., self.scaler.residuals] / self.scaler.typical_J
        residuals = residuals.clamp(-FAR, FAR)
        unit = self.error * spread.clamp(-8, 8).exp()
        centre = rows_BF[..., FIRST : FIRST + 1] + self.error * self.kriging(residuals)
        means = torch.cat([centre + unit * near, 1 + free], -1)
        scales = torch.cat([unit * sharp.clamp(-6, 8).exp(), F.softplus(wide)], -1)
        return Mixture(F.log_softmax(logits, -1), means, scales + self.config.scale_floor)
