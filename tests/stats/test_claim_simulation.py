"""From texts to verdicts, by simulation: how often a claim is wrongly decided, how often rightly.

A run draws paired differences as a room does, at the size of the default config, takes the row's
interval from `mneme.stats` with the config's 2,000 resamples, and asks `judge`. M runs, N units
(texts, questions, documents; windows in order), S seeds, R resamples.

Rates are of 5,000 runs (4,000 where a run has hundreds of units; never below 2,000): one standard
error of a rate of 6 % is then .0034 (.0038). "At most 6 %" is asserted of the rate itself, without
slack: p < .05 has rates of .045 to .056 on these nulls in 40,000 runs (by hand).

Bootstrap intervals move with the data. So a setting is simulated once, at a true mean of 0, and its
intervals are shifted to any effect. Effects are multiples of the mean's true standard error.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest

from mneme.stats.blocks import block_bands, crossed_block_mean
from mneme.stats.censored import restricted
from mneme.stats.intervals import bootstrap_mean, crossed_mean, percentile_interval, resample_counts
from mneme.stats.multiplicity import holm
from mneme.stats.rows import Interval
from mneme.stats.tests import sign_flip_test
from mneme.stats.verdict import after_holm, interval_p, judge, needed_n

RESAMPLES = 2000
BATCH = 100  # runs that share their resamples
ABSENCE = 2.93  # z(.95) + z(.9): a delta of so many standard errors has power .8 for absence


# --- what rooms draw: (generator, runs, units) -> paired differences of mean 0, shape (M, S, N) ---


def normal(generator, runs, units):
    return generator.normal(size=(runs, 1, units))


def heavy(generator, runs, units):
    return generator.standard_t(5, (runs, 1, units))


def answers(generator, runs, units):
    """Right minus right: two systems that differ on every fifth question."""
    return generator.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=(runs, 1, units))


def exponentials(generator, runs, units):
    return generator.exponential(8, (runs, 1, units)) - generator.exponential(8, (runs, 1, units))


def lags(generator, runs, units):
    """Restricted lags, run minus control: slow and fast texts, 6 % are still on at token 64."""
    text = np.exp(0.7 * generator.normal(size=(runs, 1, units)))
    run, control = text * generator.exponential(12, (2, runs, 1, units))
    ends = [restricted(np.minimum(lag, 64), lag <= 64, horizon=64) for lag in (run, control)]
    return ends[0] - ends[1]


def seeds(generator, runs, units):
    """Three seeds see the same texts."""
    return normal(generator, runs, units) + 0.3 * generator.normal(size=(runs, 3, units))


def windows(generator, runs, units, *, phi=0.5):
    """AR(1). The zeta room's own differences are correlated by at most .2, at any of 3 lags."""
    steps = math.sqrt(1 - phi**2) * generator.normal(size=(units, runs, 1))
    steps[0] /= math.sqrt(1 - phi**2)
    values = list(itertools.accumulate(steps, lambda before, step: phi * before + step))
    return np.stack(values, axis=-1)


def strong_windows(generator, runs, units):
    return windows(generator, runs, units, phi=0.7)


def skewed(generator, runs, units):
    """A memoryless lag minus a steady one of equal mean: skewness 1.3."""
    return generator.exponential(8, (runs, 1, units)) - generator.gamma(4, 2, (runs, 1, units))


def very_skewed(generator, runs, units):
    return generator.exponential(1, (runs, 1, units)) - 1  # skewness 2


@dataclass(frozen=True, kw_only=True)
class Setting:
    draw: Callable
    units: int
    runs: int = 5000
    block: int | None = None


SETTINGS = {
    "routing_normal": Setting(draw=normal, units=50),
    "routing_exponentials": Setting(draw=exponentials, units=50),
    "routing_lags": Setting(draw=lags, units=50),
    "routing_seeds": Setting(draw=seeds, units=50),
    "ttt": Setting(draw=heavy, units=50),
    "lattice": Setting(draw=answers, units=600, runs=4000),
    "zeta": Setting(draw=windows, units=781, runs=4000, block=20),
}
LIMITS = {
    "skewed": Setting(draw=skewed, units=50),
    "very_skewed": Setting(draw=very_skewed, units=50),
    "strong_windows": Setting(draw=strong_windows, units=781, runs=4000, block=20),
}
everywhere = pytest.mark.parametrize("name", SETTINGS)


