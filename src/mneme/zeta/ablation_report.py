"""Rows of `results/slot_ablation.json`: what each slot is worth, in intervals and in bands.

S seeds, V variants (a way to cut one slot or all), W test windows in order, H horizon. Every row is
a mean over windows, or a ratio of two such means, with a moving-block interval; a ratio is
linearised (delta method), so that the same resampling serves both. A verdict names a band of the
source only where the whole interval lies in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.core.headline import run_block
from mneme.stats.blocks import crossed_block_mean
from mneme.stats.intervals import Crossed
from mneme.stats.rows import Interval, Row

Floats = NDArray[np.float64]
Bands = Mapping[str, float]
Reading = tuple[str, Crossed, str, Bands | None]
"""Metric, mean, unit, and the bands it is judged by."""

EFFECT_BANDS: Bands = {"ballast": 0, "marginal": 1, "useful": 3, "strong": 10, "dominant": 30}
"""The source's names of `eff_percent`, by the least percent of each."""
ROLLOUT_BANDS: Bands = {"harmful": -np.inf, "marginal": 0, "useful": 2, "holds focus": 5}
"""The source's names of `rollout_effect`, by the least percent of each."""
ALL = "all"
"""Place of the variant that cuts every slot."""


@dataclass(frozen=True, kw_only=True)
class Rolled:
    """Rollouts alone of one trained model with its slots cut, per test window."""

    every: int
    """Every so-manieth test window was read."""
    variants: tuple[tuple[str, str], ...]
    """As in `Ablated`."""
    err_step_VW: Mapping[int, Floats]
    """Horizon -> rollout error a step of the cut models, mean spacings."""
    err_step_W: Mapping[int, Floats]
    """The same of the whole model."""


@dataclass(frozen=True, kw_only=True)
class Ablated:
    """Readings of one trained model with its slots cut, per test window."""

    every: int
    """Every so-manieth test window was read."""
    variants: tuple[tuple[str, str], ...]
    """(kind, slot) of every variant; slot is `0`..`M-1` or `all`."""
    mean_shift_VW: Floats
    """Change of the predicted mean, mean over contexts, mean spacings."""
    mean_abs_shift_VW: Floats
    """Size of that change, mean over contexts, mean spacings."""
    q99_shift_VW: Floats
    """Change of the predicted 99 % quantile, mean over contexts, mean spacings."""
    nll_change_VW: Floats
    """NLL of the cut model minus the whole one's, nats."""
    nll_W: Floats
    """NLL of the whole model, mean over contexts, nats."""
    abs_error_W: Floats
    """|target - predicted mean| of the whole model, mean over contexts, mean spacings."""
    err_step_VW: Mapping[int, Floats]
    """Horizon -> rollout error a step of the cut models, mean spacings."""
    err_step_W: Mapping[int, Floats]
    """The same of the whole model."""
    mem_entropy_W: Floats | None
    """Entropy of the attention's shares over slots, nats; read in the last pass, where it differs
    by far less between windows than matters. None elsewhere, and when no query attends to slots."""


Cut = Ablated | Rolled
"""What one pass over the windows tells of a model under one seed."""


