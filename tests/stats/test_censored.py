"""Censored lags: restricted means and Kaplan-Meier medians."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.stats.censored import kaplan_meier_median, restricted, restricted_mean

lags = st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=25)


def arrays(pairs):
    time = np.array([t if seen else t + 1 for t, seen in pairs])
    return time, np.array([seen for _, seen in pairs])


def loop_survival(time, observed):
    """Kaplan-Meier by its definition: (time, S) after each observed time, in order."""
    steps, survival = [], 1.0
    for t in sorted(set(time[observed].tolist())):
        at_risk = sum(1 for u in time if u >= t)
        events = sum(1 for u, seen in zip(time, observed, strict=True) if seen and u == t)
        survival *= 1 - events / at_risk
        steps.append((t, survival))
    return steps


def test_leukaemia_remission_times():
    # Freireich et al. (1963), weeks: median 23 under 6-MP, 8 under placebo.
    seen = [6, 6, 6, 7, 10, 13, 16, 22, 23]
    unseen = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    observed = np.array([True] * len(seen) + [False] * len(unseen))
    assert kaplan_meier_median(seen + unseen, observed) == (23.0, None)
    placebo = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
    assert kaplan_meier_median(placebo, np.full(21, True)) == (8.0, None)


def test_median_not_reached_has_a_reason():
    median, reason = kaplan_meier_median([0, 64, 64, 64], [True, False, False, False])
    assert median is None
    assert reason == "only 25% of the texts switch while watched"
    assert kaplan_meier_median([64, 64], [False, False])[0] is None
    assert kaplan_meier_median([0, 0, 64, 64], [True, True, False, False]) == (0.0, None)


@settings(max_examples=50, deadline=None)
@given(lags)
def test_median_equals_the_definition(pairs):
    time, observed = arrays(pairs)
    half = [t for t, survival in loop_survival(time, observed) if survival <= 0.5 + 1e-9]
    median, reason = kaplan_meier_median(time, observed)
    assert median == (half[0] if half else None)
    assert (reason is None) == bool(half)


def test_median_equals_statsmodels():
    from statsmodels.duration.survfunc import SurvfuncRight

    generator = np.random.default_rng(0)
    for _ in range(20):
        lag, watched = generator.geometric(0.1, 31) - 1, generator.integers(1, 40, 31)
        observed = lag < watched
        time = np.minimum(lag, watched)
        other = SurvfuncRight(time, observed.astype(int)).quantile(0.5)
        median, _ = kaplan_meier_median(time, observed)
        assert median == (None if np.isnan(other) else other)


@settings(max_examples=50, deadline=None)
@given(lags, st.integers(1, 12))
def test_restricted_mean_is_the_area_under_kaplan_meier(pairs, horizon):
    time, observed = arrays(pairs)
    time = np.where(observed, time, horizon)  # watched just so far
    area, before, survival = 0.0, 0.0, 1.0
    for t, after in [*loop_survival(time, observed), (horizon, 0.0)]:
        area += survival * max(0.0, min(t, horizon) - before)
        before, survival = max(before, min(t, horizon)), after
    values = restricted(time, observed, horizon=horizon)
    assert values.mean() == pytest.approx(area)


def test_never_counts_as_the_whole_segment():
    interval = restricted_mean(
        [0, 10, 64, 64],
        [True, True, False, False],
        horizon=64,
        resamples=500,
        generator=np.random.default_rng(0),
    )
    assert interval.value == (0 + 10 + 64 + 64) / 4
    assert 0 <= interval.low < interval.value < interval.high <= 64
    assert restricted([3, 90], [True, False], horizon=64).tolist() == [3, 64]


@pytest.mark.parametrize(
    ("time", "observed", "horizon", "message"),
    [
        ([3, 20], [True, False], 64, "beyond a censored text's 20 tokens"),
        ([3, 0], [True, False], 64, "censored one above 0"),
        ([-1, 64], [True, False], 64, "at least 0"),
        ([3, 64], [1, 0], 64, "must be bool"),
        ([3], [True, False], 64, "must be bool of shape"),
        ([3, 64], [True, False], 0, "horizon must be positive"),
        ([3, np.nan], [True, False], 64, "must be finite"),
    ],
)
def test_lags_that_make_no_sense(time, observed, horizon, message):
    with pytest.raises(ValueError, match=message):
        restricted(time, np.array(observed), horizon=horizon)
