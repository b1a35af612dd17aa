"""The sine process: exact numbers, an independent slow version, sampled spectra, errors."""

from __future__ import annotations

from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial.legendre import leggauss

from mneme.zeta import sine_process, surrogates

few = settings(max_examples=10, deadline=None)
NODES, WEIGHTS = sine_process.grid()


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    series = surrogates.gue_spacings(4 * surrogates.KEPT, generator=np.random.default_rng(11))
    return series.reshape(-1, 256)


# --- known answers ------------------------------------------------------------------------------


def test_the_memoryless_law():
    law = sine_process.predict(np.zeros((1, 0)))
    density = law.density_BG[0]
    assert abs(density @ WEIGHTS - 1) < 1e-8
    assert abs(density @ (WEIGHTS * NODES) - 1) < 2e-8
    assert abs(density @ (WEIGHTS * NODES**2) - 1 - 0.1799938776) < 1e-7
    nll, crps, mae = law.scores()[:, 0]
    assert abs(nll - 0.53303) < 1e-5
    assert abs(law.mean()[0] - 1) < 2e-8
    # the same two scores straight from their definitions, on a fine grid
    fine = np.linspace(0, 5, 4001)
    chance = np.cumsum(sine_process.spacing_density(fine)) * (fine[1] - fine[0])
    assert abs(np.trapezoid(chance * (1 - chance), fine) - crps) < 1e-3
    # of the mean, 1, as of every arm; the median's is .0013 lower
    error = np.trapezoid(np.abs(fine - 1) * sine_process.spacing_density(fine), fine)
    assert abs(error - mae) < 2e-6
    median = np.interp(0.5, chance, fine)
    least = np.trapezoid(np.abs(fine - median) * sine_process.spacing_density(fine), fine)
    assert abs(law.error_of([median])[0] - least) < 2e-6
    assert least < error - 1e-4


@pytest.mark.parametrize("s", [0.3, 1.0, 2.2])
def test_the_memoryless_law_is_the_second_derivative_of_the_gap_probability(s):
    def gap(length):
        x, w = (mpmath.matrix(v.tolist()) for v in leggauss(14))
        size = len(x)
        kernel = mpmath.matrix(size, size)
        for i in range(size):
            for j in range(size):
                r = (x[i] - x[j]) * length / 2
                kernel[i, j] = mpmath.sincpi(r) * mpmath.sqrt(w[i] * w[j]) * length / 2
        return mpmath.det(mpmath.eye(size) - kernel)

    with mpmath.workdps(30):
        h = mpmath.mpf(10) ** -4
        second = (gap(s + h) - 2 * gap(mpmath.mpf(s)) + gap(s - h)) / h**2
    assert abs(float(second) - float(sine_process.spacing_density(s))) < 1e-6


def test_small_spacings_repel():
    s = np.array([0.02, 0.05, 0.1])
    # Mehta: pi^2 s^2 / 3 - 2 pi^4 s^4 / 45 + pi^6 s^6 / 315 - ...
    series = np.pi**2 * s**2 / 3 - 2 * np.pi**4 * s**4 / 45 + np.pi**6 * s**6 / 315
    np.testing.assert_allclose(sine_process.spacing_density(s), series, rtol=1e-5, atol=1e-8)
    assert sine_process.spacing_density(np.array([[5.1, 7.0]])).tolist() == [[0.0, 0.0]]


def test_two_and_three_consecutive_spacings():
    pasts, weights = sine_process.past_quadrature(2)
    after = sine_process.predict(pasts)
    variance = 0.1799938776
    assert abs(weights.sum() - 1) < 1e-8
    assert abs(weights @ pasts[:, 1] - 1) < 2e-8  # the second spacing has the law of the first
    assert abs(weights @ (pasts[:, 1] - 1) ** 2 - variance) < 1e-7
    assert abs(weights @ after.mean() - 1) < 3e-8  # and so has the third
    np.testing.assert_allclose(
        weights @ after.density_BG, sine_process.spacing_density(NODES), atol=1e-7
    )
    products = weights @ (pasts[:, 0] * pasts[:, 1]), weights @ (pasts[:, 0] * after.mean())
    lag_1, lag_2 = ((product - 1) / variance for product in products)
    assert abs(lag_1 + 0.308372) < 2e-6
    assert abs(lag_2 + 0.077202) < 2e-6
    # lag 1 again, from the chain rule for the same pair in the other order
    assert abs(weights @ (pasts[:, 1] * after.mean()) - products[0]) < 1e-7


# --- an independent slow version ----------------------------------------------------------------


def janossy(points: np.ndarray) -> float:
    """det(I - K_J) det[R(x_i, x_j)], J from the first point to the last, R = K + K (I - K)^-1 K."""
    low, high = points[0], points[-1]
    x, w = leggauss(36)
    x, w = low + (x + 1) * (high - low) / 2, w * (high - low) / 2
    inside = np.sqrt(w)[:, None] * np.sinc(x[:, None] - x) * np.sqrt(w)
    across = np.sqrt(w)[:, None] * np.sinc(x[:, None] - points)
    one_minus = np.eye(len(x)) - inside
    resolvent = np.sinc(points[:, None] - points) + across.T @ np.linalg.solve(one_minus, across)
    return float(np.linalg.det(one_minus) * np.linalg.det(resolvent))


@few
@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_laws_are_ratios_of_janossy_densities(n, seed):
    past = np.random.default_rng(seed).uniform(0.3, 1.8, n)
    law = sine_process.predict(past[None])
    behind = np.append(0.0, np.cumsum(past))
    for node in (8, 15, 20, 25):
        ahead = np.append(behind, behind[-1] + NODES[node])
        expected = janossy(ahead) / janossy(behind)
        np.testing.assert_allclose(law.density_BG[0, node], expected, rtol=1e-5, atol=1e-7)


