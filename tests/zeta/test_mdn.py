"""Measured runs become the rows, differences, floor and curves of results/mdn.json."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from mneme.core.seeds import numpy_generator
from mneme.stats.blocks import block_mean
from mneme.zeta.mdn import FLOOR_RUN, floor_block, mdn_runs
from mneme.zeta.published import PUBLISHED, figures_by_run
from mneme.zeta.scores import MdnConfig, MeasuredRun, curves, score
from mneme.zeta.sine_process import Estimate, Floor

WINDOWS = 60
CONFIG = MdnConfig(
    horizons=(10, 100),
    context_edges=(1, 2, 16, 256),
    height_parts=4,
    pit_bins=10,
    block=4,
    resamples=200,
)


def readings(shift: float = 0.0, seed: int = 0, windows: int = WINDOWS) -> dict[str, np.ndarray]:
    """A predictor whose NLL is `shift` above one that all share, window by window."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed + 1)
    level = shared.normal(size=(windows, 1))
    spacings = shared.gamma(6.0, 1 / 6, size=(windows, 256))
    return {
        "spacings_WN": spacings,
        "nll_WT": level + shift + 0.01 * own.normal(size=(windows, 255)),
        "crps_WT": 0.2 + 0.01 * own.random((windows, 255)),
        "abs_error_WT": 0.3 + 0.01 * own.random((windows, 255)),
        "pit_WT": own.random((windows, 255)),
        "nll_full_WX": level + shift - 0.5 + 0.01 * own.normal(size=(windows, 16)),
        "rollout_mean_WH": np.ones((windows, 100)),
        "rollout10_WH": np.ones((windows, 10)),
    }


def run(shifts=(0.0,), **changes) -> MeasuredRun:
    told = {
        "scores": tuple(score(readings(s, seed), CONFIG) for seed, s in enumerate(shifts)),
        "seeds": tuple(range(len(shifts))),
        "system": "zeta",
        "windows": np.arange(7035, 7035 + WINDOWS),
        "heights_W": np.linspace(1e6, 1.1e6, WINDOWS),
        "information": "past spacings in the window",
        "beyond": False,
        "control_of": None,
        "against": (),
        "further": {},
    }
    return MeasuredRun(**(told | changes))


def rows_of(block: dict, metric: str) -> list[dict]:
    return [row for row in block["rows"] if row["metric"] == metric]


def floor() -> list[Floor]:
    values = {0: 0.53, 1: 0.48, 16: 0.44, 64: 0.43}
    return [
        Floor(
            context=context,
            nll=Estimate(value, 0.002 if context > 2 else 0.0),
            crps=Estimate(0.2, 0.001),
            mae=Estimate(0.3, 0.001),
            pasts=None if context <= 2 else 1000,
        )
        for context, value in values.items()
    ]


def test_rows_over_seeds_and_per_seed():
    block = mdn_runs({"e2": run((0.0, 0.2), control_of="e1")}, CONFIG, floor=[])["e2"]
    overall, *seeds = rows_of(block, "nll")
    values = np.mean([readings(s, i)["nll_WT"].mean(axis=1) for i, s in ((0, 0.0), (1, 0.2))], 0)
    generator = numpy_generator(0, "bootstrap", "nll")
    interval = block_mean(values, block=4, resamples=200, generator=generator)
    assert overall["value"] == pytest.approx(interval.value)
    assert overall["low"] == pytest.approx(interval.low)
    assert overall["n"] == WINDOWS
    assert overall["unit"] == "nats"
    assert overall["control_of"] == "e1"
    assert [row["seed"] for row in seeds] == [0, 1]
    assert seeds[1]["value"] - seeds[0]["value"] == pytest.approx(0.2, abs=0.01)
    assert block["seeds"] == [0, 1]
    assert block["windows"] == WINDOWS
    assert block["information"] == "past spacings in the window"


def test_every_metric_has_its_row():
    block = mdn_runs({"e0": run()}, CONFIG, floor=[])["e0"]
    overall = [row["metric"] for row in block["rows"] if row["seed"] is None]
    assert overall == [
        *("nll", "nll_full", "crps", "mae", "err_step@10", "err_cum@10", "err_growth@10"),
        *("err_step@100", "err_cum@100", "err_growth@100", "err_source@10"),
        *("nll_context@1", "nll_context@2-15"),
        *("nll_context@16-255", *(f"nll_fifth@{part}" for part in range(1, 6)), "pit_ks"),
    ]
    units = {row["metric"]: row["unit"] for row in block["rows"]}
    assert units["err_cum@10"] == units["crps"] == "mean spacings"
    assert units["pit_ks"] == "fraction"
    fifth = rows_of(block, "nll_fifth@5")[0]
    assert fifth["value"] == pytest.approx(readings()["nll_WT"][48:].mean())
    assert fifth["n"] == 12
    json.dumps(block, allow_nan=False)


