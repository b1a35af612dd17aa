"""The planted control: its rule by a loop, and who finds it."""

from __future__ import annotations

import dataclasses
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from namelist import Namelist

from mneme.core.artefacts import read_arrays, read_json
from mneme.core.config import ConfigError, build, plain
from mneme.core.headline import value_of
from mneme.lattice.config import RecipeConfig
from mneme.lattice.gather import unpacked
from mneme.lattice.planted import DRIFT, RULE_STEPS, planted_pairs, planted_vectors, rule
from mneme.lattice.planted_config import PlantedConfig
from mneme.lattice.planted_stage import planted_runs
from mneme.lattice.report import lattice_runs
from mneme.lattice.retrieval import chance
from mneme.lattice.stages_measure import LatticeStageConfig, MeasureConfig, PlantedStageConfig

ROOT = Path(__file__).parents[2]
BLOCK = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))["lattice"]
DEFAULT = build(PlantedConfig, BLOCK["planted"], where="planted")
MEASURE = build(MeasureConfig, BLOCK["measure"], where="measure")


def edited(config, *, fit=(), cell=(), **changes):
    recipe = dataclasses.replace(
        config.recipe,
        fit=dataclasses.replace(config.recipe.fit, **dict(fit)),
        cell=dataclasses.replace(config.recipe.cell, **dict(cell)),
    )
    return dataclasses.replace(config, recipe=recipe, **changes)


SMALL = edited(
    DEFAULT,
    cell={"shape": (4, 7, 9), "steps": 9},
    fit={"steps": 48},
    train=160,
    test=150,
    arms={
        **{name: DEFAULT.arms[name] for name in ("adapter", "lattice", "mlp", "curve", "frozen")},
        "lattice_3": dataclasses.replace(DEFAULT.arms["lattice_10"], lattice_steps=3),
    },
)
TINY = edited(
    DEFAULT,
    cell={"shape": (3, 3, 4), "steps": 3, "channels": 2, "hidden": 2},
    fit={"steps": 2, "batch": 4, "eval_every": 1},
    train=8,
    val=4,
    test=6,
    arms={name: DEFAULT.arms[name] for name in ("adapter", "lattice", "mlp")},
)


def measured(config, folder, *, seeds=(0,)):
    told = PlantedStageConfig(planted=config, seeds=seeds, read=MEASURE.read)
    return planted_runs(
        told,
        device=torch.device("cpu"),
        folder=folder,
        fingerprint="f",
        log=lambda line: None,
    )


def headline(runs, config, *, seeds=(0,)):
    told = LatticeStageConfig(arms={"planted": config.arms}, seeds=seeds, measure=MEASURE, tried={})
    facts = {"planted": {"embedding": {"key": None}, "training": {}}}
    return {"phase": "lattice", "runs": lattice_runs({"planted": runs}, facts, told)}


def test_the_rule_by_a_loop():
    u = np.random.default_rng(0).normal(size=(1, 3, 9))
    held = (u[0] ** 2).copy()
    for _ in range(RULE_STEPS):
        new = np.empty_like(held)
        for y in range(3):
            for x in range(9):
                new[y, x] = (1 - DRIFT) * held[y, x] + (DRIFT * held[y, x - 1] if x else 0)
        held = new
    np.testing.assert_allclose(rule(u)[0], held, rtol=1e-12)


def test_a_cell_ends_where_the_binomial_law_says():
    u = np.zeros((1, 1, 15))
    u[0, 0, 2] = 3.0
    ways = [math.comb(RULE_STEPS, k) for k in range(9)]
    moved = [n * DRIFT**k * (1 - DRIFT) ** (RULE_STEPS - k) for k, n in enumerate(ways)]
    np.testing.assert_allclose(rule(u)[0, 0, 2:11], 9 * np.array(moved), rtol=1e-12)
    assert moved[0] < 0.03, "almost nothing of an answer is of its own place"


