"""Transformer whose last blocks carry a fast MLP, trained at test time, before a static one.

A pass has two parts. The prefix (all before the first fast MLP: embedding, blocks, and the
attention of the block that carries it) never changes at test time and runs once over a sequence.
The suffix (that block's MLPs, the remaining blocks and the head) runs chunk by chunk, each sample
with fast weights of its own.

Legend: B batch, T position, C position in a chunk, D width, H hidden, V vocabulary, P past
positions, N heads, E width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mneme.ttt.attention import EPSILON, Attention, View, view_of
from mneme.ttt.config import ONE_MLP_ARMS, Arm, ModelConfig

PARTS = ("gate", "up", "down")
"""Matrices of a SwiGLU MLP."""
_SCALE = 0.64
"""Standard deviation of initial weights x sqrt(fan-in): .02 at width 1024."""


class Past(NamedTuple):
    """Keys and values of the positions that later ones may still see; never changed in place."""

    keys: tuple[Tensor, ...]
    """Of each attention, (B, N, P, E), after their normalisation and before rotation; none in the
    suffix of a single block."""
    values: tuple[Tensor, ...]
    """Of each attention, (B, N, P, E)."""
    held: int
    """Positions held, P: at most window - 1, or all with full attention."""
    position: int
    """Position of the next token, counted from the start of the stream."""

    def detached(self) -> Past:
        """Return the same outside any graph, holding no more memory than it shows."""
        keys, values = (tuple(t.detach().clone() for t in part) for part in self[:2])
        return Past(keys, values, self.held, self.position)

    def cut(self) -> Past:
        """Return the same outside any graph, sharing memory."""
        keys, values = (tuple(t.detach() for t in part) for part in self[:2])
        return Past(keys, values, self.held, self.position)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate x) * up x).

    References
    ----------
    .. [1] Shazeer (2020), "GLU variants improve transformer", equation 6.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = (
            nn.utils.skip_init(nn.Linear, width, hidden, bias=False) for _ in range(2)
        )
        self.down = nn.utils.skip_init(nn.Linear, hidden, width, bias=False)

    def forward(self, x_BTD: Tensor, fast: tuple[Tensor, ...] | None = None) -> Tensor:
        """Return the output (B, T, D), with matrices (B, out, in) of each sample's own if given."""
        if fast is None:
            return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))
        gate, up, down = (w.transpose(1, 2) for w in fast)
        return torch.bmm(F.silu(torch.bmm(x_BTD, gate)) * torch.bmm(x_BTD, up), down)


