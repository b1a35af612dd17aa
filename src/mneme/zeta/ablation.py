"""Slot ablation: what each memory slot is worth to one step and to a rollout.

A slot is cut in three ways: `zero` puts zeros in its place, `mean` the mean of all slots (what is
particular to it goes, what slots share stays), `resampled` a draw from a Gaussian with the slots'
mean and variance per coordinate, anew for every window (its size stays, its content goes). What the
slot has read goes in all three. Slots of another seed are no candidates: coordinates mean something
only within one model. Every variant of every window is a row of one batch, beside the whole model.

Legend: V variants, W windows, B rows = (variant, window), N spacings of a window, T targets,
M slots, D width, H horizon.

References
----------
Source document 5 (effect of a slot, rollout effect, entropy of the attention to slots).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from einops import rearrange, repeat
from numpy.typing import NDArray
from torch import Tensor

from mneme.core.config import require
from mneme.nn.onednn import OneDNNLinear
from mneme.zeta.ablation_config import AblationConfig, Pass
from mneme.zeta.ablation_report import ALL, Ablated, Cut, Rolled
from mneme.zeta.memory import Slots
from mneme.zeta.mixture import Mixture
from mneme.zeta.model import Output, SpacingMDN
from mneme.zeta.rollout import can_be_cut, rollout, rollout_within
from mneme.zeta.window_set import WindowSet

WHOLE = ("whole", "")
"""The variant that cuts nothing: row 0 of every batch."""
_Q99_NORMAL = 2.3263478740408408  # the normal law's own 99 % quantile
_HALVINGS = 24


def variants_of(kinds: Sequence[str], slots: int) -> tuple[tuple[str, str], ...]:
    """Return (kind, slot) of every cut: each slot, then all, of each kind."""
    places = [*(str(slot) for slot in range(slots)), ALL]
    return tuple((kind, place) for kind in kinds for place in places)


def cut_slots(vectors_MD: Tensor, variants: Sequence[tuple[str, str]], noise_WMD: Tensor) -> Slots:
    """Return the replacement of slots for every variant of every window.

    Parameters
    ----------
    vectors_MD : Tensor
        What the slots hold.
    variants : sequence of (kind, slot)
        As `variants_of` gives them, `WHOLE`, or several slots joined by `+`.
    noise_WMD : Tensor
        Standard normal draws; equal for all variants of a window.

    Returns
    -------
    Slots
        Rows (variant, window), the variant slowest.
    """
    windows, count, _ = noise_WMD.shape
    mean_D, spread_D = vectors_MD.mean(0), vectors_MD.std(0, unbiased=False)
    fillings = {
        "zero": torch.zeros_like(noise_WMD),
        "mean": mean_D.expand_as(noise_WMD),
        "resampled": mean_D + spread_D * noise_WMD,
        WHOLE[0]: torch.zeros_like(noise_WMD),
    }
    keep_VM = torch.ones(len(variants), count, dtype=torch.bool, device=noise_WMD.device)
    for row, (kind, slot) in enumerate(variants):
        if slot == ALL:
            keep_VM[row] = False
        elif kind != WHOLE[0]:
            keep_VM[row, [int(each) for each in slot.split("+")]] = False
    return Slots(
        keep_BM=repeat(keep_VM, "v m -> (v w) m", w=windows),
        values_BMD=torch.cat([fillings[kind] for kind, _ in variants]),
    )


@torch.no_grad()
def ablate(
    model: SpacingMDN,
    windows: WindowSet,
    *,
    config: AblationConfig,
    generator: torch.Generator,
) -> tuple[Cut, ...]:
    """Read a model whole and with its slots cut, on the same windows.

    Parameters
    ----------
    model : SpacingMDN
        Trained, with slots, on any device.
    windows : WindowSet
        Test windows in order.
    config : AblationConfig
        Kinds of cuts, rollouts, chunk size (which changes no result beyond rounding).
    generator : torch.Generator
        CPU source of `resampled` slots.

    Returns
    -------
    tuple of Ablated and Rolled
        One a pass (`AblationConfig.passes`), float64 arrays; a slot that nothing reads changes
        nothing, exactly.

    Raises
    ------
    ValueError
        When the arm has no slots, or the windows are too short for the rollouts.
    """
    _check(model, windows, config)
    assert model.bank is not None
    vectors_MD = model.bank.vectors()
    noise_WMD = torch.randn(len(windows), *vectors_MD.shape, generator=generator)
    with OneDNNLinear() if vectors_MD.device.type == "cpu" else nullcontext():
        return tuple(
            _ablate(
                model,
                windows.take(slice(None, None, each.every)).like(vectors_MD),
                noise_WMD[:: each.every].to(vectors_MD),
                each,
                config,
            )
            for each in config.passes()
        )


def _ablate(
    model: SpacingMDN,
    windows: WindowSet,
    noise_WMD: Tensor,
    each: Pass,
    config: AblationConfig,
) -> Cut:
    variants, horizons = (WHOLE, *variants_of(each.kinds, model.config.slots)), each.horizons
    read = read_variants(
        model,
        windows,
        noise_WMD,
        variants,
        context=config.context,
        horizons=horizons,
        quantile_every=config.quantile_every if each.one_step else None,
        rows=config.rows,
    )
    rolled = Rolled(
        every=each.every,
        variants=variants[1:],
        err_step_VW={h: read[f"err_step@{h}"][1:] for h in horizons},
        err_step_W={h: read[f"err_step@{h}"][0] for h in horizons},
    )
    if not each.one_step:
        return rolled
    last = each.every == config.further_every
    return Ablated(
        every=rolled.every,
        variants=rolled.variants,
        mean_shift_VW=read["mean_shift"][1:],
        mean_abs_shift_VW=read["mean_abs_shift"][1:],
        q99_shift_VW=read["q99"][1:] - read["q99"][:1],
        nll_change_VW=read["nll"][1:] - read["nll"][:1],
        nll_W=read["nll"][0],
        abs_error_W=read["abs_error"][0],
        err_step_VW=rolled.err_step_VW,
        err_step_W=rolled.err_step_W,
        mem_entropy_W=attention_entropy(model, windows, rows=config.rows) if last else None,
    )


@torch.no_grad()
def read_variants(
    model: SpacingMDN,
    windows: WindowSet,
    noise_WMD: Tensor,
    variants: Sequence[tuple[str, str]],
    *,
    context: int,
    horizons: tuple[int, ...],
    quantile_every: int | None,
    rows: int,
) -> dict[str, NDArray[np.float64]]:
    """Read all variants of all windows, as many rows at a time as asked.

    Parameters
    ----------
    model : SpacingMDN
        With slots.
    windows : WindowSet
        On the model's device and in its type.
    noise_WMD : Tensor
        As for `cut_slots`.
    variants : sequence of (kind, slot)
        What is cut; the first is what the others' shifts are counted from.
    context, horizons, quantile_every, rows
        As in `AblationConfig`; no horizon, no rollout; without `quantile_every` nothing else.

    Returns
    -------
    dict
        `nll`, `abs_error`, `q99`, `mean_shift`, `mean_abs_shift`, `square_shift` (means over
        targets) and `err_step@H`, each (V, W).
    """
    assert model.bank is not None
    vectors_MD, count = model.bank.vectors(), len(variants)
    size = max(1, rows // count)
    parts = []
    for here, here_WMD in zip(windows.split(size), noise_WMD.split(size), strict=True):
        slots = cut_slots(vectors_MD, variants, here_WMD)
        part, read = {}, None
        if quantile_every is not None:
            cached = bool(horizons) and can_be_cut(model)
            read = _read(model, here.repeat(count), slots, cached=cached)
            part |= _one_step(read.mixture, here, count, quantile_every)
        if horizons:
            part |= _rolled(model, here, slots, count, context, horizons, read)
        parts.append(part)
    return {key: np.concatenate([part[key] for part in parts], axis=1) for key in parts[0]}


def _check(model: SpacingMDN, windows: WindowSet, config: AblationConfig) -> None:
    require(model.bank is not None, "arm", "one with memory slots", model.arm)
    needed = config.context + max(config.horizons)
    length = windows.spacings_WN.shape[1]
    require(length >= needed, "windows", f"context + horizon = {needed} spacings or longer", length)


def _read(model: SpacingMDN, rows: WindowSet, slots: Slots, *, cached: bool) -> Output:
    """Predict every spacing of all rows from those before."""
    cache = model.empty_cache() if cached else None
    return model(rows.spacings_WN[:, :-1], level_B=rows.level_W, slots=slots, cache=cache)


def _one_step(
    mixture: Mixture, windows: WindowSet, variants: int, quantile_every: int
) -> dict[str, NDArray[np.float64]]:
    """Score one-step predictions of all variants, means over targets, each (V, W)."""
    truth_BT = windows.repeat(variants).spacings_WN[:, 1:]
    predicted_BT = mixture.mean()
    thinned = Mixture(*(part[:, ::quantile_every] for part in mixture))
    shift_VWT = rearrange(predicted_BT, "(v w) t -> v w t", v=variants)
    shift_VWT = shift_VWT - shift_VWT[:1]

    def per_window(values_BT: Tensor) -> NDArray[np.float64]:
        return rearrange(values_BT.double().mean(-1), "(v w) -> v w", v=variants).cpu().numpy()

    return {
        "nll": per_window(-mixture.log_prob(truth_BT)),
        "abs_error": per_window((predicted_BT - truth_BT).abs()),
        "q99": per_window(quantile99(thinned)),
        "mean_shift": shift_VWT.double().mean(-1).cpu().numpy(),
        "mean_abs_shift": shift_VWT.abs().double().mean(-1).cpu().numpy(),
        "square_shift": shift_VWT.double().square().mean(-1).cpu().numpy(),
    }


def quantile99(mixture: Mixture) -> Tensor:
    """Return the 99 % quantile (...), mean spacings, by bisection to about 1e-7.

    It lies between the least and the greatest of the components' own 99 % quantiles.
    """
    own = mixture.means + _Q99_NORMAL * mixture.scales
    low, high = own.amin(-1), own.amax(-1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = mixture.cdf(middle) < 0.99
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def _rolled(
    model: SpacingMDN,
    windows: WindowSet,
    slots: Slots,
    variants: int,
    context: int,
    horizons: tuple[int, ...],
    read: Output | None,
) -> dict[str, NDArray[np.float64]]:
    """Roll all variants out on their own mean predictions; err_step of every horizon, (V, W).

    Where the windows have been read with a cache, their contexts are not read again.
    """
    longest = max(horizons)
    if read is not None and read.cache is not None:
        told = {"context": context, "horizon": longest, "slots": slots}
        predicted_BH = rollout_within(model, read.mixture, read.cache, **told)
    else:
        rows = windows.repeat(variants)
        predicted_BH = rollout(
            model,
            rows.spacings_WN[:, :context],
            horizon=longest,
            mode="mean",
            generator=None,
            level_B=rows.level_W,
            slots=slots,
        )
    truth_WH = windows.spacings_WN[:, context : context + longest]
    error_VWH = rearrange(predicted_BH, "(v w) h -> v w h", v=variants) - truth_WH
    return {
        f"err_step@{h}": error_VWH[..., :h].abs().double().mean(-1).cpu().numpy() for h in horizons
    }


@torch.no_grad()
def attention_entropy(
    model: SpacingMDN, windows: WindowSet, *, rows: int
) -> NDArray[np.float64] | None:
    """Entropy of how the attention to slots is shared among them, per window, 0..ln M nats.

    Queries are the data's positions in all layers and heads. None for arms whose slots are read
    otherwise than by the stream's own attention (all but `prefix`).
    """
    if model.arm != "prefix":
        return None
    slots = model.config.slots
    mass = []
    for here in windows.split(max(1, rows // 16)):  # maps are much larger than the stream
        maps = model(here.spacings_WN[:, :-1], level_B=here.level_W, attention=True).attention
        assert maps is not None
        mass.append(maps[..., slots:, :slots].double().sum((1, 2, 3)).cpu())
    mass_WM = torch.cat(mass)
    return torch.special.entr(mass_WM / mass_WM.sum(-1, keepdim=True)).sum(-1).numpy()