# --- intervals of many runs at once -----------------------------------------------------------


def intervals(values_MSN, *, seed, block):
    """Interval of each run, as `crossed_mean` or `crossed_block_mean` give it."""
    found = []
    for first in range(0, len(values_MSN), BATCH):
        values_BN = values_MSN[first : first + BATCH].mean(axis=1)
        chance = {"resamples": RESAMPLES, "generator": np.random.default_rng([seed, first])}
        if block:
            found += block_bands(values_BN.T, block=block, **chance)
            continue
        units = values_BN.shape[1]
        means_RB = resample_counts(units, **chance) @ values_BN.T / units
        found += [
            percentile_interval(float(value), means_R, n=units, level=0.95)
            for value, means_R in zip(values_BN.mean(axis=1), means_RB.T, strict=True)
        ]
    return found


@lru_cache
def simulated(name):
    setting = (SETTINGS | LIMITS)[name]
    values_MSN = setting.draw(np.random.default_rng(21), setting.runs, setting.units)
    return intervals(values_MSN, seed=22, block=setting.block)


@lru_cache
def error(name):
    """Standard error of the mean: its spread over runs."""
    return float(np.std([interval.value for interval in simulated(name)]))


def moved(interval, by):
    return Interval(interval.value + by, interval.low + by, interval.high + by)


def judged(name, *, effect, direction, delta):
    """Judge every run of a setting; effect and delta in standard errors."""
    step, units = error(name), (SETTINGS | LIMITS)[name].units
    return [
        judge(moved(interval, effect * step), units, direction=direction, delta=delta * step)
        for interval in simulated(name)
    ]


def share(name, verdict, **claim):
    judgements = judged(name, **claim)
    if verdict == "supported":  # a claim alone in its room: Holm leaves p as it is
        judgements = [after_holm(judgement, judgement.p) for judgement in judgements]
    return np.mean([judgement.verdict == verdict for judgement in judgements])


def outside(name):
    """Share of intervals that lie above the true mean, and of those below."""
    low, high = np.transpose([(i.low, i.high) for i in simulated(name)])
    return np.mean(low > 0), np.mean(high < 0)


@pytest.mark.parametrize("name", SETTINGS | LIMITS)
def test_batches_and_shifts_are_what_the_library_gives(name):
    setting = (SETTINGS | LIMITS)[name]
    values_MSN = setting.draw(np.random.default_rng(23), 4, setting.units)
    for values_SN, ours in zip(
        values_MSN, intervals(values_MSN, seed=24, block=setting.block), strict=True
    ):
        chance = {"resamples": RESAMPLES, "generator": np.random.default_rng([24, 0])}
        if setting.block:
            theirs = crossed_block_mean(values_SN + 1.5, block=setting.block, **chance).interval
        elif len(values_SN) == 1:
            theirs = bootstrap_mean(values_SN[0] + 1.5, **chance)
        else:
            theirs = crossed_mean(values_SN + 1.5, **chance).interval
        ours = moved(ours, 1.5)
        assert (ours.value, ours.low, ours.high) == pytest.approx(
            (theirs.value, theirs.low, theirs.high), abs=1e-9
        )


# --- nulls, coverage, wrong refutations ---------------------------------------------------------


@everywhere
def test_no_effect_is_found_where_none_is(name):
    units = SETTINGS[name].units
    assert np.mean([interval_p(i, units, against=0.0) < 0.05 for i in simulated(name)]) <= 0.06
    # However small delta is: then support needs little more than an interval above 0.
    assert share(name, "supported", effect=0, direction="above", delta=0.01) <= 0.06
    assert share(name, "supported", effect=0, direction="below", delta=0.01) <= 0.06


@everywhere
def test_an_effect_of_just_delta_is_neither_supported_nor_refuted(name):
    claim = {"effect": 2, "direction": "above", "delta": 2}
    assert share(name, "supported", **claim) <= 0.06
    assert share(name, "refuted", **claim) <= 0.06


