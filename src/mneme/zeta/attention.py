"""Causal self-attention with a key-value cache, rotary positions and rotary values.

Legend: B batch, T positions fed, P positions seen before, D width, N heads, E width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

FREQUENCIES = (0.6, 6.0)  # radians per unit of t: log 2 = .69; two zeros a turn at t = 2e6: 6.3


@dataclass
class KVCache:
    """What a model keeps of the positions it has seen; `forward` extends it in place.

    Under `torch.no_grad` keys and values are written into room reserved once; with gradients
    every step makes new tensors, since the graph holds on to the old ones.
    """

    capacity: int
    """Positions to reserve, slots included."""
    length: int = 0
    """Positions of the stream held so far, slots included."""
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Keys and values of each block, (B, N, >= length, E)."""
    reading: tuple[Tensor, Tensor] | None = None
    """Running sums of slots that read the data (`memory.Reader`)."""
    at_B: Tensor | None = None
    """Where the last zero lies in t, counted from the first (position coding `distance`)."""
    shared: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Keys and values that several rows side by side have in common, (B / rows, N, C, E) of each
    block; `layers` then hold what came after them."""

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, N, T, E) of one block; return all but the shared ones."""
        held = self.length - (self.shared[layer][0].shape[2] if self.shared else 0)
        end = held + k.shape[2]
        if layer == len(self.layers):
            self.layers.append((k, v) if torch.is_grad_enabled() else self._reserve(k, v))
        else:
            old_k, old_v = self.layers[layer]
            if torch.is_grad_enabled() or old_k.shape[2] < end:
                old_k, old_v = old_k[:, :, :held], old_v[:, :, :held]
                self.layers[layer] = torch.cat([old_k, k], dim=2), torch.cat([old_v, v], dim=2)
            else:
                old_k[:, :, held:end], old_v[:, :, held:end] = k, v
        keys, values = self.layers[layer]
        return keys[:, :, :end], values[:, :, :end]

    def _reserve(self, *new: Tensor) -> tuple[Tensor, Tensor]:
        k, v = (t.new_empty(*t.shape[:2], self.capacity, t.shape[3]) for t in new)
        k[:, :, : new[0].shape[2]], v[:, :, : new[1].shape[2]] = new
        return k, v

    def repeat(self, times: int) -> KVCache:
        """Return a cache for every row `times` times, copies of a row side by side.

        They share what has been read, so that it is kept, and later read, once for all of them.
        """
        assert not self.shared, "repeated before"

        def rows(t: Tensor) -> Tensor:
            return t.repeat_interleave(times, dim=0)

        reading = None if self.reading is None else (rows(self.reading[0]), rows(self.reading[1]))
        at = None if self.at_B is None else rows(self.at_B)
        shared = [(k[:, :, : self.length], v[:, :, : self.length]) for k, v in self.layers]
        return KVCache(self.capacity - self.length, self.length, [], reading, at, shared)


class Rotary(nn.Module):
    """Rotary positions: neighbouring pairs of a head's features turn by position x frequency.

    References
    ----------
    .. [1] Su et al. (2021), "RoFormer", section 3.2.2, base 10000.
    """

    def __init__(self, width: int, positions: int) -> None:
        super().__init__()
        frequency_E = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angle = torch.arange(positions, dtype=torch.float64)[:, None] * frequency_E
        turns = torch.stack([angle.cos(), angle.sin()], dim=-1)
        self.turns = nn.Buffer(turns.float(), persistent=False)

    def forward(self, x_BTCNE: Tensor, start: int) -> Tensor:
        """Turn queries and keys (C of them side by side) whose first position is `start`."""
        turns = self.turns[start : start + x_BTCNE.shape[1], None, None]
        # In bfloat16 the angles of distant positions would not be told apart.
        exact = x_BTCNE if x_BTCNE.dtype == torch.float64 else x_BTCNE.float()
        pairs = exact.unflatten(-1, (-1, 2))
        # One complex product is half the time of four real ones and their concatenation.
        turned = torch.view_as_complex(pairs) * torch.view_as_complex(turns.to(pairs.dtype))
        return torch.view_as_real(turned).flatten(-2).to(x_BTCNE.dtype)


