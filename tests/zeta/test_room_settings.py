"""Settings of the room: every size loads, every mistake names its key, files keep to their run."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from types import SimpleNamespace

import pytest
from zeta_runs import FOLDER, PLAIN, room

from mneme.core.config import ConfigError, build, plain
from mneme.core.workflow import canonical
from mneme.zeta.blocks import zeta_blocks, zeta_paths
from mneme.zeta.config import PHASE_ARMS, SLOT_ARMS
from mneme.zeta.floor import FloorConfig
from mneme.zeta.paths import by_run
from mneme.zeta.prime_stages import PrimesMeasureConfig, PrimesStageConfig
from mneme.zeta.reading_config import PrepareConfig
from mneme.zeta.settings import ZetaConfig
from mneme.zeta.slot_stages import AblationStageConfig, DiagnosticsStageConfig, KernelRuleConfig
from mneme.zeta.stages import (
    FitStageConfig,
    MdnStageConfig,
    MeasureStageConfig,
    ReferenceStageConfig,
    StatisticsStageConfig,
)
from mneme.zeta.transfer import TransferStageConfig
from mneme.zeta.zeros_config import ZerosConfig

SIZES = ["config", "smoke", "fast", "long", "gpu"]
OF_A_RUN = {
    "zeta_fit": (FitStageConfig, False),
    "zeta_measure": (MeasureStageConfig, False),
    "zeta_primes_fit": (PrimesStageConfig, True),
    "zeta_primes_measure": (PrimesMeasureConfig, True),
}
STAGES = {
    "zeros": ZerosConfig,
    "zeta_prepare": PrepareConfig,
    "zeta_references": ReferenceStageConfig,
    "zeta_floor": FloorConfig,
    "zeta_transfer": TransferStageConfig,
    "mdn": MdnStageConfig,
    "slot_ablation": AblationStageConfig,
    "diagnostics": DiagnosticsStageConfig,
    "kernel": KernelRuleConfig,
    "statistics": StatisticsStageConfig,
}


def load(content):
    return build(ZetaConfig, content, where="config.zeta")


def paths_of(config, results="results"):
    return zeta_paths(results, config)


def edited(changes):
    content = copy.deepcopy(room())
    for address, value in changes.items():
        *path, last = address.split(".")
        block = content
        for step in path:
            block = block[step]
        if value is KeyError:
            del block[last]
        else:
            block[last] = value
    return content


def test_all_sizes_are_tested():
    assets = {"assets"}
    assert {path.stem for path in FOLDER.glob("*.yaml")} - assets - {"claims"} == set(SIZES)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_loads_and_can_be_written_out_again(size):
    config = load(room(size))
    assert load(plain(config)) == config
    default = {"e0", "v1", "e2", "carry", "e0_gue", "carry_gue", "primes", "primes_shuffled"}
    assert default <= set(config.runs)
    assert ("oracle" in config.runs) == (size in {"long", "gpu"})


@pytest.mark.parametrize("size", SIZES)
def test_every_rule_is_told_what_its_script_asks_for(size):
    """Params are plain, sorted builtins: each must build the script's own settings."""
    config = load(room(size))
    paths = paths_of(config)
    blocks = zeta_blocks(config, paths)
    assert set(blocks) == set(STAGES) | set(OF_A_RUN)
    for rule, stage in STAGES.items():
        build(stage, canonical(blocks[rule]), where="zeta")
    for rule, (stage, phases) in OF_A_RUN.items():
        for name in paths.phase_runs if phases else paths.transformer_runs:
            told = canonical(blocks[rule](SimpleNamespace(run=name)))
            found = build(stage, told, where="zeta")
            assert (found.name, found.run, found.seeds) == (name, config.runs[name], config.seeds)
            if phases:
                inside = found.run.arm == "primes_window"
                both = (None, config.primes_window) if inside else (config.primes, None)
                assert (found.primes, found.primes_window) == both
            else:
                carries = found.run.arm in ("carry", "carry_reset")
                assert found.carry == (config.carry if carries else None)
                over = found.run.arm == "primes_transformer"
                assert found.rows == (config.primes.rows if over else None)


def test_a_run_is_told_of_no_other_run():
    """Editing one run must rerun that run only."""
    before, after = load(room()), load(edited({"runs.e2.drift_weight": 0.2}))
    for rule in OF_A_RUN:
        told = [zeta_blocks(config, paths_of(config))[rule] for config in (before, after)]
        for name in before.runs:
            one, two = (canonical(block(SimpleNamespace(run=name))) for block in told)
            assert (one == two) == (name != "e2")


