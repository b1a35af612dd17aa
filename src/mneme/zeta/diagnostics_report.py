"""Rows of `results/diagnostics.json`: the six phenomena, a letter each.

Slot m is row `<metric>@<m>`, layer l `@layer<l>`, slots m and n `@<m>+<n>`; a metric without a
place is the mean over slots or pairs. Means over windows carry moving-block intervals; what is read
from the weights alone has none.

Legend: S seeds, W windows, L layers, M slots, P pairs of slots, D width, G permutations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.core.headline import run_block
from mneme.stats.intervals import Crossed
from mneme.stats.rows import Row
from mneme.zeta.ablation_report import Resampling

Floats = NDArray[np.float64]
Reading = tuple[str, Crossed, str]
"""Metric, mean, unit."""


@dataclass(frozen=True, kw_only=True)
class Diagnosed:
    """Readings of one trained model; a change is that of the slot cut to zero minus the whole."""

    vectors_MD: Floats
    """What the slots hold."""
    mass_WLM: Floats | None
    """Attention that each slot gets in each layer, 0..1; None where it cannot be read."""
    permuted_GW: Floats
    """Mean |change of the predicted mean| when slots change places, mean spacings."""
    gradients_WMD: Floats
    """Gradient of each window's NLL with respect to each slot; fewer windows than elsewhere."""
    nll_MW: Floats
    """Change of NLL, each slot cut, nats."""
    nll_all_W: Floats
    """Change of NLL, all slots cut."""
    nll_pairs_PW: Floats
    """Change of NLL, each pair cut, pairs in the order of `itertools.combinations`."""
    abs_error_W: Floats
    """One-step |error| of the whole model, mean spacings."""
    abs_error_MW: Floats
    """Its change, each slot cut."""
    square_shift_MW: Floats
    """Mean square change of the predicted mean, each slot cut."""
    err_step_W: Floats
    """Rollout error a step of the whole model, mean spacings."""
    err_step_MW: Floats
    """Its change, each slot cut."""

    @property
    def slots(self) -> int:
        """Slots M."""
        return len(self.vectors_MD)


def diagnostics_block(
    seeds: Mapping[int, Diagnosed], *, resampling: Resampling, control_of: str | None
) -> dict[str, Any]:
    """Return one run's block of the headline file.

    Parameters
    ----------
    seeds : mapping
        Seed -> readings, all on the same windows.
    resampling : Resampling
        Blocks of neighbouring windows read, resamples and generator.
    control_of : str or None
        Run that this one is a control of.

    Returns
    -------
    dict
        `rows`; `similarity`, `gradient_correlation`, `interaction`: M x M matrices, seeds averaged,
        whose diagonal of `interaction` is the cost of the slot alone.

    Raises
    ------
    ValueError
        When seeds were read on other numbers of windows.
    """
    readings = list(seeds.values())
    if len({reading.nll_MW.shape for reading in readings}) > 1:
        raise ValueError("all seeds of a run must be read on the same windows and slots")
    found = [
        *_shortcut(readings, resampling),
        *_symmetry(readings, resampling),
        *_co_adaptation(readings, resampling),
        *_gradients(readings, resampling),
        *_train_and_rollout(readings, resampling),
        *_norms(readings, resampling),
    ]
    rows = [
        row
        for metric, crossed, unit in found
        for row in crossed.rows(metric, unit=unit, seeds=tuple(seeds), control_of=control_of)
    ]
    if any(reading.mass_WLM is None for reading in readings):
        reason = "the stream's own attention does not see the slots of this arm"
        rows.append(Row(metric="slot_mass", value=None, control_of=control_of, reason=reason))
    rows += _weight_rows(seeds, control_of)
    return run_block(
        rows,
        similarity=np.mean([cosines(r.vectors_MD) for r in readings], axis=0).tolist(),
        gradient_correlation=np.mean(
            [_gradient_cosines(r) for r in readings], axis=(0, 1)
        ).tolist(),
        interaction=np.mean([_interaction(r).mean(axis=2) for r in readings], axis=0).tolist(),
    )


def cosines(vectors_MD: Floats) -> Floats:
    """Cosine of every two vectors, (..., M, M); 0 where one is the zero vector."""
    norms = np.linalg.norm(vectors_MD, axis=-1, keepdims=True)
    unit = np.divide(vectors_MD, norms, out=np.zeros_like(vectors_MD), where=norms > 0)
    return unit @ np.swapaxes(unit, -1, -2)


def _off_diagonal(matrices: Floats) -> Floats:
    """Mean over i != j of (..., M, M)."""
    slots = matrices.shape[-1]
    total = matrices.sum(axis=(-1, -2)) - np.trace(matrices, axis1=-2, axis2=-1)
    return total / (slots * (slots - 1))


def _shortcut(readings: Sequence[Diagnosed], resampling: Resampling) -> Iterator[Reading]:
    """Yield A: where does the attention to slots go?"""
    known = [reading.mass_WLM for reading in readings if reading.mass_WLM is not None]
    if len(known) < len(readings):
        return
    mass_SWLM = np.stack(known)
    total_SWL = mass_SWLM.sum(axis=3)
    yield "slot_mass", resampling.mean(total_SWL.mean(axis=2)), "fraction"
    for layer in range(total_SWL.shape[2]):
        place = f"@layer{layer}"
        yield f"slot_mass{place}", resampling.mean(total_SWL[:, :, layer]), "fraction"
        for slot in range(mass_SWLM.shape[3]):
            values_SW = mass_SWLM[:, :, layer, slot]
            yield f"slot_mass{place}@{slot}", resampling.mean(values_SW), "fraction"


