"""Rows of the room: names, pairing, margin, sizes, packing, the source's curve."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mneme.core.headline import value_of
from mneme.lattice import published
from mneme.lattice.baseline_runs import BASELINES
from mneme.lattice.config import ArmConfig
from mneme.lattice.gather import Measured, by_teacher, packed, unpacked
from mneme.lattice.measure import EIGHT_METRICS, read_vectors
from mneme.lattice.original_report import PUBLISHED, original_name, original_runs
from mneme.lattice.paths import run_name
from mneme.lattice.report import compared_with, lattice_runs
from mneme.lattice.retrieval import METRICS, score_retrieval
from mneme.lattice.stages_measure import LatticeStageConfig, MeasureConfig, ReadConfig

SEEDS = (0, 4)
READ = ReadConfig(saturation=1.2, length=0.75, timings=1, shown=5)


def arm(**changes):
    plain = {"strategy": "hierarchical", "start": "random", "core": "off", "lattice_steps": None}
    shown = {"answers": "own", "vectors": "teacher", "trained": True, "staged": False}
    rest = dict.fromkeys(("pairs", "loss", "steps", "control_of"))
    return ArmConfig(**{**plain, **shown, **rest, **changes})


ARMS = {
    "on": arm(core="lattice"),
    "off": arm(),
    "mlp": arm(core="mlp", control_of="on"),
    "steps_0": arm(core="lattice", lattice_steps=0, control_of="on"),
    "few": arm(pairs=10),
    "longer": arm(steps=9),
    "on_longer": arm(core="lattice", steps=9),
    "positives": arm(steps=9, loss="original", control_of="longer"),
    "permuted": arm(answers="permuted", control_of="off"),
}


def vectors(noise, *, seed, width=12, count=50):
    questions = np.random.default_rng(9).normal(size=(count, 40))[:, :width]
    return questions, questions + noise * np.random.default_rng(seed).normal(size=questions.shape)


def run(noise, *, seeds=(None,), kind="codec", width=12, states=None):
    readings = []
    for seed in seeds:
        questions, answers = vectors(noise, seed=seed or 1, width=width)
        made = {"original_MD": None, "made_MD": None, "mean_D": None}
        eight = questions[:8], answers[:8]
        if kind != "raw":
            made = {"original_MD": questions, "made_MD": questions, "mean_D": np.zeros(width)}
        readings.append(read_vectors(questions, answers, **made, eight=eight))
    return Measured(
        kind=kind,
        seeds=seeds,
        readings=tuple(readings),
        numbers=width,
        parameters=0 if kind == "raw" else 100,
        core_parameters=7 if states is not None else 0,
        encode_s=None if kind == "raw" else 0.5,
        states=states,
    )


def words():
    reading = run(0.1).readings[0]
    scores = score_retrieval(np.eye(50))
    bare = type(reading)(scores=scores, values={}, spread=None)
    nothing = dict.fromkeys(("numbers", "parameters", "encode_s"))
    return Measured(kind="words", seeds=(None,), readings=(bare,), core_parameters=0, **nothing)


@pytest.fixture(scope="module")
def measured():
    states = np.linspace(0, 1, 2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    told = {
        "raw": run(1.0, kind="raw", width=40),
        "standardised": run(1.0, kind="raw", width=40),
        "pca": run(1.0),
        "projection": run(1.5, seeds=SEEDS),
        "tfidf": words(),
    }
    noises = {"on": 0.6, "off": 1.0, "mlp": 1.0, "steps_0": 1.0, "few": 1.6, "permuted": 50.0}
    for name, noise in noises.items():
        shown = states if name == "on" else None
        told[name] = run(noise, seeds=SEEDS, kind="trained", states=shown)
    return told


@pytest.fixture(scope="module")
def headline(measured):
    config = LatticeStageConfig(
        arms={"mini-lm": ARMS},
        seeds=SEEDS,
        measure=MeasureConfig(read=READ, resamples=200, margin=0.03),
        tried={"mini-lm": 7},
    )
    facts = {"mini-lm": {"embedding": {"dim": 40}, "training": {"on": [{"pairs": 9}] * 2}}}
    runs = lattice_runs({"mini-lm": measured}, facts, config)
    json.dumps(runs, allow_nan=False)
    return {"phase": "lattice", "runs": runs}


def row(headline, name, metric):
    rows = headline["runs"][name]["rows"]
    (found,) = (r for r in rows if r["metric"] == metric and r["seed"] is None)
    return found


def test_every_run_is_named_after_its_teacher_and_arm(headline, measured):
    assert list(headline["runs"]) == [f"mini_lm_{name}" for name in measured]
    assert run_name("smollm2-7x", "a.b") == "smollm2_7x_a_b"
    on = headline["runs"]["mini_lm_on"]
    assert (on["teacher"], on["arm"], on["width"], on["questions"]) == ("mini-lm", "on", 40, 50)
    assert on["settings"]["core"] == "lattice"
    assert on["training"] == [{"pairs": 9}] * 2
    assert on["states"][1][2][3] == 1.0
    assert on["seconds"]["encode_a_vector"] == 0.5
    raw = headline["runs"]["mini_lm_raw"]
    assert raw["embedding"] == {"dim": 40}
    assert raw["settings"] is None
    assert "nothing is encoded" in raw["seconds"]["reason"]


def test_arms_tell_how_many_configurations_were_tried_and_baselines_do_not(headline, measured):
    for name in measured:
        told = headline["runs"][f"mini_lm_{name}"]["rows"]
        counts = [(r["value"], r["control_of"]) for r in told if r["metric"].endswith("_tried")]
        control = ARMS[name].control_of if name in ARMS else None
        wanted = None if control is None else f"mini_lm_{control}"
        assert counts == ([(7.0, wanted)] if name in ARMS else [])


def test_differences_are_those_of_the_means(headline, measured):
    for other in ("pca", "projection", "raw", "standardised", "off", "mlp", "steps_0"):
        for metric in METRICS:
            expected = [
                np.mean([r.scores[metric].mean() for r in measured[name].readings])
                for name in ("on", other)
            ]
            name, at, setting = metric.partition("@")
            shown = row(headline, "mini_lm_on", f"{name}_minus_{other}{at}{setting}")
            assert shown["value"] == pytest.approx(expected[0] - expected[1])
            assert shown["low"] <= shown["value"] <= shown["high"]
    assert row(headline, "mini_lm_on", "mrr_minus_off")["low"] > 0
    assert row(headline, "mini_lm_mlp", "mrr")["control_of"] == "mini_lm_on"
    assert row(headline, "mini_lm_mlp", "mrr_minus_pca")["control_of"] == "mini_lm_on"


def test_what_is_compared_differs_in_one_thing():
    references = ["raw", "standardised", "pca", "pca_whitened", "projection"]
    assert compared_with("on", ARMS) == [*references, "off", "mlp", "steps_0", "longer"]
    assert compared_with("on_longer", ARMS) == [*references, "longer"]
    assert compared_with("longer", ARMS) == [*references, "positives"]
    assert compared_with("off", ARMS) == [*references, "permuted"]
    assert compared_with("few", ARMS) == references
    assert compared_with("raw", ARMS) == compared_with("standardised", ARMS) == []
    assert compared_with("tfidf", ARMS) == []


def test_a_codec_is_compared_with_what_it_squeezes(headline, measured):
    assert compared_with("pca_standardised", ARMS) == ["raw", "standardised"]
    assert compared_with("pca", ARMS) == compared_with("projection", ARMS) == ["raw"]
    codecs = [name for name in BASELINES if name not in ("raw", "standardised", "tfidf", "bm25")]
    assert all("raw" in compared_with(name, ARMS) for name in codecs)
    for name in ("pca", "projection"):
        scores = [r.scores["recall@1"].mean() for r in measured[name].readings]
        lost = np.mean(scores) - measured["raw"].readings[0].scores["recall@1"].mean()
        shown = row(headline, f"mini_lm_{name}", "recall_minus_raw@1")
        assert shown["value"] == pytest.approx(lost)
        assert shown["low"] < shown["value"] < shown["high"]
        assert headline["runs"][f"mini_lm_{name}"]["compared_with"] == ["mini_lm_raw"]


def test_differences_tell_their_spread_over_seeds(headline, measured):
    """Claims show it: without rows by seed a difference would seem to have none."""
    for name, other in (("on", "off"), ("on", "pca"), ("projection", "raw")):
        rows = headline["runs"][f"mini_lm_{name}"]["rows"]
        metric = f"mrr_minus_{other}"
        each = {r["seed"]: r["value"] for r in rows if r["metric"] == metric}
        assert set(each) == {None, *SEEDS}
        assert np.mean([each[seed] for seed in SEEDS]) == pytest.approx(each[None])
        assert each[SEEDS[0]] != each[SEEDS[1]]
    shifted = [r for r in headline["runs"]["mini_lm_on"]["rows"] if "not_worse" in r["metric"]]
    assert [r["seed"] for r in shifted] == [None]


def test_not_worse_is_the_difference_with_the_margin(headline):
    difference = row(headline, "mini_lm_few", "recall_minus_pca@1")
    shifted = row(headline, "mini_lm_few", "not_worse_than_pca@0.03")
    for key in ("value", "low", "high"):
        assert shifted[key] == pytest.approx(difference[key] + 0.03)
    assert shifted["high"] < 0 < row(headline, "mini_lm_on", "not_worse_than_pca@0.03")["low"]


def test_sizes_are_in_bytes(headline):
    assert value_of(headline, "mini_lm_on", "bytes_per_vector") == 48
    assert value_of(headline, "mini_lm_raw", "bytes_per_vector") == 160
    assert value_of(headline, "mini_lm_on", "compression") == pytest.approx(40 / 12)
    assert value_of(headline, "mini_lm_on", "codec_bytes") == 400
    assert value_of(headline, "mini_lm_on", "core_bytes") == 28
    assert value_of(headline, "mini_lm_pca", "effective_rank_share") == 1
    assert value_of(headline, "mini_lm_pca", "reconstruction_r2") == 1


def test_the_eight_pairs_come_last_and_a_search_by_words_has_none(headline, measured):
    rows = headline["runs"]["mini_lm_mlp"]["rows"]
    assert [r["metric"] for r in rows][-3 * len(EIGHT_METRICS) :: 3] == list(EIGHT_METRICS)
    gap = row(headline, "mini_lm_mlp", "eight_gap")
    each = [r.eight["eight_gap"].mean() for r in measured["mlp"].readings]
    assert gap["value"] == pytest.approx(np.mean(each))
    assert (gap["n"], gap["control_of"]) == (8, "mini_lm_on")


def test_a_search_by_words_has_scores_and_no_geometry(headline):
    metrics = {r["metric"] for r in headline["runs"]["mini_lm_tfidf"]["rows"]}
    assert metrics == {*METRICS, *(f"chance_{metric}" for metric in METRICS)}
    assert value_of(headline, "mini_lm_tfidf", "mrr") == 1


def test_packing_loses_nothing(measured):
    arrays, facts = packed(measured)
    again = unpacked(arrays, json.loads(json.dumps(facts)))
    assert list(again) == list(measured)
    for name, one in measured.items():
        other = again[name]
        assert (other.kind, other.seeds, other.numbers) == (one.kind, one.seeds, one.numbers)
        assert (other.states is None) == (one.states is None)
        for a, b in zip(one.readings, other.readings, strict=True):
            assert (a.values, a.spread) == (b.values, b.spread)
            assert a.eight.keys() == b.eight.keys()
            assert all(np.array_equal(values, b.eight[m]) for m, values in a.eight.items())
            assert all(np.array_equal(a.scores[m], b.scores[m]) for m in METRICS)
    assert np.array_equal(again["on"].states, measured["on"].states)


def test_files_know_their_teacher():
    assert by_teacher(["r/measure/a/x.npz", "r/measure/b/x.npz"]) == {
        "a": "r/measure/a/x.npz",
        "b": "r/measure/b/x.npz",
    }


def told(seed, *, away=0.0, collapsed=True):
    end = {"recall@1": 0.1, "effective_rank": 1.0, "negative_cosine": 1.0, "collapsed": collapsed}
    end["similarity"] = 0.99
    end["reason"] = "effective rank 1.00 is below 2.5" if collapsed else None
    raw = {**end, "recall@1": 1.0, "effective_rank": 60.0, "collapsed": False, "reason": None}
    raw["similarity"] = 0.27
    loss = [published.LOSS.get(step, 0.5) + away for step in range(11)]
    more = {"rho": 0.27, "seed": seed, "similarity": [1.0] * 11, "parameters": 5}
    more |= {"compression": 18.0, "batch": 7}
    return {**more, "loss": loss, "raw": raw, "before": end, "after": end}


def test_the_sources_run_stands_beside_its_curve():
    runs = original_runs({"original_0_27": [told(0), told(1, away=0.1)]})
    head = {"phase": "lattice", "runs": runs}
    assert original_name(0.27) == "original_0_27"
    assert original_name(0.0) == "original_0"
    for epoch in published.LOSS:
        metric = f"loss_minus_published@{epoch}"
        assert value_of(head, "original_0_27", metric) == pytest.approx(0.05)
    assert value_of(head, "original_0_27", "largest_miss") == pytest.approx(0.05)
    assert value_of(head, "original_0_27", "recall_raw@1") == 1
    for metric, value in {"raw_similarity": 0.27, "after_similarity": 0.99}.items():
        assert value_of(head, "original_0_27", metric) == pytest.approx(value)
    for metric, value in {"parameters": 5, "compression": 18, "batch": 7}.items():
        assert value_of(head, "original_0_27", metric) == value
    change = value_of(head, "original_0_27", "recall_after@1") - 1
    assert value_of(head, "original_0_27", "recall_change@1") == pytest.approx(change)
    (overall, *_) = [r for r in runs["original_0_27"]["rows"] if r["metric"] == "loss@1"]
    half = 12.706 * 0.1 / 2  # Student's quantile at one degree of freedom, of two seeds .1 apart
    assert (overall["high"] - overall["low"]) / 2 == pytest.approx(half, rel=1e-4)
    assert value_of(head, "original_0_27", "collapsed") == 1
    assert runs["original_0_27"]["verdict"].startswith("COLLAPSED in 2 of 2 seeds: effective rank")
    fine = original_runs({"original_0": [told(0, collapsed=False)]})["original_0"]
    assert fine["verdict"] == "not collapsed"
    assert {r["seed"] for r in fine["rows"]} == {None}
    assert PUBLISHED["document"]["original.loss"]["10"] == published.LOSS[10] == 0.0538
    json.dumps(PUBLISHED, allow_nan=False)
