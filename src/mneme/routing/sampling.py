"""Choose the next token from logits: greedy, or sampled within the nucleus.

Legend: B batch, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float
    """0 takes the likeliest token; above, samples from softmax(logits / temperature)."""
    top_p: float
    """Sample among the likeliest tokens that together reach this probability, in (0, 1]."""
    generator: torch.Generator | None
    """CPU generator; None only with temperature 0."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 or positive, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.temperature > 0 and self.generator is None:
            raise ValueError("temperature > 0 samples, so it needs a generator: pass one")


def pick(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Choose one token a row.

    Parameters
    ----------
    logits_BV : Tensor
        Next-token logits.
    sampling : Sampling
        How.

    Returns
    -------
    Tensor
        (B,) token ids, int64, on the device of the logits.

    References
    ----------
    Holtzman et al. 2020, The Curious Case of Neural Text Degeneration, section 3.1 (top_p).
    """
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)
    # Drawn on the CPU, so that a seed means the same on every device.
    probability_BV = torch.softmax(logits_BV.float().cpu() / sampling.temperature, dim=-1)
    sorted_BV, order_BV = probability_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
    # A token belongs to the nucleus while the likelier ones have not reached top_p yet.
    nucleus_BV = sorted_BV.masked_fill(before_BV >= sampling.top_p, 0.0)
    drawn_B1 = torch.multinomial(nucleus_BV, 1, generator=sampling.generator)
    return order_BV.gather(-1, drawn_B1)[:, 0].to(logits_BV.device)
