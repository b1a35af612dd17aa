"""Universal adapter: an embedding of any width to a surface and back, in four forms.

The forms and their sizes are the source's, so that parameter counts agree to the last one
(45,918,613 for 4,096 numbers to 225 and back in the hierarchical form).

Legend: B batch, D width of the embedding, S size of the surface, G groups, F features a group.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mneme.core.config import require
from mneme.lattice.blocks import initialise, linear, uniform
from mneme.lattice.config import AdapterConfig


class WidthError(ValueError):
    """Vectors of another width than the network was built for."""


class Adapter(nn.Module):
    """Encoder from embedding to surface and decoder back.

    Parameters
    ----------
    config : AdapterConfig
        Form.
    width : int
        Numbers D of an embedding.
    surface : int
        Numbers S of a surface.
    generator : torch.Generator
        Source of every initial weight; the global generator is neither read nor moved.

    Raises
    ------
    ConfigError
        The width is not a multiple of `groups`, or `identity` for another width than the surface's.
    """

    def __init__(
        self, config: AdapterConfig, *, width: int, surface: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        require(width >= 2, "width", "at least 2", width)
        self.width, self.surface = width, surface
        self.encoder, self.decoder = _networks(config, width, surface)
        initialise(self, generator)
        for part in self.modules():
            if isinstance(part, GroupAttention):
                part.initialise(generator)

    def encode(self, embedding_BD: Tensor) -> Tensor:
        """Return the surface (B, S) of each embedding; `WidthError` for another width."""
        return self.encoder(_wide("embeddings", embedding_BD, self.width))

    def decode(self, surface_BS: Tensor) -> Tensor:
        """Return the embedding (B, D) of each surface; `WidthError` for another width."""
        return self.decoder(_wide("surfaces", surface_BS, self.surface))


def hidden_sizes(width: int, surface: int) -> list[int]:
    """Return the sizes between embedding and surface in the hierarchical form.

    Parameters
    ----------
    width, surface : int
        Numbers of an embedding and of a surface.

    Returns
    -------
    list of int
        Each is 7/10 of the one before, rounded down (in whole numbers: as binary fractions, .7
        times 90 would give 62), for as long as that one is more than twice the surface; a single
        one halfway when the surface is more than half of the width.

    Examples
    --------
    >>> hidden_sizes(4096, 225)
    [2867, 2006, 1404, 982, 687, 480, 336]
    >>> hidden_sizes(384, 225)
    [304]
    """
    if 2 * surface > width:
        return [(width + surface) // 2]
    sizes = [width]
    while sizes[-1] > 2 * surface:
        sizes.append(sizes[-1] * 7 // 10)
    return sizes[1:] or [(width + surface) // 2]


class GroupAttention(nn.Module):
    """Self-attention among the feature groups of one vector, never between vectors.

    The weights are those of multi-head attention on one token with as many heads as groups. There a
    head could only look at itself; here the heads' features look at one another.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        rule = f"a divisor of the embedding's width {width}"
        require(width % groups == 0, "groups", rule, groups)
        self.groups = groups
        self.inward = linear(width, 3 * width)
        self.outward = linear(width, width)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the inward weights as PyTorch's attention does (Glorot), all biases 0."""
        outputs, inputs = self.inward.weight.shape
        uniform(self.inward.weight, math.sqrt(6 / (inputs + outputs)), generator)
        self.inward.bias.zero_()
        self.outward.bias.zero_()

    def forward(self, x_BD: Tensor) -> Tensor:
        """Return vectors (B, D) whose groups have looked at one another."""
        parts = rearrange(self.inward(x_BD), "b (k g f) -> k b g f", k=3, g=self.groups)
        mixed_BGF = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        return self.outward(rearrange(mixed_BGF, "b g f -> b (g f)"))


def _networks(config: AdapterConfig, width: int, surface: int) -> tuple[nn.Module, nn.Module]:
    if config.strategy == "identity":
        rule = f"another than identity for vectors of {width} and a surface of {surface}"
        require(width == surface, "strategy", rule, config.strategy)
        return nn.Identity(), nn.Identity()
    if config.strategy == "linear":
        return linear(width, surface), linear(surface, width)
    if config.strategy == "learned_linear":
        return nn.Sequential(*_block(width, surface)), nn.Sequential(*_block(surface, width))
    if config.strategy == "attention_based":
        attention = GroupAttention(width, config.groups)
        return nn.Sequential(attention, linear(width, surface)), linear(surface, width)
    if config.strategy == "autoencoder":
        sizes, dropout = [width, width // 2, surface, surface], None
    else:
        sizes, dropout = [width, *hidden_sizes(width, surface), surface], config.dropout
    return _stack(sizes, dropout), _stack(sizes[::-1], dropout)


def _stack(sizes: list[int], dropout: float | None) -> nn.Sequential:
    """Chain blocks of these sizes, ending in a bare linear layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += _block(inputs, outputs)
        if dropout is not None:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, linear(sizes[-2], sizes[-1]))


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU()]


def _wide(what: str, vectors: Tensor, width: int) -> Tensor:
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise WidthError(
            f"{what} of shape {tuple(vectors.shape)} do not fit an adapter for {width} numbers a "
            "vector: build the adapter for this teacher"
        )
    return vectors
