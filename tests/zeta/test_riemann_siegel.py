"""Theta, corrections and Z against published coefficients, Arb and mpmath."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from flint import acb, arb, ctx
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.core.seeds import numpy_generator
from mneme.zeta.riemann_siegel import (
    TAU,
    LogTable,
    correction_polynomials,
    hardy_z,
    theta,
    theta_change,
    theta_turns,
)
from mneme.zeta.stretch import SPREAD, Kernel, Stretch, middle_of, uniform_sum

PLACES = [(1000, 1060), (9990, 10100), (100_000, 101_000), (1_130_000, 1_131_000)]
BOUNDS = [1e-9, 1e-12, 1e-11, 1e-11]  # what C0..C4 leave out, then rounding: 2x the worst of 3000


def arb_theta(t):
    height = arb(t)
    return acb(arb("0.25"), height / 2).lgamma().imag - height / 2 * arb.pi().log()


def arb_z(t):
    with ctx.workprec(160):
        turned = acb(0, arb_theta(t)).exp() * acb(arb("0.5"), arb(t)).zeta()
        return float(turned.real)


def stretch(start, stop):
    turns, table = theta_turns(middle_of(start, stop)), LogTable.of(4100)
    return Stretch.between(start, stop, turns=turns, table=table)


def dyadic(values):
    return np.round(np.asarray(values) * 2**20) / 2**20


# ---- known answers


def test_corrections_have_the_published_coefficients():
    # Gabcke (1979), in powers of 2p - 1
    published = [
        {0: 0.38268343236508977173, 2: 0.43724046807752044936, 4: 0.13237657548034352333},
        {1: -0.02682510262837534703, 3: 0.01378477342635185305},
        {0: 0.00518854283029316849, 2: 0.00030946583880634746},
        {1: -0.00133971609071945690, 3: 0.00374421513637939370},
        {0: 0.00046483389361763382, 2: -0.00100566073653404708},
    ]
    for ours, theirs in zip(correction_polynomials(), published, strict=True):
        for power, value in theirs.items():
            assert ours[power] / 2**power == pytest.approx(value, rel=1e-14)


def test_the_first_correction_is_its_closed_form():
    p = np.linspace(0.01, 0.99, 50)
    p = p[np.abs(np.cos(TAU * p)) > 0.05]
    closed = np.cos(TAU * (p * p - p - 1 / 16)) / np.cos(TAU * p)
    series = np.polynomial.polynomial.polyval(p - 0.5, correction_polynomials()[0])
    np.testing.assert_allclose(series, closed, atol=1e-14)


def test_theta_is_zero_at_the_first_positive_gram_point():
    assert theta(17.8455995404108608) == pytest.approx(0, abs=1e-9)


# ---- independent implementations


@pytest.mark.parametrize("t", [10.0, 100.0, 1e4, 1e6, 1e8])
def test_theta_equals_arb(t):
    with ctx.workprec(160):
        expected = float(arb_theta(t))
    assert theta(t) == pytest.approx(expected, abs=1e-9 if t < 50 else 1e-12, rel=4e-16)


@pytest.mark.parametrize("t0", [900, 10_000, 1_000_001, 100_000_000])
def test_theta_change_and_turns_equal_arb(t0):
    offsets = dyadic(np.linspace(-0.03 * min(t0, 30_000), 0.03 * min(t0, 30_000), 9))
    ours = theta_change(t0, offsets, 1.5)
    with ctx.workprec(160):
        base = arb_theta(t0)
        exact = [float(arb_theta(t0 + x) - base - arb(1.5) * arb(x)) for x in offsets.tolist()]
        turns = float(base / (2 * arb.pi()))
    np.testing.assert_allclose(ours, exact, atol=3e-12)
    assert math.remainder(theta_turns(t0) - turns, 1) == pytest.approx(0, abs=1e-8)


def test_phases_are_reduced_exactly():
    table = LogTable.of(300)
    for height in (12_345, 1_132_490, 2**28 - 1):
        with ctx.workprec(160):
            exact = [height * arb(n).log() / (2 * arb.pi()) for n in range(1, 301)]
            ours = table.phases(height, 300).tolist()
            off = [arb(a) - b for a, b in zip(ours, exact, strict=True)]
            worst = max(abs(float(d - round(float(d)))) for d in off)
        assert worst < 2e-15


def test_plain_z_equals_mpmath():
    t = np.array([300.5, 1234.25, 20_000.125])
    expected = [float(mpmath.siegelz(x)) for x in t]
    np.testing.assert_allclose(hardy_z(t), expected, atol=5e-9)


@pytest.mark.parametrize(("place", "bound"), list(zip(PLACES, BOUNDS, strict=True)))
def test_z_equals_arb_at_random_heights(place, bound, fresh_seed):
    part = stretch(*place)
    generator = numpy_generator(fresh_seed, "heights")
    offsets = dyadic(generator.uniform(part.low, part.high, 12))
    expected = [arb_z(part.center + x) for x in offsets.tolist()]
    np.testing.assert_allclose(part.z(offsets), expected, rtol=0, atol=bound)
    np.testing.assert_allclose(hardy_z(part.center + offsets), expected, rtol=0, atol=2e-8)


def test_z_at_a_hundred_million_equals_arb():
    part = stretch(100_000_000, 100_000_500)
    offsets = dyadic(np.linspace(part.low, part.high, 7))
    expected = [arb_z(part.center + x) for x in offsets.tolist()]
    np.testing.assert_allclose(part.z(offsets), expected, rtol=0, atol=3e-11)


def test_the_grid_equals_single_points():
    part = stretch(20_000, 20_300)
    x, y = part.grid()
    assert x[0] == part.low
    assert x[-1] == part.high
    assert np.unique(np.diff(x)).tolist() == [1 / 16]
    np.testing.assert_allclose(y, part.z(x), rtol=0, atol=1e-12)


def test_uniform_sum_equals_the_direct_sum():
    generator = numpy_generator(0, "nufft")
    turns = generator.uniform(-0.5, 0.5, 70)
    weights = generator.normal(size=70) + 1j * generator.normal(size=70)
    j = np.arange(-300, 301)
    direct = np.exp(-1j * TAU * np.outer(j, turns)) @ weights
    ours = uniform_sum(turns, weights, 300)
    np.testing.assert_allclose(ours, direct, rtol=0, atol=1e-13 * np.abs(weights).sum())


def test_kernel_transform_equals_a_fine_sum():
    kernel = Kernel.for_band(SPREAD, math.pi / 2)
    x = np.linspace(-SPREAD / 2, SPREAD / 2, 40_001)
    frequencies = np.array([0.0, 0.3, 1.5])
    fine = [np.trapezoid(np.cos(w * x) * kernel(x), x) for w in frequencies]
    np.testing.assert_allclose(kernel.transform(frequencies), fine, rtol=1e-9)


# ---- properties


@settings(max_examples=20, deadline=None)
@given(st.integers(10_000, 10_100), st.integers(20, 200))
def test_z_does_not_depend_on_the_stretch(start, length):
    t = start + np.array([0.25, 7.8125, 19.5])
    one, other = stretch(start, start + length), stretch(start - 37, start + 211)
    expected = other.z(t - other.center)
    np.testing.assert_allclose(one.z(t - one.center), expected, rtol=0, atol=2e-11)
