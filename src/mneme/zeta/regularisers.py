"""Regularisers of the memory slots and the mixture, each with its ramp.

All are on from the first step in the source, with weights that grow over a 20,000-step training;
here a ramp's length scales with the steps of the run (`TrainingConfig.steps` / 20,000), so that a
short run passes through the same ramps.

Signs, where the source leaves them open: every penalty is least where slots differ, attention is
spread evenly over the slots and the mixture is spread evenly over its components; the entropies are
therefore penalised by what they lack to their largest value.

Legend: B batch, T position, D width, K components, M slots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

FULL_STEPS = 20_000
"""Steps of the training that the ramps are stated for."""
MASS_CAP = 0.3
"""Share of the attention on slots that one slot may have before it is penalised."""
NORM_CAP = 5.0
"""Largest Euclidean norm of a slot."""


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """Weight of a regulariser along a training."""

    start: float
    """Weight at the first step."""
    end: float
    """Weight from step `over` on."""
    over: int
    """Steps of the ramp, of a 20,000-step training."""
    shape: Literal["linear", "step"]
    """linear: grows evenly up to `over`; step: `start` before it, `end` from it on."""

    def __call__(self, step: int, steps: int) -> float:
        """Return the weight at `step` (0, 1, ...) of a training of `steps`."""
        share = step / (self.over * steps / FULL_STEPS)
        if self.shape == "step":
            return self.start if share < 1 else self.end
        return self.start + (self.end - self.start) * min(share, 1.0)


ORTHOGONALITY = Ramp(start=1e-4, end=1e-2, over=5_000, shape="linear")
ATTENTION_ENTROPY = Ramp(start=0.0, end=0.005, over=2_000, shape="linear")
MASS = Ramp(start=0.0, end=0.01, over=1_000, shape="step")
MIXTURE_ENTROPY = 0.005
"""Constant weight."""


def overlap(slots_MD: Tensor) -> Tensor:
    """Compute how far slots are from orthogonal: mean squared cosine of all pairs, 0..1."""
    unit_MD = torch.nn.functional.normalize(slots_MD, dim=1)
    cosine_MM = unit_MD @ unit_MD.T
    slots = len(slots_MD)
    pairs = slots * (slots - 1)
    return (cosine_MM.square().sum() - cosine_MM.diagonal().square().sum()) / max(pairs, 1)


def slot_shares(attention: Tensor) -> Tensor:
    """Compute each slot's share of the attention that goes to slots at all.

    Parameters
    ----------
    attention : Tensor (..., M)
        Attention weights of any queries, layers and heads on the M slots, at least 0.

    Returns
    -------
    Tensor (M,)
        Shares of the sum over all queries, 0..1, sum 1.
    """
    mass_M = attention.flatten(0, -2).sum(0)
    return mass_M / mass_M.sum().clamp_min(1e-12)


def lacking_entropy(shares: Tensor) -> Tensor:
    """Compute by how much the entropy of distributions (..., N) falls short of ln N, mean, nats."""
    return math.log(shares.shape[-1]) - torch.special.entr(shares).sum(-1).mean()


def excess_mass(shares_M: Tensor) -> Tensor:
    """Compute the sum of what slots have above `MASS_CAP`, 0..0.7."""
    return (shares_M - MASS_CAP).clamp_min(0).sum()


def attention_penalty(attention: Tensor, *, step: int, steps: int) -> Tensor:
    """Compute the weighted entropy and mass terms of attention weights (..., M) on slots."""
    shares_M = slot_shares(attention)
    spread = ATTENTION_ENTROPY(step, steps) * lacking_entropy(shares_M)
    return spread + MASS(step, steps) * excess_mass(shares_M)


def penalty(slots_MD: Tensor, log_weights: Tensor, *, step: int, steps: int) -> Tensor:
    """Compute the weighted terms that need no attention: orthogonality and mixture entropy.

    Parameters
    ----------
    slots_MD : Tensor (M, D)
        What the slots hold.
    log_weights : Tensor (..., K)
        Log mixture weights.
    step, steps : int
        Place in the training.

    Returns
    -------
    Tensor
        Scalar to add to the loss.
    """
    spread = MIXTURE_ENTROPY * lacking_entropy(log_weights.exp())
    return ORTHOGONALITY(step, steps) * overlap(slots_MD) + spread


@torch.no_grad()
def cap_norms(*parts_MD: Tensor) -> None:
    """Project slots, which are the sum of `parts_MD`, onto the ball of radius `NORM_CAP`.

    The parts (vectors and identities, each (M, D)) shrink in place by a common factor a slot.
    """
    norms_M1 = torch.stack(parts_MD).sum(0).norm(dim=1, keepdim=True)
    for part_MD in parts_MD:
        part_MD.mul_((NORM_CAP / norms_M1.clamp_min(1e-12)).clamp_max(1.0))
