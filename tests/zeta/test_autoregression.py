"""Least squares of every order at once, predictions and forecasts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from mneme.zeta.autoregression import (
    forecast,
    gram,
    lagged_products,
    least_squares,
    predict_full,
    predict_windows,
)

PHI = np.array([-0.5, -0.3, 0.1])


def process(n: int, seed: int = 0) -> np.ndarray:
    noise = 0.4 * np.random.default_rng(seed).normal(size=n + 200)
    return lfilter([1.0], [1.0, *-PHI], noise)[200:]


def stretch(x: np.ndarray, first: int, past: int, lags: int) -> np.ndarray:
    """The matrix of targets first .. past - 1, as the room makes it (window 1)."""
    products = lagged_products(x, window=1, lags=lags)[first:past].sum(axis=0)[None]
    back = 1 + np.arange(lags + 1)
    return gram(products, x[first - back][None], x[past - back][None])


def test_a_planted_process_is_recovered():
    x = process(200_000)
    coefficients, variance = least_squares(stretch(x, 10, len(x), 6), np.array([len(x) - 10]))
    np.testing.assert_allclose(coefficients[0, 2, :3], PHI, atol=0.01)
    np.testing.assert_allclose(coefficients[0, 5], [*PHI, 0, 0, 0], atol=0.012)
    assert variance[0, 3] == pytest.approx(0.16, rel=0.02)
    assert variance[0, 0] == pytest.approx(x.var(), rel=1e-3)
    assert coefficients[0, 0, 0] == pytest.approx(np.corrcoef(x[1:], x[:-1])[0, 1], abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_lagged_products_equal_a_loop(lags, window, seed):
    x = np.random.default_rng(seed).normal(size=5 * window + 3)
    products = lagged_products(x, window=window, lags=lags)
    assert products.shape == (len(x) // window, lags + 1)
    for w, row in enumerate(products):
        for lag in range(lags + 1):
            targets = range(w * window, (w + 1) * window)
            expected = sum(x[t] * x[t - lag] for t in targets if t >= lag)
            assert row[lag] == pytest.approx(expected, abs=1e-9)


def test_every_order_equals_numpys_least_squares():
    x, lags, first = process(400, seed=2), 20, 40
    matrix = stretch(x, first, len(x), lags)
    columns = np.stack([x[first - k : len(x) - k] for k in range(lags + 1)], axis=1)
    np.testing.assert_allclose(matrix[0], columns.T @ columns, atol=1e-10)
    n = len(columns)
    coefficients, variance = least_squares(matrix, np.array([n]))
    for p in range(1, lags + 1):
        solution, left, *_ = np.linalg.lstsq(columns[:, 1 : p + 1], columns[:, 0], rcond=None)
        np.testing.assert_allclose(coefficients[0, p - 1, :p], solution, atol=1e-10)
        assert (coefficients[0, p - 1, p:] == 0).all()
        assert variance[0, p] == pytest.approx(left[0] / (n - p) * (1 + p / n))


def test_the_variance_is_that_of_new_data():
    # With 12 useless regressors on 60 targets the residuals are 20 % too small, errors on new
    # data 20 % too large; the final prediction error knows both.
    generator, errors, told = np.random.default_rng(3), [], []
    for _ in range(400):
        x = generator.normal(size=1060)
        fitted = stretch(x, 13, 73, 12)
        coefficients, variance = least_squares(fitted, np.array([60]))
        predicted = predict_full(x, np.array([100]), 960, coefficients[:, -1])
        errors.append(np.square(x[100:] - predicted[0]).mean())
        told.append(variance[0, -1])
    assert np.mean(told) == pytest.approx(np.mean(errors), rel=0.05)
    assert np.mean(errors) > 1.2


@pytest.mark.parametrize("sets", [1, 4])
def test_predictions_inside_a_window_equal_a_loop(sets):
    generator = np.random.default_rng(4)
    x, a = generator.normal(size=(4, 9)), generator.normal(size=(sets, 5, 5))
    predicted = predict_windows(x, a)
    assert predicted.shape == (4, 8)
    for b in range(4):
        for target in range(1, 9):
            order = min(target, 5)
            own = a[b % sets, order - 1, :order]
            expected = sum(own[k] * x[b, target - 1 - k] for k in range(order))
            assert predicted[b, target - 1] == pytest.approx(expected)


def test_full_predictions_use_the_lags_before_the_window():
    x, a = np.random.default_rng(5).normal(size=50), np.array([[1.0, -2.0, 0.5]])
    predicted = predict_full(x, np.array([3, 20]), 4, a)
    for row, start in zip(predicted, (3, 20), strict=True):
        expected = [x[t - 1] - 2 * x[t - 2] + 0.5 * x[t - 3] for t in range(start, start + 4)]
        np.testing.assert_allclose(row, expected)


def test_a_forecast_is_the_conditional_mean_of_a_gaussian_process():
    # AR(1): covariance phi^|i-j| / (1 - phi^2), conditional mean phi^h x_last.
    coefficients = np.zeros((1, 6, 6))
    coefficients[0, :, 0] = 0.7
    context = np.random.default_rng(6).normal(size=(3, 4))
    ahead = forecast(context, coefficients, horizon=5)
    np.testing.assert_allclose(ahead, context[:, -1:] * 0.7 ** np.arange(1, 6))
    lags = np.abs(np.subtract.outer(np.arange(9), np.arange(9)))
    covariance = 0.7**lags / (1 - 0.49)
    exact = covariance[4:, :4] @ np.linalg.solve(covariance[:4, :4], context.T)
    np.testing.assert_allclose(ahead, exact.T)


def test_sampled_paths_scatter_as_the_process_does():
    generator = np.random.default_rng(7)
    coefficients = np.full((1, 1, 1), 0.7)
    noise = generator.normal(size=(40_000, 3))
    paths = forecast(np.full((40_000, 1), 2.0), coefficients, horizon=3, noise_BH=noise)
    np.testing.assert_allclose(paths.mean(axis=0), [1.4, 0.98, 0.686], atol=0.03)
    expected = [1.0, 1.49, 1 + 0.49 + 0.49**2]
    np.testing.assert_allclose(paths.var(axis=0), expected, rtol=0.03)


def test_too_few_targets():
    x = process(60)
    with pytest.raises(ValueError, match="order 12 cannot be fitted on 12 spacings"):
        least_squares(stretch(x, 13, 25, 12), np.array([12]))
