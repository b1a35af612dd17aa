"""Sign flips, equivalence, and Holm's adjustment."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mneme.stats.multiplicity import holm
from mneme.stats.tests import equivalence, sign_flip_test

ALTERNATIVES = ["two-sided", "greater", "less"]


def chance(resamples: int = 2000, seed: int = 0) -> dict:
    return {"resamples": resamples, "generator": np.random.default_rng(seed)}


def test_ten_texts_all_above_the_control():
    differences = np.arange(1.0, 11.0)
    p = {a: sign_flip_test(differences, alternative=a, **chance()) for a in ALTERNATIVES}
    assert p == {"two-sided": 2 / 1024, "greater": 1 / 1024, "less": 1.0}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=7), st.sampled_from(ALTERNATIVES))
def test_enumeration_equals_a_loop(differences, alternative):
    differences = [d / 10 for d in differences]  # ties that only rounding tells apart
    means = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    observed = sum(differences)
    extreme = {
        "two-sided": [abs(m) >= abs(observed) - 1e-9 for m in means],
        "greater": [m >= observed - 1e-9 for m in means],
        "less": [m <= observed + 1e-9 for m in means],
    }[alternative]
    p = sign_flip_test(differences, alternative=alternative, **chance())
    assert p == pytest.approx(sum(extreme) / len(means))


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_random_flips_equal_scipys_permutation_test(alternative):
    differences = np.random.default_rng(1).normal(0.2, 1, size=40)
    theirs = stats.permutation_test(
        (differences, np.zeros(40)),
        lambda a, b, axis: (a - b).mean(axis=axis),
        permutation_type="samples",
        alternative=alternative,
        n_resamples=9999,
        vectorized=True,
        random_state=2,
    ).pvalue
    ours = sign_flip_test(differences, alternative=alternative, **chance(9999))
    assert ours == pytest.approx(theirs, abs=0.02)


def test_no_difference_at_all():
    assert sign_flip_test(np.zeros(50), alternative="two-sided", **chance()) == 1.0
    assert sign_flip_test(np.ones(50), alternative="two-sided", **chance()) == 1 / 2001
    with pytest.raises(ValueError, match="alternative must be"):
        sign_flip_test([1.0], alternative="bigger", **chance())
    with pytest.raises(ValueError, match="differences must be finite"):
        sign_flip_test([1.0, np.inf], alternative="less", **chance())


def test_equivalence_needs_a_narrow_interval_inside_the_bounds():
    noise = np.random.default_rng(0).normal(size=50)
    noise -= noise.mean()
    near = equivalence(0.1 * noise, delta=0.1, **chance())
    assert near.equivalent
    assert near.p == pytest.approx(1 / 2001)
    student = stats.ttest_1samp(0.1 * noise, 0).confidence_interval(0.90)
    assert near.interval.low == pytest.approx(student.low, abs=0.004)
    wide = equivalence(noise, delta=0.1, **chance())
    assert not wide.equivalent
    assert wide.p > 0.05
    for shift in (-0.2, 0.2):
        beyond = equivalence(0.1 * noise + shift, delta=0.1, **chance())
        assert not beyond.equivalent
        assert beyond.p > 0.9


def test_equivalence_at_the_edges():
    assert equivalence(np.zeros(20), delta=0.1, **chance()).equivalent
    assert not equivalence(np.full(20, 0.1), delta=0.1, **chance()).equivalent
    assert not equivalence([0.0], delta=0.1, **chance()).equivalent
    with pytest.raises(ValueError, match="delta must be positive"):
        equivalence([0.0, 0.1], delta=0.0, **chance())


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, None, 0.04]) == [pytest.approx(0.02), None, pytest.approx(0.04)]
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([None]) == [None]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"0\.\.1"):
        holm([0.1, float("nan")])
