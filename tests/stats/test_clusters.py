"""Intervals of texts that share works: known answers, a slow oracle, and simulations.

The simulations have the real membership of the default's 50 text tuples: which play the first and
the second A are of (15 and 14 plays), which folder the file of B (33). Planted are effects of
plays and of folders with an intraclass correlation of 0 to .5. The full table, with the intervals
that were not chosen, is in docs/decisions/clustered_intervals.md.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mneme.stats.clusters import (
    ONE_WORK,
    clustered_error,
    clustered_interval,
    clustered_p,
    ways_of,
)
from mneme.stats.correlation import dwell_trend
from mneme.stats.intervals import bootstrap_mean
from mneme.stats.rows import Interval

FIRST_A = "ccmjdhbibodkcojbdojhkgijehoebkjmhfdoonblfjljbddcja"
SECOND_A = "dnfiiglbjibjflahlhlmgfjfhkfckndiceehlfnnbmeggicdnb"
FOLDER_B = "gyrljFChfpnmxhwDDbeoCsdmDftciwuqGxlhvyzDEBgcktaArd"
MEMBERS = [list(way) for way in (FIRST_A, SECOND_A, FOLDER_B)]
RUNS = 10_000
TEXTS = len(FIRST_A)


def chance(seed=0, resamples=2000):
    return {"resamples": resamples, "generator": np.random.default_rng(seed)}


def ends(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


def slow(values, labels):
    """Error and degrees of freedom by loops over works, leaving each out in turn."""
    texts, mean = len(values), sum(values) / len(values)
    single = sum((v - mean) ** 2 for v in values) / (texts * (texts - 1))
    square, scatter, seen = single, single**2 / (texts - 1), []
    for way in labels:
        holders = defaultdict(set)
        for text, work in enumerate(way):
            holders[work].add(text)
        partition = {frozenset(held) for held in holders.values()}
        if len(partition) == texts or partition in seen:
            continue
        seen.append(partition)
        found, pulls = 0.0, []
        for held in partition:
            rest = [v for text, v in enumerate(values) if text not in held]
            found += (sum(rest) / len(rest) - mean) ** 2
            pulls.append([(0.0 if t in held else 1 / len(rest)) - 1 / texts for t in range(texts)])
        products = [[sum(a * b for a, b in zip(p, q, strict=True)) for q in pulls] for p in pulls]
        trace = sum(products[i][i] for i in range(len(pulls)))
        freedom = trace**2 / sum(x * x for row in products for x in row)
        square += found - single
        scatter += max(0.0, found - single) ** 2 / freedom
    square = max(square, single)
    return math.sqrt(square), min(square**2 / scatter, texts - 1)


# --- known answers ------------------------------------------------------------------------------


def test_texts_that_share_nothing_keep_their_interval_and_student_s_p():
    values = np.random.default_rng(0).normal(0.3, 1, 20)
    ways = ways_of([range(20), [f"file {i}" for i in range(20)]])
    plain = bootstrap_mean(values, **chance())
    assert ways.moves == ()
    assert clustered_interval(plain, values, ways) == plain
    assert clustered_p(values, ways) == pytest.approx(stats.ttest_1samp(values, 0)[1])
    assert clustered_error(values, ways).error == pytest.approx(stats.sem(values))


def test_equal_works_of_equal_texts_are_judged_by_the_means_of_works():
    means = np.random.default_rng(1).normal(2, 1, 8)
    values = np.repeat(means, 5)
    found = clustered_error(values, ways_of([np.repeat(np.arange(8), 5)]))
    assert found.error == pytest.approx(means.std(ddof=1) / math.sqrt(8 - 1))
    single = means.var() / 39
    added = found.error**2 - single
    assert found.freedom == pytest.approx(found.error**4 / (single**2 / 39 + added**2 / 7))
    quantile = stats.t.ppf(0.975, [found.freedom, 39])
    assert found.stretch == pytest.approx(
        found.error / math.sqrt(single) * quantile[0] / quantile[1]
    )


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-9, 9), min_size=3, max_size=12),
    seed=st.integers(0, 10**6),
    works=st.lists(st.integers(2, 6), max_size=4),
)
def test_the_error_is_that_of_a_loop_over_works(values, seed, works):
    generator = np.random.default_rng(seed)
    labels = [generator.permutation(np.arange(len(values)) % count) for count in works]
    if len(set(values)) == 1:
        return
    found = clustered_error(values, ways_of(labels))
    assert (found.error, found.freedom) == pytest.approx(slow(values, labels))
    assert found.stretch >= 1


def test_the_real_membership_gives_the_loop_s_error():
    values = np.random.default_rng(3).normal(size=TEXTS)
    found = clustered_error(values, ways_of(MEMBERS))
    assert (found.error, found.freedom) == pytest.approx(slow(list(values), MEMBERS))


def test_a_way_counts_once_whatever_its_works_are_called():
    values = np.random.default_rng(4).normal(size=TEXTS) + np.array([ord(c) for c in SECOND_A])
    once, twice = ways_of([list(SECOND_A)]), ways_of([list(SECOND_A), [ord(c) for c in SECOND_A]])
    assert clustered_error(values, once) == clustered_error(values, twice)
    assert clustered_error(values, once).stretch > 1.3


def test_ends_move_away_from_the_value_and_stop_at_the_last_text():
    values = np.repeat([0.0, 0.0, 0.0, 1.0, 1.0], 10)
    ways = ways_of([np.repeat(np.arange(5), 10)])
    plain = bootstrap_mean(values, **chance())
    wide = clustered_interval(plain, values, ways)
    assert wide.value == 0.4
    assert 0 <= ends(wide)[0] < ends(plain)[0] < 0.4 < ends(plain)[1] < ends(wide)[1] <= 1
    assert clustered_interval(Interval(0.9, 0.8, 0.95), values, ways).high == 1.0
    correlation = clustered_interval(Interval(0.9, 0.8, 0.95), values, ways, correlation=True)
    assert -1 < ends(correlation)[0] < 0.8 < 0.95 < ends(correlation)[1] < 1
    perfect = clustered_interval(Interval(1.0, 1.0, 1.0), values, ways, correlation=True)
    assert perfect == Interval(1.0, 1.0, 1.0)


def test_values_that_do_not_scatter():
    ways = ways_of([[0, 0, 1, 1, 2, 2]])
    assert clustered_p(np.zeros(6), ways) == 1
    assert clustered_p(np.full(6, 0.1), ways) == 2.0**-2  # three works, all of one sign
    assert clustered_p(np.full(6, 0.1), ways_of([])) == 2.0**-5
    same = Interval(0.1, 0.1, 0.1)
    assert clustered_interval(same, np.full(6, 0.1), ways) == same


def test_one_work_or_one_text_has_no_interval():
    ways = ways_of([["hamlet"] * 4, range(4)])
    found = clustered_interval(Interval(1.5, 1.0, 2.0), [0.0, 1, 2, 3], ways)
    assert found == Interval(1.5, None, None, ONE_WORK)
    assert clustered_p([0.0, 1, 2, 3], ways) is None
    assert clustered_p([1.0], ways_of([["hamlet"]])) is None
    alone = Interval(1.0, None, None, "an interval needs at least two texts")
    assert clustered_interval(alone, [1.0], ways_of([["hamlet"]])) == alone
    with pytest.raises(ValueError, match="at least two works"):
        clustered_error([0.0, 1, 2, 3], ways)
    with pytest.raises(ValueError, match="a work for every text"):
        ways_of([[0, 0, 1], [0, 1]])


# --- trends over dwell --------------------------------------------------------------------------


def test_trends_of_texts_that_share_works_are_less_certain_and_equal_without_sharing():
    generator, dwell = np.random.default_rng(5), np.array([16.0, 64, 256, 1024])
    by_play = {play: generator.normal(0.5, 1) for play in sorted(set(SECOND_A))}
    slopes = np.array([by_play[play] for play in SECOND_A])
    values = slopes[:, None] * np.log2(dwell) + generator.normal(size=(TEXTS, 4))
    plain = dwell_trend(values, dwell, **chance())
    apart = dwell_trend(values, dwell, **chance(), ways=ways_of([range(TEXTS)]))
    shared = dwell_trend(values, dwell, **chance(), ways=ways_of([list(SECOND_A)]))
    assert plain.pearson.interval == apart.pearson.interval
    for part in ("pearson", "spearman", "per_doubling", "per_token"):
        alone, wide = getattr(apart, part), getattr(shared, part)
        assert wide.interval.value == getattr(plain, part).interval.value
        assert wide.interval.low < alone.interval.low < alone.interval.high < wide.interval.high
        assert wide.interval.low >= -1 or part.startswith("per_")
        assert wide.p > alone.p


# --- simulations --------------------------------------------------------------------------------


def effects(generator, runs, correlation, carriers, *, skewed=False):
    """Values of mean 0 and variance 1: effects of works, by one way or more, and of texts."""

    def draw(*shape):
        return generator.exponential(size=shape) - 1 if skewed else generator.normal(size=shape)

    shared = np.zeros((runs, TEXTS))
    for way in carriers:
        _, index = np.unique(MEMBERS[way], return_inverse=True)
        shared += draw(runs, index.max() + 1)[:, index] / math.sqrt(len(carriers))
    return math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * draw(runs, TEXTS)


def rejected(values_MN, ways):
    return np.mean([clustered_p(values_N, ways) < 0.05 for values_N in values_MN])


ALL, ALONE = ways_of(MEMBERS), ways_of([])


carried = pytest.mark.parametrize("carriers", [(1,), (0, 1), (2,), (0, 1, 2)], ids=str)
correlated = pytest.mark.parametrize("correlation", [0.05, 0.2, 0.5])


@carried
@correlated
def test_nothing_is_found_where_works_have_effects_and_the_mean_is_0(carriers, correlation):
    """Clustered 3.2 to 5.5 %; single texts 5 to 7, 7 to 13, 10 to 23 % by correlation."""
    generator = np.random.default_rng([31, int(100 * correlation), *carriers])
    values_MN = effects(generator, RUNS, correlation, carriers)
    assert rejected(values_MN, ALL) <= 0.06
    if correlation >= 0.2 and carriers != (2,):
        assert rejected(values_MN, ALONE) >= 0.10


@carried
@correlated
def test_skewed_effects_of_few_works_are_found_a_little_too_often(carriers, correlation):
    """Known limit, kept visible: up to 7.4 % for exponential effects (single texts 24 %)."""
    generator = np.random.default_rng([34, int(100 * correlation), *carriers])
    values_MN = effects(generator, RUNS, correlation, carriers, skewed=True)
    assert rejected(values_MN, ALL) <= (0.065 if correlation < 0.5 else 0.08)


def test_without_effects_of_works_little_power_is_lost():
    """A mean that single texts tell from 0 in 79 % of runs is told in 68 %."""
    values_MN = effects(np.random.default_rng(32), RUNS, 0.0, (1,))
    assert 0.02 <= rejected(values_MN, ALL) <= 0.05
    moved_MN = values_MN + 2.86 / math.sqrt(TEXTS)
    assert rejected(moved_MN, ALONE) == pytest.approx(0.80, abs=0.02)
    assert rejected(moved_MN, ALL) >= 0.66


@pytest.mark.parametrize("correlation", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("skewed", [False, True])
def test_intervals_cover_the_mean(correlation, skewed):
    """96.8, 94.8 and 94.5 % (skewed at .2: 94); single texts 94, 90 and 79 %."""
    generator = np.random.default_rng([33, int(100 * correlation), skewed])
    values_MN, covered = (
        effects(generator, 1000, correlation, (0, 1, 2), skewed=skewed),
        np.zeros(2),
    )
    for values_N in values_MN:
        plain = bootstrap_mean(values_N, resamples=1000, generator=generator)
        for i, one in enumerate((plain, clustered_interval(plain, values_N, ALL))):
            covered[i] += ends(one)[0] <= 0 <= ends(one)[1]
    assert covered[1] / len(values_MN) >= (0.92 if skewed else 0.93)
    assert correlation == 0 or covered[0] / len(values_MN) <= 0.92
