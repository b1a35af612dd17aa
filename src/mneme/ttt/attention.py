"""Sliding-window and full self-attention over a cache of keys that are not yet rotated.

Keys are cached after their normalisation and before rotation, and turned by their place among the
keys at hand: a token's absolute position never enters, so angles stay exact however far a stream
goes.

Legend: B batch, T positions fed, P positions before them, D width, N heads, E width of a head,
K keys at hand (P + T), W window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mneme.ttt.config import ModelConfig

EPSILON = 1e-6
"""Of every RMS normalisation."""


@dataclass(frozen=True)
class View:
    """What T new positions see, the same in every block: built once for a pass."""

    past: int
    """Positions before the first new one, P."""
    bias: Tensor | None
    """Added to the scores, (T, K), or of the first group only: 0, or -inf for keys that a query may
    not see; None: it sees all up to its own."""
    near: Tensor | None
    """The same in every later group (W, 2W), its own keys and those of the group before; None: all
    queries go at once."""
    turns: tuple[Tensor, Tensor] | None
    """Cosine and signed sine (K, E) of the keys' angles; None without rotary positions."""
    twice: bool
    """Whether gradients of gradients are taken."""


def view_of(
    config: ModelConfig, window: int | None, *, past: int, steps: int, twice: bool, like: Tensor
) -> View:
    """Build the mask and the angles of a pass.

    Parameters
    ----------
    config : ModelConfig
        Sizes and the base of the rotary positions.
    window : int or None
        Tokens a position sees, itself included; None: all before it.
    past, steps : int
        Positions cached, P, and new ones, T.
    twice : bool
        Whether gradients of gradients are taken.
    like : Tensor
        Where and in which precision the angles live.
    """
    turns = None
    if config.rope_base is not None:
        width = config.width // config.heads
        turns = rotation(past + steps, width=width, base=config.rope_base, like=like)
    bias = near = None
    if window is not None and past + steps > 3 * window:
        # In groups of one window, so that cost is linear in T.
        bias, near = (_bias(before, window, window, like) for before in (past, window))
    elif window is not None or past > 0 or twice:
        bias = _bias(past, steps, window, like)
    return View(past, bias, near, turns, twice)


def rotation(positions: int, *, width: int, base: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and signed sine (positions, width) of rotary angles, in the type of `like`.

    Feature e < width / 2 is paired with feature e + width / 2 and turned by
    position x base^(-2e / width); angles are taken in float64.

    References
    ----------
    .. [1] Su et al. (2021), "RoFormer", section 3.2.2.
    """
    place, feature = (
        torch.arange(n, dtype=torch.float64, device=like.device) for n in (positions, width // 2)
    )
    angle = place[:, None] * base ** (-2 * feature / width)
    sine = angle.sin()
    return (
        torch.cat([angle.cos(), angle.cos()], dim=-1).to(like.dtype),
        torch.cat([-sine, sine], dim=-1).to(like.dtype),
    )


def _bias(past: int, steps: int, window: int | None, like: Tensor) -> Tensor:
    query = torch.arange(past, past + steps, device=like.device)[:, None]
    behind = query - torch.arange(past + steps, device=like.device)
    seen = behind >= 0 if window is None else (behind >= 0) & (behind < window)
    return like.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)


class Attention(nn.Module):
    """Multi-head attention of T new positions over P cached ones and themselves."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        width = config.width // config.heads
        self.q, self.k, self.v, self.o = (
            nn.utils.skip_init(nn.Linear, config.width, config.width, bias=False) for _ in range(4)
        )
        self.q_norm, self.k_norm = (
            nn.RMSNorm(width, eps=EPSILON) if config.qk_norm else nn.Identity() for _ in range(2)
        )

    def forward(
        self, x_BTD: Tensor, view: View, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the mixed values (B, T, D) and the keys and values (B, N, K, E) at hand."""
        q, k, v = (
            rearrange(part(x_BTD), "b t (n e) -> b n t e", n=self.heads)
            for part in (self.q, self.k, self.v)
        )
        q, k = self.q_norm(q), self.k_norm(k)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        kept = k, v
        if view.turns is not None:
            cosine, sine = view.turns
            q = _turn(q, cosine[view.past :], sine[view.past :])
            k = _turn(k, cosine, sine)
        if view.near is None:
            y = _attend(q, k, v, view.bias, twice=view.twice)
        else:
            y = _attend_in_groups(q, k, v, view, view.near)
        return self.o(rearrange(y, "b n t e -> b t (n e)")), kept


def _turn(x_BNTE: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    return torch.addcmul(x_BNTE * cosine, x_BNTE.roll(x_BNTE.shape[-1] // 2, dims=-1), sine)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *, twice: bool) -> Tensor:
    fused = bias is None or q.device.type != "cpu"
    if fused and not twice:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None)
    # Fused kernels have no second derivative, and the CPU's takes twice as long at a short window.
    assert bias is not None
    rows = q.shape[:2]
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(dim=-1), v).unflatten(0, rows)


def _attend_in_groups(q: Tensor, k: Tensor, v: Tensor, view: View, near: Tensor) -> Tensor:
    """Attend in groups of one window: each sees its own keys and those of the group before."""
    window, past = len(near), view.past
    heads, later = q.shape[1], q.shape[2] - window
    beyond = -later % window
    seen = slice(past + window)
    first = _attend(q[:, :, :window], k[:, :, seen], v[:, :, seen], view.bias, twice=view.twice)
    q = F.pad(q[:, :, window:], (0, 0, 0, beyond))
    q = rearrange(q, "b n (g w) e -> b (n g) w e", w=window)
    k, v = (_pairs(F.pad(t[:, :, past:], (0, 0, 0, beyond)), window) for t in (k, v))
    y = _attend(q, k, v, near, twice=view.twice)
    y = rearrange(y, "b (n g) w e -> b n (g w) e", n=heads)
    return torch.cat([first, y[:, :, :later]], dim=2)


def _pairs(x_BNKE: Tensor, window: int) -> Tensor:
    """Lay every two neighbouring groups of one window side by side: (B, N G, 2W, E)."""
    # unfold() would do, but its gradient is slow.
    groups = x_BNKE.unflatten(2, (-1, window))
    return torch.cat([groups[:, :, :-1], groups[:, :, 1:]], dim=3).flatten(1, 2)
