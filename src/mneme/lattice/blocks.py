"""Parts that the room's networks share: linear layers and the weights that they start with."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Return a linear layer without values; `initialise` gives them."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)
    assert isinstance(layer, nn.Linear)
    return layer


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all linear layers of `module` as PyTorch does by default, from `generator`.

    Weights and biases are uniform within 1 / sqrt(inputs); the source, whose runs are rebuilt,
    left everything at PyTorch's defaults.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)
            uniform(layer.weight, bound, generator)
            if layer.bias is not None:
                uniform(layer.bias, bound, generator)


@torch.no_grad()
def uniform(tensor: Tensor, bound: float, generator: torch.Generator) -> None:
    """Fill `tensor` uniformly within `bound` of 0."""
    tensor.copy_((2 * torch.rand(tensor.shape, generator=generator) - 1) * bound)


def parameter_count(module: nn.Module) -> int:
    """Return the number of trained values of `module`."""
    return sum(parameter.numel() for parameter in module.parameters())