@everywhere
@pytest.mark.parametrize("sign", [1, -1])
def test_absence_is_not_claimed_of_an_effect_of_delta(name, sign):
    claim = {"effect": sign * ABSENCE, "direction": "none", "delta": ABSENCE}
    assert share(name, "supported", **claim) <= 0.06


@everywhere
def test_intervals_cover_the_truth(name):
    assert 0.93 <= 1 - sum(outside(name)) <= 0.97


@everywhere
def test_what_is_true_is_hardly_ever_refuted(name):
    # Less so the larger delta is; even where it is half a standard error (n is 31 times too small).
    for delta in (0.5, 1, 2.8):
        claim = {"direction": "above", "effect": 2 * delta, "delta": delta}
        assert share(name, "refuted", **claim) <= 0.01
    assert share(name, "refuted", effect=0, direction="none", delta=1) <= 0.01


# --- power at the n that a judgement asks for ---------------------------------------------------


def powers(name, pilots, *, direction, each):
    """Judge new data at the n that each pilot asks for, delta 2.8 standard errors of the pilot.

    Shares told from 0 at a true effect of delta, and supported at twice that. For absence: share
    supported at a true 0.
    """
    setting, delta = SETTINGS[name], 2.8 * error(name)
    generator = np.random.default_rng(31)
    effects = (0,) if direction == "none" else (delta, 2 * delta)
    found = []
    for pilot in pilots:
        claim = {"direction": direction, "delta": delta}
        n = needed_n(moved(pilot, effects[0]), setting.units, **claim)
        values_MSN = setting.draw(generator, each, n)
        seed = int(generator.integers(2**31))
        for interval in intervals(values_MSN, seed=seed, block=setting.block):
            last = judge(moved(interval, effects[-1]), n, **claim)
            supported = after_holm(last, last.p).verdict == "supported"
            told = interval_p(moved(interval, effects[0]), n, against=0.0) < 0.05
            found.append((told, supported)[-len(effects) :])
    return np.mean(found, axis=0)