@dataclass(frozen=True, kw_only=True)
class Retrained:
    """Scores of the run in question and of one trained as long without one or all of its slots."""

    run: str
    """Name of the run that lacks slots."""
    slot: str
    """The slot that it lacks, or `all`."""
    whole: Mapping[int, Mapping[str, Floats]]
    """Seed -> `nll`, `err_step@H` of this run, each (W,), as `measure.window_metrics` gives."""
    without: Mapping[int, Mapping[str, Floats]]
    """The same of the run that lacks slots, on the same windows."""


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How intervals over windows are made."""

    block: int
    """Windows drawn together."""
    resamples: int
    """Bootstrap resamples."""
    generator: np.random.Generator
    """Their source."""

    def mean(self, values_SW: Floats, *, every: int = 1) -> Crossed:
        """Mean over windows, seeds crossed; `every` windows lie between two of these."""
        block = max(1, self.block // every)
        return crossed_block_mean(
            values_SW, block=block, resamples=self.resamples, generator=self.generator
        )

    def percent(self, part_SW: Floats, whole_SW: Floats, *, every: int = 1) -> Crossed:
        """100 x mean(part) / mean(whole), linearised around the means of each seed.

        References
        ----------
        Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 21.8 (delta method).
        """
        part, whole = (values.mean(axis=1, keepdims=True) for values in (part_SW, whole_SW))
        ratio = part / whole
        return self.mean(100 * (ratio + (part_SW - ratio * whole_SW) / whole), every=every)


def verdict(interval: Interval, bands: Bands) -> str:
    """Name the band that holds the whole interval, or `undecided`.

    Parameters
    ----------
    interval : Interval
        Percent.
    bands : mapping
        Name -> its least percent, rising; each band reaches up to the next one's.

    Returns
    -------
    str
        A band's name, or `undecided` when the ends lie in different bands or there are none.
    """
    if interval.low is None or interval.high is None:
        return "undecided"
    low, high = (_band(end, bands) for end in (interval.low, interval.high))
    return low if low == high else "undecided"


def _band(percent: float, bands: Bands) -> str:
    reached = [name for name, least in bands.items() if percent >= least]
    return reached[-1] if reached else next(iter(bands))


def ablation_block(
    seeds: Mapping[int, tuple[Cut, ...]],
    *,
    retrained: Sequence[Retrained],
    resampling: Resampling,
) -> dict[str, Any]:
    """Return one run's block of the headline file.

    Parameters
    ----------
    seeds : mapping
        Seed -> its passes as `ablation.ablate` gives them; the same windows and variants in all.
    retrained : sequence of Retrained
        What slots are worth to models that never had them, where such were trained.
    resampling : Resampling
        Block length, resamples and generator.

    Returns
    -------
    dict
        `rows`: `<metric>@<kind>@<slot>` of each cut, `eff_percent@<kind>` and
        `rollout_effect@<kind>` of the slot that moves the prediction most, `mem_entropy`,
        `<metric>@retrained@<slot>`. `verdicts`: row name -> band or `undecided`. `largest_slot`:
        kind -> that slot, one a seed. `retrained_without`: slot or `all` -> the run.

    Raises
    ------
    ValueError
        When seeds differ in windows or variants, or a run that lacks slots lacks a seed.
    """
    _check(seeds, retrained)
    readings: dict[str, Reading] = {}
    largest: dict[str, list[str]] = {}
    passes = list(zip(*seeds.values(), strict=True))  # the first has most windows
    for cuts in map(_whole, passes):
        largest = {kind: _largest(cuts, kind) for kind in _kinds(cuts)} | largest
    for cuts in passes:
        found = [*_rollout_readings(cuts, largest, resampling)]
        found += _one_step_readings(_whole(cuts), resampling)
        readings = {reading[0]: reading for reading in found} | readings
    for lacking in retrained:
        for reading in _retrained_readings(lacking, tuple(seeds), resampling):
            readings[reading[0]] = reading
    rows = [
        row
        for metric, crossed, unit, _ in readings.values()
        for row in crossed.rows(metric, unit=unit, seeds=tuple(seeds), control_of=None)
    ]
    rows += _entropy_rows(seeds, resampling)
    verdicts = {
        metric: verdict(crossed.interval, bands)
        for metric, crossed, _, bands in readings.values()
        if bands is not None
    }
    return run_block(
        rows,
        verdicts=verdicts,
        largest_slot=largest,
        retrained_without={lacking.slot: lacking.run for lacking in retrained},
    )


def _whole(cuts: Sequence[Cut]) -> list[Ablated]:
    """Return those of one pass if one-step predictions were read in it, else none."""
    return [cut for cut in cuts if isinstance(cut, Ablated)]


def _check(seeds: Mapping[int, tuple[Cut, ...]], retrained: Sequence[Retrained]) -> None:
    shapes = {
        seed: [(c.variants, {h: e.shape for h, e in c.err_step_W.items()}, c.every) for c in cuts]
        for seed, cuts in seeds.items()
    }
    first = next(iter(shapes.values()))
    for seed, shape in shapes.items():
        if shape != first:
            raise ValueError(f"seed {seed} was cut otherwise, or on other windows, than the first")
    for lacking in retrained:
        missing = [seed for seed in seeds if seed not in lacking.without]
        if missing:
            raise ValueError(
                f"{lacking.run} has no seed {missing[0]}: train it with the seeds of the slot runs"
            )


def _kinds(cuts: Sequence[Cut]) -> list[str]:
    return list(dict.fromkeys(kind for cut in cuts[:1] for kind, _ in cut.variants))


def _stack(cuts: Sequence[Ablated], field: str, places: Sequence[int]) -> Floats:
    """Collect one variant of every seed, (S, W)."""
    pairs = zip(cuts, places, strict=True)
    return np.stack([getattr(cut, field)[place] for cut, place in pairs])


def _one_step_readings(cuts: Sequence[Ablated], resampling: Resampling) -> Iterator[Reading]:
    """Yield every change of one-step predictions that every variant makes."""
    changes = {
        "mean_shift": "spacings",
        "mean_abs_shift": "spacings",
        "q99_shift": "spacings",
        "nll_change": "nats",
    }
    for index, (kind, slot) in enumerate(cuts[0].variants if cuts else ()):
        places, name = [index] * len(cuts), f"@{kind}@{slot}"
        for metric, unit in changes.items():
            values_SW = _stack(cuts, f"{metric}_VW", places)
            yield metric + name, resampling.mean(values_SW, every=cuts[0].every), unit, None
        yield "eff" + name, _effect(cuts, places, resampling), "percent", EFFECT_BANDS
    for kind in _kinds(cuts):
        places = [cuts[0].variants.index((kind, slot)) for slot in _largest(cuts, kind)]
        effect = _effect(cuts, places, resampling)
        yield f"eff_percent@{kind}", effect, "percent", EFFECT_BANDS


def _rollout_readings(
    cuts: Sequence[Cut], largest: Mapping[str, Sequence[str]], resampling: Resampling
) -> Iterator[Reading]:
    """Yield what every variant does to rollouts; the source's number is of the largest slot."""
    every = cuts[0].every
    for index, (kind, slot) in enumerate(cuts[0].variants):
        for horizon, base_SW in _bases(cuts).items():
            off_SW = np.stack([cut.err_step_VW[horizon][index] for cut in cuts])
            mean = resampling.mean(off_SW - base_SW, every=every)
            yield f"err_step_{horizon}_change@{kind}@{slot}", mean, "spacings", None
        effect = _rollout_effect(cuts, [index] * len(cuts), resampling)
        yield f"rollout_effect@{kind}@{slot}", effect, "percent", ROLLOUT_BANDS
    for kind in _kinds(cuts):
        places = [cuts[0].variants.index((kind, slot)) for slot in largest[kind]]
        effect = _rollout_effect(cuts, places, resampling)
        yield f"rollout_effect@{kind}", effect, "percent", ROLLOUT_BANDS


