"""Level statistics: Poisson, picket fence and GUE by formula, slow versions, joints, errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from mneme.core.config import ConfigError
from mneme.zeta import statistics, surrogates

few = settings(max_examples=10, deadline=None)
LENGTHS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


def config(**changes) -> statistics.StatisticsConfig:
    values = {
        "longest_spacing": 4.0,
        "longest_pair": 4.0,
        "bins": 20,
        "lengths": LENGTHS,
        "step": 0.25,
        "resamples": 200,
    }
    return statistics.StatisticsConfig(**(values | changes))


def read(sequences, **changes):
    units = np.arange(len(sequences))
    generator = np.random.default_rng(0)
    return statistics.statistics(sequences, units, config(**changes), generator=generator)


def row(found, name):
    return next(each for each in found["rows"] if each["metric"] == name)


def assert_near(curve, expected, *, widths):
    """Every point within so many half-widths of its interval, and the intervals not empty."""
    value, low, high = (np.array(curve[name]) for name in ("value", "low", "high"))
    half = (high - low) / 2
    assert (half > 0).all()
    assert (np.abs(value - expected) <= widths * half).all()


# --- known answers ------------------------------------------------------------------------------


def test_poisson_points_show_nothing():
    spacings = np.random.default_rng(4).exponential(size=(100, 2000))
    curves = read(spacings)["curves"]
    lengths = np.array(LENGTHS)
    assert_near(curves["pair_correlation"], 1.0, widths=2.5)
    assert_near(curves["number_variance"], lengths, widths=2.5)
    assert_near(curves["rigidity"], lengths / 15, widths=2.5)
    width = 0.2
    law = (1 - np.exp(-width)) / width * np.exp(-width * np.arange(20))
    assert_near(curves["spacing_law"], law, widths=2.5)
    assert np.allclose(curves["rigidity"]["poisson"], lengths / 15)


def test_a_picket_fence_is_rigid():
    fence = np.ones((3, 400)) + np.array([[0.0], [1e-7], [2e-7]])
    found = read(fence, lengths=(0.5, 20.0, 100.0))
    assert "all equal" in row(found, "spacing_correlation@1")["reason"]
    rigidity = found["curves"]["rigidity"]["value"]
    assert abs(rigidity[2] - 1 / 12) < 1e-4
    assert abs(rigidity[1] - 1 / 12) < 1e-3
    # N is 0 or 1 with equal chance over half a spacing, and always L over whole ones
    np.testing.assert_allclose(found["curves"]["number_variance"]["value"], [0.25, 0, 0], atol=2e-3)


def test_gue_spectra_follow_the_formulas():
    series = surrogates.gue_spacings(10 * surrogates.KEPT, generator=np.random.default_rng(8))
    found = read(series.reshape(40, -1), longest_spacing=2.6)
    curves = found["curves"]
    for name in ("spacing_law", "pair_correlation", "number_variance", "rigidity"):
        assert_near(curves[name], np.array(curves[name]["gue"]), widths=2.5)
    for name, exact in (
        ("spacing_mean", 1.0),
        ("spacing_variance", 0.17999),
        ("spacing_correlation@1", -0.30837),
    ):
        each = row(found, name)
        assert abs(each["value"] - exact) < 1.25 * (each["high"] - each["low"])
        assert each["n"] == 40
    for name in ("spacing_law_mse", "pair_correlation_mse"):
        each = row(found, name)
        assert each["low"] < 0 < each["high"]
        assert each["high"] < 1e-3
    wigner = np.array(curves["spacing_law"]["wigner"])
    assert np.abs(wigner - curves["spacing_law"]["gue"]).max() < 0.02
    json.dumps(found, allow_nan=False)


def test_other_systems_are_told_from_gue():
    poisson = np.random.default_rng(1).exponential(size=(20, 500))
    found = read(poisson)
    for name in ("spacing_law_mse", "pair_correlation_mse"):
        assert row(found, name)["low"] > 0.01


def test_formulas_of_gue():
    # Sigma^2 from the pair correlation itself: L - 2 int_0^L (L - r) (sin pi r / pi r)^2 dr
    for length in (0.3, 1.0, 4.5):
        missing = quad(lambda r, big=length: (big - r) * np.sinc(r) ** 2, 0, length, epsabs=1e-12)
        expected = length - 2 * missing[0]
        assert abs(float(statistics.gue_number_variance(length)) - expected) < 1e-10

        def shape(r, big=length):
            return (big**3 - 2 * big**2 * r + r**3) * float(statistics.gue_number_variance(r))

        rigidity = 2 / length**4 * quad(shape, 0, length, epsabs=1e-12)[0]
        assert abs(statistics.gue_rigidity(length)[0] - rigidity) < 1e-8
    large = np.array([100.0, 1000.0])
    log = np.log(2 * np.pi * large) + np.euler_gamma
    np.testing.assert_allclose(
        statistics.gue_number_variance(large), (log + 1) / np.pi**2, rtol=1e-4
    )
    np.testing.assert_allclose(
        statistics.gue_rigidity(large), (log - 5 / 4) / (2 * np.pi**2), rtol=1e-4
    )


# --- slow versions ------------------------------------------------------------------------------


def slow_rigidity(u, start, length):
    """Least mean square of the staircase about a line, on a fine grid of the interval."""
    x = start + length * (np.arange(200_000) + 0.5) / 200_000
    stairs = np.searchsorted(u, x, side="right").astype(float)
    centred = x - x.mean()
    slope = (centred @ stairs) / (centred @ centred)
    return np.mean((stairs - stairs.mean() - slope * centred) ** 2)


@few
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 3.0, 17.5]))
def test_rigidity_is_the_least_square(seed, length):
    s = np.random.default_rng(seed).gamma(3.0, 1 / 3, 60)
    u = np.append(0.0, np.cumsum(s))
    starts = np.array([2.0, 5.25, 11.0])
    low, high = (np.searchsorted(u, starts + shift, side="right") for shift in (0, length))
    found = statistics._rigidity_of(statistics._prefix_sums(u), starts, length, low, high)
    expected = [slow_rigidity(u, start, length) for start in starts]
    np.testing.assert_allclose(found, expected, atol=2e-4 * (1 + length))


def test_rigidity_keeps_its_digits_on_long_sequences():
    s = np.random.default_rng(0).gamma(5.0, 0.2, 4096)
    tail = np.append(0.0, np.cumsum(s[4000:]))
    u = np.append(0.0, np.cumsum(s))
    start, length = 20.25, 5.0

    def one(points, at):
        starts = np.array([at])
        low, high = (np.searchsorted(points, starts + shift, side="right") for shift in (0, length))
        return statistics._rigidity_of(statistics._prefix_sums(points), starts, length, low, high)[
            0
        ]

    assert abs(one(u, u[4000] + start) - one(tail, start)) < 1e-5


def test_curves_against_loops():
    sequences = np.random.default_rng(3).gamma(4.0, 0.25, (6, 50))
    found = read(sequences, lengths=(1.0, 3.0), bins=8)["curves"]
    pairs, number = np.zeros(8), {1.0: [], 3.0: []}
    for s in sequences:
        u = np.append(0.0, np.cumsum(s))
        for i in range(51):
            for j in range(i + 1, 51):
                bin_ = int((u[j] - u[i]) / 0.5)
                if bin_ < 8:
                    pairs[bin_] += 1 / (51 - (j - i)) / 6 / 0.5
        starts = 2 + 0.25 * np.arange(int((u[-1] - 4) / 0.25))
        for length, counts in number.items():
            for start in starts[: len(starts) - int(length / 0.25)]:
                counts.append(np.sum((u > start) & (u <= start + length)))
    np.testing.assert_allclose(found["pair_correlation"]["value"], pairs, rtol=1e-10)
    variance = [np.var(number[1.0]), np.var(number[3.0])]
    np.testing.assert_allclose(found["number_variance"]["value"], variance, rtol=1e-10)


# --- properties ---------------------------------------------------------------------------------


def test_nothing_reaches_across_a_joint():
    sequences = np.random.default_rng(5).gamma(4.0, 0.25, (8, 60))
    order = np.random.default_rng(6).permutation(8)
    one, other = (read(each)["curves"] for each in (sequences, sequences[order]))
    for name in one:
        np.testing.assert_allclose(one[name]["value"], other[name]["value"], rtol=1e-9)


def test_units_are_what_intervals_are_over():
    once = np.random.default_rng(7).gamma(4.0, 0.25, (30, 100))
    twice = np.repeat(once, 4, axis=0)
    generator = np.random.default_rng
    honest = statistics.statistics(twice, np.arange(120) // 4, config(), generator=generator(0))
    single = statistics.statistics(once, np.arange(30), config(), generator=generator(0))
    naive = statistics.statistics(twice, np.arange(120), config(), generator=generator(0))
    for name in ("spacing_mean", "rigidity@5"):
        widths = [row(each, name)["high"] - row(each, name)["low"] for each in (honest, single)]
        assert widths[0] == pytest.approx(widths[1])
        assert row(naive, name)["high"] - row(naive, name)["low"] < 0.7 * widths[0]


def test_short_rollouts_leave_long_intervals_out():
    sequences = np.random.default_rng(2).gamma(4.0, 0.25, (40, 12))
    found = read(sequences)
    assert found["curves"]["rigidity"]["x"] == [0.5, 1.0, 2.0, 5.0]
    assert "half a sequence" in found["curves"]["rigidity"]["reason"]
    assert found["curves"]["pair_correlation"]["reason"] is None
    tiny = read(sequences[:, :3], lengths=(2.0, 5.0))
    assert "too short" in tiny["curves"]["pair_correlation"]["reason"]
    assert row(tiny, "rigidity")["value"] is None
    assert "too short" in row(tiny, "rigidity")["reason"]


# --- errors -------------------------------------------------------------------------------------


def test_mistakes_are_named():
    good = np.ones((4, 50))
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="above 0: sampled rollouts"):
        statistics.statistics(good * -1, np.arange(4), config(), generator=generator)
    with pytest.raises(ValueError, match="at least two units"):
        statistics.statistics(good, np.zeros(4), config(), generator=generator)
    with pytest.raises(ValueError, match="one unit each"):
        statistics.statistics(good, np.arange(3), config(), generator=generator)
    with pytest.raises(ValueError, match="at least two spacings"):
        statistics.statistics(good[:, :1], np.arange(4), config(), generator=generator)
    with pytest.raises(ValueError, match="need 2"):
        statistics.sequences_of(np.ones(9), 5)
    assert statistics.sequences_of(np.arange(11.0), 5).tolist()[1] == [5.0, 6.0, 7.0, 8.0, 9.0]


@pytest.mark.parametrize(
    "changes", [{"step": 0.3}, {"lengths": (1.1,)}, {"lengths": (2.0, 1.0)}, {"bins": 1}]
)
def test_settings_are_checked(changes):
    with pytest.raises(ConfigError, match=r"step|lengths|bins"):
        config(**changes)
