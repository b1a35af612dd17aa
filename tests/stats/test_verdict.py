"""p from an interval, equivalence, the n that would tell, and verdicts of single effects."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from mneme.stats.rows import Interval
from mneme.stats.verdict import (
    RESERVE,
    Judgement,
    after_holm,
    conjunction,
    equivalence_interval,
    equivalence_p,
    interval_p,
    judge,
    needed_n,
)

WIDE = Interval(3.0, -1.0, 5.0)


def student(values, level=0.95):
    low, high = stats.t.interval(
        level, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
    )
    return Interval(float(np.mean(values)), float(low), float(high))


@pytest.fixture
def values():
    return np.random.default_rng(3).normal(0.3, 1, size=23)


@st.composite
def intervals(draw):
    """Draw a lopsided interval and its n."""
    value = draw(st.floats(-10, 10))
    below, above = draw(st.floats(0.01, 10)), draw(st.floats(0.01, 10))
    return Interval(value, value - below, value + above), draw(st.integers(2, 300))


# Known answers


def test_p_is_students(values):
    for against in (-0.2, 0.0, 1.0):
        expected = stats.ttest_1samp(values, against).pvalue
        assert interval_p(student(values), 23, against=against) == pytest.approx(expected)


def test_p_of_altmans_and_blands_example():
    """Relative risk .81, 95 % interval .70 to .94, on the log scale: their P is .005."""
    risk = Interval(*np.log([0.81, 0.70, 0.94]).tolist())
    assert interval_p(risk, 10_000, against=0.0) == pytest.approx(0.005, abs=0.001)


def test_the_side_that_faces_the_tested_value_counts():
    quantile = stats.t.ppf(0.975, 9)
    for against, side in ((-2.0, 4.0), (4.0, 2.0)):
        t = abs(3.0 - against) / (side / quantile)
        assert interval_p(WIDE, 10, against=against) == pytest.approx(2 * stats.t.sf(t, 9))


def test_equivalence_is_two_one_sided_t_tests(values):
    for delta in (0.3, 0.7, 1.0):
        expected = DescrStatsW(values).ttost_mean(-delta, delta)[0]
        assert equivalence_p(student(values), 23, delta=delta) == pytest.approx(expected)


def test_the_inner_interval_is_students_at_90_percent(values):
    inner, expected = equivalence_interval(student(values), 23), student(values, 0.9)
    assert (inner.value, inner.low, inner.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )


@pytest.mark.parametrize("delta", [0.15, 0.3, 0.6, 1.0])
def test_needed_n_is_that_of_the_t_test(values, delta):
    spread = values.std(ddof=1)
    exact = TTestPower().solve_power(effect_size=delta / spread, alpha=0.05, power=0.8)
    ours = needed_n(student(values), 23, direction="above", delta=delta)
    assert exact <= ours / RESERVE <= exact + 2


@pytest.mark.parametrize("delta", [0.15, 0.3, 0.6])
def test_needed_n_of_absence_fits_the_inner_interval(values, delta):
    """Chance that mean +- t s / sqrt(n) lies inside +-delta when the true mean is 0."""
    ours = needed_n(student(values), 23, direction="none", delta=delta)
    error = values.std(ddof=1) / math.sqrt(ours / RESERVE)
    room = delta / error - stats.t.ppf(0.95, ours - 1)
    assert 2 * stats.norm.cdf(room) - 1 == pytest.approx(0.8, abs=0.02)


def test_needed_n_faces_zero():
    above = needed_n(WIDE, 10, direction="above", delta=1.0)
    below = needed_n(WIDE, 10, direction="below", delta=1.0)
    absence = needed_n(Interval(3.0, 1.0, 7.0), 10, direction="none", delta=1.0)
    assert below < above
    assert absence == needed_n(WIDE, 10, direction="none", delta=1.0)
    one_sided = Interval(3.0, 3.0, 5.0)  # no width where it faces 0: the other side's
    assert needed_n(one_sided, 10, direction="above", delta=1.0) == below


@pytest.mark.parametrize(
    ("value", "low", "high", "direction", "verdict", "detail"),
    [
        (3.0, 2.1, 4.0, "above", "supported", None),
        (3.0, 2.0, 4.0, "above", "inconclusive", "too near delta to tell"),
        (1.0, 0.5, 1.9, "above", "refuted", "real but smaller than matters"),
        (1.0, 0.0, 1.9, "above", "refuted", "smaller than matters"),
        (0.1, -0.5, 1.9, "above", "refuted", "smaller than matters"),
        (-1.0, -3.0, -0.1, "above", "refuted", "opposite in sign"),
        (1.0, 0.5, 2.0, "above", "inconclusive", "too near delta to tell"),
        (1.0, -5.0, 7.0, "above", "inconclusive", "power .8 needs n = 479"),
        (-3.0, -4.0, -2.1, "below", "supported", None),
        (-1.0, -1.9, -0.5, "below", "refuted", "real but smaller than matters"),
        (3.0, 1.0, 4.0, "below", "refuted", "opposite in sign"),
        (0.1, -1.9, 1.9, "none", "supported", None),
        (0.5, -1.0, 2.1, "none", "supported", None),  # the 90 % interval ends at 1.83
        (-3.0, -4.0, -2.1, "none", "refuted", "an effect that matters"),
        (3.0, 2.1, 4.0, "none", "refuted", "an effect that matters"),
        (3.0, 1.9, 4.0, "none", "inconclusive", "too near delta to tell"),
        (-2.5, -4.0, -1.0, "none", "inconclusive", "power .8 needs n = 35"),
        (0.0, -6.0, 6.0, "none", "inconclusive", "power .8 needs n = 522"),
    ],
)
def test_verdicts_at_delta_2_and_25_texts(value, low, high, direction, verdict, detail):
    judgement = judge(Interval(value, low, high), 25, direction=direction, delta=2.0)
    assert (judgement.verdict, judgement.reason) == (verdict, None)
    assert judgement.detail == detail


def test_p_of_a_judgement_is_of_too_little_or_of_too_much():
    strong = Interval(3.0, 2.1, 4.0)
    present = judge(strong, 25, direction="above", delta=2.0)
    assert present.p == pytest.approx(interval_p(strong, 25, against=2.0))
    assert judge(strong, 25, direction="above", delta=3.5).p == 1.0
    assert judge(strong, 25, direction="below", delta=1.0).p == 1.0  # far on the wrong side
    touching = judge(Interval(-3.0, -4.0, -2.0), 25, direction="below", delta=2.0)
    assert touching.p == pytest.approx(0.05)
    absent = judge(strong, 25, direction="none", delta=2.0)
    assert absent.p == equivalence_p(strong, 25, delta=2.0)


# No width


@pytest.mark.parametrize(("n", "p"), [(4, 0.125), (10, 2**-9)])
def test_without_width_p_is_that_of_equal_signs(n, p):
    flat = Interval(0.5, 0.5, 0.5)
    assert interval_p(flat, n, against=0.0) == p
    assert interval_p(flat, n, against=0.5) == 1.0
    assert equivalence_p(flat, n, delta=1.0) == p / 2
    assert equivalence_p(flat, n, delta=0.4) == 1.0
    assert needed_n(flat, n, direction="above", delta=1.0) is None


def test_rounding_is_no_width():
    almost = Interval(0.1 + 0.2, 0.3, 0.1 + 0.2)
    assert interval_p(almost, 10, against=0.0) == 2**-9


def test_one_flat_side_is_judged_by_the_signs_only_where_it_faces_the_tested_value():
    cap = Interval(1.0, 0.8, 1.0)
    assert interval_p(cap, 10, against=1.5) == 2**-9
    assert interval_p(cap, 10, against=0.8) == pytest.approx(0.05)


def test_an_interval_without_its_value_is_stretched_to_it():
    stretched = judge(Interval(1.0, 2.5, 4.0), 25, direction="above", delta=2.0)
    assert stretched == judge(Interval(1.0, 1.0, 4.0), 25, direction="above", delta=2.0)
    assert stretched.verdict == "inconclusive"


def test_a_flat_judgement_is_told_without_n():
    at_delta = judge(Interval(2.0, 2.0, 2.0), 25, direction="above", delta=2.0)
    assert (at_delta.verdict, at_delta.needed_n) == ("inconclusive", None)
    assert at_delta.detail == "too near delta to tell"
    assert judge(Interval(2.5, 2.5, 2.5), 25, direction="above", delta=2.0).verdict == "supported"


# Properties


@settings(deadline=None)
@given(intervals(), st.sampled_from(["low", "high"]))
def test_p_is_5_percent_where_the_end_touches(drawn, end):
    interval, n = drawn
    assert interval_p(interval, n, against=getattr(interval, end)) == pytest.approx(0.05)


@settings(deadline=None)
@given(intervals(), st.floats(-20, 20))
def test_p_and_interval_never_contradict(drawn, against):
    interval, n = drawn
    p = interval_p(interval, n, against=against)
    assume(abs(p - 0.05) > 1e-9)
    assert 0 <= p <= 1
    assert (p < 0.05) == (against < interval.low or against > interval.high)


@settings(deadline=None)
@given(intervals(), st.floats(0.01, 20))
def test_equivalence_p_and_inner_interval_never_contradict(drawn, delta):
    interval, n = drawn
    p, inner = equivalence_p(interval, n, delta=delta), equivalence_interval(interval, n)
    assume(abs(p - 0.05) > 1e-9)
    assert 0 <= p <= 1
    assert (p < 0.05) == (-delta < inner.low and inner.high < delta)
    verdict = judge(interval, n, direction="none", delta=delta).verdict
    assert (p < 0.05) == (verdict == "supported")


@settings(deadline=None)
@given(intervals(), st.floats(0.01, 20))
def test_below_is_the_mirror_image_of_above(drawn, delta):
    interval, n = drawn
    mirrored = Interval(-interval.value, -interval.high, -interval.low)
    above = judge(interval, n, direction="above", delta=delta)
    assert judge(mirrored, n, direction="below", delta=delta) == above


@settings(deadline=None)
@given(intervals(), st.floats(0.01, 20))
def test_support_needs_a_small_p(drawn, delta):
    interval, n = drawn
    for direction in ("above", "below"):
        judgement = judge(interval, n, direction=direction, delta=delta)
        assert judgement.verdict != "supported" or judgement.p < 0.05


@settings(deadline=None)
@given(
    intervals(),
    st.floats(0.01, 20),
    st.floats(1e-3, 1e3),
    st.sampled_from(["above", "below", "none"]),
)
def test_the_unit_does_not_matter(drawn, delta, factor, direction):
    interval, n = drawn
    scaled = Interval(*(factor * x for x in (interval.value, interval.low, interval.high)))
    edges = [abs(abs(x) - delta) for x in (interval.low, interval.high)]
    assume(min(edges) > 1e-6)
    here = judge(interval, n, direction=direction, delta=delta)
    there = judge(scaled, n, direction=direction, delta=factor * delta)
    assume(abs(here.p - 0.05) > 1e-9)
    assert there.verdict == here.verdict
    assert there.p == pytest.approx(here.p)


@settings(deadline=None)
@given(intervals(), st.floats(0.05, 20), st.sampled_from(["above", "below", "none"]))
def test_a_smaller_delta_needs_more(drawn, delta, direction):
    interval, n = drawn
    few = needed_n(interval, n, direction=direction, delta=delta)
    many = needed_n(interval, n, direction=direction, delta=delta / 2)
    assert 2 <= few <= many


# All effects of a claim


def judgement(verdict, p=0.01, needed=30, detail=None, reason=None):
    return Judgement(verdict=verdict, detail=detail, reason=reason, p=p, needed_n=needed)


def test_all_effects_must_hold():
    yes, no, open_ = judgement("supported"), judgement("refuted", 0.5), judgement("inconclusive")
    assert conjunction([yes, yes]).verdict == "supported"
    assert conjunction([yes, open_]).verdict == "inconclusive"
    assert conjunction([open_, yes, no]).verdict == "refuted"
    assert conjunction([yes, no, open_]).p == 0.5


def test_the_effect_farthest_from_telling_gives_detail_and_n():
    near = judgement("inconclusive", detail="near", needed=10)
    far = judgement("inconclusive", detail="far", needed=900)
    sure = judgement("supported", needed=5000)
    together = conjunction([near, sure, far])
    assert (together.detail, together.needed_n) == ("far", 900)


def test_an_effect_without_an_interval_leaves_p_open():
    gap = judgement("inconclusive", p=None, needed=None, reason="one text")
    together = conjunction([judgement("supported"), judgement("inconclusive"), gap])
    assert (together.verdict, together.reason, together.p) == ("inconclusive", "one text", None)


@pytest.mark.parametrize(("p_holm", "kept"), [(0.049, True), (0.05, False), (None, False)])
def test_support_needs_holms_p_below_5_percent(p_holm, kept):
    final = after_holm(judgement("supported"), p_holm)
    assert final.verdict == ("supported" if kept else "inconclusive")
    assert final.detail == (None if kept else "not after Holm's adjustment")


def test_only_support_is_taken_back():
    refuted = judgement("refuted", detail="opposite in sign")
    assert after_holm(refuted, 1.0) is refuted


# What cannot be judged, and mistakes


@pytest.mark.parametrize(
    ("interval", "n", "reason"),
    [
        (Interval(1.0, None, None, "one text only"), 25, "one text only"),
        (Interval.undefined("constant"), 25, "constant"),
        (WIDE, None, "the row does not say n"),
        (WIDE, 1, "n is 1: an interval needs at least 2"),
    ],
)
def test_without_an_interval_nothing_is_decided(interval, n, reason):
    judged = judge(interval, n, direction="above", delta=1.0)
    expected = replace(judgement("inconclusive", p=None, needed=None), reason=reason)
    assert judged == expected


def test_mistakes_name_rule_and_value():
    with pytest.raises(ValueError, match=r"n must be at least 2, got 1"):
        interval_p(WIDE, 1, against=0.0)
    with pytest.raises(ValueError, match=r"must be defined, got none: one text only"):
        interval_p(Interval(1.0, None, None, "one text only"), 9, against=0.0)
    for call in (equivalence_p, needed_n, judge):
        direction = {} if call is equivalence_p else {"direction": "above"}
        with pytest.raises(ValueError, match=r"delta must be positive, got 0"):
            call(WIDE, 9, **direction, delta=0.0)
