"""What stands in a lattice's place as a control, with as many parameters and no neighbourhood.

Legend: B batch, S size of the surface.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mneme.lattice.blocks import initialise, linear


class DenseCore(nn.Module):
    """Control: a dense network with as many parameters as a lattice, in its place.

    Parameters
    ----------
    surface : int
        Numbers S of a surface.
    parameters : int
        Parameters of the lattice; the hidden layer is the one that comes nearest, at least 1 wide.
    generator : torch.Generator
        Source of every initial weight.
    """

    def __init__(self, surface: int, parameters: int, *, generator: torch.Generator) -> None:
        super().__init__()
        hidden = max(1, round((parameters - 1 - surface) / (2 * surface + 1)))
        self.inward, self.outward = linear(surface, hidden), linear(hidden, surface)
        self.alpha = nn.Parameter(torch.zeros(()))
        initialise(self, generator)

    def forward(self, surface_BS: Tensor) -> Tensor:
        """Return the surface (B, S) that leaves the network: itself as long as alpha is 0."""
        return surface_BS + self.alpha * self.outward(F.gelu(self.inward(surface_BS)))


class CurveCore(nn.Module):
    """Control: one learnt curve for every number of the surface, with a lattice's parameters.

    With no more steps than a signal needs to cross, a lattice's output at a place depends on the
    input at that place alone, by a rule that all places share: this is that, without a lattice.

    Parameters
    ----------
    parameters : int
        Parameters of the lattice; the hidden layer is the one that comes nearest, at least 1 wide.
    generator : torch.Generator
        Source of every initial weight.
    """

    def __init__(self, parameters: int, *, generator: torch.Generator) -> None:
        super().__init__()
        hidden = max(1, round((parameters - 2) / 3))
        self.inward, self.outward = linear(1, hidden), linear(hidden, 1)
        self.alpha = nn.Parameter(torch.zeros(()))
        initialise(self, generator)

    def forward(self, surface_BS: Tensor) -> Tensor:
        """Return the surface (B, S) that leaves the network: itself as long as alpha is 0."""
        curve_BS1 = self.outward(F.gelu(self.inward(surface_BS[..., None])))
        return surface_BS + self.alpha * curve_BS1[..., 0]
