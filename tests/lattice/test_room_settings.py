"""Settings of the room: what each rule is told, in every size, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from mneme.core.config import ConfigError, build
from mneme.core.workflow import canonical, merge
from mneme.lattice.paths import LatticePaths, by_arm
from mneme.lattice.rule_blocks import lattice_blocks
from mneme.lattice.settings import LatticeConfig
from mneme.lattice.stages_fit import FitStageConfig
from mneme.lattice.stages_measure import (
    LatticeStageConfig,
    MeasureStageConfig,
    OriginalStageConfig,
    PlantedStageConfig,
)
from mneme.lattice.stages_prepare import EmbedStageConfig, PrepareStageConfig

FOLDER = Path(__file__).parents[2] / "config"
PLAIN = {
    "lattice_prepare": PrepareStageConfig,
    "lattice_original": OriginalStageConfig,
    "lattice_planted": PlantedStageConfig,
    "lattice": LatticeStageConfig,
}


def room(size="config"):
    read = lambda name: yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))  # noqa: E731
    block = read("config")["lattice"]
    return block if size == "config" else merge(block, read(size).get("lattice", {}))


def load(content):
    return build(LatticeConfig, content, where="lattice")


def edited(changes, content=None):
    content = copy.deepcopy(room() if content is None else content)
    for key, value in changes.items():
        *path, last = key.split("/")
        block = content
        for name in path:
            block = block[name]
        block[last] = value
    return content


def blocks_of(config):
    paths = LatticePaths(results="r", runs=config.runs, seeds=config.seeds)
    return paths, lattice_blocks(config, paths, "resources")


def told(config, rule, **wildcards):
    block = blocks_of(config)[1][rule]
    return canonical(block(SimpleNamespace(**wildcards)) if callable(block) else block)


@pytest.mark.parametrize("size", ["config", "smoke", "fast", "long", "gpu"])
def test_every_rule_is_told_what_its_script_asks_for(size):
    config = load(room(size))
    paths, blocks = blocks_of(config)
    for rule, stage in PLAIN.items():
        build(stage, told(config, rule), where="lattice")
    for teacher in paths.teachers:
        found = build(
            EmbedStageConfig, told(config, "lattice_embed", backbone=teacher), where="lattice"
        )
        assert (found.name, found.teacher) == (teacher, config.teachers[teacher])
        read = build(
            MeasureStageConfig, told(config, "lattice_measure", backbone=teacher), where="lattice"
        )
        assert sorted(read.arms) == paths.runs[teacher]
        for arm in paths.runs[teacher]:
            fit = told(config, "lattice_fit", backbone=teacher, run=arm)
            made = build(FitStageConfig, fit, where="lattice")
            assert (made.arm, made.recipe) == (config.arms[arm], config.recipes[teacher])
    assert set(blocks) == {*PLAIN, "lattice_embed", "lattice_fit", "lattice_measure"}


def test_an_arm_is_told_of_no_other_and_reports_settings_reach_only_the_report():
    before = load(room())
    after = load(edited({"arms/mlp/start": "random"}))
    for teacher, arms in before.runs.items():
        for arm in arms:
            same = [told(c, "lattice_fit", backbone=teacher, run=arm) for c in (before, after)]
            assert (same[0] == same[1]) == (arm != "mlp")
    more = load(edited({"measure/resamples": 999}))
    for rule in ("lattice_fit", "lattice_measure"):
        place = {"backbone": "minilm", "run": "adapter"}
        assert told(before, rule, **place) == told(more, rule, **place)
    assert told(before, "lattice") != told(more, "lattice")


def test_the_report_knows_the_planted_arms():
    config = load(room())
    arms = told(config, "lattice")["arms"]
    assert set(arms) == {*config.runs, "planted"}
    assert arms["planted"] == told(config, "lattice_planted")["planted"]["arms"]


def test_the_order_of_the_yaml_moves_nothing():
    content = room()
    turned = edited(
        {
            "runs": {t: arms[::-1] for t, arms in reversed(content["runs"].items())},
            "arms": dict(reversed(content["arms"].items())),
        }
    )
    one, two = (blocks_of(load(c))[0] for c in (content, turned))
    assert one == two
    assert one.fits("minilm", "x") == two.fits("minilm", "x")
    for rule in PLAIN:
        assert told(load(content), rule) == told(load(turned), rule)


def test_files_are_sorted_by_their_own_addresses():
    paths = LatticePaths(results="r", runs={"t": ("b", "a")}, seeds=(3, 1))
    files = paths.fits("t", "w")
    assert files[:2] == ["r/lattice/fit/t/a/seed3/w", "r/lattice/fit/t/a/seed1/w"]
    assert by_arm(files) == {"a": files[:2], "b": files[2:]}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": [1, 1]}, "lattice.seeds must be different ones"),
        ({"batch": 0}, "lattice.batch must be at least 1"),
        ({"runs": {}}, "lattice.runs must be at least one teacher"),
        ({"runs": {"nobody": ["adapter"]}}, "lattice.runs must be teachers out of"),
        ({"runs": {"distilbert": ["adapter"]}}, "lattice.recipes must be with teacher distilbert"),
        ({"tried": {"minilm": 2}}, "lattice.tried must be one count for each of minilm, smollm2-"),
        ({"tried/minilm": 0}, "lattice.tried.minilm must be at least 1, got 0"),
        ({"runs/minilm": ["adapter", "adapter"]}, "lattice.runs.minilm must be different ones"),
        ({"runs/minilm": ["nothing"]}, "lattice.runs.minilm must be different ones out of"),
        ({"arms/mlp/control_of": "mlp"}, "lattice.arms.mlp.control_of must be null or another"),
        ({"arms/mlp/control_of": "gone"}, "lattice.arms.mlp.control_of must be null or another"),
        (
            {"arms/adapter/staged": True, "recipes/smollm2-135m/fit/warmup_steps": 0},
            "lattice.recipes.smollm2-135m.fit.warmup_steps must be at least 1 for the staged arm",
        ),
        (
            {"arms/positive_only/steps": 20},
            "lattice.arms.positive_only.steps must be null or more than 20 (warmup_steps), got 20",
        ),
        (
            {"teachers/planted": {**room()["teachers"]["minilm"]}},
            "lattice.teachers.planted must be named otherwise",
        ),
        (
            {"planted/arms/mlp/control_of": "gone"},
            "lattice.planted.arms.mlp.control_of must be null or another of these arms",
        ),
        ({"planted/arms/Big": {**room()["planted"]["arms"]["mlp"]}}, "lattice.planted.arms"),
        ({"arms/adapter/pairs": 10}, "lattice.arms.adapter.pairs must be 64 (the batch) to 1000"),
        ({"arms/adapter/pairs": 5000}, "lattice.arms.adapter.pairs must be 64 (the batch)"),
        ({"pairs/train": 40}, "lattice.arms.adapter.pairs must be 64 (the batch) to 40"),
        ({"arms/Big": None}, "lattice.arms"),
        (
            {"pairs/train": 100, "runs": {"minilm": ["untrained"]}, "recipes/minilm/fit/batch": 8},
            "lattice.pairs.train must be more than 112, as principal components keep 225 numbers",
        ),
        (
            {"arms/pairs_256/pairs": 100},
            "lattice.arms.pairs_256.pairs must be more than 112 for a start from 225 principal",
        ),
        ({"pairs/test": 4}, "lattice.pairs.test must be an even number, at least 6, got 4"),
        (
            {"arms/raw": {**room()["arms"]["mlp"]}},
            "lattice.arms must be named otherwise than the baselines, which every teacher has, got",
        ),
        (
            {
                "arms/a.b": {**room()["arms"]["mlp"]},
                "arms/a_b": {**room()["arms"]["mlp"]},
                "runs/minilm": ["a.b", "a_b"],
            },
            "lattice.runs must be named so that no run is called minilm_a_b like minilm a.b, got",
        ),
        ({"original/width": 1}, "lattice.original.width must be at least 2, got 1"),
        (
            {"original/adapter/strategy": "attention_based", "original/adapter/groups": 7},
            "lattice.original.adapter.groups must be a divisor of width = 4096, got 7",
        ),
        (
            {"original/adapter/strategy": "identity"},
            "lattice.original.adapter.strategy must be another than identity for width 4096, surfa",
        ),
        ({"unknown": 1}, "lattice.unknown is not a known key"),
    ],
)
def test_mistakes_are_one_sentence(changes, sentence):
    with pytest.raises(ConfigError) as error:
        load(edited(changes))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
