"""The kernel density and its tabulated scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from mneme.zeta.density import kernel_law


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).gamma(6.0, 1 / 6, size=2000)


@pytest.fixture(scope="module")
def law(data):
    return kernel_law(data)


def test_the_bandwidth_is_silvermans():
    spread = stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
    law = kernel_law(spread)
    assert law.bandwidth == pytest.approx(0.9 * 1000**-0.2, rel=0.01)


def test_density_equals_scipys(data, law):
    theirs = stats.gaussian_kde(data, bw_method=law.bandwidth / data.std(ddof=1))
    at = np.linspace(0.05, 3.0, 200)
    density = np.exp(-law.scores(at)["nll"])
    np.testing.assert_allclose(density, theirs(at), rtol=4e-3, atol=1e-6)
    assert np.trapezoid(law.density_G, law.grid_G) == pytest.approx(1.0)
    assert law.mean == pytest.approx(data.mean(), abs=1e-6)


def test_scores_by_numerical_integration(data, law):
    theirs = stats.gaussian_kde(data, bw_method=law.bandwidth / data.std(ddof=1))
    for truth in (0.2, 1.0, 2.7):
        scores = law.scores(np.array([truth]))
        pit = theirs.integrate_box_1d(-np.inf, truth)
        assert scores["pit"][0] == pytest.approx(pit, abs=2e-4)

        def squared(x, truth=truth):
            return (np.interp(x, law.grid_G, law.distribution) - (x >= truth)) ** 2

        low, _ = integrate.quad(squared, law.grid_G[0], truth, limit=400, epsabs=1e-6)
        high, _ = integrate.quad(squared, truth, law.grid_G[-1], limit=400, epsabs=1e-6)
        assert scores["crps"][0] == pytest.approx(low + high, abs=1e-4)
        assert scores["abs_error"][0] == pytest.approx(abs(truth - law.mean), abs=1e-6)


def test_crps_equals_the_ensembles(data, law):
    # The law is the data plus N(0, bandwidth^2): an ensemble drawn from it scores alike.
    drawn = law.draw((50_000,), np.random.default_rng(1))
    for truth in (0.4, 1.3):
        near = np.abs(drawn - truth).mean()
        apart = 2 * (np.sort(drawn) * (2 * np.arange(50_000) - 49_999)).sum() / 50_000**2
        expected = near - apart / 2
        assert law.scores(np.array([truth]))["crps"][0] == pytest.approx(expected, abs=3e-3)


def test_its_own_draws_have_a_flat_pit(law):
    drawn = law.draw((100, 50), np.random.default_rng(2))
    assert drawn.shape == (100, 50)
    pit = law.scores(drawn)["pit"].ravel()
    assert stats.kstest(pit, "uniform").statistic < 1.63 / np.sqrt(5000)


def test_a_value_beyond_all_reach_has_no_density(law):
    with pytest.raises(ValueError, match=r"the kernel density is 0 at 90\.0"):
        law.scores(np.array([1.0, 90.0]))
    with pytest.raises(ValueError, match="values that differ, got 5"):
        kernel_law(np.ones(5))
