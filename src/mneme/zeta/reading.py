"""Readings along a training: validation NLL, effect of slots, error of short rollouts.

Legend: B batch, W windows, T position, M slots, H horizon.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mneme.zeta.memory import Slots
from mneme.zeta.network import Material, Network
from mneme.zeta.rollout import rollout

ROWS = 64
"""Windows a pass."""
SOURCE_CONTEXT, SOURCE_HORIZON = 10, 10
"""Context and horizon of the source's err_source@10."""


@torch.no_grad()
def window_nll(network: Network, material: Material, rows_W: Tensor) -> Tensor:
    """Compute the negative log-likelihood of windows `rows_W` (W,), mean over contexts, nats."""
    parts = []
    for rows_B in rows_W.split(ROWS):
        mixture = network(material, rows_B, slots=None).mixture
        parts.append(-mixture.log_prob(material.spacings_WT[rows_B, 1:]).mean(1))
    return torch.cat(parts)


@torch.no_grad()
def rollout_reading(network: Network, material: Material, rows_W: Tensor) -> float:
    """Compute the source's `err_source@10` of any transformer arm.

    Parameters
    ----------
    network : Network
        Any arm; a carried memory has read `material` (`Network.refresh`).
    material : Material
        Windows.
    rows_W : Tensor (W,), int64
        Those to read.

    Returns
    -------
    float
        Mean |error| of the mean rollout over spacings 11..20 from the first 10, mean spacings. A
        carried memory starts from its state at the window's first zero, as everywhere.
    """
    context, end = SOURCE_CONTEXT, SOURCE_CONTEXT + SOURCE_HORIZON
    spacings_WT = material.spacings_WT[rows_W]
    told_WH = rollout(
        network.model,
        spacings_WT[:, :context],
        horizon=SOURCE_HORIZON,
        mode="mean",
        generator=None,
        extra=network.extra(material, rows_W),
        level_B=network.level(material, rows_W),
    )
    return (told_WH - spacings_WT[:, context:end]).abs().mean().item()


def effect_percent(network: Network, material: Material, rows_W: Tensor) -> float:
    """Compute the source's `eff_percent` of a slot arm: 100 x the largest of `slot_effects`."""
    return 100 * slot_effects(network, material, rows_W).amax().item()


@torch.no_grad()
def slot_effects(network: Network, material: Material, rows_W: Tensor) -> Tensor:
    """Compute mean |change of the predicted mean| / mean |error| for each slot zeroed (M,)."""
    slots, width = network.model.config.slots, network.model.config.width
    changes_M, error = material.spacings_WT.new_zeros(slots), 0.0
    for rows_B in rows_W.split(max(1, ROWS // slots)):
        rows = len(rows_B)
        keep = ~torch.eye(slots, dtype=torch.bool, device=rows_B.device).repeat_interleave(rows, 0)
        cut = Slots(keep_BM=keep, values_BMD=changes_M.new_zeros(len(keep), slots, width))
        base_BT = network(material, rows_B, slots=None).mixture.mean()
        without = network(material, rows_B.repeat(slots), slots=cut).mixture.mean()
        changes_M += (without.unflatten(0, (slots, rows)) - base_BT).abs().sum((1, 2))
        error += (base_BT - material.spacings_WT[rows_B, 1:]).abs().sum().item()
    return changes_M / error
