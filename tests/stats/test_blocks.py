"""Block-bootstrap intervals over windows that depend on their neighbours."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from mneme.stats import blocks
from mneme.stats.blocks import (
    block_bands,
    block_mean,
    block_starts,
    block_weights,
    crossed_block_mean,
    paired_block_difference,
    suggested_block,
)
from mneme.stats.intervals import bootstrap_mean
from mneme.stats.rows import Interval

RUNS = 2000
WINDOWS = 781
BLOCK = 20


def chance(resamples: int = 500, seed: int = 0) -> dict:
    return {"resamples": resamples, "generator": np.random.default_rng(seed)}


def autoregressive(phi: float, runs: int, windows: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(runs, windows + 100))
    return lfilter([1.0], [1.0, -phi], noise, axis=1)[:, 100:]


def test_two_blocks_by_hand():
    # Blocks of two have no room to taper: windows 01 12 23 30, every pair equally likely.
    starts = np.array([[0, 0], [0, 2], [1, 3], [2, 2]])
    weights = block_weights(starts, windows=4, block=2)
    np.testing.assert_allclose(weights, [[2, 2, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 2, 2]])
    deviations = blocks._deviations(np.array([-0.5, -0.5, 0.5, 0.5]), starts, 2)
    assert deviations.tolist() == pytest.approx([-0.5, 0.0, 0.0, 0.5])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 2**32 - 1))
def test_sums_of_blocks_equal_a_loop(windows, block, seed):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=windows)
    values -= values.mean()
    block = min(block, windows)
    starts = block_starts(windows, block=block, resamples=5, generator=generator)
    assert starts.shape == (5, math.ceil(windows / block))
    rise = [
        min(1, (k + 0.5) / block / 0.43, (block - k - 0.5) / block / 0.43) for k in range(block)
    ]
    size = math.sqrt(sum(r * r for r in rise) / block)
    expected = [
        sum(rise[k] / size * values[(first + k) % windows] for first in row for k in range(block))
        / math.sqrt(windows * block * len(row))
        for row in starts.tolist()
    ]
    weights = block_weights(starts, windows=windows, block=block)
    np.testing.assert_allclose(blocks._deviations(values, starts, block), expected, atol=1e-12)
    np.testing.assert_allclose(weights @ values / windows, expected, atol=1e-12)


def test_independent_values_get_their_standard_error():
    # Whatever the block, resampled means of white noise scatter by s / sqrt(W), on average.
    noise = np.random.default_rng(8).normal(size=(200, 150))
    for block in (1, 4, 15):
        starts = block_starts(150, block=block, **chance(400))
        spread = [blocks._deviations(v - v.mean(), starts, block).var() for v in noise]
        assert np.mean(spread) == pytest.approx(1 / 150, rel=0.05 + 1.5 * block / 150)


def test_blocks_of_one_are_the_ordinary_bootstrap():
    values = np.random.default_rng(3).exponential(size=200)
    ours = block_mean(values, block=1, **chance(20_000))
    theirs = bootstrap_mean(values, **chance(20_000, seed=1))
    assert ours.value == theirs.value
    assert ours.low == pytest.approx(theirs.low, abs=0.004)
    assert ours.high == pytest.approx(theirs.high, abs=0.004)


@pytest.mark.parametrize("phi", [-0.2, 0.3, 0.5])
def test_coverage_where_neighbours_depend(phi):
    covered = 0
    generator = np.random.default_rng(5)
    for values in autoregressive(phi, RUNS, WINDOWS, seed=4):
        interval = block_mean(values, block=BLOCK, resamples=500, generator=generator)
        covered += interval.low <= 0 <= interval.high
    assert 0.93 <= covered / RUNS <= 0.97


def test_the_ordinary_bootstrap_would_not_cover():
    covered = 0
    generator = np.random.default_rng(5)
    for values in autoregressive(0.4, 200, WINDOWS, seed=4):
        interval = block_mean(values, block=1, resamples=300, generator=generator)
        covered += interval.low <= 0 <= interval.high
    assert covered / 200 < 0.9


def test_paired_nulls_are_claimed_in_at_most_6_percent():
    shared = autoregressive(0.9, RUNS, WINDOWS, seed=6)
    a, b = (shared + autoregressive(0.3, RUNS, WINDOWS, seed=seed) for seed in (7, 8))
    generator, found = np.random.default_rng(9), 0
    for ours, theirs in zip(a, b, strict=True):
        interval = paired_block_difference(
            ours, theirs, block=BLOCK, resamples=500, generator=generator
        )
        found += not interval.low <= 0 <= interval.high
    assert found / RUNS <= 0.06


def test_a_planted_difference_is_found():
    a, b = (autoregressive(0.3, 300, WINDOWS, seed=seed) for seed in (7, 8))
    # Standard error of the difference of means: sqrt(2 / 781) / (1 - .3); 2.8 of it is power .8.
    delta = 1.05 * 2.8 * math.sqrt(2 / WINDOWS) / 0.7
    generator, found = np.random.default_rng(9), 0
    for ours, theirs in zip(a + delta, b, strict=True):
        interval = paired_block_difference(
            ours, theirs, block=BLOCK, resamples=300, generator=generator
        )
        found += interval.low > 0
    assert found / 300 >= 0.8


def test_paired_difference_is_the_mean_of_differences():
    a, b = np.random.default_rng(1).normal(size=(2, 60))
    paired = paired_block_difference(a, b, block=5, **chance())
    assert paired == block_mean(a - b, block=5, **chance())
    assert paired_block_difference(a, a, block=5, **chance()) == Interval(0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="60 and 59 windows"):
        paired_block_difference(a, b[1:], block=5, **chance())


def test_crossed_seeds_do_not_count_as_windows():
    windows = np.random.default_rng(2).normal(size=80)
    crossed = crossed_block_mean(windows + np.array([[-1.0], [3.0]]), block=4, **chance())
    alone = block_mean(windows + 1.0, block=4, **chance())
    assert crossed.interval.value == pytest.approx(alone.value)
    assert crossed.interval.low == pytest.approx(alone.low)
    assert crossed.n == 80
    assert crossed.seed_means == pytest.approx((windows.mean() - 1, windows.mean() + 3))


def test_bands_are_the_intervals_of_the_columns():
    values = np.random.default_rng(2).normal(5.0, 1.0, size=(70, 3))
    for column, band in zip(values.T, block_bands(values, block=6, **chance()), strict=True):
        alone = block_mean(column, block=6, **chance())
        assert band.value == pytest.approx(alone.value)
        assert band.low == pytest.approx(alone.low)
        assert band.high == pytest.approx(alone.high)
    few = block_bands(values[:9], block=6, **chance())
    assert [band.low for band in few] == [None] * 3
    assert few[1].value == pytest.approx(values[:9, 1].mean())


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_equal_values_give_an_interval_of_no_width(value):
    interval = block_mean([value] * 30, block=4, **chance())
    assert interval == Interval(value, value, value)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=8, max_size=40), st.integers(1, 4))
def test_interval_holds_the_mean_and_stays_within_the_data(values, block):
    interval = block_mean(values, block=block, **chance(200))
    assert min(values) <= interval.low <= interval.high <= max(values)
    assert interval == block_mean(values, block=block, **chance(200))


def test_too_few_blocks_have_no_ends():
    interval = block_mean(np.arange(9.0), block=5, **chance())
    assert interval.value == 4.0
    assert interval.low is None
    assert interval.reason == "an interval needs at least two blocks of 5 windows, there are 9"


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_values_that_cannot_be_averaged(bad):
    with pytest.raises(ValueError, match="values must"):
        block_mean(bad, block=1, **chance())


def test_block_must_be_a_window_at_least():
    with pytest.raises(ValueError, match="block must be at least 1 window, got 0"):
        block_mean([1.0, 2.0], block=0, **chance())


def test_suggested_length_follows_the_correlation():
    # Politis and White's formula at the true moments of an AR(1):
    # G = 2 phi / (1 - phi)^2 / (1 - phi^2), spectrum 1 / (1 - phi)^2.
    for phi, low, high in ((0.0, 1, 4), (0.3, 4, 9), (0.6, 10, 20), (0.9, 35, 90)):
        lengths = [suggested_block(v) for v in autoregressive(phi, 40, 1000, seed=1)]
        slope, spectrum = 2 * phi / (1 - phi) ** 2 / (1 - phi**2), 1 / (1 - phi) ** 2
        ideal = (1.5 * slope**2 / spectrum**2) ** (1 / 3) * 10
        assert low <= np.median(lengths) <= high
        assert np.median(lengths) == pytest.approx(ideal, rel=0.45, abs=3)
    assert suggested_block(np.ones(50)) == 1
    with pytest.raises(ValueError, match="at least 16 windows, got 3"):
        suggested_block([1.0, 2.0, 3.0])
