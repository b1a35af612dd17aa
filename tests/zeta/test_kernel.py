"""Attention against distance: planted kernels are told apart, averages equal brute force."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mneme.core.seeds import numpy_generator, torch_generator
from mneme.zeta.ablation_config import KernelConfig
from mneme.zeta.ablation_report import Resampling
from mneme.zeta.config import ModelConfig
from mneme.zeta.kernel import attention_profile, profile_of
from mneme.zeta.kernel_report import KERNELS, kernel_block, sine_kernel
from mneme.zeta.model import SpacingMDN
from mneme.zeta.network import Material, Network
from mneme.zeta.symbolic import SymbolicConfig

CONFIG = KernelConfig(windows=48, max_lag=10, max_distance=4.0, bin_width=0.1, rows=16)
SYMBOLIC = SymbolicConfig(
    symbols=("add", "mul", "div", "sin", "exp", "square"),
    length=12,
    population=1000,
    evaluations=150_000,
    polish=10,
    restarts=1,
)


def spacings_of(windows, *, length=40):
    return torch.as_tensor(numpy_generator(0, "spacings").uniform(0.3, 1.7, (windows, length)))


def planted_maps(spacings_BT, function, *, slots=2, layers=2, heads=3):
    """Attention that is a function of the distance in all heads, and .01 to each slot."""
    place = spacings_BT.cumsum(1).numpy()
    distance = place[:, :, None] - place[:, None]
    data = torch.as_tensor(np.where(distance >= 0, function(np.abs(distance)), 0.0))
    batch, length = spacings_BT.shape
    maps = torch.zeros(batch, layers, heads, slots + length, slots + length).double()
    maps[..., slots:, slots:] = data[:, None, None]
    maps[..., slots:, :slots] = 0.01
    return maps


def block_of(function, *, seeds=(0,), windows=48):
    spacings = spacings_of(windows)
    profile = profile_of([(spacings, planted_maps(spacings, function))], slots=2, config=CONFIG)
    return kernel_block(
        dict.fromkeys(seeds, profile),
        symbolic=SYMBOLIC,
        resampling=Resampling(block=4, resamples=200, generator=numpy_generator(0, "kernel")),
        control_of=None,
    )


def values(block, seed=None):
    return {row["metric"]: row for row in block["rows"] if row["seed"] == seed}


@pytest.fixture(scope="module")
def sine():
    return block_of(lambda r: 0.003 + 0.04 * sine_kernel(r))


def test_the_sine_kernel_is_one_at_zero_and_zero_at_whole_spacings():
    assert sine_kernel(np.array([0.0, 0.5, 1.0, 2.0])) == pytest.approx([1, 4 / np.pi**2, 0, 0])


def test_a_planted_sine_kernel_is_found(sine):
    rows = values(sine)
    fit = rows["sine_kernel_r_squared"]
    assert fit["value"] > 0.999
    assert fit["low"] <= fit["value"] <= fit["high"]
    assert rows["sine_kernel_slope"]["value"] == pytest.approx(0.04, rel=0.02)
    assert rows["oscillation_r_squared"]["low"] > 0.01
    assert rows["slot_mass"]["value"] == pytest.approx(0.02)
    assert all(head["sine_kernel_r_squared"] > 0.999 for head in sine["heads"])
    assert len(sine["heads"]) == 6
    best = sine["formulas"]["distance"][-1]
    assert "sin" in best["formula"]
    assert best["r_squared_held_out"] > 0.999
    distance = sine["distance"]
    assert distance["sine_kernel"] == pytest.approx(distance["value"], abs=5e-4)


def test_a_planted_decay_is_not_taken_for_the_sine_kernel():
    block = block_of(lambda r: 0.003 + 0.04 * np.exp(-r))
    rows = values(block)
    assert rows["exponential_r_squared"]["value"] > 0.999
    assert rows["sine_kernel_r_squared"]["high"] < 0.95
    assert rows["oscillation_r_squared"]["high"] < 0
    front = block["formulas"]["distance"]
    simple = next(f for f in front if f["r_squared"] > 0.999)
    assert "exp" in simple["formula"]
    assert simple["r_squared_held_out"] > 0.999


def test_a_constant_has_no_shape():
    spacings = spacings_of(48)
    maps = planted_maps(spacings, lambda r: 0.01 + 0 * r)
    profile = profile_of([(spacings, maps)], slots=2, config=CONFIG)
    assert profile.lag_WLNG == pytest.approx(np.full((48, 2, 3, 11), 0.01))


def test_averages_equal_a_loop_over_pairs():
    spacings = spacings_of(3)
    maps = torch.rand(3, 2, 3, 42, 42, generator=torch_generator(0, "maps")).double()
    found = profile_of([(spacings, maps)], slots=2, config=CONFIG)
    lag, counts = np.zeros((3, 2, 3, 11)), np.zeros((3, 40))
    sums = np.zeros((3, 2, 3, 40))
    place = np.cumsum(spacings.numpy(), axis=1)
    for w in range(3):
        for query in range(10, 40):
            for key in range(query - 10, query + 1):
                here = maps[w, :, :, 2 + query, 2 + key].numpy()
                lag[w, :, :, query - key] += here / 30
                cell = int((place[w, query] - place[w, key]) / 0.1)
                if key < query and cell < 40:
                    sums[w, :, :, cell] += here
                    counts[w, cell] += 1
    assert found.lag_WLNG == pytest.approx(lag)
    assert found.distance_sum_WLNR == pytest.approx(sums)
    assert found.distance_count_WR == pytest.approx(counts)
    mass = maps[..., 12:, :2].sum(-1).mean((2, 3)).numpy()
    assert found.slot_mass_WL == pytest.approx(mass)


def network_of(arm):
    sizes = ModelConfig(
        layers=2, heads=2, width=16, components=3, window=41, slots=4, scale_floor=0.01
    )
    model = SpacingMDN(
        sizes,
        arm=arm,
        position="rope",
        slot_id=False,
        extra=0,
        generator=torch_generator(0, "model"),
    )
    return Network(model, None, reset=False)


@pytest.mark.parametrize(("arm", "slots"), [("none", 0), ("prefix", 4), ("film", 0)])
def test_even_attention_is_one_over_what_each_query_sees(arm, slots):
    network = network_of(arm)
    with torch.no_grad():
        for layer in network.model.blocks:
            layer.attention.qkv.weight.zero_()
    series = spacings_of(20, length=41).float()
    material = Material(
        spacings_WT=series,
        level_WT=torch.ones_like(series),
        train=torch.arange(10),
        val=torch.arange(10, 12),
    )
    config = KernelConfig(**{**vars(CONFIG), "windows": 5, "rows": 2})
    found = attention_profile(network, material, np.arange(12, 20), config)
    seen = slots + 1 + np.arange(10, 40)
    assert found.lag_WLNG.shape == (5, 2, 2, 11)
    assert found.lag_WLNG == pytest.approx(np.full((5, 2, 2, 11), (1 / seen).mean()), rel=1e-5)
    assert found.slot_mass_WL == pytest.approx(np.full((5, 2), (slots / seen).mean()), rel=1e-5)


def test_seeds_and_curves_are_told(sine):
    json.dumps(sine, allow_nan=False)
    block = block_of(lambda r: 0.04 * np.exp(-r), seeds=(2, 5))
    over, first = values(block), values(block, 2)
    assert set(over) == set(first)
    for metric, row in first.items():
        assert row["value"] == pytest.approx(over[metric]["value"])
    lengths = {len(sine["distance"][key]) for key in ("r", "pairs", "value", "low", *KERNELS)}
    assert len(lengths) == 1
    assert sine["lag"]["lag"] == list(range(11))
    assert min(sine["distance"]["pairs"]) >= 100


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="max_distance"):
        KernelConfig(**{**vars(CONFIG), "max_distance": 9.0})
    spacings = spacings_of(2)
    with pytest.raises(ValueError, match="max_lag"):
        profile_of(
            [(spacings[:, :8], planted_maps(spacings[:, :8], np.exp))], slots=2, config=CONFIG
        )
    with pytest.raises(ValueError, match="read more windows"):
        block_of(np.exp, windows=1)
