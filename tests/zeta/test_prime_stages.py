"""Stages of the prime arms: what each sees, which windows, what is read of a head."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from zeta_runs import run_of

from mneme.core.config import build
from mneme.core.seeds import torch_generator
from mneme.zeta.config import PredictConfig
from mneme.zeta.measure import window_metrics
from mneme.zeta.prime_config import PrimesConfig, WindowPrimesConfig
from mneme.zeta.prime_net import PrimeNet
from mneme.zeta.prime_rollout import prime_rollout
from mneme.zeta.prime_rows import prime_rows
from mneme.zeta.prime_stages import (
    PrimesMeasureConfig,
    PrimesStageConfig,
    data_of,
    read_primes,
    reopened,
    sight,
    training_data,
)
from mneme.zeta.prime_window import window_data
from mneme.zeta.unfold import spacings_of
from mneme.zeta.zeros import zeros

WINDOW, STRIDE = 144, 48
HEAD = {"width": 16, "layers": 1, "components": 4, "scale_floor": 1e-6}
TRAINING = {
    "steps": 1,
    "batch": 8,
    "learning_rate": 1e-3,
    "warmup": 0,
    "weight_decay": 0.0,
    "clip": 1.0,
    "eval_every": 1,
    "eval_rows": 10,
}
SUM = {"integers": 46, "cut": 3.0, "anchors": 8}
PRIMES = build(
    PrimesConfig,
    {
        "rows": {
            "memory": {"limit": 43, "time": 100.0, "order": 4, "refresh": 64},
            "sum": SUM,
            "lags": 4,
        },
        "head": HEAD,
        "training": TRAINING,
    },
    where="primes",
)
IN_WINDOW = build(
    WindowPrimesConfig,
    {
        "rows": {
            "window_memory": {
                "limit": 45,
                "taper": 0.1,
                "shortest": 2.0,
                "longest": 240.0,
                "lengths": 8,
                "noise": 1e-4,
            },
            "sum": SUM,
            "lags": 6,
            "sizes": 5,
        },
        "head": {**HEAD, "width": 12},
        "training": TRAINING,
    },
    where="primes_window",
)
LAST = 9  # the only test window of ten


def config_of(arm, kind=PrimesMeasureConfig, **changes):
    told = {
        "name": arm,
        "run": run_of(arm, **changes),
        "primes": PRIMES,
        "primes_window": IN_WINDOW,
        "window": WINDOW,
        "seeds": (0,),
    }
    if kind is PrimesMeasureConfig:
        told["predict"] = PredictConfig(full_stride=STRIDE, horizon=16, samples=2)
    return kind(**told)


def net_of(config, seed=0):
    """A head that trusts its candidate, as a trained one does."""
    net = PrimeNet(config.arm.rows, config.arm.head, generator=torch_generator(seed, "head"))
    net.error.fill_(0.05)
    return net.eval()


@pytest.fixture(scope="module")
def series():
    heights = zeros(2000, 2000 + 10 * WINDOW + 1, threads=1, log=lambda _: None).heights
    return {"spacings": spacings_of(heights), "heights": heights}


@pytest.fixture(scope="module")
def read(series):
    found = {}
    for arm in ("primes", "oracle", "primes_window"):
        config = config_of(arm)
        generator = torch_generator(0, "rollout")
        found[arm] = read_primes(net_of(config), series, config, generator=generator)
    return found


def levels_of(series):
    return np.log(series["heights"] / (2 * np.pi)).round(3)


def law_of(net, row):
    with torch.no_grad():
        return net(torch.from_numpy(row)[None])


def test_only_the_oracle_sees_the_height(series):
    levels, phases = sight(series, run_of("primes"))
    assert phases == sight(series, run_of("primes_window"))[1] == "memory"
    np.testing.assert_array_equal(levels, levels_of(series))
    assert len(np.unique(levels)) < 500
    levels, phases = sight(series, run_of("oracle"))
    assert phases == "height"
    np.testing.assert_allclose(2 * np.pi * np.exp(levels), series["heights"], rtol=1e-12)


def test_each_arm_has_its_own_settings():
    assert config_of("primes").arm is config_of("oracle").arm is PRIMES
    assert config_of("primes_window").arm is IN_WINDOW


def test_rows_are_those_of_the_arm(series):
    windows, levels = np.array([3, 7]), levels_of(series)
    asked = np.array([3 * WINDOW + 1, 7 * WINDOW + 100, 8 * WINDOW - 1])
    places = [(0, 0), (1, 99), (1, WINDOW - 2)]
    told = series["heights"], series["spacings"], levels
    for arm in ("primes", "oracle"):
        data = data_of(series, windows, config_of(arm))
        eyes = (levels, "memory") if arm == "primes" else (np.log(told[0] / (2 * np.pi)), "height")
        rows = prime_rows(told[0], eyes[0], asked, PRIMES.rows, phases=eyes[1])
        for row, place in zip(rows, places, strict=True):
            np.testing.assert_allclose(data.rows_WTF[place], row, rtol=1e-3, atol=1e-4)
    data = data_of(series, windows, config_of("primes_window"))
    expected = window_data(*told, windows, IN_WINDOW.rows, window=WINDOW)
    np.testing.assert_array_equal(data.rows_WTF, expected.rows_WTF)
    for number, place in zip(asked, places, strict=True):
        assert data.truth_WT[place] == np.float32(series["spacings"][number])


@pytest.mark.parametrize("arm", ["primes", "primes_window"])
def test_training_never_sees_a_test_window(series, arm):
    config = config_of(arm, PrimesStageConfig)
    train, val = training_data(series, config)
    # the first window of `primes` has no zeros before it
    assert len(train.truth_WT) == (7 if arm == "primes" else 8)
    assert len(val.truth_WT) == 1
    cut_WN = series["spacings"].reshape(10, WINDOW)
    np.testing.assert_allclose(train.truth_WT, cut_WN[8 - len(train.truth_WT) : 8, 1:], rtol=1e-6)
    np.testing.assert_allclose(val.truth_WT, cut_WN[8:9, 1:], rtol=1e-6)
    heights = series["heights"].copy()
    heights[LAST * WINDOW + 1 :] += np.linspace(0.5, 50, WINDOW)
    again = training_data({"heights": heights, "spacings": spacings_of(heights)}, config)
    for ours, theirs in zip((train, val), again, strict=True):
        np.testing.assert_array_equal(ours.rows_WTF, theirs.rows_WTF)


def test_a_share_of_the_windows_trains(series):
    train, _ = training_data(series, config_of("primes_window", PrimesStageConfig, share=0.25))
    cut_WN = series["spacings"].reshape(10, WINDOW)
    np.testing.assert_allclose(train.truth_WT, cut_WN[[0, 7], 1:], rtol=1e-6)


@pytest.mark.parametrize("arm", ["primes", "primes_window"])
def test_a_head_comes_back_with_its_weights(arm):
    config = config_of(arm)
    net = net_of(config, seed=5)
    back = reopened(config, net.state_dict())
    assert not back.training
    row = np.random.default_rng(0).normal(size=config.arm.rows.columns).astype(np.float32)
    for ours, theirs in zip(law_of(net, row), law_of(back, row), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("arm", ["primes", "oracle"])
def test_each_target_is_read_from_the_zeros_before_it(series, read, arm):
    config, levels = config_of(arm), sight(series, run_of(arm))[0]
    phases = "height" if arm == "oracle" else "memory"
    net, found = net_of(config), read[arm]
    assert found["nll_WT"].shape == (1, WINDOW - 1)
    for i in (0, 1, 70, WINDOW - 2):
        zero = LAST * WINDOW + i + 1
        past = series["heights"][: zero + 1], levels[: zero + 1], np.array([zero])
        law = law_of(net, prime_rows(*past, PRIMES.rows, phases=phases)[0])
        truth = torch.tensor([series["spacings"][zero]], dtype=torch.float32)
        # the rows' own tolerance (single precision sums), through a sharp density
        assert found["nll_WT"][0, i] == pytest.approx(-law.log_prob(truth).item(), abs=2e-2)
        error = abs(law.mean().item() - truth.item())
        assert found["abs_error_WT"][0, i] == pytest.approx(error, abs=1e-3)


def test_rollouts_start_after_their_context(series, read):
    config = config_of("primes")
    fixed = [net_of(config), series["heights"], levels_of(series)]
    for context, horizon, name in ((128, 16, "rollout_mean_WH"), (10, 10, "rollout10_WH")):
        starts = np.array([LAST * WINDOW + context])
        told = {"horizon": horizon, "phases": "memory", "samples": None, "generator": None}
        expected = prime_rollout(*fixed, starts, PRIMES.rows, **told)
        np.testing.assert_array_equal(read["primes"][name], expected)
    first = read["primes"]["rollout_mean_WH"][0, 0]
    zero = np.array([LAST * WINDOW + 128])
    row = prime_rows(*fixed[1:], zero, PRIMES.rows, phases="memory")[0]
    assert first == pytest.approx(law_of(fixed[0], row).mean().item(), abs=1e-3)


def test_rollouts_see_nothing_of_what_follows(series, read):
    config, heights = config_of("primes"), series["heights"].copy()
    heights[LAST * WINDOW + 129 :] += np.linspace(0.1, 2, WINDOW - 128)
    later = {"heights": heights, "spacings": spacings_of(heights)}
    generator = torch_generator(0, "rollout")
    again = read_primes(net_of(config), later, config, generator=generator)
    for name in ("rollout_mean_WH", "rollout10_WH", "sampled_SWH"):
        np.testing.assert_array_equal(again[name], read["primes"][name])
    assert not np.array_equal(again["nll_WT"], read["primes"]["nll_WT"])


@pytest.mark.parametrize("arm", ["primes", "oracle", "primes_window"])
def test_readings_can_be_scored(series, read, arm):
    found = read[arm]
    assert found["windows_W"].tolist() == [LAST]
    assert found["heights_W"].tolist() == [series["heights"][LAST * WINDOW]]
    test_WN = series["spacings"][None, LAST * WINDOW :]
    np.testing.assert_array_equal(found["spacings_WN"], test_WN.astype(np.float32))
    kept = {k: a for k, a in found.items() if k not in ("windows_W", "heights_W")}
    metrics = set(window_metrics(kept, horizons=(10, 16)))
    likelihoods = {"nll", "nll_full", "crps", "crps_full", "mae", "mae_full"}
    rolled = {
        f"{kind}@{h}"
        for kind in ("err_step", "err_cum", "err_growth", "energy_score")
        for h in (10, 16)
    }
    wanted = likelihoods | (set() if arm == "primes_window" else rolled | {"err_source@10"})
    assert metrics == wanted


def test_full_context_is_the_windows_end_where_memory_begins_with_the_window(read):
    for name in ("nll", "crps", "abs_error"):
        inside = read["primes_window"][f"{name}_WT"]
        np.testing.assert_array_equal(
            read["primes_window"][f"{name}_full_WX"], inside[:, WINDOW - 1 - STRIDE :]
        )
        np.testing.assert_array_equal(
            read["primes"][f"{name}_full_WX"], read["primes"][f"{name}_WT"]
        )


def test_samples_come_from_the_generator(series, read):
    config = config_of("primes")
    assert read["primes"]["sampled_SWH"].shape == (2, 1, 16)
    for seed in (0, 1):
        generator = torch_generator(seed, "rollout")
        again = read_primes(net_of(config), series, config, generator=generator)
        same = np.array_equal(again["sampled_SWH"], read["primes"]["sampled_SWH"])
        assert same == (seed == 0)
        np.testing.assert_array_equal(again["rollout_mean_WH"], read["primes"]["rollout_mean_WH"])


def test_settings_of_the_two_stages_differ_by_what_is_read():
    fields = [
        {f.name for f in dataclasses.fields(k)} for k in (PrimesStageConfig, PrimesMeasureConfig)
    ]
    assert fields[1] - fields[0] == {"predict"}
