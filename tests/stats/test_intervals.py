"""Bootstrap means, crossed seeds, proportions, and the row made of an interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mneme.stats.intervals import (
    Resamples,
    bootstrap_mean,
    crossed_mean,
    crossed_under,
    mean_under,
    paired_mean_difference,
    percentile_interval,
    resample_counts,
    student_mean,
    wilson,
)
from mneme.stats.rows import Interval, Row, row_of

numbers = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6, 1 / 3])
def test_equal_values_give_an_interval_of_no_width(value):
    interval = bootstrap_mean([value] * 7, resamples=200, generator=generator())
    assert interval == Interval(value, value, value)


def test_one_text_has_a_mean_and_no_interval():
    interval = bootstrap_mean([2.5], resamples=200, generator=generator())
    assert interval.value == 2.5
    assert interval.low is None
    assert interval.high is None
    assert "two texts" in str(interval.reason)


def test_normal_data_get_students_interval():
    values = generator(3).normal(size=40)
    interval = bootstrap_mean(values, resamples=20_000, generator=generator())
    student = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(student.low, abs=0.02)
    assert interval.high == pytest.approx(student.high, abs=0.02)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_ends_equal_scipys_percentile_bootstrap_at_the_widened_level(level):
    values = generator(4).exponential(size=30)
    quantile = stats.t.ppf((1 + level) / 2, 29)
    widened = 1 - 2 * stats.norm.sf(math.sqrt(30 / 29) * quantile)
    other = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=20_000,
        confidence_level=widened,
        method="percentile",
        random_state=1,
    ).confidence_interval
    interval = bootstrap_mean(values, resamples=20_000, generator=generator(), level=level)
    assert interval.low == pytest.approx(other.low, abs=0.02)
    assert interval.high == pytest.approx(other.high, abs=0.02)


def test_resample_counts_are_multinomial():
    counts = resample_counts(6, resamples=20_000, generator=generator())
    assert (counts.sum(axis=1) == 6).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.03)
    expected = np.where(np.eye(6) == 1, 5 / 6, -1 / 6)
    np.testing.assert_allclose(np.cov(counts.T), expected, atol=0.03)


@settings(max_examples=25, deadline=None)
@given(numbers)
def test_interval_holds_the_mean_and_stays_within_the_data(values):
    interval = bootstrap_mean(values, resamples=200, generator=generator())
    assert min(values) <= interval.low <= interval.high <= max(values)
    assert interval == bootstrap_mean(values, resamples=200, generator=generator())


def test_paired_difference_is_the_mean_of_differences():
    a, b = generator(1).normal(size=(2, 20)) * [[100.0], [1.0]]
    paired = paired_mean_difference(b + a, a, resamples=500, generator=generator())
    alone = bootstrap_mean(b, resamples=500, generator=generator())
    assert paired.value == pytest.approx(b.mean())
    assert paired.low == pytest.approx(alone.low)
    same = paired_mean_difference(a, a, resamples=500, generator=generator())
    assert same == Interval(0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="20 and 19 texts"):
        paired_mean_difference(a, b[1:], resamples=500, generator=generator())


def test_shared_resamples_are_drawn_once_and_give_the_same_interval():
    shared = Resamples(300, np.random.default_rng(4))
    first, second, few = *generator(1).normal(size=(2, 40)), generator(3).normal(size=7)
    for values in (first, second):
        alone = bootstrap_mean(values, resamples=300, generator=np.random.default_rng(4))
        assert mean_under(values, shared) == alone
    assert shared.of(40) is shared.of(40)
    assert mean_under(few, shared).low < few.mean() < mean_under(few, shared).high
    both = np.stack([first, second])
    alone = crossed_mean(both, resamples=300, generator=np.random.default_rng(4))
    assert crossed_under(both, shared) == alone


def test_crossed_seeds_do_not_count_as_texts():
    texts = generator(2).normal(size=30)
    values_SN = texts + np.array([[-1.0], [0.0], [4.0]])
    crossed = crossed_mean(values_SN, resamples=500, generator=generator())
    alone = bootstrap_mean(texts + 1.0, resamples=500, generator=generator())
    assert crossed.interval.value == pytest.approx(alone.value)
    assert crossed.interval.low == pytest.approx(alone.low)
    assert crossed.n == 30
    assert crossed.seed_high - crossed.seed_low == pytest.approx(5.0)
    rows = crossed.rows("lag", unit="tokens", seeds=(7, 8, 9), control_of="ours")
    assert [row.seed for row in rows] == [None, 7, 8, 9]
    assert [row.low is None for row in rows] == [False, True, True, True]
    assert rows[3].value == pytest.approx(texts.mean() + 4.0)
    assert all(row.n == 30 and row.control_of == "ours" for row in rows)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (1, 3), (45, 50), (992, 1000)])
def test_wilson_equals_statsmodels(k, n):
    from statsmodels.stats.proportion import proportion_confint

    interval = wilson(k, n)
    low, high = proportion_confint(k, n, method="wilson")
    assert interval.value == k / n
    assert interval.low == pytest.approx(low, abs=1e-12)
    assert interval.high == pytest.approx(high, abs=1e-12)


def test_wilson_of_ten_in_ten():
    assert wilson(10, 10).low == pytest.approx(0.7225, abs=1e-4)
    assert wilson(10, 10).high == 1.0


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_wilson_refuses_impossible_counts(k, n):
    with pytest.raises(ValueError, match="successes"):
        wilson(k, n)


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [math.inf, 0.0], [[1.0, 2.0]]])
def test_values_that_cannot_be_averaged(bad):
    with pytest.raises(ValueError, match="values must"):
        bootstrap_mean(bad, resamples=100, generator=generator())


@pytest.mark.parametrize(("n", "t"), [(3, 4.303), (10, 2.262), (50, 2.010)])
def test_the_tail_is_students(n, t):
    # A normal bootstrap distribution of deviation 1 has sqrt(n / (n - 1)) as standard error.
    bell = stats.norm.ppf((np.arange(1_000_000) + 0.5) / 1_000_000)
    interval = percentile_interval(0.0, bell, n=n, level=0.95)
    if n > 3:  # at 3 texts the tail is beyond any bootstrap: the ends are nearly the extremes
        assert interval.high == pytest.approx(t * math.sqrt(n / (n - 1)), abs=2e-3)
    else:
        assert interval.high > bell[-100]
    assert interval.low == pytest.approx(-interval.high)


def test_level_must_be_a_share():
    with pytest.raises(ValueError, match="level"):
        percentile_interval(0.0, np.arange(9.0), n=5, level=1.0)


def test_row_of_an_interval():
    row = row_of("lag@0.9", Interval(1.0, 0.5, 2.0), n=50, unit="tokens", control_of="ours")
    assert row == Row(
        metric="lag@0.9", value=1.0, low=0.5, high=2.0, n=50, unit="tokens", control_of="ours"
    )
    row = row_of("r", Interval.undefined("constant"), n=3, unit="", reason="special")
    assert row.value is None
    assert row.reason == "constant"
    assert row_of("r", Interval(1.0, 1.0, 1.0), n=3, unit="", reason="special").reason == "special"


def test_intervals_hide_nothing():
    with pytest.raises(AssertionError):
        Interval(math.nan, 0.0, 1.0)
    with pytest.raises(AssertionError, match="needs a reason"):
        Interval(1.0, None, None)


def test_students_interval_is_scipys():
    values = [0.3, -1.2, 2.5, 0.9]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = student_mean(values)
    assert found.value == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert student_mean([2.0]) == Interval(2.0, None, None, "an interval needs at least two runs")
    with pytest.raises(ValueError, match="finite"):
        student_mean([1.0, math.nan])