def test_nothing_linear_is_in_the_pairs():
    questions, answers = planted_pairs(400, (7, 9), generator=np.random.default_rng(0))
    opposite = rule(-questions.reshape(400, 7, 9).astype(float)).reshape(400, -1)
    np.testing.assert_allclose(opposite - opposite.mean(1, keepdims=True), answers, atol=1e-5)
    np.testing.assert_allclose(answers.mean(1), 0, atol=1e-6)
    assert abs(np.corrcoef(questions.ravel(), answers.ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(questions.ravel() ** 2, answers.ravel())[0, 1]) < 0.1


def test_splits_are_apart_and_belong_to_the_seed():
    vectors = planted_vectors(TINY)
    assert {name: array.shape for name, array in vectors.items()} == {
        f"{split}_{side}": (size, 12)
        for split, size in {"train": 8, "val": 4, "test": 6}.items()
        for side in ("questions", "answers")
    }
    more = planted_vectors(dataclasses.replace(TINY, train=9))
    assert np.array_equal(more["test_answers"], vectors["test_answers"])
    other = planted_vectors(dataclasses.replace(TINY, seed=1))
    assert not np.array_equal(other["test_answers"], vectors["test_answers"])


def test_the_lattice_finds_the_rule_and_nothing_else_does(tmp_path):
    runs, training = measured(SMALL, tmp_path)
    head = headline(runs, SMALL)
    guess = chance(150)
    for name, run in runs.items():
        recall = run.readings[0].scores["recall@1"].mean()
        if name == "lattice":
            assert recall > 0.7
        else:
            assert recall < guess["recall@1"] + 0.05, name
    for other in ("adapter", "mlp", "curve", "frozen", "lattice_3"):
        (row,) = [
            row
            for row in head["runs"]["planted_lattice"]["rows"]
            if row["metric"] == f"mrr_minus_{other}" and row["seed"] is None
        ]
        assert row["low"] > 0.5, other
    assert value_of(head, "planted_lattice", "core_bytes") == 4 * 654
    assert training["lattice"][0]["best_step"] >= 36
    assert head["runs"]["planted_raw"]["embedding"] == {"key": None}


def test_the_control_has_the_box_and_the_depth_of_a_judged_arm():
    """What cannot be seen at other sizes is not controlled for."""
    cell = build(RecipeConfig, BLOCK["recipes"]["smollm2-135m"], where="recipe").cell
    assert DEFAULT.recipe.cell.shape == cell.shape
    assert DEFAULT.recipe.cell.steps == BLOCK["arms"]["lattice_20"]["lattice_steps"]
    assert DEFAULT.arms["lattice_10"].lattice_steps == cell.steps == cell.crossing
    long = yaml.safe_load((ROOT / "config/long.yaml").read_text(encoding="utf-8"))["lattice"]
    assert "lattice_20" in long["runs"]["smollm2-135m"]


@pytest.mark.slow
def test_the_lattice_of_the_default_finds_it_and_one_of_ten_steps_does_not(tmp_path):
    runs, _ = measured(DEFAULT, tmp_path)
    recall = {name: run.readings[0].scores["recall@1"].mean() for name, run in runs.items()}
    assert recall.pop("lattice") > 0.9
    assert recall.pop("frozen") < 0.2, "a random rule mixes columns too, and a readout learns"
    assert max(recall.values()) < 0.1, recall


def test_the_script_leaves_what_the_report_reads(tmp_path):
    made = Namelist(readings=tmp_path / "r.npz", facts=tmp_path / "f.json")
    config = {"planted": plain(TINY), "seeds": [0, 1], "read": plain(MEASURE.read)}
    params = SimpleNamespace(config=config, code="c0de", packages=["numpy"], device="cpu")
    snakemake = SimpleNamespace(
        input=[], output=made, params=params, wildcards=SimpleNamespace(), threads=1, log=[]
    )
    script = ROOT / "workflow/scripts/lattice_planted.py"
    runpy.run_path(str(script), init_globals={"snakemake": snakemake})
    facts = read_json(made.facts)
    runs = unpacked(read_arrays(made.readings), facts["runs"])
    again, _ = measured(TINY, tmp_path / "again", seeds=(0, 1))
    assert set(runs) == set(again)
    for name, run in again.items():
        for one, other in zip(runs[name].readings, run.readings, strict=True):
            assert one.values == other.values
            assert np.array_equal(one.scores["mrr"], other.scores["mrr"])
    assert [len(seeds) for seeds in facts["training"].values()] == [2, 2, 2]
    for seeds in facts["training"].values():
        assert [one["seed"] for one in seeds] == [0, 1]
        assert len({one["points"][0]["train_loss"] for one in seeds}) == 2
    assert (facts["teacher"], facts["embedding"]["dim"]) == ("planted", 12)
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert left == {"again", "f.json", "r.npz"}, "checkpoints are removed"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cell": {"surface": "triple"}}, "recipe.cell.surface must be single"),
        ({"train": 99}, r"train must be at least 113 \(more than half of 225 numbers\), got 99"),
        ({"test": 1}, "test must be at least 2"),
        ({"arms": {}}, "arms must be at least one"),
        ({"fit": {"batch": 201}}, r"arms.adapter.pairs must be 201 \(the batch\) to 200 \(train\)"),
    ],
)
def test_mistakes_are_one_sentence(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        edited(DEFAULT, **changes)
    lonely = {"mlp": DEFAULT.arms["mlp"]}
    with pytest.raises(
        ConfigError, match=r"arms\.mlp\.control_of must be null or another of these"
    ):
        dataclasses.replace(DEFAULT, arms=lonely)