def _bases(cuts: Sequence[Cut]) -> dict[int, Floats]:
    horizons = sorted(cuts[0].err_step_W)
    return {horizon: np.stack([cut.err_step_W[horizon] for cut in cuts]) for horizon in horizons}


def _effect(cuts: Sequence[Ablated], places: Sequence[int], resampling: Resampling) -> Crossed:
    """Percent of the error that the predicted mean moves by; a variant a seed."""
    error_SW = np.stack([cut.abs_error_W for cut in cuts])
    shift_SW = _stack(cuts, "mean_abs_shift_VW", places)
    return resampling.percent(shift_SW, error_SW, every=cuts[0].every)


def _rollout_effect(cuts: Sequence[Cut], places: Sequence[int], resampling: Resampling) -> Crossed:
    """Percent that the rollout error rises by at the shortest horizon; a variant a seed."""
    horizon, base_SW = next(iter(_bases(cuts).items()))
    pairs = zip(cuts, places, strict=True)
    off_SW = np.stack([cut.err_step_VW[horizon][place] for cut, place in pairs])
    return resampling.percent(off_SW - base_SW, base_SW, every=cuts[0].every)


def _largest(cuts: Sequence[Ablated], kind: str) -> list[str]:
    """Return, per seed, the slot whose cut moves the predicted mean most."""
    variants = cuts[0].variants
    places = [p for p, (k, slot) in enumerate(variants) if k == kind and slot != ALL]
    sizes = [[cut.mean_abs_shift_VW[place].mean() for place in places] for cut in cuts]
    return [variants[places[int(np.argmax(size))]][1] for size in sizes]


def _retrained_readings(
    retrained: Retrained, seeds: tuple[int, ...], resampling: Resampling
) -> Iterator[Reading]:
    """Yield the run trained without the slots minus this one."""
    first = retrained.whole[seeds[0]]
    horizons = sorted(int(key.partition("@")[2]) for key in first if key.startswith("err_step@"))

    def both(key: str) -> tuple[Floats, Floats]:
        whole, without = retrained.whole, retrained.without
        return np.stack([whole[s][key] for s in seeds]), np.stack([without[s][key] for s in seeds])

    name = f"@retrained@{retrained.slot}"
    whole_SW, without_SW = both("nll")
    yield "nll_change" + name, resampling.mean(without_SW - whole_SW), "nats", None
    for horizon in horizons:
        whole_SW, without_SW = both(f"err_step@{horizon}")
        mean = resampling.mean(without_SW - whole_SW)
        yield f"err_step_{horizon}_change{name}", mean, "spacings", None
        if horizon == horizons[0]:
            percent = resampling.percent(without_SW - whole_SW, whole_SW)
            yield "rollout_effect" + name, percent, "percent", ROLLOUT_BANDS


def _entropy_rows(seeds: Mapping[int, tuple[Cut, ...]], resampling: Resampling) -> list[Row]:
    """Return the mean entropy of the attention's shares over slots, of the last pass's windows."""
    entropies = [cut.mem_entropy_W for cuts in seeds.values() for cut in _whole(cuts[-1:])]
    known = [entropy_W for entropy_W in entropies if entropy_W is not None]
    if len(known) < len(entropies):
        reason = "the stream's own attention does not see the slots of this arm"
        return [Row(metric="mem_entropy", value=None, unit="nats", reason=reason)]
    crossed = resampling.mean(np.stack(known), every=next(iter(seeds.values()))[-1].every)
    return crossed.rows("mem_entropy", unit="nats", seeds=tuple(seeds), control_of=None)
