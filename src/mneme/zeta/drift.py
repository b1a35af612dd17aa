"""Drift loss: how far a rollout's sum strays from the truth's, with weights along the training.

A rollout of mean predictions starts from the first half of a window, which is detached; gradients
pass through every prediction that was fed back and reach all parameters, the slots included.

Legend: B batch, T position, H horizon.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mneme.core.config import require
from mneme.zeta.model import SpacingMDN
from mneme.zeta.rollout import differentiable_rollout

Schedule = Literal["constant", "linear", "exponential"]
EXPONENTIAL_START = 0.01
"""First share of the weight under the exponential schedule."""


def drift_weight(end: float, schedule: Schedule, *, step: int, steps: int) -> float:
    """Return the drift loss's weight at `step` (0..steps-1) of a training.

    constant: `end` throughout; linear: from 0 evenly; exponential: from 1 % of `end` by a constant
    factor a step. Both reach `end` at the last step.
    """
    share = step / max(steps - 1, 1)
    if schedule == "linear":
        return end * share
    if schedule == "exponential":
        return end * EXPONENTIAL_START ** (1 - share)
    return end


def drift_context(window: int) -> int:
    """Return the spacings that a drift rollout starts from: half a window."""
    return window // 2


def require_horizon(horizon: int, window: int) -> None:
    """Raise `ConfigError` unless a rollout of `horizon` from half a window ends inside it."""
    most = window - drift_context(window)
    require(horizon <= most, "drift_horizon", f"at most {most}, half a window", horizon)


def drift_loss(
    model: SpacingMDN, spacings_BT: Tensor, *, level_B: Tensor | None, horizon: int
) -> Tensor:
    """Compute the mean |cumsum(prediction) - cumsum(truth)| over a rollout.

    Parameters
    ----------
    model : SpacingMDN
        Model without extra features.
    spacings_BT : Tensor (B, T), float32
        Whole windows; rollouts start after half of each.
    level_B : Tensor (B,), optional
        Coarse height of each window, exactly for position coding `distance`.
    horizon : int
        Spacings H rolled out, at most half a window.

    Returns
    -------
    Tensor
        Scalar, mean spacings.
    """
    context = drift_context(spacings_BT.shape[1])
    truth_BH = spacings_BT[:, context : context + horizon]
    told_BH = differentiable_rollout(
        model, spacings_BT[:, :context], horizon=horizon, level_B=level_B
    )
    return (told_BH - truth_BH).cumsum(1).abs().mean()
