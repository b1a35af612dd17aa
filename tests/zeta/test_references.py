"""Reference predictors on planted series."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from mneme.zeta.linear import Task, static_readings, walking_reading
from mneme.zeta.measure import window_metrics
from mneme.zeta.references import (
    ReferenceConfig,
    kde_reading,
    level_reading,
    reference_readings,
)
from mneme.zeta.windows import Split, split_windows

WINDOW = 256
SIGMA = 0.25


def chance(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def task(spacings: np.ndarray, split: Split | None = None, samples: int = 8) -> Task:
    split = split or split_windows(len(spacings) // WINDOW, "height", share=1.0)
    return Task(spacings=spacings, split=split, window=WINDOW, horizon=100, samples=samples)


def noise(windows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=windows * WINDOW)


@pytest.fixture(scope="module")
def second_order():
    """x_t = -.6 x_(t-1) - .3 x_(t-2) + noise, around 1."""
    return 1 + lfilter([SIGMA], [1.0, 0.6, 0.3], noise(300))


def normal_nll(scale: float) -> float:
    return 0.5 * math.log(2 * math.pi * math.e * scale**2)


def test_the_right_order_reaches_the_entropy_of_the_noise(second_order):
    readings = static_readings(task(second_order), (1, 2, 6), generator=chance())
    metrics = {p: window_metrics(r, horizons=(10, 100)) for p, r in readings.items()}
    nll = {p: m["nll_full"].mean() for p, m in metrics.items()}
    assert nll[2] == pytest.approx(normal_nll(SIGMA), abs=0.02)
    assert nll[6] == pytest.approx(nll[2], abs=0.003)
    # AR(1)'s best error: sigma^2 / (1 - a_2^2).
    assert nll[1] == pytest.approx(normal_nll(SIGMA / math.sqrt(1 - 0.09)), abs=0.02)
    assert metrics[2]["crps_full"].mean() == pytest.approx(SIGMA / math.sqrt(math.pi), rel=0.02)
    assert metrics[2]["mae_full"].mean() == pytest.approx(SIGMA * math.sqrt(2 / math.pi), rel=0.02)
    # Inside the window only the first target lacks a lag.
    assert metrics[2]["nll"].mean() == pytest.approx(nll[2], abs=0.02)
    pit = readings[2]["pit_WT"].ravel()
    assert stats.kstest(pit, "uniform").statistic < 1.63 / math.sqrt(len(pit))


def test_rollouts_return_to_the_mean_and_samples_scatter(second_order):
    reading = static_readings(task(second_order, samples=200), (2,), generator=chance())[2]
    np.testing.assert_allclose(reading["rollout_mean_WH"][:, 40:], 1.0, atol=0.01)
    x = second_order.reshape(-1, WINDOW)[270:] - second_order[: 240 * WINDOW].mean()
    first = -0.6 * x[:, 127] - 0.3 * x[:, 126]
    np.testing.assert_allclose(reading["rollout_mean_WH"][:, 0] - 1, first, atol=0.02)
    after_ten = -0.6 * x[:, 9] - 0.3 * x[:, 8]
    np.testing.assert_allclose(reading["rollout10_WH"][:, 0] - 1, after_ten, atol=0.02)
    spread = reading["sampled_SWH"].std(axis=0).mean(axis=0)
    assert spread[0] == pytest.approx(SIGMA, rel=0.05)
    assert spread[50] == pytest.approx(x.std(), rel=0.05)


def test_what_lies_before_the_window_counts_at_full_context_only():
    # x_t = .9 x_(t-200) + noise: the first 200 targets of a window see nothing of it.
    x = lfilter([SIGMA], [1.0, *np.zeros(199), -0.9], noise(120))
    reading = static_readings(task(1 + x), (210,), generator=chance())[210]
    assert reading["nll_full_WX"].mean() == pytest.approx(normal_nll(SIGMA), abs=0.03)
    assert reading["nll_WT"][:, 210:].mean() == pytest.approx(normal_nll(SIGMA), abs=0.05)
    assert reading["nll_WT"][:, 10:190].mean() > normal_nll(SIGMA) + 0.5


def test_gaps_between_training_windows_are_not_bridged(second_order):
    # Windows 1, 3, 5, ... hold another process: training on 0, 2, 4, ... must not see it.
    mixed = second_order.reshape(-1, WINDOW).copy()
    mixed[1::2] = 1 + 5 * noise(150).reshape(150, WINDOW)
    split = Split(train=np.arange(0, 200, 2), val=np.arange(200, 250), test=np.arange(250, 300, 2))
    reading = static_readings(task(mixed.ravel(), split), (2,), generator=chance())[2]
    inside = reading["nll_WT"][:, 2:].mean()
    assert inside == pytest.approx(normal_nll(SIGMA), abs=0.15)


def test_walking_forward_follows_a_drift():
    # The sign of the memory turns slowly: coefficients of long ago mislead.
    windows = 400
    turn = np.cos(2 * np.pi * np.arange(windows * WINDOW) / (800 * WINDOW))
    x, e = np.zeros(windows * WINDOW), SIGMA * noise(windows)
    for t in range(1, len(x)):
        x[t] = 0.9 * turn[t] * x[t - 1] + e[t]
    walk = walking_reading(task(1 + x), order=40, memories=(2, 10, 150), generator=chance())
    assert walk.memory == 10
    assert set(walk.val_nll) == {2, 10, 150}
    assert walk.reading["nll_WT"].mean() == pytest.approx(normal_nll(SIGMA), abs=0.03)
    static = static_readings(task(1 + x), (4,), generator=chance())[4]
    assert static["nll_WT"].mean() > walk.reading["nll_WT"].mean() + 0.05


def test_walking_forward_uses_nothing_later(second_order):
    early = second_order[: 200 * WINDOW]
    split = Split(train=np.arange(80), val=np.arange(80, 90), test=np.arange(90, 130))
    later = early.copy()
    later[129 * WINDOW + 100 :] = 1.0  # within the last test window
    readings = [
        walking_reading(task(s, split), order=5, memories=(20,), generator=chance()).reading
        for s in (early, later)
    ]
    np.testing.assert_array_equal(readings[0]["nll_WT"][:39], readings[1]["nll_WT"][:39])
    np.testing.assert_array_equal(readings[0]["nll_WT"][39, :99], readings[1]["nll_WT"][39, :99])
    assert (readings[0]["nll_WT"][39, 99:] != readings[1]["nll_WT"][39, 99:]).all()


def test_a_walk_equals_a_fit_by_hand(second_order):
    split = Split(train=np.arange(80), val=np.arange(80, 82), test=np.arange(100, 140))
    work = task(second_order, split)
    walk = walking_reading(work, order=3, memories=(12,), generator=chance())
    x = second_order - work.train_mean
    for row, w in enumerate((100, 139)):
        end, start = w * WINDOW, (w - 12) * WINDOW
        lags = np.stack([x[start - k : end - k] for k in (1, 2, 3)], axis=1)
        a, left, *_ = np.linalg.lstsq(lags, x[start:end], rcond=None)
        n = end - start
        scale = math.sqrt(left[0] / (n - 3) * (1 + 3 / n))
        ahead = np.stack([x[end - k : end + WINDOW - k] for k in (1, 2, 3)], axis=1) @ a
        expected = -stats.norm.logpdf(x[end : end + WINDOW], ahead, scale)
        place = (0, -1)[row]
        np.testing.assert_allclose(walk.reading["nll_full_WX"][place], expected, rtol=1e-4)


def test_the_memoryless_law_reaches_its_entropy():
    draws = np.random.default_rng(1).gamma(6.0, 1 / 6, size=200 * WINDOW)
    reading = kde_reading(task(draws), generator=chance())
    metrics = window_metrics(reading, horizons=(100,))
    law = stats.gamma(6.0, scale=1 / 6)
    assert metrics["nll"].mean() == pytest.approx(law.entropy(), abs=0.02)
    # Climatology: the same mean at every step.
    sums = draws.reshape(-1, WINDOW)[180:, 128:228].sum(axis=1)
    mean = draws[: 160 * WINDOW].mean()
    np.testing.assert_allclose(metrics["err_cum@100"], np.abs(100 * mean - sums), atol=1e-3)
    assert reading["sampled_SWH"].mean() == pytest.approx(1.0, abs=0.01)


def test_the_level_predicts_where_sums_return():
    # u_k = k + wobble_k: spacings 1 + wobble_(k+1) - wobble_k, the wobble white.
    wobble = 0.3 * noise(200)
    spacings = 1 + np.diff(np.append(wobble, 0.0))
    reading = level_reading(task(spacings), generator=chance())
    assert reading["nll_WT"].mean() == pytest.approx(normal_nll(0.3), abs=0.02)
    metrics = window_metrics(reading, horizons=(100,))
    # The sum returns whole: what is left is the last wobble alone.
    assert metrics["err_cum@100"].mean() == pytest.approx(0.3 * math.sqrt(2 / math.pi), rel=0.4)
    iid = level_reading(task(1 + 0.3 * noise(200, seed=4)), generator=chance())
    assert iid["nll_WT"].mean() == pytest.approx(normal_nll(0.3), abs=0.02)


def test_all_references_by_name(second_order):
    config = ReferenceConfig(
        orders=(1, 2), walk_order=5, walk_windows=(5, 20), horizon=100, samples=2, bayes_context=2
    )
    split = split_windows(300, "interpolation", share=1.0)
    references = reference_readings(second_order, split, config, window=WINDOW, generator=chance())
    assert list(references) == ["kde", "ar1", "ar2", "ar5_walk", "level"]
    for reference in references.values():
        metrics = window_metrics(reference.reading, horizons=(10, 25, 50, 100))
        assert all(values.shape == (len(split.test),) for values in metrics.values())
        assert reference.reading["sampled_SWH"].shape == (2, len(split.test), 100)
        assert {a.dtype for a in reference.reading.values()} == {np.dtype(np.float32)}
        assert reference.information
    chosen = references["ar5_walk"].chosen
    assert chosen["windows"] in (5, 20)
    assert chosen[f"val_nll@{int(chosen['windows'])}"] == min(
        chosen["val_nll@5"], chosen["val_nll@20"]
    )
    assert references["kde"].chosen == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"orders": ()}, "orders"),
        ({"orders": (0, 1)}, "orders"),
        ({"walk_order": 0}, "walk_order"),
        ({"walk_windows": (0,)}, "walk_windows"),
        ({"horizon": 0}, "horizon"),
        ({"samples": 1}, "samples"),
        ({"bayes_context": 0}, "bayes_context"),
    ],
)
def test_settings_that_make_no_sense(change, message):
    good = {"orders": (1,), "walk_order": 5, "walk_windows": (5,), "horizon": 10, "samples": 2}
    good["bayes_context"] = 2
    ReferenceConfig(**good)
    with pytest.raises(ValueError, match=message):
        ReferenceConfig(**(good | change))


def test_an_order_too_high_for_the_windows(second_order):
    split = Split(train=np.arange(1), val=np.arange(1, 2), test=np.arange(2, 3))
    work = task(second_order[: 10 * WINDOW], split)
    with pytest.raises(ValueError, match="order 256 cannot be fitted on 256 spacings"):
        walking_reading(work, order=256, memories=(1,), generator=chance())
