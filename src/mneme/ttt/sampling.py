"""Draw the next token: greedy, or by temperature, the k likeliest tokens and the nucleus.

Legend: B batch, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mneme.ttt.chat_config import SamplingConfig


class SamplingError(ValueError):
    """Logits that no token can be drawn from."""


def probabilities(logits_BV: Tensor, config: SamplingConfig) -> Tensor:
    """Return what a token is drawn from.

    Parameters
    ----------
    logits_BV : Tensor
        Next-token logits, any float type, any device.
    config : SamplingConfig
        Temperature, then the k likeliest of what is left (equals of the k-th stay), then the
        fewest likeliest tokens that together reach `top_p`.

    Returns
    -------
    Tensor
        (B, V) float64 on the CPU; rows sum to 1. Temperature 0 gives 1 to the likeliest token.

    Raises
    ------
    SamplingError
        A logit is not finite.

    References
    ----------
    Fan et al. 2018, "Hierarchical Neural Story Generation", section 5.4 (k likeliest);
    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1 (nucleus).
    """
    # On the CPU in float64, so that one seed draws the same on every device.
    logits_BV = logits_BV.detach().cpu().double()
    if not logits_BV.isfinite().all():
        raise SamplingError(
            "the model's logits are not finite, so no token can be drawn: lower the inner learning "
            "rate, or start from the trained fast weights again"
        )
    if config.temperature == 0:
        likeliest_B = logits_BV.argmax(-1, keepdim=True)
        return torch.zeros_like(logits_BV).scatter(-1, likeliest_B, 1.0)
    # Subtracting the largest first keeps tiny temperatures from overflowing.
    logits_BV = (logits_BV - logits_BV.amax(-1, keepdim=True)) / config.temperature
    if config.top_k is not None:
        kth_B1 = logits_BV.topk(min(config.top_k, logits_BV.shape[-1])).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < kth_B1, -torch.inf)
    p_BV = logits_BV.softmax(-1)
    if config.top_p is not None:
        p_BV = _nucleus(p_BV, config.top_p)
    return p_BV


def _nucleus(p_BV: Tensor, top_p: float) -> Tensor:
    """Keep the likeliest tokens up to the one that reaches `top_p`, and rescale."""
    sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    before_BV[:, 0] = 0.0  # the likeliest always stays
    kept_BV = sorted_BV.masked_fill(before_BV >= top_p, 0.0)
    p_BV = torch.zeros_like(p_BV).scatter(-1, order_BV, kept_BV)
    return p_BV / p_BV.sum(-1, keepdim=True)


def sample(logits_BV: Tensor, config: SamplingConfig, *, generator: torch.Generator) -> Tensor:
    """Draw one token a row.

    Parameters
    ----------
    logits_BV : Tensor
        Next-token logits.
    config : SamplingConfig
        How; with temperature 0 nothing is drawn and the generator stays as it is.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor
        (B,) int64 ids on the device of the logits.

    Raises
    ------
    SamplingError
        The logits are not finite.
    """
    p_BV = probabilities(logits_BV, config)
    if config.temperature == 0:
        return p_BV.argmax(-1).to(logits_BV.device)
    return torch.multinomial(p_BV, 1, generator=generator)[:, 0].to(logits_BV.device)