def test_slot_stages_are_told_of_slot_runs_and_whom_they_are_compared_with():
    config = load(room("long"))
    blocks = zeta_blocks(config, paths_of(config))
    slots = {n for n, r in config.runs.items() if r.arm in SLOT_ARMS}
    assert {"v1", "e2", "readout", "film", "gating", "cross", "original"} <= slots
    for rule in ("slot_ablation", "diagnostics"):
        assert set(blocks[rule]["runs"]) == slots
    drifting = ["e0_drift_e1", "e0_drift_e1_w01", "e0_drift_e2", "e0_drift_e3"]
    assert list(blocks["slot_ablation"]["lacking"]) == ["e0", *drifting]
    large = load(room("gpu"))
    lacking = zeta_blocks(large, paths_of(large))["slot_ablation"]["lacking"]
    single = [f"e2_without_{slot}" for slot in range(8)]
    assert list(lacking) == ["e0", *drifting, *single]
    assert {config.runs[n].arm for n in blocks["kernel"]["runs"]} == {"none", "prefix"}


def test_a_run_that_others_are_compared_with_need_not_be_cut():
    content = room("long")
    runs = {name: content["runs"][name] for name in ("e0", "v0_id", "v1", "e2", "primes")}
    small = {"runs": runs, "uncut": ["v0_id"], "transfer": content["transfer"] | {"runs": ["e0"]}}
    config = load(content | small)
    paths = paths_of(config)
    assert paths.slot_runs == ["e2", "v1"]
    assert paths.lacking_runs == ["e0"]
    blocks = zeta_blocks(config, paths)
    for rule in ("slot_ablation", "diagnostics"):
        assert set(blocks[rule]["runs"]) == {"e2", "v1"}
    assert "v0_id" in blocks["kernel"]["runs"]
    assert f"{paths.results}/zeta/measure/v0_id/seed0/windows.npz" in paths.measures()


def runs_of(*names, arm="prefix"):
    return {name: {**PLAIN, "arm": arm, "slot_id": arm == "prefix"} for name in names}


def test_files_of_runs_are_never_mixed_up():
    """Only their addresses tell files apart, in whatever order they come."""
    runs = {**runs_of("zulu", "alpha", "mike"), **runs_of("plain", arm="none")}
    runs |= runs_of("prime", arm="primes")
    content = edited({"seeds": [5, 3], "runs": runs, "uncut": []})
    content["transfer"]["runs"] = ["plain"]
    config = load(content)
    # a results folder that looks like an address itself
    paths = paths_of(config, results="out/alpha/seed3")
    files = paths.of("fit", paths.slot_runs, "model.safetensors")
    told = canonical(zeta_blocks(config, paths)["slot_ablation"])
    assert list(told["runs"]) == ["alpha", "mike", "zulu"]
    turned = [path for run in ("zulu", "alpha", "mike") for path in files if f"/fit/{run}/" in path]
    found = by_run(turned)
    assert list(found) == ["zulu", "alpha", "mike"]
    for name in told["runs"]:
        folder = f"out/alpha/seed3/zeta/fit/{name}"
        assert found[name] == [f"{folder}/seed{seed}/model.safetensors" for seed in (5, 3)]
        assert told["seeds"] == [5, 3]


def test_by_run_keeps_the_order_of_seeds_and_joins_what_is_apart():
    files = ["r/s/b/seed1/x", "r/s/a/seed0/x", "r/s/b/seed0/x", "r/t/a/seed9/y"]
    assert by_run(iter(files)) == {
        "b": ["r/s/b/seed1/x", "r/s/b/seed0/x"],
        "a": ["r/s/a/seed0/x", "r/t/a/seed9/y"],
    }


def test_addresses():
    config = load(room("long"))
    paths = paths_of(config)
    assert paths.seeded("fit", "e0", "history.json") == [
        f"results/zeta/fit/e0/seed{seed}/history.json" for seed in (0, 1, 2)
    ]
    assert paths.series("carry_gue") == "results/zeta/prepare/gue.npz"
    assert paths.series("carry") == "results/zeta/prepare/zeta.npz"
    assert paths.systems == ["zeta", "gue", "scrambled", "shuffled"]
    assert set(paths.phase_runs) == {n for n, r in config.runs.items() if r.arm in PHASE_ARMS}
    assert sorted(paths.phase_runs + paths.transformer_runs) == sorted(config.runs)
    assert set(by_run(paths.measures())) == set(by_run(paths.histories())) == set(config.runs)
    assert set(config.runs) - set(by_run(paths.rolled())) == {
        "primes_window",
        "primes_transformer",
        "primes_transformer_gue",
    }
    assert len(paths.measures()) == 3 * len(config.runs)


