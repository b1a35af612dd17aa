"""Time Mixer: which domain adapter speaks, decided per token and causally.

All strategies share one call, `forward(ids_BT, states_BTD, labels_BT=, carry=)`; the gates are
`softmax(logits)`. What a strategy remembers is exactly its `carry`, so feeding a sequence in
pieces equals feeding it at once, and an empty carry means: no memory beyond the states it reads.

Legend: B batch, T position, D width of the states, H hidden width, K domains, P past positions.
"""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mneme.core.config import require
from mneme.routing.config import MixerConfig

Carry = tuple[Tensor, ...]

_BLOCK = 256


def build_mixer(
    config: MixerConfig, *, domains: int, width: int, vocab: int, generator: torch.Generator
) -> TimeMixer:
    """Return a freshly initialised mixer, on the CPU in float32.

    Parameters
    ----------
    config : MixerConfig
        Strategy and sizes.
    domains : int
        Number of domains K, at least 2.
    width : int
        Width D of the states of layer k.
    vocab : int
        Number of token ids of the backbone (used by `token`).
    generator : torch.Generator
        Source of every initial weight; the global generator is neither read nor moved.

    Returns
    -------
    TimeMixer

    Raises
    ------
    ConfigError
        Fewer than two domains: with one there is nothing to mix.
    """
    require(domains >= 2, "domains", "at least 2 (with one there is nothing to mix)", domains)
    mixer = TimeMixer(config, domains=domains, width=width, vocab=vocab)
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            _initialise(name, parameter, generator)
    return mixer


def _initialise(name: str, parameter: Tensor, generator: torch.Generator) -> None:
    # Biases and the token table start at 0: an id never met in calibration stays neutral
    # instead of carrying a random vote.
    if parameter.ndim == 1 or name.endswith("table.weight"):
        parameter.zero_()
    else:
        bound = parameter.shape[1] ** -0.5
        parameter.uniform_(-bound, bound, generator=generator)


