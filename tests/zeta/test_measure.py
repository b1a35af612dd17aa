"""Scores of predictors on test windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scoringrules
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mneme.zeta.measure import (
    by_context,
    energy_score,
    err_cum,
    err_step,
    ks_distance,
    ks_interval,
    mixture_scores,
    pit_histogram,
    window_metrics,
)


def mixtures(shape: tuple[int, ...], components: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet(np.ones(components), size=shape)
    means = generator.normal(1.0, 0.4, size=(*shape, components))
    scales = generator.uniform(0.02, 0.5, size=(*shape, components))
    return np.log(weights), means, scales


def readings(windows: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    arrays = {
        "spacings_WN": generator.gamma(6.0, 1 / 6, size=(windows, 256)),
        "nll_full_WX": generator.normal(size=(windows, 32)),
        "crps_full_WX": generator.random((windows, 32)),
        "abs_error_full_WX": generator.random((windows, 32)),
        "rollout_mean_WH": generator.gamma(6.0, 1 / 6, size=(windows, 100)),
        "rollout10_WH": generator.gamma(6.0, 1 / 6, size=(windows, 10)),
        "sampled_SWH": generator.gamma(6.0, 1 / 6, size=(4, windows, 100)),
    }
    for name in ("nll", "crps", "abs_error", "pit"):
        arrays[f"{name}_WT"] = generator.random((windows, 255))
    return {name: values.astype(np.float32) for name, values in arrays.items()}


# --- mixtures -----------------------------------------------------------------------------------


def test_a_single_normal_by_hand():
    scores = mixture_scores([[0.0]], [[1.0]], [[0.5]], [1.0])
    assert scores["nll"][0] == pytest.approx(math.log(0.5 * math.sqrt(2 * math.pi)))
    assert scores["crps"][0] == pytest.approx(0.5 * (math.sqrt(2) - 1) / math.sqrt(math.pi))
    assert scores["pit"][0] == 0.5
    assert scores["abs_error"][0] == 0.0
    assert {values.dtype for values in scores.values()} == {np.dtype(np.float32)}


def test_mixtures_equal_scipy_and_scoringrules():
    log_w, means, scales = mixtures((7, 5), 8)
    truth = np.random.default_rng(1).gamma(6.0, 1 / 6, size=(7, 5))
    scores = mixture_scores(log_w, means, scales, truth)
    w = np.exp(log_w)
    density = (w * stats.norm.pdf(truth[..., None], means, scales)).sum(axis=-1)
    below = (w * stats.norm.cdf(truth[..., None], means, scales)).sum(axis=-1)
    np.testing.assert_allclose(scores["nll"], -np.log(density), rtol=1e-5)
    np.testing.assert_allclose(scores["pit"], below, atol=1e-6)
    np.testing.assert_allclose(scores["abs_error"], abs(truth - (w * means).sum(-1)), atol=1e-6)
    theirs = scoringrules.crps_mixnorm(truth, means, scales, w)
    np.testing.assert_allclose(scores["crps"], theirs, atol=1e-6)


def test_far_tails_stay_finite():
    log_w = np.log([[1 - 1e-12, 1e-12]])
    scores = mixture_scores(log_w, [[1.0, 1.0]], [[0.01, 0.01]], [9.0])
    assert scores["nll"][0] == pytest.approx(0.5 * 800**2 + math.log(0.01 * 2.5066283), rel=1e-5)
    assert scores["pit"][0] == 1.0


def test_pieces_do_not_matter(monkeypatch):
    log_w, means, scales = mixtures((40,), 3)
    truth = np.ones(40)
    whole = mixture_scores(log_w, means, scales, truth)
    monkeypatch.setattr("mneme.zeta.measure.CHUNK_FLOATS", 9 * 7)
    for name, values in mixture_scores(log_w, means, scales, truth).items():
        np.testing.assert_array_equal(values, whole[name])


def test_the_true_law_has_a_flat_pit_and_a_false_one_has_not():
    generator = np.random.default_rng(2)
    log_w, means, scales = mixtures((20_000,), 3)
    chosen = (generator.random(20_000)[:, None] > np.exp(log_w).cumsum(axis=1)).sum(axis=1)
    rows = np.arange(20_000)
    truth = means[rows, chosen] + scales[rows, chosen] * generator.normal(size=20_000)
    pit = mixture_scores(log_w, means, scales, truth)["pit"]
    assert ks_distance(pit) < 1.63 / math.sqrt(20_000)
    assert ks_distance(pit) == pytest.approx(stats.kstest(pit, "uniform").statistic, abs=1e-6)
    narrow = mixture_scores(log_w, means, 0.7 * scales, truth)["pit"]
    assert ks_distance(narrow) > 0.04
    assert pit_histogram(pit, bins=10) == pytest.approx(np.full(10, 0.1), abs=0.012)
    assert pit_histogram(narrow, bins=10)[0] > 0.12


@pytest.mark.parametrize(
    ("log_weights", "scales", "message"),
    [
        ([[0.0, 0.0]], [[1.0, 1.0]], "weights must sum to 1, got 2"),
        ([[math.log(0.5)] * 2], [[1.0, 0.0]], "scales must be positive, got 0"),
        ([[0.0]], [[1.0, 1.0]], "mixture must be"),
    ],
)
def test_what_is_no_mixture(log_weights, scales, message):
    with pytest.raises(ValueError, match=message):
        mixture_scores(log_weights, [[1.0, 1.0]], scales, [1.0])


# --- rollouts and windows -----------------------------------------------------------------------


def test_two_kinds_of_rollout_error():
    truth = np.ones((1, 4))
    swinging, leaning = np.array([[1.5, 0.5, 1.5, 0.5]]), np.array([[1.5, 1.5, 1.5, 1.5]])
    assert err_step(swinging, truth) == err_step(leaning, truth) == 0.5
    assert err_cum(swinging, truth) == 0.0
    assert err_cum(leaning, truth) == 2.0


def test_window_metrics_equal_slow_loops():
    given_, horizons = readings(), (10, 100)
    metrics = window_metrics(given_, horizons=horizons)
    for w in range(6):
        truth = given_["spacings_WN"][w].astype(float)
        rolled = given_["rollout_mean_WH"][w].astype(float)
        for horizon in horizons:
            off = [rolled[h] - truth[128 + h] for h in range(horizon)]
            step = sum(map(abs, off)) / horizon
            assert metrics[f"err_step@{horizon}"][w] == pytest.approx(step)
            assert metrics[f"err_cum@{horizon}"][w] == pytest.approx(abs(sum(off)), abs=1e-9)
            growth = metrics[f"err_growth@{horizon}"][w]
            assert growth == pytest.approx(step - abs(off[0]), abs=1e-9)
            sampled = given_["sampled_SWH"][:, w, :horizon]
            score = scoringrules.es_ensemble(
                truth[None, 128 : 128 + horizon], sampled[None], estimator="fair"
            )
            assert metrics[f"energy_score@{horizon}"][w] == pytest.approx(float(score[0]))
        off = [abs(given_["rollout10_WH"][w, h] - truth[10 + h]) for h in range(10)]
        assert metrics["err_source@10"][w] == pytest.approx(np.mean(off), rel=1e-5)
        for name, key in (("nll", "nll"), ("crps", "crps"), ("mae", "abs_error")):
            assert metrics[name][w] == pytest.approx(given_[f"{key}_WT"][w].mean(), rel=1e-5)
            full = given_[f"{key}_full_WX"][w].mean()
            assert metrics[f"{name}_full"][w] == pytest.approx(full, rel=1e-5, abs=1e-6)


def test_a_likelihood_alone_gives_its_scores():
    few = {name: readings()[name] for name in ("spacings_WN", "nll_WT")}
    assert list(window_metrics(few, horizons=(10,))) == ["nll"]


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_energy_score_equals_loops_and_scoringrules(samples, windows, horizon, seed):
    generator = np.random.default_rng(seed)
    sampled = generator.normal(size=(samples, windows, horizon))
    truth = generator.normal(size=(windows, horizon))
    score = energy_score(sampled, truth)
    for w in range(windows):
        near = np.mean([np.linalg.norm(x - truth[w]) for x in sampled[:, w]])
        far = sum(np.linalg.norm(x - y) for x in sampled[:, w] for y in sampled[:, w])
        assert score[w] == pytest.approx(near - far / (2 * samples * (samples - 1)), abs=1e-9)
    theirs = scoringrules.es_ensemble(truth, np.moveaxis(sampled, 0, 1), estimator="fair")
    np.testing.assert_allclose(score, theirs, atol=1e-9)


def test_energy_score_is_fair_in_the_number_of_samples():
    generator = np.random.default_rng(3)
    truth = generator.normal(size=(4000, 3))
    few, many = (energy_score(generator.normal(size=(s, 4000, 3)), truth).mean() for s in (2, 40))
    assert few == pytest.approx(many, abs=0.05)
    wide = energy_score(2 * generator.normal(size=(40, 4000, 3)), truth).mean()
    assert wide > many + 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nll_WT": None}, "the readings lack nll_WT"),
        ({"crps_WT": np.full((6, 255), np.nan)}, "crps_WT must be finite, got nan"),
        ({"nll_WT": np.zeros((5, 255))}, "nll_WT must have 6 windows"),
        ({"nll_WT": np.zeros((6, 254))}, "nll_WT must have 255 targets"),
        ({"rollout_mean_WH": np.zeros((6, 50))}, "rollout_mean_WH must reach horizon 100"),
        ({"sampled_SWH": np.zeros((4, 5, 100))}, "sampled_SWH must have 6 windows"),
    ],
)
def test_readings_that_do_not_fit(change, message):
    arrays = {k: v for k, v in (readings() | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        window_metrics(arrays, horizons=(10, 100))


def test_a_horizon_beyond_the_window():
    with pytest.raises(
        ValueError, match="horizon 100 after 128 spacings is beyond a window of 200"
    ):
        window_metrics(
            {
                "spacings_WN": np.ones((2, 200)),
                "nll_WT": np.ones((2, 199)),
                "rollout_mean_WH": np.ones((2, 100)),
            },
            horizons=(100,),
        )


# --- PIT and context ----------------------------------------------------------------------------


def chance(seed: int = 0) -> dict:
    return {"block": 5, "resamples": 300, "generator": np.random.default_rng(seed)}


def test_ks_interval_holds_the_distance():
    pit = np.random.default_rng(0).random((2, 100, 50))
    flat = ks_interval(pit, **chance())
    assert flat.value == pytest.approx(np.mean([ks_distance(p) for p in pit]))
    assert flat.low == 0.0
    assert flat.high < 0.06
    bent = ks_interval(pit**1.3, **chance())
    # x^1.3 is uniform to the power: greatest deviation of p^(1/1.3) from p, at p = 1.3^(-13/3).
    p = 1.3 ** (-13 / 3)
    assert bent.low < p ** (1 / 1.3) - p < bent.high
    assert bent.low > 0.05


def test_ks_interval_covers_at_least_as_often_as_it_says():
    generator, covered = np.random.default_rng(1), 0
    p = 1.1**-11
    true = p ** (1 / 1.1) - p
    for _ in range(200):
        shared = generator.normal(size=(60, 1)) * 0.2
        pit = stats.norm.cdf((generator.normal(size=(60, 20)) + shared) / math.sqrt(1.04)) ** 1.1
        interval = ks_interval(pit[None], block=3, resamples=200, generator=generator)
        covered += interval.low <= true <= interval.high
    assert covered / 200 >= 0.93


def test_few_windows_have_a_distance_and_no_interval():
    interval = ks_interval(np.random.default_rng(0).random((1, 8, 50)), **chance())
    assert interval.value is not None
    assert interval.low is None
    assert "two blocks" in str(interval.reason)


def test_contexts_are_counted_from_one():
    values = np.arange(1.0, 9.0)[None] * [[1.0], [10.0]]
    bins = by_context(values, (1, 2, 4, 9))
    np.testing.assert_allclose(bins, [[1, 2.5, 6], [10, 25, 60]])


@pytest.mark.parametrize("edges", [(0, 3), (1,), (3, 3), (5, 2), (1, 10)])
def test_context_edges_must_ascend_within_the_window(edges):
    with pytest.raises(ValueError, match=r"ascend within 1\.\.9"):
        by_context(np.zeros((2, 8)), edges)