@everywhere
def test_planned_power_where_the_scatter_is_known(name):
    # The n of the average interval. Three standard errors: .017 of 5,000 runs, .019 of 4,000.
    below, above = np.mean([(i.value - i.low, i.high - i.value) for i in simulated(name)], axis=0)
    average = [Interval(0.0, -below, above)] * (SETTINGS[name].runs // 100)
    slack = 3 * math.sqrt(0.8 * 0.2 / SETTINGS[name].runs)
    assert min(powers(name, average, direction="above", each=100)) >= 0.80 - slack
    assert min(powers(name, average, direction="none", each=100)) >= 0.80 - slack


@pytest.mark.parametrize("name", ["routing_normal", "routing_exponentials", "routing_lags", "ttt"])
def test_planned_power_after_a_pilot_of_50(name):
    pilots = simulated(name)[:400]
    assert min(powers(name, pilots, direction="above", each=10)) >= 0.80
    assert min(powers(name, pilots, direction="none", each=10)) >= 0.80


# --- p from an interval against p from sign flips -----------------------------------------------


@pytest.mark.parametrize("name", ["routing_normal", "routing_exponentials", "routing_lags", "ttt"])
@pytest.mark.parametrize("effect", [0, 2])  # at 2 standard errors most p are near .05: hardest
def test_p_agrees_with_sign_flips(name, effect):
    setting, by = SETTINGS[name], effect * error(name)
    values_MN = setting.draw(np.random.default_rng(21), setting.runs, setting.units)[:2000, 0]
    chance = {"resamples": RESAMPLES, "generator": np.random.default_rng(41)}
    flips_M = np.array(
        [sign_flip_test(values_N + by, alternative="two-sided", **chance) for values_N in values_MN]
    )
    ours_M = np.array(
        [interval_p(moved(i, by), setting.units, against=0.0) for i in simulated(name)[:2000]]
    )
    assert np.median(np.abs(ours_M - flips_M)) <= 0.012
    assert np.mean((ours_M < 0.05) == (flips_M < 0.05)) >= 0.97


# --- twelve claims in a room --------------------------------------------------------------------


def holm_rooms(p_RC):
    """`holm` of every room at once (statsmodels collects garbage at each call: .1 s)."""
    order_RC = np.argsort(p_RC, axis=1)
    claims = p_RC.shape[1]
    steps_RC = np.take_along_axis(p_RC, order_RC, axis=1) * (claims - np.arange(claims))
    adjusted_RC = np.empty_like(p_RC)
    steps_RC = np.minimum(np.maximum.accumulate(steps_RC, axis=1), 1)
    np.put_along_axis(adjusted_RC, order_RC, steps_RC, axis=1)
    return adjusted_RC


def false_rooms(claims, *, rooms=2000):
    """Share of rooms of false claims with any supported: by Holm, and without it.

    Each claim is (effect, direction, delta), in standard errors, of an own run of some setting.
    """
    pool = [(name, run) for name, setting in SETTINGS.items() for run in range(setting.runs)]
    generator = np.random.default_rng(51)
    picks = generator.choice(len(pool), size=(rooms, len(claims)), replace=False)
    judgements_RC = []
    for picks_C in picks:
        row = []
        for (effect, direction, delta), pick in zip(claims, picks_C, strict=True):
            name, run = pool[pick]
            interval = moved(simulated(name)[run], effect * error(name))
            claim = {"direction": direction, "delta": delta * error(name)}
            row.append(judge(interval, SETTINGS[name].units, **claim))
        judgements_RC.append(row)
    p_RC = np.array([[judgement.p for judgement in row] for row in judgements_RC])
    adjusted_RC = holm_rooms(p_RC)
    for p_C, adjusted_C in zip(p_RC[:10], adjusted_RC[:10], strict=True):
        assert holm(list(p_C)) == pytest.approx(list(adjusted_C))
    found = np.zeros(2)
    for row, adjusted_C in zip(judgements_RC, adjusted_RC, strict=True):
        found += (
            any(
                after_holm(j, p).verdict == "supported"
                for j, p in zip(row, adjusted_C, strict=True)
            ),
            any(j.verdict == "supported" for j in row),
        )
    return found / rooms


NOTHING = [(0, "above", 0.01), (0, "below", 0.01)]
TOO_MUCH = [(ABSENCE, "none", ABSENCE), (-ABSENCE, "none", ABSENCE)]


JUST_DELTA = [(2, "above", 2), (-2, "below", 2)]  # p against 0 would let 27 % of these rooms pass


@pytest.mark.parametrize(
    "claims", [NOTHING * 6, TOO_MUCH * 6, (NOTHING + TOO_MUCH) * 3, JUST_DELTA * 6]
)
def test_holm_keeps_a_room_of_nulls_empty(claims):
    by_holm, without = false_rooms(claims)
    assert by_holm <= 0.06
    assert without >= 0.20  # 1 - .975^12 is .26


# --- known limits, kept visible -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "below", "above", "absent"),
    [("skewed", 0.039, 0.018, 0.068), ("very_skewed", 0.044, 0.014, 0.074)],
)
def test_skewed_differences_are_missed_towards_their_tail(name, below, above, absent):
    # 50 differences without the rare large ones have too small a mean and too short an interval:
    # it lies below the truth in 3.9 % of runs at skewness 1.3 and in 4.4 % at 2, above in 1.8 and
    # 1.4 % (20,000 runs). Claims against the tail ("below"), and of absence of an effect towards
    # it, err more than they should; claims towards it err less. Coverage stays above 93 %.
    beyond, short = outside(name)
    assert (short, beyond) == pytest.approx((below, above), abs=0.006)
    assert 1 - short - beyond >= 0.93
    claim = {"direction": "none", "delta": ABSENCE}
    assert share(name, "supported", effect=ABSENCE, **claim) == pytest.approx(absent, abs=0.008)
    assert share(name, "supported", effect=-ABSENCE, **claim) <= 0.05


def test_blocks_of_20_are_short_for_a_correlation_of_7_tenths():
    # 6.8 % of intervals miss. The room's own differences are far from it (`windows`).
    assert sum(outside("strong_windows")) == pytest.approx(0.067, abs=0.012)
