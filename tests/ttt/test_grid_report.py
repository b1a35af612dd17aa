"""Rows of the memory grid: known gains, pairing, refused cells, the table."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from mneme.core.headline import value_of
from mneme.ttt.grid_config import GridConfig
from mneme.ttt.grid_report import COLUMNS, MeasuredGrid, cell_name, grid_runs, grid_table
from mneme.ttt.grid_texts import CONTROLS
from mneme.ttt.published import PUBLISHED

RATIOS, REPEATS = (0.5, 0.9), (2, 4)
CELLS = [(ratio, repeats) for ratio in RATIOS for repeats in REPEATS]
WORTH = {"own": 0.5, "shuffled": 0.2, "sentences": 0.4, "other": -0.1, "random": -0.2}
"""Planted gain of every context, nats."""


@pytest.fixture(scope="module")
def config():
    values = {"prompts": 8, "adapt_ratios": RATIOS, "repeats": REPEATS, "trials": 2, "batch": 4}
    return GridConfig(**values, resamples=300, recipes={})


def reading(*, seed=0, worth=WORTH, noise=0.02, cells=CELLS, refused=(), source=False, prompts=8):
    """Return arrays whose gains are planted, the first cell's twice the others'."""
    generator = np.random.default_rng(seed)
    count = len(cells)
    none = 4 + np.random.default_rng(99).normal(size=(1, prompts)) + np.zeros((count, 1))
    size = np.ones((count, 1))
    size[0] = 2

    def after(kind, trials):
        drawn = noise * generator.normal(size=(trials, count, prompts))
        return none - worth[kind] * size - drawn

    arrays = {"none_CN": none, "own_CN": after("own", 1)[0]}
    arrays |= {f"{kind}_RCN": after(kind, 2) for kind in CONTROLS}
    if source:
        arrays |= {f"source_{name}": 0.1 * values for name, values in arrays.items()}
    length = np.full((count, prompts), 40)
    columns = zip(*refused, strict=True) if refused else ((), (), (), ())
    names = ("refused_ratio_F", "refused_repeats_F", "refused_same_F", "refused_prompts_F")
    return arrays | {
        "ratio_C": np.array([ratio for ratio, _ in cells]),
        "repeats_C": np.array([repeats for _, repeats in cells]),
        "length_CN": length,
        "adapted_CN": length - 7,
        "prompt_N": np.arange(prompts),
        "max_tokens": np.array(40),
        **{name: np.array(column) for name, column in zip(names, columns, strict=True)},
    }


def measured(*readings, net="base", against=(), sweeps=(), seeds=None, control_of=None):
    seeds = tuple(range(len(readings))) if seeds is None else seeds
    return MeasuredGrid(
        net=net,
        recipe="plays",
        seeds=seeds,
        readings=readings,
        sweeps=sweeps,
        against=against,
        tried=6,
        control_of=control_of,
    )


def headline(runs, config):
    blocks = grid_runs(runs, config)
    json.dumps(blocks, allow_nan=False)
    return {"phase": "ttt_grid", "runs": blocks}


def row_of(told, run, metric):
    rows = [r for r in told["runs"][run]["rows"] if r["metric"] == metric and r["seed"] is None]
    assert len(rows) == 1, metric
    return rows[0]


def test_planted_gains_are_found_in_every_cell_and_over_cells(config):
    told = headline({"real": measured(reading(), reading(seed=1))}, config)
    for place, (ratio, repeats) in enumerate(CELLS):
        size = 2 if place == 0 else 1
        for metric, value in (
            ("delta", 0.5),
            ("delta_minus_shuffled", 0.3),
            ("delta_minus_sentences", 0.1),
            ("delta_minus_other", 0.6),
            ("delta_minus_random", 0.7),
            ("harm", 0.1),
        ):
            row = row_of(told, "real", cell_name(metric, ratio, repeats))
            assert row["value"] == pytest.approx(size * value, abs=0.03)
            assert row["low"] < row["value"] < row["high"]
            assert row["low"] > 0
            assert (row["n"], row["unit"]) == (8, "nats")
    row = row_of(told, "real", "delta")
    assert row["value"] == pytest.approx(0.5 * 5 / 4, abs=0.02)
    seeds = [r["value"] for r in told["runs"]["real"]["rows"] if r["metric"] == "delta"]
    assert seeds[0] == pytest.approx(np.mean(seeds[1:]))


def test_percent_is_each_prompts_own(config):
    arrays = reading(noise=0)
    told = headline({"real": measured(arrays)}, config)
    pre = arrays["none_CN"][1]
    assert value_of(told, "real", "percent@0.5x4") == pytest.approx(np.mean(100 * 0.5 / pre))
    assert value_of(told, "real", "percent_other@0.5x4") == pytest.approx(np.mean(-10 / pre))
    row = row_of(told, "real", "percent")
    assert row["unit"] == row_of(told, "real", "percent_other")["unit"] == "percent"
    assert value_of(told, "real", "pre") - value_of(told, "real", "post") == pytest.approx(0.625)


def test_equal_contexts_give_no_difference(config):
    same = reading(worth=dict.fromkeys(WORTH, 0.3), noise=0.05)
    told = headline({"real": measured(same)}, config)
    for kind in CONTROLS:
        row = row_of(told, "real", f"delta_minus_{kind}")
        assert row["low"] < 0 < row["high"] or abs(row["value"]) < 0.03
    still = reading(worth=dict.fromkeys(WORTH, 0.0), noise=0)
    told = headline({"still": measured(still)}, config)
    row = row_of(told, "still", "delta")
    assert (row["value"], row["low"], row["high"]) == (0, 0, 0)


def test_runs_are_compared_by_prompt_and_seed(config):
    base = [reading(seed=s) for s in (0, 1)]
    losses = [name for name in base[0] if name.split("_")[0] in ("none", *WORTH)]
    lower = [{**arrays, **{name: arrays[name] - 1 for name in losses}} for arrays in base]
    adapter = measured(*lower, net="adapter", against=("real",))
    told = headline({"real": measured(*base), "tiny": adapter}, config)
    row = row_of(told, "tiny", "pre_minus_real")
    assert (row["value"], row["low"], row["high"]) == pytest.approx((-1, -1, -1))
    assert value_of(told, "tiny", "delta_minus_real") == pytest.approx(0)
    expected = [(100 * (a["none_CN"] - a["own_CN"]) / a["none_CN"]).mean() for a in (*lower, *base)]
    shown = value_of(told, "tiny", "percent_minus_real")
    assert shown == pytest.approx(np.mean(expected[:2]) - np.mean(expected[2:]))
    assert shown > 0, "the same gain of a lower loss is more in percent"
    assert told["runs"]["tiny"]["compared_with"] == ["real"]


def test_the_sources_measure_is_told_apart(config):
    told = headline({"original": measured(reading(source=True, noise=0))}, config)
    assert value_of(told, "original", "source_delta@0.5x4") == pytest.approx(0.05)
    assert value_of(told, "original", "source_percent_shuffled") == pytest.approx(
        value_of(told, "original", "percent_shuffled")
    )
    plain = headline({"real": measured(reading())}, config)
    with pytest.raises(KeyError):
        value_of(plain, "real", "source_delta")


def test_refused_cells_are_null_and_point_to_the_measured_one(config):
    cells = [(0.5, 2), (0.9, 2)]
    arrays = reading(cells=cells, refused=[(0.5, 4, 2, 8), (0.9, 4, 2, 7)])
    told = headline({"original": measured(arrays)}, config)
    row = row_of(told, "original", "percent@0.5x4")
    assert row["value"] is None
    assert row["reason"] == (
        "truncated at 40 tokens, 8 of 8 prompts read the same as with 2 repeats: see percent@0.5x2"
    )
    assert "7 of 8" in row_of(told, "original", "harm@0.9x4")["reason"]


def point(rate, chunk, own, *, reason=None):
    losses = {"none": [4.0, 5.0], "own": [4.0 - own, 5.0 - own], "other": [4.1, 5.1]}
    if reason:
        losses = dict.fromkeys(losses)
    return {"learning_rate": rate, "chunk": chunk, **losses, "reason": reason}


def test_the_sweep_is_averaged_over_seeds_and_keeps_its_reasons(config):
    sweeps = tuple(
        [point(0.1, 8, own), point(1.0, 8, 2 * own), point(1.0, 99, 0, reason="too long")]
        for own in (0.2, 0.4)
    )
    told = headline({"real": measured(reading(), reading(seed=1), sweeps=sweeps)}, config)
    first, second, third = told["runs"]["real"]["sweep"]
    assert first["delta"]["value"] == pytest.approx(0.3)
    assert first["delta_minus_other"]["value"] == pytest.approx(0.4)
    assert second["delta"]["value"] == pytest.approx(0.6)
    assert (third["delta"], third["reason"]) == (None, "too long")
    rows = {r["metric"]: r for r in told["runs"]["real"]["rows"]}
    # own .2 and .4 of 4 and of 5 nats: 5, 10 and 4, 8 percent
    assert rows["swept_percent@0.1/8"]["value"] == pytest.approx((5 + 10 + 4 + 8) / 4)
    assert (rows["swept_percent@0.1/8"]["n"], rows["swept_percent@0.1/8"]["unit"]) == (2, "percent")
    assert rows["swept_percent@1/99"]["value"] is None
    assert rows["swept_percent@1/99"]["reason"] == "too long"


def test_the_table_has_every_loss(config):
    runs = {"real": measured(reading(), reading(seed=1))}
    names = [f"prompt {n}" for n in range(20)]
    lines = list(csv.DictReader(io.StringIO(grid_table(runs, names))))
    assert tuple(lines[0]) == COLUMNS
    assert len(lines) == 2 * 8 * 4 * 2
    arrays = runs["real"].readings[1]
    line = next(
        one
        for one in lines
        if (one["seed"], one["prompt"], one["adapt_ratio"], one["repeats"], one["trial"])
        == ("1", "prompt 3", "0.9", "2", "1")
    )
    assert float(line["post_other"]) == pytest.approx(arrays["other_RCN"][1, 2, 3], rel=1e-5)
    pre, post = arrays["none_CN"][2, 3], arrays["own_CN"][2, 3]
    assert float(line["percent"]) == pytest.approx(100 * (pre - post) / pre, rel=1e-4)
    assert (line["context_tokens"], line["counted_tokens"]) == ("33", "7")


def test_what_cannot_be_compared_is_named(config):
    base = measured(reading())
    with pytest.raises(ValueError, match="'tiny' is compared with 'gone', which was not measured"):
        grid_runs({"tiny": measured(reading(), against=("gone",))}, config)
    changed = {**reading(), "prompt_N": np.arange(8)[::-1]}
    with pytest.raises(ValueError, match="'tiny' and 'real' did not read the same prompts"):
        grid_runs({"real": base, "tiny": measured(changed, against=("real",))}, config)
    later = measured(reading(), against=("real",), seeds=(5,))
    with pytest.raises(ValueError, match="under the same seeds"):
        grid_runs({"real": base, "tiny": later}, config)
    with pytest.raises(ValueError, match="seeds read different prompts or cells"):
        measured(reading(), changed)
    broken = {**reading(), "own_CN": np.full((4, 8), np.nan)}
    with pytest.raises(ValueError, match="own must be finite"):
        grid_runs({"real": measured(broken)}, config)


def test_published_figures_are_those_of_the_document():
    grid = PUBLISHED["ttt_grid"]["document"]
    assert grid["original.percent"] == [0.33, 0.56]
    assert grid["original.delta"] == [0.033, 0.060]
    assert grid["original_adapter.percent"] == [0.21, 0.31]
    assert set(PUBLISHED) == {"ttt_model", "ttt_adapter", "ttt_grid", "ttt_context"}
    json.dumps(PUBLISHED, allow_nan=False)