def test_the_run_without_memory_is_on_the_zeros_and_drifts_alike():
    runs = {"far": {**PLAIN, "arm": "none", "system": "gue"}, **runs_of("near", arm="none")}
    runs |= {**runs_of("slots"), **runs_of("prime", arm="primes")}
    runs |= {"drifts": {**PLAIN, "arm": "none", "drift_weight": 0.1}}
    assert paths_of(
        load(edited({"runs": runs, "uncut": [], "transfer.runs": []}))
    ).lacking_runs == ["near"]
    slots = {**PLAIN, "arm": "prefix", "slot_id": True, "drift_weight": 0.1}
    found = paths_of(
        load(edited({"runs": {**runs, "slots": slots}, "uncut": [], "transfer.runs": []}))
    ).lacking_runs
    assert found == ["drifts"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": [0, 1, 0]}, "zeta.seeds must be different ones, at least one, got (0, 1, 0)"),
        ({"seeds": []}, "zeta.seeds must be different ones, at least one, got ()"),
        ({"runs.e2.arm": "prefx"}, "zeta.runs.e2.arm must be one of 'none', 'prefix'"),
        ({"runs.e2.system": "riemann"}, "zeta.runs.e2.system must be one of 'zeta', 'gue'"),
        ({"runs.e2.control_of": "e9"}, "zeta.runs.e2.control_of must be null or a run, got 'e9'"),
        ({"runs.carry.drift_weight": 0.1}, "zeta.runs.carry.drift_weight must be 0 for arm carry"),
        (
            {"runs.e2.drift_horizon": 256},
            "zeta.runs.e2.drift_horizon must be at most half a window",
        ),
        ({"runs.e0.slot_id": True}, "zeta.runs.e0.slot_id must be false without slots"),
        ({"runs.e0.slot_dropout": 0.1}, "zeta.runs.e0.slot_dropout must be 0 without slots"),
        ({"runs.carry.aux": "q3"}, "zeta.runs.carry.aux must be none where the arm has no slots"),
        ({"runs.e0.share": 0.0}, "zeta.runs.e0.share must be above 0, at most 1, got 0.0"),
        ({"runs.E9": {**PLAIN, "arm": "none"}}, "zeta.runs must be named in lower case"),
        ({"runs.a/b": {**PLAIN, "arm": "none"}}, "zeta.runs must be named in lower case"),
        (
            dict.fromkeys(("runs.e2", "runs.v1"), KeyError),
            "with a run with slots (arm prefix)",
        ),
        ({"runs.e2.control_of": "e2"}, "zeta.runs.e2.control_of must be another run, got 'e2'"),
        ({"mdn.context_edges": [1, 257]}, "zeta.mdn.context_edges must be at most 256"),
        ({"references.horizon": 99}, "zeta.references.horizon must be at least 100, got 99"),
        ({"model.window": 512}, "zeta.model.window must be a divisor of 3328 (a spectrum)"),
        (
            {"slot_ablation.context": 64},
            "zeta.slot_ablation.context must be 128, as in mdn, got 64",
        ),
        ({"predict.horizon": 129}, "zeta.predict.horizon must be at most 128, got 129"),
        ({"mdn.horizons": [10, 129]}, "zeta.mdn.horizons must be at most 128"),
        (
            {"predict.horizon": 50, "mdn.horizons": [10, 51]},
            "zeta.predict.horizon must be at least 100, got 50",
        ),
        ({"predict.full_stride": 48}, "zeta.predict.full_stride must be a divisor of 256 below it"),
        (
            {"predict.full_stride": 256},
            "zeta.predict.full_stride must be a divisor of 256 below it",
        ),
        ({"zeros.count": 2000}, "zeta.zeros.count must be above 10 windows of 256, got 2000"),
        ({"predict.samples": 1}, "zeta.predict.samples must be at least 2, got 1"),
        ({"zeros.count": 200}, "zeta.zeros.count must be 201..707927430, got 200"),
        ({"zeros.count": 10**10}, "zeta.zeros.count must be 201..707927430, got 10000000000"),
        (
            {"zeros.blocks.index_1e4.first": 900_000_000},
            "zeta.zeros.blocks.index_1e4.first must be so low that 201 zeros follow up to "
            "n = 707927430 (height 2^28), got 900000000",
        ),
        (
            {"zeros.blocks.index_1e4.count": 10**9},
            "zeta.zeros.blocks.index_1e4.count must be 201..707917431, got 1000000000",
        ),
        (
            {"zeros.blocks.height_1e8.height": 268435400.0},
            "zeta.zeros.blocks.height_1e8.height must be so low that 201 zeros follow up to "
            "n = 707927430 (height 2^28), got 268435400.0",
        ),
        ({"zeros.arb_checks": 2001053}, "zeta.zeros.arb_checks must be 1..count, got 2001053"),
        ({"prepare.surrogate_size": 2559}, "zeta.prepare.surrogate_size must be at least 2560"),
        ({"model.width": 60}, "zeta.model.width must be a multiple of 2 x heads = 8, got 60"),
        ({"floor.contexts": [0, 1, 4]}, "zeta.floor.contexts must be ascending from 0, 1, 2"),
        ({"floor.pasts": [0, 0, 0]}, "zeta.floor.pasts must be one number a context"),
        ({"carry.shortest": 50.0}, "zeta.carry.shortest must be above 0, below memory = 50.0"),
        ({"floor.pasts": [0, 0, 0, 0, *[9] * 6]}, "zeta.floor.pasts must be at least 1 each from"),
        (
            {"statistics.read.lengths": [1e308]},
            "zeta.statistics.read.lengths must be ascending multiples of step = 0.25",
        ),
        ({"statistics.read.step": 5e-324}, "zeta.statistics.read.step must be a divisor of 0.5"),
        ({"statistics.sequence": 0}, "zeta.statistics.sequence must be at least 2, got 0"),
        ({"runs.e2.without_slot": 8}, "zeta.runs.e2.without_slot must be below model.slots = 8"),
        (
            {"runs.e2.without_slot": 0, "runs.v1.without_slot": 0},
            "with a run with slots (arm prefix) on the zeros",
        ),
        ({"uncut": ["e0"]}, "zeta.uncut must be runs with slots on the zeros, got ('e0',)"),
        ({"uncut": ["v1", "e2"]}, "with a run with slots (arm prefix) on the zeros"),
        ({"tried.carry": 0}, "zeta.tried.carry must be at least 1, got 0"),
        ({"tried.primes": KeyError}, "zeta.tried.primes is missing"),
        ({"model.slots": 1}, "zeta.model.slots must be at least 2, which the diagnostics permute"),
        ({"diagnostics.context": 237}, "zeta.diagnostics.context must be at most 236"),
        ({"kernel.pairs.max_lag": 256}, "zeta.kernel.pairs.max_lag must be below the window 256"),
        ({"training.stepz": 3}, "zeta.training.stepz is not a known key; did you mean 'steps'?"),
        ({"training.steps": KeyError}, "zeta.training.steps is missing"),
    ],
)
def test_mistakes_end_in_one_sentence(changes, sentence):
    with pytest.raises(ConfigError) as caught:
        load(edited(changes))
    message = str(caught.value)
    assert sentence in message
    assert message.startswith("config.zeta.")
    assert "\n" not in message


def test_a_room_without_its_comparison_runs_is_refused():
    for arms, message in (
        (("prefix", "primes"), r"with a run without memory \(arm none\) on the zeros"),
        (("none", "primes"), r"with a run with slots \(arm prefix\) on the zeros"),
        (("none", "prefix"), "with one of arm primes"),
    ):
        runs = {f"run_{arm}": runs_of("x", arm=arm)["x"] for arm in arms}
        with pytest.raises(ConfigError, match=message):
            load(edited({"runs": runs}))


def test_settings_and_addresses_load_without_torch_and_scipy():
    code = (
        "import sys, mneme.zeta.settings, mneme.zeta.blocks, mneme.zeta.paths\n"
        "print(*sorted({'torch', 'scipy'} & set(sys.modules)), 'loaded')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["loaded"]


def test_the_gpu_size_retrains_e2_without_each_of_its_slots_and_nothing_else_differs():
    config = load(room("gpu"))
    lacking = {r.without_slot: r for r in config.runs.values() if r.without_slot is not None}
    assert sorted(lacking) == list(range(config.model.slots))
    for run in lacking.values():
        assert dataclasses.replace(run, without_slot=None, control_of=None) == config.runs["e2"]
