"""Density head and rollouts of the prime arms: planted errors, noise, resumption, rollouts."""

import numpy as np
import pytest
import torch

from mneme.core import checkpoints
from mneme.core.config import ConfigError, build
from mneme.core.seeds import torch_generator
from mneme.zeta.prime_fit import (
    Course,
    DivergedError,
    PrimeData,
    PrimesConfig,
    fit_primes,
    predict,
    prime_data,
    readable_windows,
)
from mneme.zeta.prime_net import PrimeNet
from mneme.zeta.prime_rollout import prime_rollout
from mneme.zeta.prime_rows import FIRST, prime_rows
from mneme.zeta.unfold import level_of, spacings_of
from mneme.zeta.zeros import zeros

CPU = torch.device("cpu")
SETTINGS = {
    "rows": {
        "memory": {"limit": 43, "time": 100.0, "order": 4, "refresh": 64},
        "sum": {"integers": 46, "cut": 3.0, "anchors": 8},
        "lags": 4,
    },
    "head": {"width": 32, "layers": 2, "components": 4, "scale_floor": 1e-6},
    "training": {
        "steps": 300,
        "batch": 256,
        "learning_rate": 5e-3,
        "warmup": 20,
        "weight_decay": 0.01,
        "clip": 5.0,
        "eval_every": 100,
        "eval_rows": 500,
    },
}
COLUMNS = 6 + 8 + 4 + 1


def settings_with(**blocks):
    content = {name: SETTINGS[name] | blocks.get(name, {}) for name in SETTINGS}
    return build(PrimesConfig, content, where="primes")


def fit(train, val, folder, config=None, **options):
    place = {"seed": 0, "device": CPU, "checkpoint": folder / "checkpoint", "fingerprint": "f"}
    place |= {"log": lambda _: None, "label": "test"} | options
    return fit_primes(train, val, config or settings_with(), **place)


def planted(windows, *, error, seed):
    """Rows of noise whose first candidate misses by `error` times a row's own scale."""
    rng = np.random.default_rng(seed)
    truth = rng.gamma(8.0, 1 / 8, (windows, 32)).astype(np.float32)
    rows = rng.normal(size=(windows, 32, COLUMNS)).astype(np.float32)
    scale = np.exp(rows[..., 2])  # the candidate's slope tells how far to trust it
    rows[..., FIRST] = truth + error * scale * rng.normal(size=truth.shape)
    return PrimeData(rows, truth), scale


@pytest.fixture(scope="module")
def series():
    heights = zeros(2000, 6800, threads=1, log=lambda _: None).heights
    return heights, spacings_of(heights), level_of(heights)


