"""Correlations of pairs and trends over dwell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from mneme.stats import correlation
from mneme.stats.correlation import dwell_trend, pearson, spearman
from mneme.stats.intervals import resample_counts

DWELL = np.array([16, 32, 64, 128])


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def chance(resamples: int = 300, seed: int = 0) -> dict:
    return {"resamples": resamples, "generator": generator(seed)}


def test_the_sources_three_points():
    # Its deep ratio (published r = .8644, p = .34) and its tail area, which "grows" with r = .09.
    deep = pearson([22, 50, 96], [0.591, 0.700, 0.719], **chance())
    assert deep.interval.value == pytest.approx(0.8644, abs=2e-3)
    assert deep.p == pytest.approx(0.34, abs=1e-2)
    assert deep.interval.low is None
    assert "resamples are constant" in str(deep.interval.reason)
    tail = pearson([22, 50, 96], [2.846, 5.541, 3.495], **chance())
    assert tail.interval.value == pytest.approx(0.09, abs=5e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 30), st.integers(0, 2**32 - 1), st.booleans())
def test_pairs_equal_scipy(n, seed, tied):
    x, y = generator(seed).normal(size=(2, n))
    y = np.round(y + x) if tied else y + x
    if len(set(y)) == 1:
        return
    for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        result, other = ours(x, y, **chance(50)), theirs(x, y)
        assert result.interval.value == pytest.approx(other.statistic, abs=1e-9)
        assert result.p == pytest.approx(other.pvalue, abs=1e-9)


@pytest.mark.parametrize("ours", [pearson, spearman])
def test_perfect_and_undefined_correlations(ours):
    x = np.arange(12.0)
    up, down = ours(x, 3 * x + 1, **chance()), ours(x, -x, **chance())
    for result, sign in ((up, 1), (down, -1)):
        ends = (result.interval.low, result.interval.value, result.interval.high)
        assert ends == pytest.approx((sign, sign, sign))
        assert result.p == pytest.approx(0, abs=1e-12)
    for flat in (np.full(12, 0.1), np.full(12, 0.1) + 1e-16 * x):
        result = ours(x, flat, **chance())
        assert result.interval.value is None
        assert result.p is None
        assert "y is the same everywhere" in str(result.interval.reason)
    assert "x is the same" in str(ours(flat, x, **chance()).interval.reason)
    assert "three pairs" in str(ours([1, 2], [2, 1], **chance()).interval.reason)


def test_a_single_far_point_gives_no_warning_and_no_false_end():
    y = 1e-6 * np.arange(12)
    y[0] = 1e3
    assert pearson(np.arange(12), y, **chance()).interval.low is None
    assert spearman(np.arange(12), y, **chance()).interval.low is not None


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 8), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_resamples_by_counts_equal_resamples_by_copies(texts, lengths, seed):
    x = generator(seed).normal(size=(texts, lengths))
    y = np.round(2 * generator(seed + 1).normal(size=(texts, lengths)))
    assume(np.ptp(y) > 0)
    counts = resample_counts(texts, resamples=8, generator=generator(seed))
    still = correlation._still(counts, x, 0.0) | correlation._still(counts, y, 0.0)
    linear = iter(correlation._correlations(counts[~still], x, y))
    ranked = iter(correlation._rank_correlations(counts[~still], x, y))
    for count, constant in zip(counts.astype(int), still, strict=True):
        a, b = (np.repeat(v, count, axis=0).ravel() for v in (x, y))
        assert constant == (np.ptp(a) == 0 or np.ptp(b) == 0)
        if not constant and a.size > 1:
            # A true 1 comes back as 1 - 1e-8 at worst: moments of few points, rooted.
            assert next(linear) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-6)
            ra, rb = stats.rankdata(a), stats.rankdata(b)
            assert next(ranked) == pytest.approx(np.corrcoef(ra, rb)[0, 1], abs=1e-9)


def test_trend_of_a_planted_slope():
    values = 2.0 + 0.5 * np.log2(DWELL) + 0.3 * generator(1).normal(size=(40, 1))
    values = values + 0.05 * generator(2).normal(size=(40, 4))
    trend = dwell_trend(values, DWELL, **chance())
    slope = trend.per_doubling.interval
    assert slope.low < 0.5 < slope.high
    assert slope.high - slope.low < 0.05
    fit = stats.linregress(np.tile(DWELL, 40), values.ravel())
    assert trend.per_token.interval.value == pytest.approx(fit.slope)
    assert trend.pearson.interval.value == pytest.approx(fit.rvalue)
    rho = stats.spearmanr(np.tile(DWELL, 40), values.ravel()).statistic
    assert trend.spearman.interval.value == pytest.approx(rho)
    parts = (trend.pearson, trend.spearman, trend.per_doubling, trend.per_token)
    assert all(part.p == pytest.approx(1 / 301) for part in parts)


def test_a_texts_points_are_one_cluster():
    # Copying every text's level over its dwells adds points, not knowledge: r stays 0, and the
    # interval of the mean-free slope is the one of 40 texts.
    slopes = generator(5).normal(size=(40, 1))
    values = slopes * np.log2(DWELL)
    interval = dwell_trend(values, DWELL, **chance(4000)).per_doubling.interval
    student = stats.ttest_1samp(slopes[:, 0], 0).confidence_interval(0.95)
    assert interval.low == pytest.approx(student.low, abs=0.03)
    assert interval.high == pytest.approx(student.high, abs=0.03)


def test_a_constant_metric_has_no_correlation_and_slope_0():
    trend = dwell_trend(np.full((10, 4), 0.3), DWELL, **chance())
    for part in (trend.pearson, trend.spearman):
        assert part.interval.value is None
        assert part.p is None
        assert "same everywhere" in str(part.interval.reason)
    for part in (trend.per_doubling, trend.per_token):
        assert (part.interval.low, part.interval.value, part.interval.high) == (0, 0, 0)
        assert part.p == 1.0


def test_one_text_alone_moving():
    values = np.full((10, 4), 0.3)
    values[0] = [0.1, 0.2, 0.3, 0.4]
    trend = dwell_trend(values, DWELL, **chance())
    assert trend.spearman.interval.value is not None
    assert trend.spearman.p is None
    assert trend.spearman.interval.low is None
    assert "resamples are constant" in str(trend.spearman.interval.reason)


def test_one_text_has_no_ends():
    trend = dwell_trend([[1.0, 2.0, 2.5, 4.0]], DWELL, **chance())
    assert trend.spearman.interval.value == 1.0
    assert "two texts" in str(trend.spearman.interval.reason)
    assert "two texts" in str(trend.per_token.interval.reason)


@pytest.mark.parametrize(
    ("values", "dwell"),
    [
        (np.zeros((3, 4)), [16, 32, 64]),
        (np.zeros((3, 2)), [16, 16]),
        (np.zeros((3, 1)), [16]),
        (np.zeros((3, 2)), [0, 16]),
    ],
)
def test_dwells_must_fit(values, dwell):
    with pytest.raises(ValueError, match="dwell must be"):
        dwell_trend(values, dwell, **chance())


def test_pairs_must_fit():
    with pytest.raises(ValueError, match="4 and 3 values"):
        pearson([1, 2, 3, 4], [1, 2, 3], **chance())
    with pytest.raises(ValueError, match="y must be finite"):
        spearman([1, 2, 3], [1, np.nan, 3], **chance())