def _symmetry(readings: Sequence[Diagnosed], resampling: Resampling) -> Iterator[Reading]:
    """Yield B: does it matter which slot is which? Shift by permuting, percent of the error."""
    shift_SW = np.stack([reading.permuted_GW.mean(axis=0) for reading in readings])
    error_SW = np.stack([reading.abs_error_W for reading in readings])
    yield "permutation_effect", resampling.percent(shift_SW, error_SW), "percent"


def _interaction(reading: Diagnosed) -> Floats:
    """Cost of two slots together beyond the sum of each, (M, M, W); alone on the diagonal."""
    slots = reading.slots
    found = np.zeros((slots, slots, reading.nll_MW.shape[1]))
    for slot in range(slots):
        found[slot, slot] = reading.nll_MW[slot]
    for both_W, (i, j) in zip(reading.nll_pairs_PW, combinations(range(slots), 2), strict=True):
        found[i, j] = found[j, i] = both_W - reading.nll_MW[i] - reading.nll_MW[j]
    return found


def _co_adaptation(readings: Sequence[Diagnosed], resampling: Resampling) -> Iterator[Reading]:
    """Yield C: do slots cost more together than alone? Above 0 they stand in for each other."""
    interaction = np.stack([_interaction(reading) for reading in readings])
    for i, j in combinations(range(readings[0].slots), 2):
        yield f"interaction@{i}+{j}", resampling.mean(interaction[:, i, j]), "nats"
    mean_SW = np.stack([_off_diagonal(np.moveaxis(one, 2, 0)) for one in interaction])
    yield "interaction", resampling.mean(mean_SW), "nats"
    beyond_SW = np.stack([r.nll_all_W - r.nll_MW.sum(axis=0) for r in readings])
    yield "interaction@all", resampling.mean(beyond_SW), "nats"


def _gradient_cosines(reading: Diagnosed) -> Floats:
    return cosines(reading.gradients_WMD)


def _gradients(readings: Sequence[Diagnosed], resampling: Resampling) -> Iterator[Reading]:
    """Yield D: does a window pull its slots the same way? Cosine of their gradients."""
    cosine_SWMM = np.stack([_gradient_cosines(reading) for reading in readings])
    yield "gradient_correlation", resampling.mean(_off_diagonal(cosine_SWMM)), "cosine"
    for i, j in combinations(range(readings[0].slots), 2):
        yield f"gradient_correlation@{i}+{j}", resampling.mean(cosine_SWMM[:, :, i, j]), "cosine"


def _train_and_rollout(readings: Sequence[Diagnosed], resampling: Resampling) -> Iterator[Reading]:
    """Yield E: what is a slot worth to one step on the truth, and to a rollout on itself?"""
    error_SW = np.stack([reading.abs_error_W for reading in readings])
    rolled_SW = np.stack([reading.err_step_W for reading in readings])
    for slot in range(readings[0].slots):
        one = np.stack([reading.abs_error_MW[slot] for reading in readings])
        many = np.stack([reading.err_step_MW[slot] for reading in readings])
        yield f"teacher_forced_effect@{slot}", resampling.percent(one, error_SW), "percent"
        yield f"rollout_effect@{slot}", resampling.percent(many, rolled_SW), "percent"
    yield "exposure_gap", resampling.percent(rolled_SW - error_SW, error_SW), "percent"


def _norms(readings: Sequence[Diagnosed], resampling: Resampling) -> Iterator[Reading]:
    """Yield F: how far does a slot move the prediction? Root mean square."""
    for slot in range(readings[0].slots):
        square_SW = np.stack([reading.square_shift_MW[slot] for reading in readings])
        yield f"effect_norm@{slot}", _root(square_SW, resampling), "spacings"


def _root(square_SW: Floats, resampling: Resampling) -> Crossed:
    """Root of a mean, linearised around it; 0 where nothing moves."""
    root = np.sqrt(square_SW.mean(axis=1, keepdims=True))
    slope = np.divide(1, 2 * root, out=np.zeros_like(root), where=root > 0)
    return resampling.mean(root + (square_SW - root**2) * slope)


def _weight_rows(seeds: Mapping[int, Diagnosed], control_of: str | None) -> list[Row]:
    """B and F: likeness and length of the slots themselves; the mean over seeds, then each."""
    told = {}
    for seed, reading in seeds.items():
        cosine_MM = cosines(reading.vectors_MD)
        away = cosine_MM[~np.eye(reading.slots, dtype=bool)]
        told[seed] = {"slot_cosine": float(away.mean()), "slot_cosine_largest": float(away.max())}
        norms = np.linalg.norm(reading.vectors_MD, axis=1)
        told[seed] |= {f"slot_norm@{slot}": float(norm) for slot, norm in enumerate(norms)}
    rows = []
    for metric in next(iter(told.values())):
        unit = "cosine" if metric.startswith("slot_cosine") else ""
        values = {None: float(np.mean([one[metric] for one in told.values()]))}
        values |= {seed: one[metric] for seed, one in told.items()}
        rows += [
            Row(metric=metric, value=value, unit=unit, seed=seed, control_of=control_of)
            for seed, value in values.items()
        ]
    return rows
