"""Rows of `results/kernel.json`: is the attention's fall-off the sine kernel, or what else?

The measured curve y(r) is set against a + b K(r), with the sine kernel K(r) = (sin pi r / pi r)^2
and two rivals that fall off without its zeros: its own envelope 1 / (1 + 2 (pi r)^2), which has
its value at 0 and its mean far out, and exp(-r). What the oscillation adds is the difference to the
envelope. Formulas are searched on half of the windows and read on the other half.

Legend: S seeds, W windows, L layers, N heads, G lags, R distance bins, B resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.core.headline import run_block
from mneme.stats.blocks import block_bands, block_starts, block_weights, too_few_blocks
from mneme.stats.intervals import LEVEL, percentile_interval
from mneme.stats.rows import Interval, Row, row_of
from mneme.zeta.ablation_report import Resampling
from mneme.zeta.symbolic import SymbolicConfig, symbolic_front

Floats = NDArray[np.float64]
LEAST_PAIRS = 100
"""Pairs that a distance bin needs to count."""


def sine_kernel(r: Floats) -> Floats:
    """(sin pi r / pi r)^2, 0..1, r in mean spacings.

    References
    ----------
    Montgomery (1973), The pair correlation of zeros of the zeta function: 1 minus it.
    """
    return np.sinc(r) ** 2


KERNELS: Mapping[str, Callable[[Floats], Floats]] = {
    "sine_kernel": sine_kernel,
    "envelope": lambda r: 1 / (1 + 2 * (np.pi * r) ** 2),
    "exponential": lambda r: np.exp(-r),
}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Attention of one trained model, averaged per pair of query and key within each window."""

    edges: Floats
    """Edges of the distance bins (R + 1,), mean spacings."""
    lag_WLNG: Floats
    """Mean attention at each lag 0.. (W, L, N, G)."""
    distance_sum_WLNR: Floats
    """Sum of the attention of pairs in each distance bin (W, L, N, R)."""
    distance_count_WR: Floats
    """Pairs in each bin."""
    slot_mass_WL: Floats
    """Attention that goes to slots, a query's share (W, L); 0 without a prefix."""


def kernel_block(
    seeds: Mapping[int, Profile],
    *,
    symbolic: SymbolicConfig,
    resampling: Resampling,
    control_of: str | None,
) -> dict[str, Any]:
    """Return one run's block of the headline file.

    Parameters
    ----------
    seeds : mapping
        Seed -> profile, all on the same windows.
    symbolic : SymbolicConfig
        Size of the search for formulas.
    resampling : Resampling
        Blocks of neighbouring windows read, resamples, and the source of these and of the
        searches' starts.
    control_of : str or None
        Run that this one is a control of.

    Returns
    -------
    dict
        `rows`: R^2 of each kernel, what the oscillation adds, slope of the sine kernel, mass on
        slots. `lag`, `distance`: curves with bands and the fitted kernels. `heads`: curve and R^2
        of each head under the first seed. `formulas`: fronts of `distance` and `lag`.
    """
    profiles = list(seeds.values())
    kept, r_R = _kept(profiles)
    sums_SWR = np.stack([p.distance_sum_WLNR.mean(axis=(1, 2))[:, kept] for p in profiles])
    counts_WR = profiles[0].distance_count_WR[:, kept]
    lag_WG = np.mean([p.lag_WLNG.mean(axis=(1, 2)) for p in profiles], axis=0)
    curve_R = sums_SWR.mean(axis=0).sum(axis=0) / counts_WR.sum(axis=0)
    rows = [
        *_fit_rows(sums_SWR, counts_WR, r_R, tuple(seeds), resampling, control_of),
        *_mass_rows(seeds, resampling, control_of),
    ]
    fitted = {name: _fit(curve_R, kernel(r_R)) for name, kernel in KERNELS.items()}
    return run_block(
        rows,
        lag={"lag": list(range(lag_WG.shape[1])), **_bands(lag_WG, resampling)},
        distance={
            "r": r_R.tolist(),
            "pairs": counts_WR.sum(axis=0).astype(int).tolist(),
            **_ratio_bands(sums_SWR.mean(axis=0), counts_WR, resampling),
            **{name: (a + b * KERNELS[name](r_R)).tolist() for name, (a, b) in fitted.items()},
        },
        heads=_heads(profiles[0], kept, r_R),
        formulas=_formulas(sums_SWR.mean(axis=0), counts_WR, lag_WG, r_R, symbolic, resampling),
    )


def _kept(profiles: Sequence[Profile]) -> tuple[NDArray[np.bool_], Floats]:
    """Return which bins have pairs enough, and their middles."""
    edges, pairs = profiles[0].edges, profiles[0].distance_count_WR.sum(axis=0)
    kept = pairs >= LEAST_PAIRS
    if kept.sum() < 8:
        raise ValueError(
            f"only {kept.sum()} distance bins have {LEAST_PAIRS} pairs: read more windows or widen "
            "bin_width"
        )
    return kept, ((edges[:-1] + edges[1:]) / 2)[kept]


def _fit(y: Floats, k: Floats) -> tuple[float, float]:
    """Return a, b of the least-squares y = a + b k."""
    b, a = np.polyfit(k, y, 1)
    return float(a), float(b)


def _r_squared(curves: Floats, k_R: Floats) -> Floats:
    """R^2 of a + b k for curves (..., R): the squared correlation; 0 for a constant curve."""
    y, k = curves - curves.mean(axis=-1, keepdims=True), k_R - k_R.mean()
    total = (y**2).sum(axis=-1) * (k**2).sum()
    return np.divide((y @ k) ** 2, total, out=np.zeros_like(total), where=total > 0)


