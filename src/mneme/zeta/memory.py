"""Memory slots and how each arm lets the stream read them.

`prefix` puts M learnt vectors before the data: under the causal mask they see none of it, so they
are M constants. In the other arms each slot reads the data it has seen so far: its state at
position i is its vector plus a softmax average over positions j <= i, with the slot as the query.
That average needs two running sums only, so it is exactly causal at the cost of one linear layer.

Legend: B batch, T position, D width, M slots, E width of what one slot reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from mneme.core.config import require
from mneme.zeta.attention import KVCache

SlotArm = Literal["prefix", "readout", "film", "gating", "cross"]
_CAP = 8.0  # scores stay within +-8, so that running sums need no maximum over later positions


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Replacement of slots, row by row, so that many ablations are one batch."""

    keep_BM: Tensor
    """Bool: False replaces the slot in that row."""
    values_BMD: Tensor
    """What a replaced slot holds instead; zeros for a slot that is cut."""


class Bank(nn.Module):
    """M learnt vectors, with identity embeddings if asked."""

    def __init__(self, slots: int, width: int, *, slot_id: bool) -> None:
        super().__init__()
        self.slots_MD = nn.Parameter(torch.empty(slots, width))
        self.ids_MD = nn.Parameter(torch.empty(slots, width)) if slot_id else None

    def vectors(self) -> Tensor:
        """Return what the slots hold (M, D)."""
        return self.slots_MD if self.ids_MD is None else self.slots_MD + self.ids_MD

    def forward(self, batch: int, slots: Slots | None) -> Tensor:
        """Return the slots of every row (B, M, D), replaced where `slots` says so."""
        vectors = self.vectors().expand(batch, -1, -1)
        if slots is None:
            return vectors
        count, width = self.slots_MD.shape
        shape = tuple(slots.keep_BM.shape)
        require(shape == (batch, count), "keep_BM", f"of shape {(batch, count)}", shape)
        shape = tuple(slots.values_BMD.shape)
        require(
            shape == (batch, count, width), "values_BMD", f"of shape {(batch, count, width)}", shape
        )
        return torch.where(slots.keep_BM[..., None], vectors, slots.values_BMD.to(vectors))


class Reader(nn.Module):
    """Slots that read the past: state = vector + sum_{j<=i} softmax_j(score) value_j, per slot."""

    def __init__(self, slots: int, width: int) -> None:
        super().__init__()
        self.slots, self.width = slots, width
        self.each = math.ceil(width / slots)
        self.norm = nn.LayerNorm(width)
        self.key = nn.utils.skip_init(nn.Linear, width, width, bias=False)
        self.value = nn.utils.skip_init(nn.Linear, width, slots * self.each, bias=False)
        self.back_MED = nn.Parameter(torch.empty(slots, self.each, width))

    def forward(
        self, x_BTD: Tensor, vectors_BMD: Tensor, slots: Slots | None, cache: KVCache | None
    ) -> Tensor:
        """Return what every slot has read up to each position (B, T, M, E); 0 if replaced."""
        x_BTD = self.norm(x_BTD)
        scores = self.key(x_BTD) @ vectors_BMD.transpose(1, 2) / math.sqrt(self.width)
        weights = (_CAP * torch.tanh(scores / _CAP)).exp()[..., None]
        values = rearrange(self.value(x_BTD), "b t (m e) -> b t m e", m=self.slots)
        above, below = (weights * values).cumsum(1), weights.cumsum(1)
        if cache is not None:
            if cache.reading is not None:
                above, below = above + cache.reading[0], below + cache.reading[1]
            cache.reading = above[:, -1:], below[:, -1:]
        read_BTME = above / below
        if slots is not None:
            read_BTME = read_BTME * slots.keep_BM[:, None, :, None]
        return read_BTME

    def states(self, vectors_BMD: Tensor, read_BME: Tensor) -> Tensor:
        """Return the slots' states (B, M, D) at one position."""
        return vectors_BMD + torch.einsum("bme,med->bmd", read_BME, self.back_MED)

    def total(self, vectors_BMD: Tensor, read_BTME: Tensor) -> Tensor:
        """Return the sum of the slots' states at every position (B, T, D)."""
        read = rearrange(read_BTME, "b t m e -> b t (m e)")
        return vectors_BMD.sum(1, keepdim=True) + read @ self.back_MED.flatten(0, 1)


class Cross(nn.Module):
    """The stream attends to the slots: addresses are their vectors, contents their states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query = nn.utils.skip_init(nn.Linear, width, width, bias=False)
        self.address = nn.utils.skip_init(nn.Linear, width, width, bias=False)
        self.out = nn.utils.skip_init(nn.Linear, width, width, bias=False)
        self.scale = width**-0.5

    def forward(
        self, x_BTD: Tensor, reader: Reader, vectors_BMD: Tensor, read_BTME: Tensor
    ) -> Tensor:
        """Return what each position takes from the slots (B, T, D)."""
        address = self.address(vectors_BMD)
        scores = self.query(self.norm(x_BTD)) @ address.transpose(1, 2) * self.scale
        weights_BTM = scores.softmax(-1)
        read = rearrange(weights_BTM[..., None] * read_BTME, "b t m e -> b t (m e)")
        return self.out(weights_BTM @ vectors_BMD + read @ reader.back_MED.flatten(0, 1))