def test_long_pasts_need_no_more_nodes(windows, monkeypatch):
    pasts = windows[:4, :200]
    law = sine_process.predict(pasts)
    monkeypatch.setattr(sine_process, "PAST_NODES", (2.2, 30))
    finer = sine_process.predict(pasts)
    np.testing.assert_allclose(law.density_BG, finer.density_BG, atol=1e-8)


# --- properties ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 4, 32, 255])
def test_every_law_is_a_law(windows, n):
    law = sine_process.predict(windows[:6, :n])
    np.testing.assert_allclose(law.density_BG @ WEIGHTS, 1, atol=1e-8)
    assert (law.density_BG > 0).all()
    assert (np.diff(law.survival_BG, axis=1) < 0).all()
    at_nodes = np.stack([law.density_at(np.full(6, s)) for s in NODES], axis=1)
    np.testing.assert_allclose(at_nodes, law.density_BG, atol=1e-10)


def test_batches_do_not_matter(windows, monkeypatch):
    pasts = windows[:7, :5]
    at_once = sine_process.predict(pasts).density_BG
    monkeypatch.setattr(sine_process, "CHUNK_FLOATS", 1)
    np.testing.assert_allclose(sine_process.predict(pasts).density_BG, at_once, atol=1e-9)


def test_gains_are_differences_of_scores_on_average(windows):
    pasts = np.concatenate([windows[:, end - 4 : end] for end in range(10, 250, 24)])
    short, long = sine_process.predict(pasts[:, -1:]), sine_process.predict(pasts)
    gain = long.gain_over(short)
    difference = short.scores() - long.scores()
    assert (gain[:2] > -1e-6).all()
    assert gain[2].mean() > 0
    error = np.std(gain - difference, axis=1) / np.sqrt(len(pasts))
    assert (np.abs(gain.mean(axis=1) - difference.mean(axis=1)) < 4 * error).all()
    assert not long.gain_over(long).any()


def test_spectra_score_as_the_law_expects(windows):
    nll = sine_process.bayes_nll(windows[:, :32], context=2)
    assert nll.shape == (52, 31)
    for column, exact in ((nll[:, :1], 0.48156), (nll[:, 1:], 0.46274)):
        error = column.std() / np.sqrt(column.size)
        assert abs(column.mean() - exact) < 4 * error
    whole = sine_process.bayes_nll(windows[:2, :6], context=5)
    law = sine_process.predict(windows[:2, :5])
    np.testing.assert_allclose(whole[:, 4], -np.log(law.density_at(windows[:2, 5])), atol=1e-8)


def test_floors_fall_with_context_and_average_over_it(windows):
    found = sine_process.floors((0, 1, 2, 4, 8, 64), (0, 0, 0, 200, 104, 26), windows)
    nll = [floor.nll.value for floor in found]
    np.testing.assert_allclose(nll[:3], [0.53303, 0.48156, 0.46274], atol=1e-5)
    assert abs(nll[3] - 0.4473) < 4 * found[3].nll.error
    assert abs(nll[4] - 0.4367) < 4 * found[4].nll.error
    assert abs(nll[5] - 0.4253) < 4 * found[5].nll.error
    assert found[5].nll.error < 0.006
    assert all(b < a for a, b in pairwise(nll))
    assert found[3].pasts == 200
    assert found[2].pasts is None
    one = sine_process.window_average(found, longest=1)["nll"]
    assert one == found[1].nll
    four = sine_process.window_average(found, longest=4)["nll"].value
    between = np.interp(np.log(3), np.log([2, 4]), nll[2:4])
    assert abs(four - (nll[1] + nll[2] + between + nll[3]) / 4) < 1e-12


@pytest.mark.slow
def test_the_floor_to_three_digits():
    series = surrogates.gue_spacings(25_088, generator=np.random.default_rng(0))
    contexts, pasts = (0, 1, 2, 4, 8, 16, 32, 64, 128), (0, 0, 0, 3000, 3000, 1500, 800, 400, 200)
    found = sine_process.floors(contexts, pasts, series.reshape(-1, 256))
    known = [0.53303, 0.48156, 0.46274, 0.4473, 0.4367, 0.4306, 0.4272, 0.4253, 0.4245]
    for floor, value in zip(found, known, strict=True):
        assert floor.nll.error < 1e-3
        assert abs(floor.nll.value - value) < 1e-5 + 4 * np.hypot(floor.nll.error, 5e-4)


# --- errors -------------------------------------------------------------------------------------


def test_mistakes_are_named(windows):
    with pytest.raises(ValueError, match="finite spacings above 0"):
        sine_process.predict([[1.0, 0.0]])
    for impossible in ([0.01] * 12, [3.0] * 16):
        with pytest.raises(ValueError, match="all but impossible"):
            sine_process.predict([impossible])
    with pytest.raises(ValueError, match="ascend from 0, 1, 2"):
        sine_process.floors((1, 2, 4), (0, 0, 10), windows)
    with pytest.raises(ValueError, match="below the windows' 256"):
        sine_process.floors((0, 1, 2, 256), (0, 0, 0, 10), windows)
    with pytest.raises(ValueError, match=r"must be 2\.\.312"):
        sine_process.floors((0, 1, 2, 250), (0, 0, 0, 10_000), windows)
    with pytest.raises(ValueError, match="context must be at least 1"):
        sine_process.bayes_nll(windows, context=0)
