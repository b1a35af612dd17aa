"""Brackets and their refinement on functions whose zeros are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from mneme.core.seeds import numpy_generator
from mneme.zeta.zero_search import Brackets, brackets, refine

GRID = np.arange(-2.0, 2.0 + 1e-9, 1 / 16)


def zeros_of(f, x):
    return refine(f, brackets(f, x, f(x)))


def test_zeros_of_the_sine():
    found = zeros_of(np.sin, np.arange(1.0, 1000.0, 0.25))
    np.testing.assert_allclose(found, math.pi * np.arange(1, 319), rtol=0, atol=5e-13)


def test_a_function_without_zeros_has_no_brackets():
    assert len(zeros_of(lambda x: 1e-12 + x * x, GRID)) == 0
    assert len(zeros_of(np.cosh, GRID)) == 0


def test_a_zero_on_the_grid_is_found_once():
    for root in (-0.5, 0.0, 0.0625):
        np.testing.assert_allclose(zeros_of(lambda x, r=root: x - r, GRID), [root], atol=1e-12)
        np.testing.assert_allclose(zeros_of(lambda x, r=root: r - x, GRID), [root], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.floats(-1.5, 1.5), st.floats(2e-7, 0.3), st.sampled_from([-1.0, 1.0]))
@example(0.015625, 0.015625, 1.0)
@example(0.015625, 0.015625, -1.0)
def test_a_close_pair_is_found_wherever_it_hides(center, half, sign):
    def f(x):
        return sign * (x - center - half) * (x - center + half)

    found = zeros_of(f, GRID)
    assert len(found) == 2
    np.testing.assert_allclose(found, [center - half, center + half], rtol=0, atol=1e-12)


def test_refinement_equals_brent_and_never_leaves_its_bracket():
    generator = numpy_generator(0, "brackets")
    roots = generator.uniform(-1, 1, 200)
    power = generator.choice([0.3, 1, 3, 9], 200)
    seen = []

    def values(x, root, power):
        return np.sign(x - root) * np.abs(x - root) ** power + 1e-3 * (x - root)

    a, b = roots - generator.uniform(0.01, 1, 200), roots + generator.uniform(0.01, 1, 200)
    for i in range(200):

        def f(x, i=i):
            seen.append((i, x.min(), x.max()))
            return values(x, roots[i], power[i])

        part = slice(i, i + 1)
        within = Brackets(a[part], b[part], f(a[part]), f(b[part]))
        root = brentq(values, a[i], b[i], args=(roots[i], power[i]), xtol=1e-13)
        assert refine(f, within)[0] == pytest.approx(root, abs=1e-12)
    assert all(a[i] <= low <= high <= b[i] for i, low, high in seen)


def test_brackets_are_disjoint_and_ascending():
    def f(x):
        return np.cos(40 * x) + 0.9 * np.cos(39 * x) + 0.05

    x = np.arange(0.0, 9.0, 0.02)
    within = brackets(f, x, f(x))
    assert (within.a < within.b).all()
    assert (within.b[:-1] <= within.a[1:]).all()
    assert ((within.at_a > 0) != (within.at_b > 0)).all()
    dense = f(np.arange(0.0, x[-1], 1e-5)) > 0
    assert len(within.a) == np.count_nonzero(dense[1:] != dense[:-1])