def test_a_reference_has_no_seed_rows():
    block = mdn_runs({"kde": run(seeds=None)}, CONFIG, floor=[])["kde"]
    assert {row["seed"] for row in block["rows"]} == {None}
    assert len(rows_of(block, "pit_ks")) == 1
    assert block["seeds"] is None


def test_paired_differences_see_through_what_windows_share():
    runs = {
        "e0": run((0.0, 0.02)),
        "kde": run((1.0,), seeds=None),
        "e2": run((0.11, 0.11), against=("e0", "kde")),
    }
    block = mdn_runs(runs, CONFIG, floor=[])["e2"]
    overall, *seeds = rows_of(block, "nll_minus_e0")
    assert overall["value"] == pytest.approx(0.10, abs=0.003)
    assert 0.09 < overall["low"] < overall["high"] < 0.11
    assert [row["seed"] for row in seeds] == [0, 1]
    own = rows_of(block, "nll")[0]
    assert own["high"] - own["low"] > 10 * (overall["high"] - overall["low"])
    assert rows_of(block, "nll_minus_kde")[0]["value"] == pytest.approx(-0.89, abs=0.003)
    assert rows_of(block, "nll_full_minus_e0")[0]["value"] == pytest.approx(0.10, abs=0.005)
    equal = rows_of(block, "err_cum_minus_e0@100")[0]
    assert (equal["value"], equal["low"], equal["high"]) == (0.0, 0.0, 0.0)
    assert not rows_of(mdn_runs(runs, CONFIG, floor=[])["e0"], "nll_minus_e0")


def test_a_likelihood_alone_can_be_compared_with():
    few = {name: readings()[name] for name in ("spacings_WN", "nll_WT")}
    runs = {
        "bayes": run(scores=(score(few, CONFIG),), seeds=None),
        "e0": run((0.3,), against=("bayes",)),
    }
    blocks = mdn_runs(runs, CONFIG, floor=[])
    minus = {r["metric"] for r in blocks["e0"]["rows"] if "minus" in r["metric"]}
    assert minus == {"nll_minus_bayes"}
    assert "pit" not in blocks["bayes"]["curves"]
    assert "error_by_horizon" not in blocks["bayes"]["curves"]
    assert not rows_of(blocks["bayes"], "pit_ks")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (None, "'e2' is compared with 'e0', which was not measured"),
        (run(system="gue"), "'e2' and 'e0' were not read on the same windows"),
        (run(windows=np.arange(WINDOWS)), "'e2' and 'e0' were not read on the same windows"),
    ],
)
def test_runs_that_cannot_be_paired(other, message):
    runs = {"e2": run(against=("e0",))} | ({"e0": other} if other else {})
    with pytest.raises(ValueError, match=message):
        mdn_runs(runs, CONFIG, floor=[])


def test_readings_of_other_windows():
    with pytest.raises(ValueError, match=r"a run on 59 test windows has readings of \[60\]"):
        run(windows=np.arange(59))


def test_gue_runs_are_set_against_the_floor_at_equal_contexts():
    blocks = mdn_runs({"e0_gue": run((0.5,), system="gue"), "e0": run()}, CONFIG, floor=floor())
    assert not [row for row in blocks["e0"]["rows"] if "floor" in row["metric"]]
    at_1 = rows_of(blocks["e0_gue"], "nll_minus_floor@1")[0]
    own = rows_of(blocks["e0_gue"], "nll_context@1")[0]
    assert at_1["value"] == pytest.approx(own["value"] - 0.48)
    # Contexts 2..15 lie on the line from .48 (1) to .44 (16) in log context.
    share = np.log(np.arange(2, 16)) / math.log(16)
    expected = 0.48 - 0.04 * share.mean()
    own = rows_of(blocks["e0_gue"], "nll_context@2-15")[0]
    between = rows_of(blocks["e0_gue"], "nll_minus_floor@2-15")[0]
    assert between["value"] == pytest.approx(own["value"] - expected)
    whole = rows_of(blocks["e0_gue"], "nll_minus_floor")[0]
    values = [rows_of(blocks[FLOOR_RUN], "nll")[0]["value"], rows_of(blocks["e0_gue"], "nll")[0]]
    assert whole["value"] == pytest.approx(values[1]["value"] - values[0])


