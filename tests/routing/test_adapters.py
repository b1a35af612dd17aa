"""Rows of adapters.json from hand-made losses, and addresses of the room's files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from mneme.core.backbones import BackboneConfig
from mneme.core.config import build
from mneme.core.headline import run_block
from mneme.routing.adapters import adapter_runs, by_run
from mneme.routing.blocks import rule_blocks
from mneme.routing.config import AdapterRunConfig, RoutingConfig
from mneme.routing.mixed_report import mixed_report
from mneme.routing.paths import RoutingPaths
from mneme.routing.sharing import Works, chunk_works
from mneme.routing.tried import with_tried
from mneme.stats.rows import Row

ROOT = Path(__file__).parents[2]


RUN = AdapterRunConfig(
    protect="none",
    samples=4,
    tokens=8,
    epochs=1,
    batch=2,
    learning_rate=1e-3,
    above_gate=True,
)
RUNS = {
    "none": RUN,
    "sleep": dataclasses.replace(RUN, protect="sleep"),
    "source": dataclasses.replace(RUN, protect="sleep", learning_rate=1e-4),
}


def read_config() -> dict:
    return yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


def settings() -> RoutingConfig:
    return build(RoutingConfig, read_config()["routing"], where="routing")


SETTINGS = dataclasses.replace(settings().adapters, runs=RUNS, headline="sleep", seeds=(0,))


def losses(newest_on_old: float) -> dict:
    """Two chunks a domain; adapter b hurts domain a by what is given."""
    return {
        "base": {"a": [4.0, 5.0], "b": [3.0, 3.0]},
        "a": {"a": [3.5, 4.5], "b": [3.1, 3.1]},
        "b": {"a": [3.5 + newest_on_old, 4.5 + newest_on_old], "b": [2.0, 2.2]},
    }


def history(seconds: float) -> dict:
    return {"domains": {"a": {"seconds": seconds}, "b": {"seconds": 1.0}}}


def values(block: dict) -> dict:
    return {row["metric"]: row["value"] for row in block["rows"] if row["seed"] is None}


def apart(*domains: str, chunks: int = 2) -> Works:
    """Works of chunks that share none."""
    names = np.array([f"work {i}" for i in range(chunks)])
    return chunk_works({f"works.{d}.loss": names for d in domains}, domains, "loss")


def test_gain_forgetting_and_what_sleep_saved():
    pairs = [("none", losses(0.6)), ("sleep", losses(0.1)), ("source", losses(0.0))]
    runs = adapter_runs(
        by_run(pairs),
        by_run((name, history(2.0)) for name, _ in pairs),
        SETTINGS,
        ("a", "b"),
        works=apart("a", "b"),
        resamples=100,
        original="source",
    )
    none, sleep = values(runs["none"]), values(runs["sleep"])
    assert none["gain.a"] == pytest.approx(0.5)
    assert none["gain.b"] == pytest.approx(0.9)
    assert none["forgetting.a"] == pytest.approx(0.6)
    assert sleep["forgetting.a_minus_none"] == pytest.approx(-0.5)
    assert "forgetting.b" not in none, "the last domain cannot be forgotten yet"
    assert runs["source"]["published_keys"] == {"timing": {"phase3_training_sec": 3.0}}
    assert "published_keys" not in runs["none"]
    assert "forgetting.a_minus_none" not in values(runs["source"]), "it differs in more"
    assert runs["none"]["rows"][0]["control_of"] == "sleep"
    assert set(runs["sleep"]["p_values"]) == {"forgetting.a_minus_none"}
    assert runs["none"]["p_values"] == {}


def test_chunks_of_one_play_widen_what_is_read_on_them_and_nothing_else():
    generator = np.random.default_rng(0)
    play, chunk = np.repeat(generator.normal(size=6), 4), generator.normal(size=(3, 24)) * 0.2

    def of(more):
        a = {"a": list(3 + play + chunk[0]), "b": list(3 + chunk[1])}
        newest = {"a": list(4 + more * play + chunk[2]), "b": list(3 + chunk[2])}
        return {"base": a, "a": a, "b": newest}

    pairs = [("none", of(2.0)), ("sleep", of(0.5))]
    files = np.arange(24).astype(str)
    plays = {"works.a.loss": np.repeat(list("pqrstu"), 4), "works.b.loss": files}
    found = [
        adapter_runs(
            by_run(pairs),
            by_run((name, history(2.0)) for name, _ in pairs),
            SETTINGS,
            ("a", "b"),
            works=works,
            resamples=200,
            original="source",
        )["sleep"]
        for works in (apart("a", "b", chunks=24), chunk_works(plays, ("a", "b"), "loss"))
    ]
    one, two = ({r["metric"]: r for r in b["rows"] if r["seed"] is None} for b in found)
    for metric in ("loss.a.a", "forgetting.a", "forgetting.a_minus_none"):
        assert two[metric]["value"] == one[metric]["value"]
        assert two[metric]["low"] < one[metric]["low"], metric
        assert two[metric]["high"] > one[metric]["high"], metric
    assert two["loss.a.b"] == one["loss.a.b"]
    p = [block["p_values"]["forgetting.a_minus_none"] for block in found]
    assert p[1] > p[0] > 0


def test_the_mixed_model_s_losses_know_their_works_too():
    play = np.repeat([0.0, 1.0, 2.0], 4)
    found = [
        mixed_report(
            [{"a": list(2 + play)}],
            uniform={"a": list(2.5 + play / 2)},
            known={"base": {"a": list(4 - play)}, "a": {"a": list(2 + play)}},
            domains=("a",),
            works=works,
            seeds=(0,),
            resamples=200,
        )["mixed"]
        for works in (
            apart("a", chunks=12),
            chunk_works({"works.a.loss": np.repeat(list("xyz"), 4)}, ("a",), "loss"),
        )
    ]
    one, two = ({r["metric"]: r for r in b["rows"] if r["seed"] is None} for b in found)
    for metric in ("held_out_loss.a", "held_out_loss.a_minus_uniform"):
        assert two[metric]["high"] - two[metric]["low"] > one[metric]["high"] - one[metric]["low"]
    names = {f"held_out_loss.a_minus_{other}" for other in ("base", "uniform", "known")}
    assert [set(block["p_values"]) for block in found] == [names, names]
    assert found[0]["p_values"]["held_out_loss.a_minus_known"] == 1


def test_mixed_model_is_compared_by_chunk():
    runs = mixed_report(
        [{"a": [2.0, 3.0]}, {"a": [2.2, 3.2]}],
        uniform={"a": [2.5, 3.5]},
        known={"base": {"a": [4.0, 4.0]}, "a": {"a": [1.9, 2.7]}},
        domains=("a",),
        works=apart("a"),
        seeds=(0, 1),
        resamples=100,
    )
    mixed = values(runs["mixed"])
    assert mixed["held_out_loss.a"] == pytest.approx(2.6)
    assert mixed["held_out_loss.a_minus_known"] == pytest.approx(0.3)
    assert mixed["held_out_loss.a_minus_uniform"] == pytest.approx(-0.4)
    assert mixed["held_out_loss.a_minus_base"] == pytest.approx(-1.4)
    assert values(runs["mixed_uniform"])["held_out_loss.a"] == pytest.approx(3.0)
    assert [row["control_of"] for row in runs["mixed_known"]["rows"]] == ["mixed"]


def test_every_run_of_a_headline_file_says_how_many_configurations_were_tried():
    config = settings()
    backbone = build(BackboneConfig, read_config()["backbones"]["smollm2-135m"], where="backbone")
    blocks = rule_blocks(config, backbone, name="x", resources="y")
    told = {rule: blocks[rule]["tried"] for rule in ("routing_adapters", "hysteresis", "fatigue")}
    assert told["routing_adapters"] == {"none": 4, "sleep": 4, "replay": 4, "original": 1}
    assert told["hysteresis"] == told["fatigue"]
    assert set(told["fatigue"]) == {*config.runs, "original"}
    rates = len(config.calibration.learning_rates)
    assert told["fatigue"]["ours"] == told["fatigue"]["blocked"] == rates == 2
    assert told["fatigue"]["original"] == 2
    assert told["fatigue"]["untrained"] == told["fatigue"]["ema_oracle"] == 0
    measured = {
        "none": run_block([Row(metric="gain.a", value=1.0, control_of="sleep")]),
        "original": run_block([], published_keys={}),
    }
    found = with_tried(measured, told["routing_adapters"])
    rows = {name: block["rows"][-1] for name, block in found.items()}
    assert [row["metric"] for row in rows.values()] == ["configurations_tried"] * 2
    assert {name: row["value"] for name, row in rows.items()} == {"none": 4, "original": 1}
    assert rows["none"]["control_of"] == "sleep"
    assert found["original"]["published_keys"] == {}
    with pytest.raises(KeyError, match="later"):
        with_tried({"later": run_block([])}, {"none": 4})


def test_addresses_follow_the_settings():
    config = settings()
    paths = RoutingPaths(results="out", backbone="tiny", config=config)
    assert paths.step("trace", "x.npz") == "out/routing/trace/tiny/x.npz"
    assert paths.mixer_seeds("mixer_fit", "{mixer}", "mixer.json")[1] == (
        "out/routing/mixer_fit/tiny/{mixer}/seed1/mixer.json"
    )
    weights = paths.adapter_weights("none")
    assert len(weights) == len(config.domains) * len(config.adapters.seeds)
    assert weights[0] == (
        "out/routing/adapter_fit/tiny/none/seed0/adapters/shakespeare/adapter_model.safetensors"
    )
    assert paths.mixer_start("token") == []