class Distances(nn.Module):
    """Rotary values: what a position takes from the past arrives turned by its distance in t.

    A value turns by frequency x t_j when it is written and back by frequency x t_i when it is
    read, so that attention sums a_ij exp(i f (t_j - t_i)) v_j: with even weights those are the
    sums over past zeros in which primes show at f = log p, here with learnt frequencies. Only
    differences of t enter, from spacings and the coarse height.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.frequencies = nn.Parameter(torch.empty(heads * width // 2))

    def initialise(self) -> None:
        """Spread frequencies from below log 2 to the highest that spacings can resolve."""
        nn.init.zeros_(self.frequencies).add_(torch.linspace(*FREQUENCIES, len(self.frequencies)))

    def forward(self, at_BT: Tensor) -> Tensor:
        """Return the turns (B, T, N, E / 2), complex, at places `at_BT` in t."""
        frequencies = rearrange(self.frequencies, "(e n) -> n e", n=self.heads)
        angle = at_BT[:, :, None, None] * frequencies
        return torch.polar(torch.ones_like(angle), angle)


class CausalAttention(nn.Module):
    """Multi-head attention in which a position sees itself and the past."""

    def __init__(
        self, width: int, heads: int, *, layer: int, rotary: Rotary | None, distances: bool
    ) -> None:
        super().__init__()
        self.heads, self.layer = heads, layer
        self.rotary = rotary
        self.distances = Distances(width // heads, heads) if distances else None
        self.qkv = nn.utils.skip_init(nn.Linear, width, 3 * width)
        self.out = nn.utils.skip_init(nn.Linear, width, width)

    def forward(
        self, x_BTD: Tensor, *, at_BT: Tensor | None, cache: KVCache | None, maps: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the mixed values (B, T, D) and, if asked, the probabilities (B, N, T, P + T)."""
        qkv = rearrange(self.qkv(x_BTD), "b t (c n e) -> b t c n e", c=3, n=self.heads)
        past = 0 if cache is None else cache.length
        qk, v = qkv.split([2, 1], dim=2)
        v, turns = v[:, :, 0], None
        if self.rotary is not None:
            qk = self.rotary(qk, past)
        if self.distances is not None:
            turns = self.distances(at_BT)
            v = _turn(v, turns)
        q, k = rearrange(qk, "b t c n e -> c b n t e").unbind(0)
        v = rearrange(v, "b t n e -> b n t e")
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        if cache is not None and cache.shared:
            y, probabilities = attend_branched(q, cache.shared[self.layer], k, v), None
        else:
            y, probabilities = attend(q, k, v, past=past, maps=maps)
        y = rearrange(y, "b n t e -> b t n e")
        if turns is not None:
            y = _turn(y, turns.conj())
        return self.out(rearrange(y, "b t n e -> b t (n e)")), probabilities


def _turn(x_BTNE: Tensor, turns: Tensor) -> Tensor:
    """Turn pairs of neighbouring features; complex numbers exist in float32 and float64 only."""
    real = x_BTNE if x_BTNE.dtype in (torch.float32, torch.float64) else x_BTNE.float()
    turned = torch.view_as_complex(real.unflatten(-1, (-1, 2)).contiguous()) * turns
    return torch.view_as_real(turned).flatten(-2).to(x_BTNE.dtype)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, past: int, maps: bool
) -> tuple[Tensor, Tensor | None]:
    """Attend causally from the last T of P + T positions; `maps` asks for the probabilities."""
    steps = q.shape[2]
    if maps:
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        probabilities = scores.masked_fill(~_allowed(steps, past, q), -torch.inf).softmax(-1)
        return probabilities.to(v.dtype) @ v, probabilities
    if past == 0:
        return F.scaled_dot_product_attention(q, k, v, is_causal=steps > 1), None
    mask = None if steps == 1 else _allowed(steps, past, q)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask), None


def attend_branched(q: Tensor, shared: tuple[Tensor, Tensor], k: Tensor, v: Tensor) -> Tensor:
    """Attend from one position of each row to keys shared by rows side by side, and its own.

    The shared keys (B, N, C, E) are read once for all of a window's S rows (B S, N, ., E): such a
    step waits for memory, not for arithmetic.
    """
    assert q.shape[2] == 1, "one position at a time"
    far_k, far_v = shared
    windows, length = len(far_k), far_k.shape[2]
    q = q / math.sqrt(q.shape[-1])
    q_BNSE = rearrange(q, "(b s) n 1 e -> b n s e", b=windows)
    near = rearrange(q @ k.transpose(-1, -2), "(b s) n 1 t -> b n s t", b=windows)
    weights = torch.cat([q_BNSE @ far_k.transpose(-1, -2), near], dim=-1).softmax(-1)
    far, near = weights[..., :length], weights[..., length:]
    y = rearrange(far @ far_v, "b n s e -> (b s) n 1 e")
    return y + rearrange(near, "b n s t -> (b s) n 1 t") @ v


def _allowed(steps: int, past: int, like: Tensor) -> Tensor:
    return torch.ones(steps, past + steps, dtype=torch.bool, device=like.device).tril(past)
