"""A zero or a pair, removed, added or moved anywhere, is found."""

from __future__ import annotations

import numpy as np
import pytest

from mneme.core.seeds import numpy_generator
from mneme.zeta.arb import ZerosError, arb_zeros
from mneme.zeta.completeness import BLOCK, means_of_s, verify, verify_places
from mneme.zeta.riemann_siegel import theta
from mneme.zeta.zeros import zeros

FIRST, LENGTH = 1_000_000, 1050


@pytest.fixture(scope="module")
def spare():
    """Some more zeros than the range, so that a removal does not shorten it."""
    return zeros(FIRST, FIRST + LENGTH + 2, threads=1, log=print).heights


def check(heights, counts=20, first=FIRST):
    return verify(heights[:LENGTH], first=first, counts=counts, generator=numpy_generator(0, "c"))


def test_the_true_zeros_pass(spare):
    result = check(spare)
    assert len(result.mean_s) == 5
    assert len(result.counted) == 22
    assert np.abs(result.mean_s).max() < 0.02


def test_means_of_s_equal_a_fine_integral():
    heights = arb_zeros(1, 401)
    means, running = means_of_s(heights, 1)
    t = np.linspace(heights[0], heights[400], 400_001)
    s = np.searchsorted(heights, t, side="right") - theta(t) / np.pi - 1
    block = (t >= heights[BLOCK]) & (t < heights[400])
    assert means[1] == pytest.approx(s[block].mean(), abs=5e-4)
    assert running[1] == pytest.approx(s.mean(), abs=5e-4)


def removed(heights, k, size):
    return np.delete(heights, np.arange(k, k + size))


def added(heights, k, size):
    gap = heights[k + 1] - heights[k]
    return np.insert(heights, k + 1, heights[k] + gap * np.arange(1, size + 1) / (size + 1))


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("change", [removed, added])
def test_a_change_at_every_position_is_found(spare, change, size):
    order = numpy_generator(0, "positions").permutation(LENGTH - size)
    for k in order:
        with pytest.raises(ZerosError):
            check(change(spare, k, size), counts=1)


def test_one_removed_and_one_added_far_away_is_found(spare, fresh_seed):
    generator = numpy_generator(fresh_seed, "moves")
    for _ in range(50):
        a, b = np.sort(generator.integers(0, LENGTH - 20, 2))
        if b - a > 20:
            with pytest.raises(ZerosError, match="mean of S"):
                check(added(removed(spare, a, 1), b, 1))


def test_a_wrong_index_is_found(spare):
    for shift in (-2, -1, 1, 2):
        with pytest.raises(ZerosError, match="mean of S"):
            check(spare, first=FIRST + shift)


def test_a_removed_tail_shows_in_the_counts(spare):
    with pytest.raises(ZerosError, match="where Arb counts"):
        check(removed(spare, LENGTH - 3, 2))


def test_a_moved_zero_is_found_at_its_index(spare, fresh_seed):
    generator = numpy_generator(fresh_seed, "places")
    indices = FIRST + generator.choice(LENGTH, 6, replace=False)
    assert np.abs(verify_places(spare, first=FIRST, indices=indices)).max() <= 1e-9
    for n, shift in zip(indices, (1.1e-7, -1.1e-7, 1e-6, 1e-3, 2e-9, 0.1), strict=True):
        moved = spare.copy()
        moved[n - FIRST] += shift
        with pytest.raises(ZerosError, match="away from Arb's zero"):
            verify_places(moved, first=FIRST, indices=indices)


def test_swapped_or_repeated_heights_are_out_of_order(spare):
    for k, value in ((5, spare[6]), (7, np.nan), (9, spare[8])):
        wrong = spare.copy()
        wrong[k] = value
        with pytest.raises(ZerosError, match="strictly ascending"):
            check(wrong)