class Block(nn.Module):
    """Attention, then one MLP or two, each normalised before and after, each with a residual."""

    def __init__(self, config: ModelConfig, *, hidden: int, mlps: tuple[str, ...]) -> None:
        super().__init__()
        self.mlps = mlps
        self.attention = Attention(config)
        for name in mlps:
            self.add_module(name, MLP(config.width, hidden))
        self.pre, self.post = (
            nn.ModuleDict(
                {name: nn.RMSNorm(config.width, eps=EPSILON) for name in ("attention", *mlps)}
            )
            for _ in range(2)
        )

    def attend(
        self, x_BTD: Tensor, view: View, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the stream (B, T, D) and the keys and values (B, N, P + T, E) at hand."""
        mixed, kept = self.attention(self.pre["attention"](x_BTD), view, past)
        return x_BTD + self.post["attention"](mixed), kept

    def feed(self, x_BTD: Tensor, fast: tuple[Tensor, ...] | None) -> Tensor:
        """Return the stream (B, T, D) after the MLPs, the fast one with its own matrices if any."""
        for name in self.mlps:
            own = fast if name == "mlp_ttt" else None
            made = self.get_submodule(name)(self.pre[name](x_BTD), own)
            x_BTD = x_BTD + self.post[name](made)
        return x_BTD


class TTTTransformer(nn.Module):
    """The network of every arm; `build_model` makes one with fresh weights."""

    def __init__(self, config: ModelConfig, arm: Arm, *, vocabulary: int) -> None:
        super().__init__()
        self.config, self.arm, self.vocabulary = config, arm, vocabulary
        self.two_mlp = arm not in ONE_MLP_ARMS
        self.window = None if arm == "full" else config.window
        self.first_ttt = config.blocks - config.ttt_blocks
        hidden = config.shared_hidden if self.two_mlp else config.hidden
        self.embedding = nn.utils.skip_init(nn.Embedding, vocabulary, config.width)
        self.blocks = nn.ModuleList(
            Block(config, hidden=hidden, mlps=self._mlps(index)) for index in range(config.blocks)
        )
        self.norm = nn.RMSNorm(config.width, eps=EPSILON)
        self.head = (
            None
            if config.tied
            else nn.utils.skip_init(nn.Linear, config.width, vocabulary, bias=False)
        )

    def _mlps(self, index: int) -> tuple[str, ...]:
        carries_two = self.two_mlp and index >= self.first_ttt
        return ("mlp_ttt", "mlp_static") if carries_two else ("mlp",)

    def fast_names(self) -> tuple[str, ...]:
        """Return the names of the fast matrices, none for arms with one MLP a block."""
        if not self.two_mlp:
            return ()
        last = range(self.first_ttt, self.config.blocks)
        return tuple(f"blocks.{index}.mlp_ttt.{part}" for index in last for part in PARTS)

    def forward(self, tokens_BT: Tensor, counted_BT: Tensor | None = None) -> Tensor:
        """Return logits (B, T, V) with the fast weights as trained; nothing is updated.

        Parameters
        ----------
        tokens_BT : Tensor
            int64 (B, T), 0 to vocabulary - 1, from the start of a stream.
        counted_BT : Tensor, optional
            bool (B, T): positions whose logits are wanted; then (K, V), row by row. A large
            vocabulary's head takes most of the time.
        """
        x_BTD = self._after(self.prefix(tokens_BT)[0], None, None, twice=False)[0]
        return self._logits(x_BTD if counted_BT is None else x_BTD[counted_BT])

    def prefix(self, tokens_BT: Tensor, past: Past | None = None) -> tuple[Tensor, Past]:
        """Run what never changes at test time: all before the first fast MLP.

        Parameters
        ----------
        tokens_BT : Tensor
            int64 (B, T), 0 to vocabulary - 1.
        past : Past, optional
            What an earlier call returned; None at the start of a stream.

        Returns
        -------
        x_BTD : Tensor
            The stream (B, T, D) that enters the suffix.
        past : Past
            For the next call; the one given stays as it was.
        """
        x_BTD = self.embedding(tokens_BT) * math.sqrt(self.config.width)
        attend, feed = range(self.first_ttt + 1), range(self.first_ttt)
        return self._run(x_BTD, past, attend=attend, feed=feed, fast=None, twice=False)

    def suffix(
        self,
        x_BCD: Tensor,
        fast: Mapping[str, Tensor] | None,
        past: Past | None,
        *,
        twice: bool = False,
    ) -> tuple[Tensor, Past]:
        """Run the MLPs of the first block with fast weights, the blocks after it, and the head.

        Parameters
        ----------
        x_BCD : Tensor
            The stream (B, C, D) from the prefix.
        fast : mapping or None
            Fast weights (B, out, in) of each sample by name; None: as trained.
        past : Past or None
            What an earlier call returned; None at the start of a stream.
        twice : bool
            Whether gradients of gradients are taken (slower attention on CPU).

        Returns
        -------
        logits_BCV : Tensor
            Of the next token (B, C, V).
        past : Past
            For the next call; the one given stays as it was.
        """
        x_BCD, past = self._after(x_BCD, fast, past, twice=twice)
        return self._logits(x_BCD), past

    def _after(
        self,
        x_BCD: Tensor,
        fast: Mapping[str, Tensor] | None,
        past: Past | None,
        *,
        twice: bool,
    ) -> tuple[Tensor, Past]:
        """Run the suffix without its head."""
        attend, feed = (range(self.first_ttt + n, self.config.blocks) for n in (1, 0))
        return self._run(x_BCD, past, attend=attend, feed=feed, fast=fast, twice=twice)

    def _logits(self, x_BCD: Tensor) -> Tensor:
        x_BCD = self.norm(x_BCD)
        if self.head is not None:
            return self.head(x_BCD)
        weight = self.embedding.weight  # not get_parameter: functional_call puts in plain tensors
        assert isinstance(weight, Tensor)
        return F.linear(x_BCD, weight)

    def _run(
        self,
        x_BTD: Tensor,
        past: Past | None,
        *,
        attend: range,
        feed: range,
        fast: Mapping[str, Tensor] | None,
        twice: bool,
    ) -> tuple[Tensor, Past]:
        """Run the attention of the blocks `attend` and the MLPs of the blocks `feed`, in order."""
        steps, window = x_BTD.shape[1], self.window
        held, position = (0, 0) if past is None else (past.held, past.position)
        keep = held + steps if window is None else min(held + steps, window - 1)
        view = view_of(self.config, window, past=held, steps=steps, twice=twice, like=x_BTD)
        keys, values = [], []
        for index in range(min(attend.start, feed.start), max(attend.stop, feed.stop)):
            block = self.blocks[index]
            assert isinstance(block, Block)
            if index in attend:
                place = index - attend.start
                before = None if past is None else (past.keys[place], past.values[place])
                x_BTD, (k, v) = block.attend(x_BTD, view, before)
                keys.append(k[:, :, held + steps - keep :])
                values.append(v[:, :, held + steps - keep :])
            if index in feed:
                own = None
                if fast is not None:
                    own = tuple(fast[f"blocks.{index}.mlp_ttt.{part}"] for part in PARTS)
                x_BTD = block.feed(x_BTD, own)
        return x_BTD, Past(tuple(keys), tuple(values), keep, position + steps)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw matrices from normals of variance .64^2 / fan-in; norms add one unit in all.

        Gains after a sublayer are 1 / sqrt(sublayers): each adds an equal part, so that the stream
        stays near unit size at any depth.
        """
        sublayers = sum(1 + len(self._mlps(index)) for index in range(self.config.blocks))
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.copy_(drawn * (_SCALE / math.sqrt(parameter.shape[1])))
            else:
                parameter.fill_(1 / math.sqrt(sublayers) if ".post." in name else 1.0)


def build_model(
    config: ModelConfig, arm: Arm, *, vocabulary: int, generator: torch.Generator
) -> TTTTransformer:
    """Build the network of an arm with fresh weights, on CPU in float32.

    Parameters
    ----------
    config : ModelConfig
        Sizes.
    arm : Arm
        Full attention, or a sliding window; one MLP a block, or two in the last blocks.
    vocabulary : int
        Tokens, at least 1.
    generator : torch.Generator
        Source of all weights.
    """
    model = TTTTransformer(config, arm, vocabulary=vocabulary)
    model.initialise(generator)
    return model