def test_the_floors_own_error_widens_the_interval():
    sure = [dataclasses.replace(point, nll=Estimate(point.nll.value, 0.0)) for point in floor()]
    unsure = [dataclasses.replace(point, nll=Estimate(point.nll.value, 0.5)) for point in floor()]
    low = []
    for points in (sure, unsure):
        block = mdn_runs({"e0_gue": run(system="gue")}, CONFIG, floor=points)["e0_gue"]
        row = rows_of(block, "nll_minus_floor")[0]
        low.append(row["value"] - row["low"])
    assert low[1] == pytest.approx(math.hypot(low[0], 1.959964 * 0.5))


def test_the_floor_is_a_run():
    block = floor_block(floor(), CONFIG)
    exact = rows_of(block, "nll_context@0")[0]
    assert (exact["value"], exact["low"], exact["high"], exact["n"]) == (0.53, 0.53, 0.53, None)
    sampled = rows_of(block, "nll_context@16")[0]
    assert sampled["low"] == pytest.approx(0.44 - 1.96 * 0.002, abs=1e-6)
    assert sampled["n"] == 1000
    assert 0.43 < rows_of(block, "nll")[0]["value"] < 0.44
    assert rows_of(block, "crps")[0]["unit"] == "mean spacings"
    assert block["curves"]["nll_by_context"]["first"] == [0, 1, 16, 64]


def test_curves():
    told = readings()
    found = curves(run(), CONFIG)
    context = found["nll_by_context"]
    assert context["first"] == [1, 2, 16]
    assert context["last"] == [1, 15, 255]
    assert context["value"][1] == pytest.approx(told["nll_WT"][:, 1:15].mean())
    assert all(
        low < v < high
        for low, v, high in zip(*(context[k] for k in ("low", "value", "high")), strict=True)
    )
    height = found["nll_by_height"]
    assert height["value"][0] == pytest.approx(told["nll_WT"][:15].mean())
    assert height["height"] == sorted(height["height"])
    assert sum(found["pit"]["share"]) == pytest.approx(1.0)
    rolled = found["error_by_horizon"]
    assert rolled["horizon"] == list(range(1, 101))
    off = 1 - told["spacings_WN"][:, 128:228]
    assert rolled["err_step"]["value"][9] == pytest.approx(np.abs(off[:, :10]).mean())
    assert rolled["err_cum"]["value"][99] == pytest.approx(np.abs(off.sum(axis=1)).mean())


def test_smoke_sizes_have_values_without_intervals():
    few = score(readings(windows=3), CONFIG)
    small = run(scores=(few,), windows=np.arange(3), heights_W=np.arange(3.0))
    block = mdn_runs({"e0": small}, CONFIG, floor=[])["e0"]
    nll = rows_of(block, "nll")[0]
    assert nll["low"] is None
    assert "two blocks" in nll["reason"]
    json.dumps(block, allow_nan=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizons": (10, 10)}, "horizons"),
        ({"context_edges": (5,)}, "context_edges"),
        ({"block": 0}, "block"),
        ({"resamples": 10}, "resamples"),
    ],
)
def test_settings_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_published_figures_are_strict_json_with_reasons():
    json.dumps(PUBLISHED, allow_nan=False)
    for places in PUBLISHED.values():
        for figures in places.values():
            for address, value in figures.items():
                assert value is not None or figures[f"{address}_reason"]
    assert PUBLISHED["mdn"]["document"]["e0.nll"] == -0.5721
    assert PUBLISHED["slot_ablation"]["document"]["v1.eff_percent"] == 3.45


def test_the_figure_marks_what_the_source_published():
    told = PUBLISHED["mdn"]
    marks = figures_by_run(told["document"] | told["code"])
    assert {run: marks[run]["nll"] for run in ("e0", "v1", "e1", "e2")} == {
        "e0": -0.5721,
        "v1": -0.4413,
        "e1": -0.3793,
        "e2": -0.3840,
    }
    assert "typical" not in marks
