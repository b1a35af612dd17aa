"""Stages that open trained models again: right weights, right windows, equal draws."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from zeta_models import config_of
from zeta_runs import CARRY, run_of, series_of

from mneme.core.seeds import torch_generator
from mneme.zeta.ablation import ablate
from mneme.zeta.ablation_config import AblationConfig
from mneme.zeta.material import reading_material
from mneme.zeta.network import build_network
from mneme.zeta.published import figures_by_run
from mneme.zeta.reading_config import MdnConfig
from mneme.zeta.slot_stages import (
    AblationStageConfig,
    cut_run,
    resampling,
    retrained,
    trained_networks,
)
from mneme.zeta.window_set import WindowSet

WINDOW = 24
CPU = torch.device("cpu")
RUNS = {"zulu": run_of("prefix"), "alpha": run_of("readout"), "beta": run_of("carry")}
CONFIG = AblationStageConfig(
    runs=RUNS,
    model=config_of(window=WINDOW, layers=1),
    seeds=(3, 1),
    bootstrap=MdnConfig(
        horizons=(4,), context_edges=(1, 24), height_parts=2, pit_bins=4, block=2, resamples=100
    ),
    ablation=AblationConfig(
        kinds=("zero",),
        context=12,
        horizons=(8, 4),
        rollout_every=1,
        further_every=2,
        quantile_every=4,
        rows=64,
    ),
    lacking={"e0": run_of("none")},
)


def states_of(name):
    """Weights as two trainings would leave them: one pair a run, no two alike."""
    run = RUNS[name]
    carry = CARRY if run.arm == "carry" else None
    for seed in (30, 10):
        network = build_network(run, CONFIG.model, carry=carry, seed=seed)
        yield {key: tensor.clone() for key, tensor in network.state_dict().items()}


@pytest.fixture(scope="module")
def series():
    return series_of(30 * WINDOW)


@pytest.mark.parametrize("name", RUNS)
def test_networks_get_the_weights_of_their_seed(name):
    wanted = list(states_of(name))
    given = trained_networks(CONFIG, name, iter(wanted), CPU, carry=CARRY)
    found = [(seed, net.training, net.memory is None, net.state_dict()) for seed, net in given]
    assert [seed for seed, *_ in found] == [3, 1]
    for (_, training, memoryless, state), want in zip(found, wanted, strict=True):
        assert not training
        assert memoryless == (name != "beta")
        assert state.keys() == want.keys()
        assert all(torch.equal(state[key], want[key]) for key in want)
    first, second = (state for *_, state in found)
    assert any(not torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("count", [1, 3])
def test_a_seed_without_its_file_is_no_silent_loss(count):
    states = (list(states_of("zulu")) * 2)[:count]
    with pytest.raises(ValueError, match="argument"):
        list(trained_networks(CONFIG, "zulu", states, CPU, carry=None))


def test_weights_of_another_arm_are_refused():
    with pytest.raises(RuntimeError, match="state_dict"):
        list(trained_networks(CONFIG, "zulu", states_of("beta"), CPU, carry=None))


@pytest.mark.parametrize("name", ["zulu", "alpha"])
def test_slots_are_cut_on_the_test_windows_alone(name, series):
    lines = []
    found = cut_run(CONFIG, name, states_of(name), series, CPU, lines.append)
    assert list(found) == [3, 1]
    assert lines == [f"{name} seed {seed}: slots cut on 3 windows" for seed in (3, 1)]
    cut_WN = torch.tensor(series["spacings"].reshape(30, WINDOW)[27:], dtype=torch.float32)
    for seed, state in zip((3, 1), states_of(name), strict=True):
        network = build_network(RUNS[name], CONFIG.model, carry=None, seed=0)
        network.load_state_dict(state)
        windows = WindowSet(spacings_WN=cut_WN, level_W=None)
        generator = torch_generator(seed, "ablation")
        expected = ablate(
            network.eval().model, windows, config=CONFIG.ablation, generator=generator
        )
        for ours, theirs in zip(found[seed], expected, strict=True):
            assert ours.every == theirs.every
            np.testing.assert_array_equal(ours.nll_W, theirs.nll_W)
            np.testing.assert_array_equal(ours.nll_change_VW, theirs.nll_change_VW)
        assert np.abs(found[seed][0].nll_change_VW).max() > 0
    assert not np.allclose(found[3][0].nll_W, found[1][0].nll_W)


def test_windows_of_a_distance_run_bring_their_height(series):
    run = run_of("prefix", position="distance")
    network = build_network(run, CONFIG.model, carry=None, seed=0)
    material = reading_material(series, run, WINDOW)
    windows = WindowSet.of(network, material, np.array([27, 29]))
    heights = series["heights"][[27 * WINDOW, 29 * WINDOW]]
    np.testing.assert_allclose(
        windows.level_W, np.log(heights / (2 * np.pi)).round(3), rtol=0, atol=1e-6
    )


def test_draws_are_equal_for_every_run_of_a_stage():
    draws = [
        resampling(CONFIG.bootstrap, purpose, every=1).generator.integers(1 << 30, size=4).tolist()
        for purpose in ("ablation", "ablation", "kernel")
    ]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(("every", "block"), [(1, 6), (2, 3), (4, 1), (9, 1)])
def test_blocks_span_the_same_stretch_where_windows_are_left_out(every, block):
    told = resampling(dataclasses.replace(CONFIG.bootstrap, block=6), "kernel", every=every)
    assert (told.block, told.resamples) == (block, 100)


def readings(nll, error, windows=3, first=27):
    """A run whose NLL and rollout error are known window by window."""
    shape = (windows, 160)
    rise = np.arange(windows)[:, None]
    return {
        "windows_W": np.arange(first, first + windows),
        "heights_W": np.arange(windows) * 10.0,
        "spacings_WN": np.ones(shape),
        "nll_WT": np.full((windows, 159), nll) + rise,
        "rollout_mean_WH": np.full((windows, 20), 1.0 + error),
        "sampled_SWH": np.ones((2, windows, 20)),
    }


FILES = {
    "zulu/3": readings(0.1, 0.01),
    "zulu/1": readings(0.2, 0.02),
    "e0/3": readings(0.3, 0.03),
    "e0/1": readings(0.4, -0.04),
    "far/3": readings(0.3, 0.03, first=26),
    "far/1": readings(0.4, 0.04, first=26),
}
MEASURES = {name: [f"{name}/3", f"{name}/1"] for name in ("e0", "far", "zulu")}


def test_a_run_stands_beside_the_one_without_memory_seed_by_seed():
    (found,) = retrained(CONFIG, "zulu", MEASURES, FILES.__getitem__)
    assert (found.run, found.slot) == ("e0", "all")
    expected = {
        "whole": {3: (0.1, 0.01), 1: (0.2, 0.02)},
        "without": {3: (0.3, 0.03), 1: (0.4, 0.04)},
    }
    for part, seeds in expected.items():
        scores = getattr(found, part)
        assert list(scores) == [3, 1]
        for seed, (nll, error) in seeds.items():
            assert set(scores[seed]) == {"nll", "err_step@4", "err_step@8"}
            np.testing.assert_allclose(scores[seed]["nll"], nll + np.arange(3))
            np.testing.assert_allclose(scores[seed]["err_step@4"], error)
            np.testing.assert_allclose(scores[seed]["err_step@8"], error)


def test_runs_on_other_windows_are_not_set_side_by_side():
    measures = {**MEASURES, "zulu": MEASURES["far"]}
    assert retrained(CONFIG, "zulu", measures, FILES.__getitem__) == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("zulu", {"position": "learned"}),
        ("zulu", {"split": "source"}),
        ("zulu", {"share": 0.5}),
    ],
)
def test_runs_that_differ_by_more_than_the_memory_are_not_set_side_by_side(name, changes):
    config = dataclasses.replace(CONFIG, runs={"zulu": run_of("prefix", **changes)})
    assert retrained(config, name, MEASURES, FILES.__getitem__) == []


def test_losses_of_the_memory_are_no_other_difference():
    runs = {"zulu": run_of("prefix", aux="q3", aux_weight=0.1, regularise=True)}
    config = dataclasses.replace(CONFIG, runs=runs)
    assert len(retrained(config, "zulu", MEASURES, FILES.__getitem__)) == 1


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, 0),
        ({"drift_weight": 0.2}, 0),
        ({"drift_weight": 0.1, "drift_every": 20}, 0),
        ({"drift_weight": 0.1, "drift_horizon": 2}, 0),
        ({"drift_weight": 0.1, "drift_batch": 2}, 0),
        ({"drift_weight": 0.1, "drift_schedule": "linear"}, 0),
        ({"drift_weight": 0.1, "control_of": "zulu"}, 1),
    ],
)
def test_a_drift_loss_trains_every_parameter_and_must_be_shared(changes, found):
    config = dataclasses.replace(
        CONFIG,
        runs={"zulu": run_of("prefix", drift_weight=0.1, aux="q3", aux_weight=0.1)},
        lacking={"e0": run_of("none", **changes)},
    )
    assert len(retrained(config, "zulu", MEASURES, FILES.__getitem__)) == found


def test_a_run_stands_beside_those_that_lack_one_of_its_slots_and_nothing_else():
    run = run_of("prefix", drift_weight=0.1)
    lacking = {
        "e0": dataclasses.replace(run, without_slot=2, control_of="zulu"),
        "far": dataclasses.replace(run, without_slot=1, drift_weight=0.2),
    }
    config = dataclasses.replace(CONFIG, runs={"zulu": run}, lacking=lacking)
    (found,) = retrained(config, "zulu", MEASURES, FILES.__getitem__)
    assert (found.run, found.slot) == ("e0", "2")


def test_published_figures_are_sorted_by_run():
    document = {
        "v1.eff_percent": 3.45,
        "v1.rollout_effect": 0.16,
        "v1.mem_entropy": 2.0,
        "e1.eff_percent": 2.39,
        "e2.step3000.eff_percent": 4.9,
        "bands.eff_percent": [0, 1],
        "goal.rollout_effect": 5.0,
    }
    assert figures_by_run(document) == {
        "v1": {"eff_percent": 3.45, "rollout_effect": 0.16, "mem_entropy": 2.0},
        "e1": {"eff_percent": 2.39},
    }