class TimeMixer(nn.Module):
    """Router over K domains; see `MixerConfig.strategy` for what it reads.

    Parameters are uninitialised: use `build_mixer`, or load a state dict into it.
    """

    def __init__(self, config: MixerConfig, *, domains: int, width: int, vocab: int) -> None:
        super().__init__()
        self.config, self.domains, self.width, self.vocab = config, domains, width, vocab
        self.mean_D = nn.Buffer(torch.zeros(width))
        self.scale_D = nn.Buffer(torch.ones(width))
        hidden = config.hidden
        self.encoder: nn.Module | None = None
        if config.strategy in ("gating", "ema"):
            self.encoder = StateEncoder(width, hidden)
        elif config.strategy == "attention":
            self.encoder = AttentionEncoder(width, hidden)
        elif config.strategy == "token":
            self.encoder = TokenEncoder(vocab, hidden)
        self.head: nn.Module | None = None
        if config.strategy != "ema_oracle":
            self.head = _linear(hidden if self.encoder is not None else width, domains)

    def set_standardisation(self, states_NTD: Tensor) -> None:
        """Measure mean and standard deviation of each state dimension over texts and positions."""
        flat = states_NTD.detach().reshape(-1, self.width).float()
        variance_D, mean_D = torch.var_mean(flat, dim=0, correction=0)
        scale_D = variance_D.sqrt()
        # A constant dimension carries nothing; dividing by its zero spread would make it explode.
        scale_D = torch.where(scale_D > 1e-6 * (1 + mean_D.abs()), scale_D, 1.0)
        self.mean_D.copy_(mean_D)
        self.scale_D.copy_(scale_D)

    def forward(
        self,
        ids_BT: Tensor,
        states_BTD: Tensor,
        *,
        labels_BT: Tensor | None = None,
        carry: Carry | None = None,
    ) -> tuple[Tensor, Carry]:
        """Route each token.

        Parameters
        ----------
        ids_BT : Tensor
            Token ids, int64 (read by `token` only).
        states_BTD : Tensor
            Raw outputs of layer k, any float type; standardised in here, in float32.
        labels_BT : Tensor, optional
            True domain of each token, int64, 0..K-1 (read by `ema_oracle` only).
        carry : tuple of Tensor, optional
            What the previous piece of the same sequences returned; None at their beginning.

        Returns
        -------
        logits_BTK : Tensor
            Float32 logits; the gates are their softmax.
        carry : tuple of Tensor
            To be handed to the next piece.

        Raises
        ------
        ValueError
            `ema_oracle` without labels; states of another width than the mixer was built for.
        """
        logits_BTK, _, carry = self.forward_features(
            ids_BT, states_BTD, labels_BT=labels_BT, carry=carry
        )
        return logits_BTK, carry

    def forward_features(
        self,
        ids_BT: Tensor,
        states_BTD: Tensor,
        *,
        labels_BT: Tensor | None = None,
        carry: Carry | None = None,
    ) -> tuple[Tensor, Tensor | None, Carry]:
        """Route as `forward` does and return the hidden activations (B, T, H) in between.

        They are None for `probe` and `ema_oracle`, which have no hidden layer.
        """
        carry = carry or ()
        if self.head is None:
            logits_BTK, carry = self._smooth(self._oracle(labels_BT), carry)
            return logits_BTK, None, carry
        if self.encoder is None:
            return self.head(self._standardise(states_BTD)), None, ()
        # The token strategy must not even touch the states: it is the memoryless null.
        reads = ids_BT if self.config.strategy == "token" else self._standardise(states_BTD)
        features_BTH, memory = self.encoder(reads, () if self.config.strategy == "ema" else carry)
        logits_BTK = self.head(features_BTH)
        if self.config.strategy == "ema":
            logits_BTK, memory = self._smooth(logits_BTK, carry)
        return logits_BTK, features_BTH, memory

    def _standardise(self, states_BTD: Tensor) -> Tensor:
        if states_BTD.shape[-1] != self.width:
            raise ValueError(
                f"states have width {states_BTD.shape[-1]} but the mixer reads width "
                f"{self.width}: use the mixer with the backbone that it was calibrated on"
            )
        return (states_BTD.float() - self.mean_D).div_(self.scale_D)

    def _oracle(self, labels_BT: Tensor | None) -> Tensor:
        if labels_BT is None:
            raise ValueError(
                "the ema_oracle mixer needs labels_BT, the known domain of each token: pass "
                "them, or choose another strategy where domains are not known"
            )
        return self.config.oracle_logit * (2.0 * F.one_hot(labels_BT, self.domains).float() - 1)

    def _smooth(self, x_BTK: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        z_BTK = smooth(x_BTK, decay=self.config.decay, start_BK=carry[0] if carry else None)
        return z_BTK, (z_BTK[:, -1],)


def smooth(x_BTK: Tensor, *, decay: float, start_BK: Tensor | None = None) -> Tensor:
    """Smooth over positions exponentially: z_i = a z_(i-1) + (1 - a) x_i.

    Parameters
    ----------
    x_BTK : Tensor
        Values to smooth.
    decay : float
        a, 0 <= a < 1; 0 returns `x_BTK`.
    start_BK : Tensor, optional
        z_(-1); zeros when None.

    Returns
    -------
    Tensor
        z, (B, T, K), float32. A step from a settled -L to +L gives z_i = L (1 - 2 a^(i+1)).
    """
    x_BTK = x_BTK.float()
    z_BK = torch.zeros_like(x_BTK[:, 0]) if start_BK is None else start_BK.float()
    # Within a block the recursion is one product with the lower triangle of decay powers; blocks
    # keep that triangle small for long sequences.
    age_T = torch.arange(min(_BLOCK, x_BTK.shape[1]), device=x_BTK.device, dtype=torch.float32)
    age_TT = age_T[:, None] - age_T
    kernel_TT = ((1 - decay) * torch.pow(decay, age_TT.clamp_min(0))).tril()
    fade_T1 = torch.pow(decay, age_T + 1)[:, None]
    pieces = []
    for piece_BTK in x_BTK.split(_BLOCK, dim=1):
        n = piece_BTK.shape[1]
        pieces.append(kernel_TT[:n, :n] @ piece_BTK + fade_T1[:n] * z_BK[:, None])
        z_BK = pieces[-1][:, -1]
    return torch.cat(pieces, dim=1)


class StateEncoder(nn.Module):
    """Hidden layer of the two-layer gate on one state; memoryless given the state."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layer = _linear(width, hidden)

    def forward(self, x_BTD: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Return activations (B, T, H) and the empty carry."""
        return F.gelu(self.layer(x_BTD)), ()


class TokenEncoder(nn.Module):
    """Hidden layer on a learnt embedding of the token id alone; it cannot see the context."""

    def __init__(self, vocab: int, hidden: int) -> None:
        super().__init__()
        # Sparse gradients: a step touches only the ids of its batch, not the whole vocabulary.
        self.table = nn.utils.skip_init(nn.Embedding, vocab, hidden, sparse=True)
        self.layer = _linear(hidden, hidden)

    def forward(self, ids_BT: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Return activations (B, T, H) and the empty carry."""
        return F.gelu(self.layer(self.table(ids_BT))), ()


class AttentionEncoder(nn.Module):
    """One head of causal attention over the states so far; the carry is its keys and values."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.qkv = _linear(width, 3 * hidden)

    def forward(self, x_BTD: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Return activations (B, T, H) and the keys and values (B, P + T, H) seen so far."""
        query_BTH, key_BPH, value_BPH = self.qkv(x_BTD).chunk(3, dim=-1)
        if carry:
            key_BPH = torch.cat([carry[0], key_BPH], dim=1)
            value_BPH = torch.cat([carry[1], value_BPH], dim=1)
        mixed_B1TH = F.scaled_dot_product_attention(
            query_BTH[:, None],
            key_BPH[:, None],
            value_BPH[:, None],
            attn_mask=_causal_mask(query_BTH, key_BPH) if carry else None,
            is_causal=not carry,
        )
        return F.gelu(rearrange(mixed_B1TH, "b 1 t h -> b t h")), (key_BPH, value_BPH)


def _causal_mask(query_BTH: Tensor, key_BPH: Tensor) -> Tensor:
    """Let query i of a later piece see every past key and its own piece up to i."""
    queries, keys = query_BTH.shape[1], key_BPH.shape[1]
    visible = torch.ones(queries, keys, dtype=torch.bool, device=query_BTH.device)
    return visible.tril(keys - queries)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    # skip_init: nn.Linear would draw from the global generator.
    return cast(nn.Linear, nn.utils.skip_init(nn.Linear, inputs, outputs))
