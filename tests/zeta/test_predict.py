"""Readings of a transformer arm: every number against networks fed an explicitly cut past."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, ndtr
from zeta_models import config_of
from zeta_runs import CARRY, run_of, series_of

from mneme.core.config import ConfigError
from mneme.core.seeds import torch_generator
from mneme.zeta.carry import CarryState
from mneme.zeta.config import PredictConfig
from mneme.zeta.measure import window_metrics
from mneme.zeta.network import build_network
from mneme.zeta.predict import read

WINDOW, STRIDE, COUNT = 144, 48, 20
TESTED = (18, 19)
CONFIG = PredictConfig(full_stride=STRIDE, horizon=16, samples=2)
CPU = torch.device("cpu")
CASES = {
    "none": run_of("none"),
    "distance": run_of("none", position="distance"),
    "prefix": run_of("prefix"),
    "carry": run_of("carry"),
    "carry_reset": run_of("carry_reset"),
}


def network_of(run):
    """Build a network whose every weight is far enough from its start to matter."""
    carry = CARRY if run.arm.startswith("carry") else None
    network = build_network(run, config_of(window=WINDOW), carry=carry, seed=0)
    with torch.no_grad():
        for name, weights in sorted(network.named_parameters()):
            noise = torch.randn(weights.shape, generator=torch_generator(1, name))
            weights.add_(0.1 * noise)
    return network.eval()


def read_of(run, series, *, seed=0, **changes):
    return read(
        network_of(run),
        series,
        run,
        dataclasses.replace(CONFIG, **changes),
        window=WINDOW,
        generator=torch_generator(seed, "rollout"),
        device=CPU,
    )


@pytest.fixture(scope="module")
def series():
    # a few spacings more than whole windows, as the real series has
    return series_of(COUNT * WINDOW + 51)


@pytest.fixture(scope="module", params=CASES)
def case(request, series):
    run = CASES[request.param]
    return run, network_of(run), read_of(run, series)


def state_at(memory, spacings, levels):
    """Sum the clicks of all zeros so far, one by one, as the page of the arm defines them."""
    elapsed = 2 * math.pi * spacings / levels
    ages = np.append(np.cumsum(elapsed[::-1])[::-1], 0.0)
    decay, frequency = (part.detach().double().numpy() for part in memory.exponents())
    value = np.exp(-np.outer(ages, decay + 1j * frequency)).sum(axis=0)
    count = memory.config.recent
    recent = np.append(np.ones(count), spacings)[-count:]
    value_BM = torch.tensor(value, dtype=torch.complex64)[None]
    recent_BR = torch.tensor(recent, dtype=torch.float32)[None]
    return CarryState(value_BM, torch.zeros_like(value_BM), recent_BR)


@torch.no_grad()
def law_after(network, run, series, *, first, begin, end):
    """Mixture of spacing `end` from spacings begin..end-1, and a memory that began at `first`."""
    spacings, levels = series["spacings"], np.log(series["heights"][:-1] / (2 * math.pi)).round(3)
    context = torch.tensor(spacings[begin:end], dtype=torch.float32)[None]
    level = torch.tensor(levels[begin:end], dtype=torch.float32)[None]
    beside = {}
    if run.arm.startswith("carry"):
        since = begin if run.arm == "carry_reset" else first
        network.memory.anchor()
        state = state_at(network.memory, spacings[since:begin], levels[since:begin])
        beside["extra_BTF"], _ = network.memory.features(context, level, state)
    if run.position == "distance":
        beside["level_B"] = level[:, 0]
    mixture = network.model(context, **beside).mixture
    return [part[0, -1].double().numpy() for part in mixture]


def scores(law, truth):
    log_weights, means, scales = law
    z = (truth - means) / scales
    nll = -logsumexp(log_weights - np.log(scales) - z * z / 2 - math.log(2 * math.pi) / 2)
    weights = np.exp(log_weights)
    return nll, abs(weights @ means - truth), weights @ ndtr(z)


def test_full_context_is_the_network_on_the_window_cut_anew(case, series):
    run, network, readings = case
    assert readings["nll_full_WX"].shape == (len(TESTED), WINDOW)
    for row, window in enumerate(TESTED):
        for x in (0, 1, STRIDE - 1, STRIDE, 77, 2 * STRIDE, WINDOW - 1):
            shift = (x // STRIDE + 1) * STRIDE
            end, begin = window * WINDOW + x, (window - 1) * WINDOW + shift
            assert WINDOW - STRIDE <= end - begin < WINDOW
            places = {"first": shift % WINDOW, "begin": begin, "end": end}
            law = law_after(network, run, series, **places)
            nll, error, _ = scores(law, series["spacings"][end])
            assert readings["nll_full_WX"][row, x] == pytest.approx(nll, abs=2e-4)
            assert readings["abs_error_full_WX"][row, x] == pytest.approx(error, abs=2e-4)


def test_every_spacing_is_read_once_at_full_context(series):
    run = CASES["none"]
    network, found = network_of(run), read_of(run, series)["nll_full_WX"]
    for row, window in enumerate(TESTED):
        expected = []
        for x in range(WINDOW):
            begin = (window - 1) * WINDOW + (x // STRIDE + 1) * STRIDE
            end = window * WINDOW + x
            law = law_after(network, run, series, first=0, begin=begin, end=end)
            expected.append(scores(law, series["spacings"][end])[0])
        np.testing.assert_allclose(found[row], expected, atol=2e-4)
        assert len(set(found[row].tolist())) == WINDOW


def test_inside_a_window_the_context_is_the_window_so_far(case, series):
    run, network, readings = case
    assert readings["nll_WT"].shape == (len(TESTED), WINDOW - 1)
    for row, window in enumerate(TESTED):
        begin = window * WINDOW
        for i in (0, 1, 60, WINDOW - 2):
            end = begin + i + 1
            law = law_after(network, run, series, first=0, begin=begin, end=end)
            told = [readings[f"{name}_WT"][row, i] for name in ("nll", "abs_error", "pit")]
            assert told == pytest.approx(scores(law, series["spacings"][end]), abs=2e-4)


def test_rollouts_feed_their_own_means_back(series):
    run = CASES["distance"]
    network, readings = network_of(run), read_of(run, series)
    for context, name in ((128, "rollout_mean_WH"), (10, "rollout10_WH")):
        for row, window in enumerate(TESTED):
            begin, moved = window * WINDOW, {k: a.copy() for k, a in series.items()}
            expected = []
            for end in range(begin + context, begin + context + readings[name].shape[1]):
                law = law_after(network, run, moved, first=0, begin=begin, end=end)
                expected.append(np.exp(law[0]) @ law[1])
                moved["spacings"][end] = expected[-1]
            np.testing.assert_allclose(readings[name][row], expected, atol=2e-4)


def test_a_rollout_of_carry_begins_with_its_prediction(series):
    run = CASES["carry"]
    # one level for all, as high up: there a rollout's fixed level is the true one
    level = {**series, "heights": np.full(len(series["heights"]), 2 * math.pi * math.exp(7.0))}
    readings, network = read_of(run, level), network_of(run)
    for row, window in enumerate(TESTED):
        begin = window * WINDOW
        law = law_after(network, run, level, first=0, begin=begin, end=begin + 128)
        assert readings["rollout_mean_WH"][row, 0] == pytest.approx(
            np.exp(law[0]) @ law[1], abs=2e-4
        )


def test_samples_come_from_the_generator_and_nothing_else_does(series):
    one, again, other = (read_of(CASES["prefix"], series, seed=seed) for seed in (0, 0, 1))
    assert one["sampled_SWH"].shape == (2, len(TESTED), 16)
    for name, values in one.items():
        np.testing.assert_array_equal(values, again[name])
        assert np.array_equal(values, other[name]) == (name != "sampled_SWH")


def test_readings_say_what_was_read_and_can_be_scored(case, series):
    _, _, readings = case
    assert readings["windows_W"].tolist() == list(TESTED)
    np.testing.assert_array_equal(
        readings["heights_W"], series["heights"][[18 * WINDOW, 19 * WINDOW]]
    )
    cut = series["spacings"][18 * WINDOW : 20 * WINDOW].reshape(2, WINDOW)
    np.testing.assert_array_equal(readings["spacings_WN"], cut.astype(np.float32))
    kept = {k: a for k, a in readings.items() if k not in ("windows_W", "heights_W")}
    assert {str(a.dtype) for a in kept.values()} == {"float32"}
    found = window_metrics(kept, horizons=(10, 16))
    assert set(found) == {
        *("nll", "nll_full", "crps", "crps_full", "mae", "mae_full", "err_source@10"),
        *(
            f"{kind}@{h}"
            for kind in ("err_step", "err_cum", "err_growth", "energy_score")
            for h in (10, 16)
        ),
    }
    np.testing.assert_allclose(found["nll_full"], readings["nll_full_WX"].mean(axis=1), rtol=1e-5)


def test_nothing_after_a_target_is_read(series):
    """The last window's spacings move: window 18 keeps all its readings, with the memory too."""
    later = {name: values.copy() for name, values in series.items()}
    later["spacings"][19 * WINDOW :] *= 1.5
    for arm in ("none", "carry"):
        here, there = read_of(CASES[arm], series), read_of(CASES[arm], later)
        for name in ("nll_WT", "nll_full_WX", "rollout_mean_WH"):
            np.testing.assert_allclose(here[name][0], there[name][0], atol=1e-6)
            assert np.abs(here[name][1] - there[name][1]).max() > 1e-3


def test_the_shortest_series_that_can_be_split_can_be_read():
    readings = read_of(CASES["none"], series_of(10 * WINDOW))
    assert readings["windows_W"].tolist() == [9]
    assert readings["nll_full_WX"].shape == (1, WINDOW)


@pytest.mark.parametrize("stride", [100, WINDOW])
def test_a_stride_that_does_not_fit_the_window(series, stride):
    with pytest.raises(ConfigError, match=f"full_stride must be a .*divisor .* got {stride}"):
        read_of(CASES["none"], series, full_stride=stride)
