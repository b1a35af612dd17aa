"""Unfolding: known zeros, an independent slow version, round trips, errors."""

from __future__ import annotations

import itertools

import flint
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.zeta import unfold

few = settings(max_examples=20, deadline=None)


def arb_zeros(first: int, count: int) -> np.ndarray:
    with flint.ctx.workprec(100):
        return np.array([float(z.imag.mid()) for z in flint.acb.zeta_zeros(first, count)])


def exact_unfolding(heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """u and its differences in 40 digits, rounded at the end."""
    with mpmath.workdps(40):
        x = [mpmath.mpf(t) / (2 * mpmath.pi) for t in heights.tolist()]
        u = [value * (mpmath.log(value) - 1) for value in x]
        gaps = [float(b - a) for a, b in itertools.pairwise(u)]
    return np.array(u, float), np.array(gaps)


def test_the_first_zeros_spacings_against_mpmath():
    heights = arb_zeros(1, 12)
    exact, gaps = exact_unfolding(heights)
    np.testing.assert_allclose(unfold.unfold(heights), exact, atol=1e-14)
    np.testing.assert_allclose(unfold.spacings_of(heights), gaps, rtol=1e-13)


def test_spacings_keep_their_digits_high_up():
    heights = 1e8 + np.array([0.0, 0.25, 0.75])  # exact in float64, 0.4 and 0.8 . 1e8 apart in ulp
    _, gaps = exact_unfolding(heights)
    np.testing.assert_allclose(unfold.spacings_of(heights), gaps, rtol=1e-14)
    assert np.abs(np.diff(unfold.unfold(heights)) - gaps).max() > 1e-9  # what is avoided


def test_level_is_the_rounded_density():
    heights = np.array([14.134725, 1132490.66, 2 * np.pi * np.exp(3.00049)])
    np.testing.assert_array_equal(unfold.level_of(heights), [0.811, 12.102, 3.0])


@pytest.mark.parametrize("first", [1, 1000, 20_000])
def test_the_fluctuation_at_zeros_has_mean_zero_and_sees_a_missed_pair(first):
    heights = arb_zeros(first, 80)
    s = unfold.fluctuation(heights, first)
    assert abs(s.mean()) < 0.02
    assert np.abs(s).max() < 1.2
    missed = unfold.fluctuation(np.delete(heights, [40, 41]), first)
    np.testing.assert_allclose(missed[40:], s[42:] - 2, atol=1e-9)


def test_fluctuation_against_the_definition():
    heights = arb_zeros(1, 5)
    theta = np.array([float(mpmath.siegeltheta(t)) for t in heights])
    expected = np.arange(1, 6) - 0.5 - theta / np.pi - 1
    np.testing.assert_allclose(unfold.fluctuation(heights, 1), expected, atol=1e-8)


@few
@given(st.floats(7.0, 1e9), st.integers(0, 2**32 - 1))
def test_heights_and_spacings_are_inverse(start, seed):
    spacings = np.random.default_rng(seed).gamma(4.0, 0.25, 500) + 1e-3
    heights = unfold.heights_of(start, spacings)
    assert heights[0] == start
    assert heights.shape == (501,)
    # one unit in the last place of t, times the density of zeros
    ulp = np.spacing(heights[-1]) * np.log(heights[-1])
    np.testing.assert_allclose(unfold.spacings_of(heights), spacings, atol=1e-12 + 2 * ulp)


def test_real_heights_come_back():
    heights = arb_zeros(1, 300)
    back = unfold.heights_of(heights[0], unfold.spacings_of(heights))
    np.testing.assert_allclose(back, heights, atol=1e-11)


@pytest.mark.parametrize("bad", [[14.1, 6.0], [14.1, np.nan], [np.inf, 20.0]])
def test_heights_below_the_zeros_are_refused(bad):
    for function in (unfold.unfold, unfold.level_of, unfold.spacings_of):
        with pytest.raises(ValueError, match="above 2 pi"):
            function(bad)


def test_other_mistakes_are_named():
    with pytest.raises(ValueError, match="zero 2 is not above zero 1"):
        unfold.spacings_of([14.0, 21.0, 21.0])
    with pytest.raises(ValueError, match="at least two"):
        unfold.spacings_of([14.0])
    with pytest.raises(ValueError, match="counts zeros from 1"):
        unfold.fluctuation([14.1], 0)
    with pytest.raises(ValueError, match="above 0"):
        unfold.heights_of(14.0, [1.0, 0.0])
