"""Six phenomena of memory slots, measured: shortcut, symmetry, co-adaptation and the rest.

A shortcut: how much attention goes to each slot in each layer. B symmetry: are slots alike, and
does it matter which is which? C co-adaptation: do two slots cut together cost more than each cut
alone? D gradient correlation: does learning pull slots the same way? E train against rollout: is
what a slot is worth to one step what it is worth to a rollout? F effect norm: how far does a slot
move the prediction? They are measured, not judged: none of them is a fault.

Legend: B batch, W windows, N spacings of a window, V variants, M slots, D width, L layers,
G permutations.

References
----------
Source document 5, diagnostics A-F.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mneme.core.config import require
from mneme.nn.onednn import OneDNNLinear
from mneme.zeta.ablation import WHOLE, read_variants
from mneme.zeta.ablation_config import DiagnosticsConfig
from mneme.zeta.ablation_report import ALL
from mneme.zeta.diagnostics_report import Diagnosed
from mneme.zeta.memory import Bank
from mneme.zeta.model import SpacingMDN
from mneme.zeta.window_set import WindowSet

Floats = NDArray[np.float64]


def diagnose(
    model: SpacingMDN,
    windows: WindowSet,
    *,
    config: DiagnosticsConfig,
    generator: torch.Generator,
) -> Diagnosed:
    """Measure the six phenomena of one trained model.

    Parameters
    ----------
    model : SpacingMDN
        Trained, with at least two slots, on any device; left as it was.
    windows : WindowSet
        Test windows in order.
    config : DiagnosticsConfig
        What is read.
    generator : torch.Generator
        CPU source of the permutations.

    Returns
    -------
    Diagnosed

    Raises
    ------
    ValueError
        When the arm has fewer than two slots, or the windows are too short for the rollouts.
    """
    bank, needed = model.bank, config.context + config.horizon
    require(bank is not None and len(bank.slots_MD) > 1, "arm", "one with two slots", model.arm)
    length = windows.spacings_WN.shape[1]
    require(length >= needed, "windows", f"context + horizon = {needed} spacings or longer", length)
    assert bank is not None
    vectors_MD = bank.vectors().detach()
    chosen = windows.spread(config.windows).like(vectors_MD)
    with OneDNNLinear() if vectors_MD.device.type == "cpu" else nullcontext():
        return Diagnosed(
            vectors_MD=vectors_MD.double().cpu().numpy(),
            mass_WLM=attention_mass(model, chosen, rows=config.rows),
            permuted_GW=permuted_shifts(model, chosen, config=config, generator=generator),
            gradients_WMD=slot_gradients(model, chosen.spread(config.gradient_windows)),
            **_cuts(model, chosen, config),
        )


def _cuts(model: SpacingMDN, windows: WindowSet, config: DiagnosticsConfig) -> dict[str, Floats]:
    """Read single slots, pairs and all slots cut to zero; singles and all also in rollouts."""
    slots = model.config.slots
    singles = [("zero", str(slot)) for slot in range(slots)]
    pairs = [("zero", f"{i}+{j}") for i, j in combinations(range(slots), 2)]
    length = windows.spacings_WN.shape[1]
    noise = torch.zeros(len(windows), slots, model.config.width).to(windows.spacings_WN)
    place = {"context": config.context, "quantile_every": length, "rows": config.rows}
    with_rollouts = [WHOLE, *singles, ("zero", ALL)]
    horizons = (config.horizon,)
    one = read_variants(model, windows, noise, with_rollouts, horizons=horizons, **place)
    two = read_variants(model, windows, noise, [WHOLE, *pairs], horizons=(), **place)
    error = one[f"err_step@{config.horizon}"]
    return {
        "nll_MW": one["nll"][1:-1] - one["nll"][0],
        "nll_all_W": one["nll"][-1] - one["nll"][0],
        "nll_pairs_PW": two["nll"][1:] - two["nll"][0],
        "abs_error_W": one["abs_error"][0],
        "abs_error_MW": one["abs_error"][1:-1] - one["abs_error"][0],
        "square_shift_MW": one["square_shift"][1:-1],
        "err_step_W": error[0],
        "err_step_MW": error[1:-1] - error[0],
    }


@torch.no_grad()
def attention_mass(model: SpacingMDN, windows: WindowSet, *, rows: int) -> Floats | None:
    """Attention that each slot gets in each layer, mean over queries and heads, (W, L, M), 0..1.

    None for arms whose slots are read otherwise than by the stream's own attention.
    """
    if model.arm != "prefix":
        return None
    slots, parts = model.config.slots, []
    for here in windows.split(max(1, rows // 16)):  # maps are much larger than the stream
        maps = model(here.spacings_WN[:, :-1], level_B=here.level_W, attention=True).attention
        assert maps is not None
        parts.append(maps[..., slots:, :slots].double().mean((2, 3)).cpu())
    return torch.cat(parts).numpy()


@torch.no_grad()
def permuted_shifts(
    model: SpacingMDN,
    windows: WindowSet,
    *,
    config: DiagnosticsConfig,
    generator: torch.Generator,
) -> Floats:
    """Mean |change of the predicted mean| when slots change places, (G, W), mean spacings.

    What moves is what a slot holds, its identity embedding included; what its place means to the
    model (position, weights of its own) stays.
    """
    slots = model.config.slots
    orders = [derangement(slots, generator) for _ in range(config.permutations)]
    shifts = []
    for order in orders:
        other = copy.deepcopy(model)
        assert isinstance(other.bank, Bank)
        for parameter in other.bank.parameters():
            parameter.copy_(parameter[order.to(parameter.device)])
        parts = [_means(other, here) - _means(model, here) for here in windows.split(config.rows)]
        shifts.append(torch.cat(parts).abs().double().mean(-1).cpu().numpy())
    return np.stack(shifts)


def _means(model: SpacingMDN, windows: WindowSet) -> Tensor:
    """Return the predicted means (W, T)."""
    return model(windows.spacings_WN[:, :-1], level_B=windows.level_W).mixture.mean()


def derangement(count: int, generator: torch.Generator) -> Tensor:
    """Draw an order of `count` >= 2 things that leaves none in its place, evenly among such."""
    while True:
        order = torch.randperm(count, generator=generator)
        if (order != torch.arange(count)).all():
            return order


def slot_gradients(model: SpacingMDN, windows: WindowSet) -> Floats:
    """Gradient of each window's NLL with respect to what each slot holds, (W, M, D), nats."""
    assert model.bank is not None
    parameter, found = model.bank.slots_MD, []
    for window in windows.split(1):
        mixture = model(window.spacings_WN[:, :-1], level_B=window.level_W).mixture
        loss = -mixture.log_prob(window.spacings_WN[:, 1:]).mean()
        (gradient_MD,) = torch.autograd.grad(loss, parameter)
        found.append(gradient_MD.double().cpu())
    return torch.stack(found).numpy()
