"""Trained runs on blocks elsewhere: the same numbers as read slowly, and where they were read."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from zeta_runs import CARRY, room, run_of, series_of

from mneme.core.config import ConfigError, build
from mneme.core.headline import run_block
from mneme.core.seeds import torch_generator
from mneme.stats.rows import Row
from mneme.zeta.config import ModelConfig, TriedConfig
from mneme.zeta.density import kernel_law
from mneme.zeta.gather import INFORMATION
from mneme.zeta.mdn_beside import with_beside
from mneme.zeta.network import build_network
from mneme.zeta.prime_config import PrimesConfig
from mneme.zeta.prime_fit import predict, prime_data
from mneme.zeta.prime_net import PrimeNet
from mneme.zeta.reading_config import MdnConfig
from mneme.zeta.settings import ZetaConfig
from mneme.zeta.transfer import TransferStageConfig, transfer_readings
from mneme.zeta.transfer_config import TransferConfig
from mneme.zeta.unfold import heights_of, level_of, spacings_of
from mneme.zeta.zeros import zeros

WINDOW, SKIP, CPU = 144, 3, torch.device("cpu")
RUNS = {
    "e0": run_of("none"),
    "far": run_of("none", position="distance"),
    "carry": run_of("carry"),
    "primes": run_of("primes"),
}
SIZES = ModelConfig(
    layers=1, heads=2, width=16, components=3, window=WINDOW, slots=8, scale_floor=1e-3
)
PRIMES = build(
    PrimesConfig,
    {
        "rows": {
            "memory": {"limit": 43, "time": 100.0, "order": 4, "refresh": 64},
            "sum": {"integers": 46, "cut": 3.0, "anchors": 8},
            "lags": 4,
        },
        "head": {"width": 16, "layers": 1, "components": 4, "scale_floor": 1e-6},
        "training": {**room()["primes"]["training"]},
    },
    where="primes",
)
CONFIG = TransferStageConfig(
    transfer=TransferConfig(runs=tuple(RUNS), skip=SKIP, walk=2, block=2),
    runs=RUNS,
    model=SIZES,
    carry=CARRY,
    primes=PRIMES,
    walk_order=5,
    seeds=(0, 3),
)
MDN = MdnConfig(
    horizons=(4,), context_edges=(1, 24), height_parts=2, pit_bins=4, block=40, resamples=200
)


@pytest.fixture(scope="module")
def series():
    return series_of(20 * WINDOW + 7, start=2000.0)


@pytest.fixture(scope="module")
def blocks(series):
    inside = zeros(1700, 1700 + 11 * WINDOW + 9, threads=1, log=lambda _: None).heights
    return {"inside": inside, "above": heights_of(1e8, series_of(12 * WINDOW, seed=4)["spacings"])}


def states_of(name):
    for seed in CONFIG.seeds:
        yield net_of(name, seed).state_dict()


def net_of(name, seed):
    run = RUNS[name]
    if run.arm == "primes":
        net = PrimeNet(PRIMES.rows, PRIMES.head, generator=torch_generator(seed, "head"))
        net.error.fill_(0.05)
        return net.eval()
    carry = CARRY if run.arm == "carry" else None
    network = build_network(run, SIZES, carry=carry, seed=seed)
    with torch.no_grad():
        network.model.head.weight.normal_(std=0.2, generator=torch_generator(seed, "planted"))
    return network.eval()


@pytest.fixture(scope="module")
def readings(series, blocks):
    return transfer_readings(CONFIG, series, blocks, states_of, device=CPU, log=lambda _: None)


def test_windows_after_the_skipped_ones_are_read(series, blocks, readings):
    for name, windows in (("inside", 8), ("above", 9)):
        heights = blocks[name]
        starts = heights[WINDOW * np.arange(SKIP, SKIP + windows)]
        np.testing.assert_array_equal(readings[f"{name}/heights"], starts)
        ends = heights[[SKIP * WINDOW, (SKIP + windows) * WINDOW]]
        np.testing.assert_array_equal(readings[f"{name}/ends"], ends)
        for run in RUNS:
            assert readings[f"{name}/{run}/nll"].shape == (2, windows)
        assert readings[f"{name}/kde/mae"].shape == (1, windows)
    trained = series["heights"][[0, 16 * WINDOW]]
    np.testing.assert_array_equal(readings["trained"], trained)


@pytest.mark.parametrize("name", ["e0", "far"])
def test_a_transformer_reads_each_window_by_itself(blocks, readings, name):
    heights = blocks["above"]
    x = torch.tensor(spacings_of(heights)[5 * WINDOW : 6 * WINDOW], dtype=torch.float32)[None]
    level = torch.tensor(level_of(heights[5 * WINDOW : 5 * WINDOW + 1]), dtype=torch.float32)
    model = net_of(name, 3).model
    with torch.no_grad():
        law = model(x[:, :-1], level_B=level if name == "far" else None).mixture
    nll = -law.log_prob(x[:, 1:]).mean().item()
    assert readings[f"above/{name}/nll"][1, 2] == pytest.approx(nll, rel=1e-4)
    mae = (law.mean() - x[:, 1:]).abs().mean().item()
    assert readings[f"above/{name}/mae"][1, 2] == pytest.approx(mae, rel=1e-4)


def test_memories_begin_with_the_block(blocks, readings):
    heights = blocks["inside"]
    x = torch.tensor(spacings_of(heights), dtype=torch.float32)[None]
    level = torch.tensor(level_of(heights[:-1]), dtype=torch.float32)[None]
    network = net_of("carry", 0)
    network.memory.anchor()
    state = network.memory.initial_state(1)
    for window in range(6):
        at = slice(window * WINDOW, (window + 1) * WINDOW)
        if window == 5:
            at = slice(at.start, at.stop - 1)
        told, state = network.memory.features(x[:, at], level[:, at], state)
    with torch.no_grad():
        law = network.model(x[:, at], extra_BTF=told).mixture
    nll = -law.log_prob(x[:, at.start + 1 : at.stop + 1]).mean().item()
    assert readings["inside/carry/nll"][0, 2] == pytest.approx(nll, rel=1e-3)
    told = heights, spacings_of(heights), level_of(heights)
    data = prime_data(*told, np.array([5]), PRIMES.rows, window=WINDOW, phases="memory")
    law = predict(net_of("primes", 3), data.rows_WTF)
    nll = -law.log_prob(torch.from_numpy(data.truth_WT)).mean().item()
    assert readings["inside/primes/nll"][1, 2] == pytest.approx(nll, rel=1e-4)


def test_the_memoryless_law_is_that_of_the_series_and_not_of_the_block(series):
    swing = 1 + 0.4 * (-1.0) ** np.arange(12 * WINDOW) + 0.01 * series["spacings"][: 12 * WINDOW]
    transfer = TransferConfig(runs=(), skip=SKIP, walk=2, block=2)
    alone = dataclasses.replace(CONFIG, runs={}, transfer=transfer)
    there = {"b": heights_of(3000.0, swing)}
    found = transfer_readings(alone, series, there, states_of, device=CPU, log=lambda _: None)
    law = kernel_law(series["spacings"][: 16 * WINDOW])
    truth = spacings_of(there["b"]).reshape(12, WINDOW)[SKIP:, 1:]
    np.testing.assert_allclose(found["b/kde/nll"][0], law.scores(truth)["nll"].mean(1), rtol=1e-5)
    assert found["b/ar5_walk/nll"].mean() < -2  # refitted inside the block: it swings


@pytest.fixture(scope="module")
def told(readings):
    names = [*RUNS, "kde", "ar5_walk", "other"]
    row = Row(metric="nll", value=1.0, unit="nats")
    blocks = {n: run_block([row], information=f"of {n}", seeds=None) for n in names}
    config = SimpleNamespace(
        runs={**RUNS, "other": run_of("prefix", control_of="e0")},
        mdn=MDN,
        transfer=CONFIG.transfer,
        seeds=CONFIG.seeds,
        tried=TriedConfig(transformer=4, carry=5, primes=6, primes_transformer=7),
    )
    return with_beside(blocks, readings, config)


def row_of(block, metric, seed=None):
    (row,) = [r for r in block["rows"] if (r["metric"], r["seed"]) == (metric, seed)]
    return row


def test_rows_stand_beside_the_others_with_intervals(told, readings):
    json.dumps(told, allow_nan=False)
    for name in (*RUNS, "kde", "ar5_walk"):
        assert told[name]["rows"][0]["metric"] == "nll"
        for block in ("inside", "above"):
            for metric, unit in (("nll", "nats"), ("mae", "mean spacings")):
                values = readings[f"{block}/{name}/{metric}"]
                row = row_of(told[name], f"{metric}_transfer@{block}")
                assert row["value"] == pytest.approx(values.mean())
                assert row["low"] < row["value"] < row["high"]
                assert (row["n"], row["unit"]) == (values.shape[1], unit)
                if name in RUNS:
                    own = row_of(told[name], row["metric"], seed=3)
                    assert own["value"] == pytest.approx(values[1].mean())


def test_a_block_tells_whether_it_lies_where_the_runs_were_trained(told):
    inside, above = (told["carry"]["transfer"][name] for name in ("inside", "above"))
    assert (inside["inside_training"], above["inside_training"]) == (True, False)
    assert (inside["windows"], above["windows"]) == (8, 9)
    assert above["first_height"] > 1e8
    assert above["resolution"] == pytest.approx(1e-7, rel=0.3)  # of a mean spacing, by float64
    assert inside["resolution"] < 1e-11
    assert inside["information"].startswith("of carry; memories begin with the block")
    assert "transfer" not in told["other"]
    walk = told["ar5_walk"]["transfer"]["above"]["information"]
    assert walk.startswith("of ar5_walk (here 2); ")


def test_every_trained_run_tells_how_many_configurations_were_tried(told):
    counts = {"e0": 4, "far": 4, "other": 4, "carry": 5, "primes": 6}
    for name, count in counts.items():
        row = row_of(told[name], "configurations_tried")
        assert (row["value"], row["control_of"]) == (count, "e0" if name == "other" else None)
    assert not [r for r in told["kde"]["rows"] if r["metric"].endswith("_tried")]
    tried = TriedConfig(transformer=4, carry=5, primes=6, primes_transformer=7)
    behind = {arm: tried.behind(arm) for arm in INFORMATION}
    assert [arm for arm, count in behind.items() if count == 5] == ["carry_reset", "carry"]
    assert {arm for arm, count in behind.items() if count == 6} == {
        "primes",
        "primes_window",
        "oracle",
    }
    assert behind["primes_transformer"] == 7


def test_too_short_a_block_is_named(series, blocks):
    short = {"tiny": blocks["inside"][: SKIP * WINDOW + 5]}
    with pytest.raises(ValueError, match=r"block tiny has 3 windows, of which 3 are skipped"):
        transfer_readings(CONFIG, series, short, states_of, device=CPU, log=lambda _: None)


@pytest.mark.parametrize("size", ["config", "smoke", "fast", "long", "gpu"])
def test_every_size_reads_below_inside_and_above(size):
    config = build(ZetaConfig, room(size), where="config.zeta")
    starts = [(block.first, block.height) for block in config.zeros.blocks.values()]
    assert starts == [(10_000, None), (1_000_000, None), (None, 1e8)]
    assert {"e0", "carry", "primes"} <= set(config.transfer.runs)
    assert ("e0_distance" in config.transfer.runs) == (size in ("long", "gpu"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"runs": ["e0_gue"]},
            "transfer.runs must be runs on the zeros, of other arms than oracle",
        ),
        ({"runs": ["gone"]}, "transfer.runs must be runs on the zeros, of other arms than oracle"),
        ({"runs": ["e0", "e0"]}, "transfer.runs must be different ones"),
        ({"walk": 61}, "transfer.walk must be 1..skip = 60, got 61"),
        ({"skip": 160}, "zeros.blocks.index_1e4.count must be at least 41217, for transfer.skip"),
        ({"block": 0}, "transfer.block must be at least 1, got 0"),
    ],
)
def test_mistakes_end_in_one_sentence(changes, sentence):
    content = room()
    content["transfer"] = {**content["transfer"], **changes}
    with pytest.raises(ConfigError) as caught:
        build(ZetaConfig, content, where="config.zeta")
    assert sentence in str(caught.value)
