"""Cut a causal language model at layer k into a lower and an upper half that share its weights.

`upper(lower(ids))` equals the full model. The lower half never changes while adapters above layer
k train, so its output is computed once and reused by every adapter, epoch and mixer.

Legend: B batch, T position, P positions attended to (cached ones included), D width, V vocabulary.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

_ROTARY = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
_LEARNT = ("gpt2",)
FAMILIES = _ROTARY + _LEARNT
"""`model_type` of the models that can be cut."""


def require_family(config: Any) -> None:
    """Raise `ValueError`, naming the families, unless a model of this configuration can be cut.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        The model's configuration; its weights are not needed.
    """
    family = getattr(config, "model_type", type(config).__name__)
    if family not in FAMILIES:
        raise ValueError(
            f"a model of type {family!r} cannot be split at a layer: choose a backbone of one of "
            f"the families {', '.join(FAMILIES)}"
        )
    # The upper half counts its layers from 0, so it would take the kinds of the lower layers.
    kinds = set(getattr(config, "layer_types", None) or ())
    if len(kinds) > 1:
        raise ValueError(
            f"a model whose layers attend in different ways ({', '.join(sorted(kinds))}) cannot be "
            "split at a layer: choose another in the config key backbone"
        )


def lower(model: nn.Module, k: int) -> LowerHalf:
    """Return embeddings and layers 0..k-1 of `model` as a module sharing its weights.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        Causal language model of one of `FAMILIES`; it is not changed.
    k : int
        Number of layers in the lower half, 0..n; 0 gives the embeddings, n the states before
        the final norm.

    Returns
    -------
    LowerHalf
        Module `lower(ids_BT, ...) -> (h_BTD, cache)`.

    Raises
    ------
    ValueError
        Unsupported family, `k` out of range, or a model spread over several devices.
    """
    return LowerHalf(*_decoder(model, k), k)


def upper(model: nn.Module, k: int) -> UpperHalf:
    """Return layers k..n-1, final norm and head of `model` as a module sharing its weights.

    Adapters that PEFT injects into these layers, before or after this call, are seen.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        Causal language model of one of `FAMILIES`; it is not changed.
    k : int
        First layer of the upper half, 0..n.

    Returns
    -------
    UpperHalf
        Module `upper(h_BTD, attention_mask=None) -> logits_BTV`.

    Raises
    ------
    ValueError
        Unsupported family, `k` out of range, or a model spread over several devices.
    """
    base, decoder = _decoder(model, k)
    return UpperHalf(base, decoder, k)


def layer_count(model: nn.Module) -> int:
    """Return the number n of layers of `model`; raises `ValueError` for unsupported families."""
    return len(_layers(_decoder(model, 0)[1]))


class LowerHalf(nn.Module):
    """Embeddings and layers 0..k-1; see `lower`."""

    def __init__(self, base: nn.Module, decoder: nn.Module, k: int) -> None:
        super().__init__()
        self.k = k
        self.learnt_positions = _family(base) in _LEARNT
        self.decoder = _with_layers(decoder, _layers(decoder)[:k])
        self.decoder._modules["ln_f" if self.learnt_positions else "norm"] = nn.Identity()

    def forward(
        self,
        ids_BT: Tensor,
        past_key_values: Any = None,
        position_ids: Tensor | None = None,
        use_cache: bool = False,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Compute the raw output of layer k.

        Parameters
        ----------
        ids_BT : Tensor
            Token ids, int64.
        past_key_values : transformers.Cache or None
            Cache of earlier positions; filled in place when `use_cache`.
        position_ids : Tensor or None
            (1, T) or (B, T) positions, int64; None counts on from the cache. They only place the
            tokens: gaps between them never cut attention.
        use_cache : bool
            Whether to return a cache of layers 0..k-1.
        attention_mask : Tensor or None
            None is causal; (B, P) holds 1 for tokens and 0 for padding; (B or 1, 1, T, P) is added
            to the attention scores (0 or a large negative number, or bool with True = attend) and
            replaces the causal mask.

        Returns
        -------
        h_BTD : Tensor
            Output of layer k before the final norm.
        cache : transformers.Cache or None
            The cache, None unless `use_cache`.
        """
        if past_key_values is not None and position_ids is None and self.k == 0:
            # With no layer there are no cached keys to count.
            assert not self.learnt_positions, "lower(model, 0) with a cache needs position_ids"
        if position_ids is not None and attention_mask is None and past_key_values is None:
            # Without a mask transformers would read gaps in position_ids as packed sequences
            # and cut attention there.
            attention_mask = torch.ones_like(ids_BT)
        if position_ids is not None:
            position_ids = position_ids.expand(ids_BT.shape[0], -1)
        output = self.decoder(
            input_ids=ids_BT,
            past_key_values=past_key_values,
            position_ids=position_ids,
            use_cache=use_cache,
            attention_mask=attention_mask,
        )
        return output.last_hidden_state, output.past_key_values if use_cache else None


class UpperHalf(nn.Module):
    """Layers k..n-1, final norm and head; see `upper`."""

    def __init__(self, base: nn.Module, decoder: nn.Module, k: int) -> None:
        super().__init__()
        self.k = k
        self.decoder = _with_layers(decoder, _layers(decoder)[k:])
        self.head = base.get_output_embeddings()  # type: ignore[operator]
        if _family(base) in _LEARNT:
            # Positions (and their dropout) were applied by the lower half.
            self.decoder._modules["wpe"] = _NoPositions()
            self.decoder._modules["drop"] = nn.Identity()
        self.decoder._modules.pop("embed_tokens", None)
        self.decoder._modules.pop("wte", None)

    def forward(self, h_BTD: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Compute next-token logits from the raw output of layer k at positions 0..T-1.

        Parameters
        ----------
        h_BTD : Tensor
            Output of `lower`.
        attention_mask : Tensor or None
            As in `LowerHalf.forward`; None is causal.

        Returns
        -------
        logits_BTV : Tensor
            Next-token logits.
        """
        return self.head(self.states(h_BTD, attention_mask))

    def states(self, h_BTD: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Compute the normed states (B, T, D) that the head reads, as `forward` does."""
        return self.decoder(
            inputs_embeds=h_BTD, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state


class _NoPositions(nn.Module):
    """Stands where GPT-2 adds position embeddings and adds nothing."""

    def forward(self, position_ids: Tensor) -> Tensor:
        return torch.zeros((), device=position_ids.device)


def _decoder(model: nn.Module, k: int) -> tuple[nn.Module, nn.Module]:
    """Return the causal LM below PEFT's wrapper and its inner decoder, checked."""
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    require_family(getattr(base, "config", base))
    decoder = base.transformer if _family(base) in _LEARNT else base.model
    n = len(_layers(decoder))
    if not 0 <= k <= n:
        raise ValueError(f"gate_layer must be in 0..{n} for this model of {n} layers, got {k}")
    if "forward" in vars(decoder):
        raise ValueError(
            "the backbone is spread over several devices (device_map): load it on one device"
        )
    return base, decoder


def _family(base: Any) -> str:
    return getattr(getattr(base, "config", None), "model_type", type(base).__name__)


def _layers(decoder: nn.Module) -> nn.ModuleList:
    return decoder.h if hasattr(decoder, "h") else decoder.layers  # type: ignore[return-value]


def _with_layers(decoder: nn.Module, layers: nn.ModuleList) -> nn.Module:
    """Copy the decoder's shell, with other layers and the very same submodules otherwise."""
    shell = copy.copy(decoder)
    shell._modules = dict(decoder._modules)
    shell._modules["h" if hasattr(decoder, "h") else "layers"] = layers
    return shell