@pytest.fixture(scope="module")
def data(series):
    config = settings_with().rows
    windows = readable_windows(np.arange(4799 // 64), 64, config)
    return windows, prime_data(*series, windows, config, window=64, phases="memory")


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory):
    rows, truth = data[1]
    train, val = PrimeData(rows[10:-12], truth[10:-12]), PrimeData(rows[-12:], truth[-12:])
    return fit(train, val, tmp_path_factory.mktemp("fit"))


def test_a_planted_error_is_found_with_its_own_scale(tmp_path):
    train, _ = planted(200, error=1e-3, seed=1)
    val, scale = planted(60, error=1e-3, seed=2)
    nll = fit(train, val, tmp_path).history["points"][-1]["val_nll"]
    best = np.log(1e-3 * scale).mean() + 0.5 * np.log(2 * np.pi) + 0.5
    assert best - 0.05 < nll < best + 0.15


def test_candidates_of_noise_are_ignored(tmp_path):
    train, _ = planted(400, error=1e-3, seed=3)
    val, _ = planted(60, error=1e-3, seed=4)
    rng = np.random.default_rng(5)
    for rows, _ in (train, val):
        rng.shuffle(rows[..., FIRST].reshape(-1))
    nll = fit(train, val, tmp_path).history["points"][-1]["val_nll"]
    truth = val.truth_WT.astype(float)
    density = 7 * np.log(truth) - 8 * truth + 8 * np.log(8) - np.log(5040)
    assert abs(nll + density.mean()) < 0.05


def test_the_memory_makes_zeros_predictable(data, fitted):
    _, (rows, truth) = data
    mixture = predict(fitted.net, rows[-12:])
    nll = -mixture.log_prob(torch.from_numpy(truth[-12:])).mean().item()
    assert nll < -3.4
    assert nll == pytest.approx(min(r["val_nll"] for r in fitted.history["points"]), abs=1e-5)
    assert mixture.means.shape == (12, 63, 4)
    torch.testing.assert_close(mixture.log_weights.exp().sum(-1), torch.ones(12, 63))
    assert mixture.scales.min() >= 1e-6


def test_positions_serve_the_spacing_that_follows(series, data):
    heights, spacings, levels = series
    windows, (rows, truth) = data
    w, i = 7, 30
    zero = windows[w] * 64 + i + 1
    assert truth[w, i] == pytest.approx(spacings[zero])
    config = settings_with().rows
    alone = prime_rows(
        heights[: zero + 1], levels[: zero + 1], np.array([zero]), config, phases="memory"
    )
    np.testing.assert_allclose(alone[0], rows[w, i], rtol=1e-3, atol=1e-4)


def test_first_windows_are_left_out():
    config = settings_with().rows
    assert readable_windows(np.arange(5), 64, config).tolist() == [1, 2, 3, 4]
    assert readable_windows(np.arange(5), 32, config).tolist() == [2, 3, 4]


def test_history_and_best_weights(fitted):
    history = fitted.history
    assert [r["step"] for r in history["points"]] == [100, 200, 300]
    assert fitted.best_step in (100, 200, 300)
    assert history["parameters"] == sum(p.numel() for p in fitted.net.parameters())
    assert fitted.last.keys() == fitted.net.state_dict().keys()


@pytest.mark.parametrize("at", [1, 11, 29])
def test_killed_and_continued_equals_uninterrupted(tmp_path, monkeypatch, at):
    train, val = planted(20, error=1e-2, seed=6)[0], planted(8, error=1e-2, seed=7)[0]
    config = settings_with(training={"steps": 30, "eval_every": 7})
    whole = fit(train, val, tmp_path / "whole", config)
    step = Course.step

    def killed(self, index):
        if index == at:
            raise KeyboardInterrupt
        return step(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Course, "step", killed)
        patch.setitem(checkpoints.run_steps.__kwdefaults__, "save_every_s", 0.0)
        with pytest.raises(KeyboardInterrupt):
            fit(train, val, tmp_path, config)
    lines = []
    resumed = fit(train, val, tmp_path, config, log=lines.append)
    assert f"continuing after step {at}/30" in lines[0]
    assert resumed.best_step == whole.best_step
    assert resumed.history["points"] == whole.history["points"]
    for name, tensor in (whole.last | whole.net.state_dict()).items():
        kept = (resumed.last | resumed.net.state_dict())[name]
        torch.testing.assert_close(kept, tensor, rtol=0, atol=0)


def test_seeds_differ(tmp_path):
    train, val = planted(20, error=1e-2, seed=6)[0], planted(8, error=1e-2, seed=7)[0]
    config = settings_with(training={"steps": 5, "warmup": 1})
    one, two = (fit(train, val, tmp_path / str(s), config, seed=s).last for s in (0, 1))
    assert not torch.equal(one["out.weight"], two["out.weight"])


def test_rollouts_begin_with_the_prediction_and_follow_the_zeros(series, data, fitted):
    heights, spacings, levels = series
    windows, (rows, _) = data
    starts = windows[-12:-2] * 64 + 20
    options = {"phases": "memory", "samples": None, "generator": None}
    config = settings_with().rows
    rolled = prime_rollout(fitted.net, heights, levels, starts, config, horizon=40, **options)
    first = predict(fitted.net, rows[-12:-2, 19]).mean()
    np.testing.assert_allclose(rolled[:, 0], first, rtol=1e-3, atol=1e-4)
    truth = spacings[starts[:, None] + np.arange(40)]
    assert np.abs(rolled - truth).mean() < 0.05  # climatology: .31
    later = heights.copy()
    later[starts[-1] + 1 :] += 0.3
    again = prime_rollout(fitted.net, later, levels, starts, config, horizon=5, **options)
    np.testing.assert_array_equal(again, rolled[:, :5])


def test_sampled_rollouts_are_drawn_from_the_generator(series, data, fitted):
    heights, _, levels = series
    starts, config = data[0][-4:-1] * 64 + 20, settings_with().rows
    fixed = [fitted.net, heights, levels, starts, config]
    draws = [
        prime_rollout(
            *fixed, horizon=6, phases="memory", samples=3, generator=torch_generator(seed, "roll")
        )
        for seed in (0, 0, 1)
    ]
    assert draws[0].shape == (3, 3, 6)
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any(axis=(1, 2)).all()
    mean = prime_rollout(*fixed, horizon=6, phases="memory", samples=None, generator=None)
    assert np.abs(np.median(draws[0], axis=0)[:, 0] - mean[:, 0]).max() < 0.05


def test_a_fresh_net_is_a_density():
    config = settings_with()
    net = PrimeNet(config.rows, config.head, generator=torch_generator(0, "head"))
    rows = np.random.default_rng(0).normal(size=(5, COLUMNS)).astype(np.float32)
    x = torch.linspace(-200, 200, 400_001)
    density = predict(net, rows[:, None]).log_prob(x[None]).exp()
    torch.testing.assert_close(density.sum(1) * 1e-3, torch.ones(5), rtol=1e-3, atol=1e-3)


def test_a_loss_that_is_no_number_names_the_step(tmp_path):
    train, val = planted(4, error=1e-2, seed=6)[0], planted(4, error=1e-2, seed=7)[0]
    train.truth_WT[:] = np.inf
    with pytest.raises(DivergedError, match="step 0"):
        fit(train, val, tmp_path)


@pytest.mark.parametrize(
    ("block", "key", "value"),
    [
        ("head", "components", 3),
        ("head", "scale_floor", 0.0),
        ("head", "width", 0),
        ("head", "layers", 0),
        ("training", "warmup", 301),
        ("training", "steps", 0),
        ("training", "learning_rate", 0.0),
        ("training", "weight_decay", -1.0),
    ],
)
def test_mistakes_name_the_key(block, key, value):
    with pytest.raises(ConfigError, match=f"{block}.{key} must be"):
        settings_with(**{block: {key: value}})