def _resampled(sums_WR: Floats, counts_WR: Floats, counts_BW: Floats) -> Floats:
    """Return resampled curves (B, R); a bin that a resample misses keeps its value."""
    pairs = counts_BW @ counts_WR
    whole = sums_WR.sum(axis=0) / counts_WR.sum(axis=0)
    drawn = counts_BW @ sums_WR
    return np.divide(drawn, pairs, out=np.broadcast_to(whole, drawn.shape).copy(), where=pairs > 0)


def _counts(windows: int, resampling: Resampling) -> Floats | None:
    if too_few_blocks(windows, block=resampling.block):
        return None
    place = {"windows": windows, "block": resampling.block}
    starts = block_starts(**place, resamples=resampling.resamples, generator=resampling.generator)
    return block_weights(starts, **place)


def _interval(value: float, drawn_B: Floats | None, windows: int, block: int) -> Interval:
    if drawn_B is None:
        return Interval(value, None, None, too_few_blocks(windows, block=block))
    return percentile_interval(value, drawn_B, n=windows // block, level=LEVEL)


def _fit_rows(
    sums_SWR: Floats,
    counts_WR: Floats,
    r_R: Floats,
    seeds: tuple[int, ...],
    resampling: Resampling,
    control_of: str | None,
) -> list[Row]:
    """Return R^2 of every kernel on the seeds' mean curve, and under each seed."""
    windows = len(counts_WR)
    counts_BW = _counts(windows, resampling)
    over_seeds = sums_SWR.mean(axis=0)
    curves = {None: over_seeds, **dict(zip(seeds, sums_SWR, strict=True))}

    def values(sums_WR: Floats, weights: Floats) -> dict[str, Floats]:
        curve = _resampled(sums_WR, counts_WR, weights)
        found = {f"{n}_r_squared": _r_squared(curve, k(r_R)) for n, k in KERNELS.items()}
        found["oscillation_r_squared"] = (
            found["sine_kernel_r_squared"] - found["envelope_r_squared"]
        )
        k = sine_kernel(r_R) - sine_kernel(r_R).mean()
        found["sine_kernel_slope"] = curve @ k / (k @ k)
        return found

    rows = []
    for seed, sums_WR in curves.items():
        estimates = values(sums_WR, np.ones((1, windows)))
        drawn = None
        if seed is None and counts_BW is not None:
            drawn = values(sums_WR, counts_BW)
        for metric, estimate in estimates.items():
            unit = "fraction" if metric.endswith("r_squared") else "attention"
            told = {"n": windows, "unit": unit, "seed": seed, "control_of": control_of}
            value = float(estimate[0])
            if seed is None:
                draws = None if drawn is None else drawn[metric]
                interval = _interval(value, draws, windows, resampling.block)
                rows.append(row_of(metric, interval, **told))
            else:
                rows.append(Row(metric=metric, value=value, **told))
    return rows


def _mass_rows(
    seeds: Mapping[int, Profile], resampling: Resampling, control_of: str | None
) -> list[Row]:
    mass_SW = np.stack([profile.slot_mass_WL.mean(axis=1) for profile in seeds.values()])
    return resampling.mean(mass_SW).rows(
        "slot_mass", unit="fraction", seeds=tuple(seeds), control_of=control_of
    )


def _bands(values_WG: Floats, resampling: Resampling) -> dict[str, list[float | None]]:
    bands = block_bands(
        values_WG,
        block=resampling.block,
        resamples=resampling.resamples,
        generator=resampling.generator,
    )
    return {end: [getattr(band, end) for band in bands] for end in ("value", "low", "high")}


def _ratio_bands(
    sums_WR: Floats, counts_WR: Floats, resampling: Resampling
) -> dict[str, list[float | None]]:
    """Return the curve by distance with bands, linearised as a ratio of two means over windows."""
    pairs = counts_WR.mean(axis=0)
    ratio = sums_WR.mean(axis=0) / pairs
    return _bands(ratio + (sums_WR - ratio * counts_WR) / pairs, resampling)


def _heads(profile: Profile, kept: NDArray[np.bool_], r_R: Floats) -> list[dict[str, Any]]:
    """Return the curve of every head and its R^2 against the sine kernel (not resampled)."""
    pairs = profile.distance_count_WR[:, kept].sum(axis=0)
    curves_LNR = profile.distance_sum_WLNR[..., kept].sum(axis=0) / pairs
    fits_LN = _r_squared(curves_LNR, sine_kernel(r_R))
    layers, heads = fits_LN.shape
    return [
        {
            "layer": layer,
            "head": head,
            "value": curves_LNR[layer, head].tolist(),
            "sine_kernel_r_squared": float(fits_LN[layer, head]),
        }
        for layer in range(layers)
        for head in range(heads)
    ]


def _formulas(
    sums_WR: Floats,
    counts_WR: Floats,
    lag_WG: Floats,
    r_R: Floats,
    symbolic: SymbolicConfig,
    resampling: Resampling,
) -> dict[str, list[dict[str, Any]]]:
    """Search formulas on every other window, read them on the rest."""

    def half(values: Floats, start: int) -> Floats:
        return values[start::2].sum(axis=0)

    by_distance = [half(sums_WR, start) / np.maximum(half(counts_WR, start), 1) for start in (0, 1)]
    lags = np.arange(1, lag_WG.shape[1], dtype=float)  # lag 0 is the position itself
    by_lag = [lag_WG[start::2, 1:].mean(axis=0) for start in (0, 1)]
    told = {"config": symbolic, "generator": resampling.generator}
    return {
        "distance": symbolic_front(r_R, *by_distance, variable="r", **told),
        "lag": symbolic_front(lags, *by_lag, variable="lag", **told),
    }
