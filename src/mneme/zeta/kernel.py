"""Attention against distance: how strongly does a zero look at the zeros before it?

Attention probabilities are averaged per pair of query and key, once by lag (how many spacings lie
between the two) and once by distance r = the sum of those spacings, which is what the sine kernel
is a function of. Averaging per pair takes the density of pairs out: repulsion in the data does not
show as repulsion in the attention. Queries start late enough that every lag exists for each.

Legend: B batch, W windows, T position, L layers, N heads, Q queries, G lags 0.., R distance bins.

References
----------
Dyson (1962), Statistical theory of the energy levels of complex systems III (the sine kernel).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mneme.core.config import require
from mneme.nn.onednn import OneDNNLinear
from mneme.zeta.ablation_config import KernelConfig
from mneme.zeta.kernel_report import Profile
from mneme.zeta.network import Material, Network

Floats = NDArray[np.float64]


@torch.no_grad()
def attention_profile(
    network: Network, material: Material, test: NDArray[np.int64], config: KernelConfig
) -> Profile:
    """Read a trained network's attention on test windows.

    Parameters
    ----------
    network : Network
        Trained, on the material's device.
    material : Material
        Windows of the series, those of `test` among them.
    test : int array (W,)
        Test windows, ascending.
    config : KernelConfig
        Which pairs are read.

    Returns
    -------
    Profile

    Raises
    ------
    ValueError
        When a window has no position as late as `max_lag`.
    """
    network.refresh(material, anchor=True)
    chosen = np.linspace(0, len(test) - 1, min(config.windows, len(test))).round().astype(int)
    device = material.spacings_WT.device
    slots = network.model.prefix

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.as_tensor(test[chosen], device=device).split(config.rows):
            maps = network(material, rows, slots=None, attention=True).attention
            assert maps is not None
            yield material.spacings_WT[rows, :-1], maps

    with OneDNNLinear() if device.type == "cpu" else nullcontext():
        return profile_of(batches(), slots=slots, config=config)


def profile_of(
    batches: Iterable[tuple[Tensor, Tensor]], *, slots: int, config: KernelConfig
) -> Profile:
    """Average attention maps by lag and by distance.

    Parameters
    ----------
    batches : iterable of (spacings_BT, maps_BLNSS)
        Input spacings, and probabilities over slots (first) and positions, S = slots + T.
    slots : int
        Slots before the data.
    config : KernelConfig
        Lags and bins.
    """
    parts = [_read(spacings, maps, slots, config) for spacings, maps in batches]
    return Profile(
        edges=config.edges(),
        lag_WLNG=np.concatenate([part[0] for part in parts]),
        distance_sum_WLNR=np.concatenate([part[1] for part in parts]),
        distance_count_WR=np.concatenate([part[2] for part in parts]),
        slot_mass_WL=np.concatenate([part[3] for part in parts]),
    )


def _read(
    spacings_BT: Tensor, maps: Tensor, slots: int, config: KernelConfig
) -> tuple[Floats, Floats, Floats, Floats]:
    """Read one batch: lags, distance sums, distance counts, mass on slots."""
    length, first = spacings_BT.shape[1], config.max_lag
    require(length > first, "max_lag", f"below the {length} positions of a window", first)
    data = maps[..., slots + first :, slots:].double()
    place_BT = spacings_BT.double().cumsum(1)
    queries = torch.arange(first, length, device=maps.device)
    keys_QG = queries[:, None] - torch.arange(first + 1, device=maps.device)
    attention_BLNQG = data.gather(-1, keys_QG.expand(*data.shape[:3], *keys_QG.shape))
    distance_BQG = place_BT[:, queries, None] - place_BT[:, keys_QG]
    # a position is at distance 0 of itself: that is a lag, no distance
    attention, distance = attention_BLNQG[..., 1:].flatten(3), distance_BQG[..., 1:].flatten(1)
    bins = round(config.max_distance / config.bin_width)
    cell_BP = (distance / config.bin_width).long()
    inside_BP = cell_BP < bins
    cell_BP = torch.where(inside_BP, cell_BP, bins)  # one more bin takes what is too far
    sums = attention.new_zeros(*attention.shape[:3], bins + 1)
    sums.scatter_add_(3, cell_BP[:, None, None].expand_as(attention), attention)
    counts = distance.new_zeros(len(distance), bins + 1)
    counts.scatter_add_(1, cell_BP, torch.ones_like(distance))
    mass_BL = maps[..., slots + first :, :slots].double().sum(-1).mean((2, 3))
    found = (attention_BLNQG.mean(3), sums[..., :bins], counts[:, :bins], mass_BL)
    lag, distance_sum, count, mass = (part.cpu().numpy() for part in found)
    return lag, distance_sum, count, mass
