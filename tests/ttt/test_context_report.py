"""Rows of the long-context experiment on made-up readings with known answers."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from mneme.core.config import build
from mneme.stats.intervals import bootstrap_mean
from mneme.ttt.config import RunConfig
from mneme.ttt.context_config import ContextConfig
from mneme.ttt.context_ideal import share_of_gain
from mneme.ttt.context_metrics import (
    MeasuredRun,
    by_position,
    grouped,
    inside_and_beyond,
)
from mneme.ttt.context_report import context_runs
from mneme.ttt.model_report import loss_at, model_runs

FIELD, TOKENS, DOCUMENTS = 3, 8, 12
SET = {
    "corpus": "text",
    "kind": "play",
    "documents": DOCUMENTS,
    "tokens": TOKENS,
    "least_tokens": TOKENS,
    "adapt_tokens": 2,
    "counted_tokens": 2,
    "contexts": [2, 4],
    "edges": [1, 2, 4, 9],
}
DYNAMIC = {
    "chunk": 4,
    "clip": 1.0,
    "learning_rates": [0.3],
    "tokens": 39,
    "documents": 2,
    "batch": 2,
    "kinds": [],
}


def config_of(**sets):
    values = {
        "sets": sets or {"plays": SET},
        "kinds": ["own", "shuffled", "other", "none"],
        "batch": 4,
        "resamples": 500,
        "untrained_kinds": ["own", "none"],
        "dynamic": DYNAMIC,
    }
    return build(ContextConfig, values, where="context")


def readings(level, *, each="plays", groups=None, own=0.0, seed=0, noise=0.05, slope=0.0):
    """Losses around `level`, falling by `slope` beyond the field; own context worth -`own`."""
    generator = np.random.default_rng(seed)
    nll_NT = level + noise * generator.normal(size=(DOCUMENTS, TOKENS))
    nll_NT[:, FIELD + 1 :] -= slope
    found = {
        "nll_NT": nll_NT,
        "targets_N": np.full(DOCUMENTS, TOKENS),
        "group_N": np.arange(DOCUMENTS) if groups is None else groups,
        "document_N": np.arange(DOCUMENTS) + 50,
        "kept_M": np.arange(DOCUMENTS),
        "long_X": np.arange(DOCUMENTS),
        "length_XL": np.stack([nll_NT.mean(axis=1), nll_NT.mean(axis=1) - slope], axis=1),
    }
    hard_M = level + generator.normal(size=DOCUMENTS)
    for kind, worth in {"own": own, "shuffled": 0, "other": 0, "none": 0}.items():
        found[f"loss_{kind}_M"] = hard_M - worth + noise * generator.normal(size=DOCUMENTS)
    return {f"{each}/{key}": values for key, values in found.items()}


def plain(arrays, *, each="plays"):
    dropped = [f"{each}/loss_{kind}_M" for kind in ("own", "shuffled", "other")]
    return {key: values for key, values in arrays.items() if key not in dropped}


def run_of(*arrays, arm="second", corpus="text", **changes):
    settings = {"recipe": "r", "receptive_field": FIELD, "control_of": None, "further": {}}
    settings |= {"steps_factor": 1.0, "tried": 3, "trained_tokens": TOKENS}
    values = {"arm": arm, "corpus": corpus, "readings": arrays, "seeds": tuple(range(len(arrays)))}
    return MeasuredRun(**settings | values | changes)


def report(runs, config=None, **bytes_per_token):
    return context_runs(runs, config or config_of(), bytes_per_token=bytes_per_token)


def row(blocks, run, metric, *, seed=None):
    found = [r for r in blocks[run]["rows"] if r["metric"] == metric and r["seed"] == seed]
    assert len(found) == 1, (metric, [r["metric"] for r in blocks[run]["rows"]])
    return found[0]


# --- numbers of a document


def test_bins_hold_the_targets_with_so_many_tokens_before_them():
    nll_NT = np.arange(16.0).reshape(2, 8)
    bins = config_of().sets["plays"].bins
    assert [name for name, _, _ in bins] == ["1", "2-3", "4-8"]
    found = by_position(nll_NT, np.array([8, 3]), bins)
    np.testing.assert_array_equal(found["nll_position@1"][1], [0, 8])
    np.testing.assert_array_equal(found["nll_position@2-3"][1], [1.5, 9.5])
    kept, values = found["nll_position@4-8"]  # the second document ends inside
    assert kept.tolist() == [0]
    np.testing.assert_array_equal(values, [5])


def test_the_receptive_field_splits_the_mean():
    nll_NT = np.array([[1, 1, 1, 1, 5, 5, 5, 5], [2, 2, 0, 0, 0, 0, 0, 0]], float)
    found = inside_and_beyond(nll_NT, np.array([8, 2]), FIELD)
    np.testing.assert_array_equal(found["nll"][1], [3, 2])
    np.testing.assert_array_equal(found["nll_inside"][1], [1, 2])  # at most R + 1 = 4 tokens seen
    kept, values = found["nll_beyond"]
    assert kept.tolist() == [0]
    np.testing.assert_array_equal(values, [5])
    np.testing.assert_array_equal(found["part_inside"][1] + found["part_beyond"][1], [3, 2])


def test_groups_are_means_of_their_documents():
    found = grouped(np.array([[1.0, 3, 10], [2, 4, 20]]), np.array([7, 7, 2]))
    assert found.groups_G.tolist() == [2, 7]
    np.testing.assert_allclose(found.values_SG, [[10, 2], [20, 3]])
    assert found.documents == 3


# --- planted memory


def test_planted_memory_is_found():
    blocks = report({"a": run_of(readings(2.0, own=0.4), readings(2.0, own=0.4, seed=1))})
    for metric in ("own_minus_none", "own_minus_shuffled", "own_minus_other"):
        found = row(blocks, "a", f"plays_{metric}")
        assert found["value"] == pytest.approx(-0.4, abs=0.05)
        assert found["high"] < -0.3
        assert found["n"] == DOCUMENTS
        assert row(blocks, "a", f"plays_{metric}", seed=1)["value"] == pytest.approx(-0.4, abs=0.1)


def test_nothing_is_found_where_contexts_are_worth_the_same():
    blocks = report({"a": run_of(readings(2.0), readings(2.0, seed=1), readings(2.0, seed=2))})
    for metric in ("own_minus_none", "own_minus_shuffled", "own_minus_other", "harm"):
        found = row(blocks, "a", f"plays_{metric}")
        assert found["low"] < 0 < found["high"]
    same = readings(2.0, noise=0.0)
    found = row(report({"a": run_of(same)}), "a", "plays_own_minus_other")
    assert (found["value"], found["low"], found["high"]) == (0, 0, 0)


def test_harm_is_another_document_against_none():
    arrays = readings(2.0, noise=0.0)
    arrays["plays/loss_other_M"] = arrays["plays/loss_none_M"] + 0.25
    found = row(report({"a": run_of(arrays)}), "a", "plays_harm")
    assert found["value"] == pytest.approx(0.25)


# --- intervals


def test_intervals_resample_groups_not_documents():
    groups = np.repeat([4, 9, 11], 4)
    arrays = readings(2.0, groups=groups)
    arrays["plays/nll_NT"] += np.repeat([0, 0.5, 1.5], 4)[:, None]  # plays differ
    config = config_of()
    found = row(report({"a": run_of(arrays)}, config), "a", "plays_nll")
    means_G = arrays["plays/nll_NT"].mean(axis=1).reshape(3, 4).mean(axis=1)
    interval = bootstrap_mean(means_G, **config.chance("plays"))
    assert found["n"] == 3
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    each = row(report({"a": run_of(arrays | {"plays/group_N": np.arange(12)})}), "a", "plays_nll")
    assert found["high"] - found["low"] > 1.5 * (each["high"] - each["low"])


def test_seeds_are_averaged_a_document_and_told_apart():
    low, high = (readings(level, noise=0.0) for level in (2.0, 3.0))
    blocks = report({"a": run_of(low, high, seeds=(4, 6))})
    found = row(blocks, "a", "plays_nll")
    assert (found["value"], found["low"], found["high"]) == (2.5, 2.5, 2.5)
    assert row(blocks, "a", "plays_nll", seed=4)["value"] == 2
    assert row(blocks, "a", "plays_nll", seed=6)["value"] == 3


def test_bits_per_byte():
    blocks = report({"a": run_of(readings(2.0, noise=0.0, slope=1.0))}, plays=2.5)
    found = row(blocks, "a", "plays_bits_per_byte_beyond")
    assert found["value"] == pytest.approx(1.0 / math.log(2) / 2.5)
    assert found["unit"] == "bits"
    bits = [r["metric"] for r in blocks["a"]["rows"] if "bits" in r["metric"] and r["seed"] is None]
    # In this order whatever the process's hash seed: they once came out of a set.
    assert bits == ["plays_bits_per_byte", "plays_bits_per_byte_beyond"]
    assert not [
        r for r in report({"a": run_of(readings(2.0))})["a"]["rows"] if "bits" in r["metric"]
    ]


# --- arm against arm


@pytest.fixture(scope="module")
def three():
    return report(
        {
            "s": run_of(plain(readings(2.0, seed=1)), arm="sliding"),
            "b": run_of(
                readings(2.1, own=0.5, slope=0.6), readings(2.1, own=0.5, slope=0.6, seed=5)
            ),
            "a": run_of(readings(2.1, slope=0.3, seed=2), arm="first"),
            "other": run_of(readings(2.0, seed=3), arm="sliding", recipe="q"),
        },
        plays=2.0,
    )


def test_arms_of_a_recipe_are_set_against_those_after_them(three):
    beyond = row(three, "b", "plays_nll_beyond_minus_s")
    assert beyond["value"] == pytest.approx(-0.5, abs=0.05)
    assert beyond["high"] < -0.4
    assert row(three, "b", "plays_nll_inside_minus_s")["value"] == pytest.approx(0.1, abs=0.05)
    assert row(three, "b", "plays_nll_beyond_minus_a")["value"] == pytest.approx(-0.3, abs=0.05)
    assert row(three, "b", "plays_nll_position_minus_s@4-8")["value"] == pytest.approx(
        -0.38, abs=0.05
    )
    assert row(three, "b", "plays_nll_length_minus_s@4")["value"] < -0.4
    for run in ("s", "other"):
        assert not [r for r in three[run]["rows"] if r["metric"].startswith("plays_nll_minus")]
    assert not [r for r in three["a"]["rows"] if r["metric"].endswith("_minus_b")]


def test_a_difference_falls_into_its_parts(three):
    def value(metric):
        return row(three, "b", f"plays_{metric}")["value"]

    whole = value("nll_minus_s")
    assert value("part_inside_minus_s") + value("part_beyond_minus_s") == pytest.approx(whole)
    price, gain = value("counted_none_minus_s"), value("own_minus_none")
    assert price + gain == pytest.approx(value("counted_minus_s"))


def test_seeds_of_two_runs_are_not_paired(three):
    metric = "plays_nll_minus_s"
    seeds = [row(three, "b", metric, seed=seed)["value"] for seed in (0, 1)]
    own = [row(three, "b", "plays_nll", seed=seed)["value"] for seed in (0, 1)]
    base = row(three, "s", "plays_nll")["value"]
    np.testing.assert_allclose(seeds, np.subtract(own, base))


def test_a_network_that_was_never_trained_is_compared_by_the_worth_of_contexts_alone():
    """Meta-training planted to add .3 to what own text is worth to any network."""
    fresh = readings(6.0, own=0.2, seed=1)
    runs = {
        "b": run_of(readings(2.0, own=0.5, slope=0.5)),
        "f": run_of(fresh, arm="untrained", control_of="b"),
        "s": run_of(plain(readings(2.0, seed=2)), arm="sliding"),
    }
    blocks = report(runs)
    for metric in ("own_minus_other", "own_minus_shuffled", "own_minus_none"):
        assert row(blocks, "f", f"plays_{metric}")["value"] == pytest.approx(-0.2, abs=0.05)
        found = row(blocks, "b", f"plays_{metric}_minus_f")
        assert found["value"] == pytest.approx(-0.3, abs=0.06)
        assert found["high"] < -0.2
    assert row(blocks, "b", "plays_harm_minus_f")["value"] == pytest.approx(0, abs=0.06)
    names = {r["metric"] for r in blocks["b"]["rows"] if r["metric"].endswith("_minus_f")}
    assert len(names) == 4, "its losses are no measure of anything"
    for name in ("f", "s"):
        assert not [r for r in blocks[name]["rows"] if r["metric"].endswith("_minus_f")]
    assert not [r for r in blocks["f"]["rows"] if r["metric"].endswith("_minus_s")]
    assert row(blocks, "f", "configurations_tried")["value"] == 3


def test_what_meta_training_adds_is_told_from_what_any_training_adds():
    """Own text is worth .2 to a fresh network, .5 to a trained one, .5 + .1 to a meta-trained."""
    runs = {
        "b": run_of(readings(2.0, own=0.6)),
        "n": run_of(readings(2.1, own=0.5, seed=3), arm="naive", control_of="b"),
        "f": run_of(readings(6.0, own=0.2, seed=1), arm="untrained", control_of="b"),
    }
    blocks = report(runs)
    metric = "plays_own_minus_other_minus"
    assert row(blocks, "b", f"{metric}_n")["value"] == pytest.approx(-0.1, abs=0.06)
    assert row(blocks, "b", f"{metric}_f")["value"] == pytest.approx(-0.4, abs=0.06)
    assert row(blocks, "n", f"{metric}_f")["value"] == pytest.approx(-0.3, abs=0.06)
    assert row(blocks, "b", "plays_nll_minus_n")["value"] == pytest.approx(-0.1, abs=0.05)
    assert not [r for r in blocks["n"]["rows"] if r["metric"].startswith("plays_nll_minus")]


def test_what_reading_gains_is_told_from_a_better_network():
    """Both are .2 better than the window at once; one gains .3 more where it has read more."""
    blocks = report(
        {
            "b": run_of(readings(1.8, slope=0.3)),
            "a": run_of(readings(1.8, seed=2), arm="first"),
            "s": run_of(plain(readings(2.0, seed=1)), arm="sliding"),
        }
    )
    for run, reads in (("b", -0.3), ("a", 0.0)):
        beyond = row(blocks, run, "plays_beyond_minus_inside_minus_s")
        assert beyond["value"] == pytest.approx(reads, abs=0.05)
        length = row(blocks, run, "plays_nll_length_gain@4")
        assert length["value"] == pytest.approx(reads, abs=0.05)
        assert length["low"] <= reads + 1e-9
        assert row(blocks, run, "plays_nll_length_gain_minus_s@4")["n"] == DOCUMENTS
        inside = row(blocks, run, "plays_nll_inside_minus_s")["value"]
        whole = row(blocks, run, "plays_nll_beyond_minus_s")["value"]
        assert inside + beyond["value"] == pytest.approx(whole)
    assert row(blocks, "b", "plays_nll_length_gain_minus_s@4")["value"] < -0.2
    names = {r["metric"] for r in blocks["b"]["rows"]}
    assert "plays_nll_length_gain@2" not in names, "the shortest less itself"


def test_updates_are_worth_what_they_change_inside_and_beyond():
    arrays = readings(2.0, slope=0.3)
    arrays["plays/frozen_NT"] = arrays["plays/nll_NT"].copy()
    arrays["plays/frozen_NT"][:, : FIELD + 1] += 0.1
    arrays["plays/frozen_NT"][:, FIELD + 1 :] += 0.4
    blocks = report({"b": run_of(arrays)})
    assert row(blocks, "b", "plays_updates_inside")["value"] == pytest.approx(-0.1)
    found = row(blocks, "b", "plays_updates_beyond")
    assert (found["value"], found["low"], found["high"]) == pytest.approx((-0.4, -0.4, -0.4))
    beyond = row(blocks, "b", "plays_nll_beyond")["value"]
    assert row(blocks, "b", "plays_nll_beyond_frozen")["value"] == pytest.approx(beyond + 0.4)


def test_full_attention_is_compared_only_where_it_was_trained():
    """Trained on 5 of 8 tokens, and wrong by 9 nats after them."""
    wrong = readings(2.0, seed=1)
    wrong["plays/nll_NT"][:, 5:] += 9
    runs = {
        "b": run_of(readings(1.8), trained_tokens=5),
        "f": run_of(wrong, arm="full", trained_tokens=5),
        "s": run_of(plain(readings(2.1, seed=2)), arm="sliding", trained_tokens=5),
    }
    config = config_of(plays=SET | {"edges": [1, 2, 4, 6, 9], "contexts": [2, 5]})
    for run in runs.values():
        run.readings[0]["plays/length_XL"] = np.full((DOCUMENTS, 2), 2.0)
    blocks = report(runs, config)
    ours = {r["metric"] for r in blocks["b"]["rows"] if "_minus_f" in r["metric"]}
    assert ours == {
        "plays_nll_inside_minus_f",
        "plays_nll_trained_minus_f",
        "plays_nll_beyond_trained_minus_f",
        "plays_nll_position_minus_f@1",
        "plays_nll_position_minus_f@2-3",
        "plays_nll_position_minus_f@4-5",
        "plays_nll_length_minus_f@2",
    }
    for metric in ours - {"plays_nll_length_minus_f@2"}:
        assert row(blocks, "b", metric)["value"] == pytest.approx(-0.2, abs=0.08), metric
    rows = {r["metric"].replace("_minus_s", "_minus_f") for r in blocks["f"]["rows"]}
    assert {metric for metric in rows if re.search("_minus_f(@|$)", metric)} == ours
    assert row(blocks, "b", "plays_nll_beyond_minus_s")["value"] == pytest.approx(-0.3, abs=0.05)
    assert row(blocks, "f", "plays_nll_beyond_trained")["value"] < 2.2
    assert row(blocks, "f", "plays_nll_beyond")["value"] > 8, "told, and not compared"


def test_windows_are_counted_beside_plays():
    blocks = report({"a": run_of(readings(2.0, groups=np.repeat([4, 9, 11], 4)))})
    assert blocks["a"]["documents"] == {"plays": 12}
    assert row(blocks, "a", "plays_nll")["n"] == 3


def test_a_training_at_equal_time_is_one_more_run_to_be_set_against():
    runs = {
        "b": run_of(readings(2.0)),
        "s": run_of(plain(readings(2.4, seed=2)), arm="sliding"),
        "s_long": run_of(plain(readings(2.1, seed=3)), arm="sliding", steps_factor=2.5),
    }
    blocks = report(runs)
    assert row(blocks, "b", "plays_nll_minus_s")["value"] == pytest.approx(-0.4, abs=0.05)
    assert row(blocks, "b", "plays_nll_minus_s_long")["value"] == pytest.approx(-0.1, abs=0.05)
    assert blocks["s_long"]["steps_factor"] == 2.5
    assert not [r for r in blocks["s_long"]["rows"] if "_minus_s" in r["metric"]]


def test_other_documents_are_refused():
    moved = readings(2.0, seed=1)
    moved["plays/document_N"] = moved["plays/document_N"] + 1
    with pytest.raises(ValueError, match="'b' and 's' were not read on the same documents"):
        report({"b": run_of(readings(2.0)), "s": run_of(moved, arm="sliding")})
    with pytest.raises(ValueError, match="seeds were read on different documents"):
        report({"b": run_of(readings(2.0), moved)})
    with pytest.raises(ValueError, match="lack the set 'plays'"):
        report({"b": run_of({"talks/nll_NT": np.zeros((1, 1))})})


def test_what_no_document_allows_is_a_reason():
    arrays = readings(2.0)
    kept = ("nll_NT", "targets_N", "group_N", "document_N")
    short = {f"plays/{key}": arrays[f"plays/{key}"] for key in kept}
    short["plays/targets_N"] = np.full(DOCUMENTS, 4)
    blocks = report({"a": run_of(short)})
    for metric, reason in (
        ("counted", "no document has 7 tokens"),
        ("nll_beyond", "no document has targets beyond 4 tokens seen"),
        ("nll_position@4-8", "no document has 8 targets"),
        ("nll_length@4", "no document has 6 tokens"),
    ):
        found = row(blocks, "a", f"plays_{metric}")
        assert found["value"] is None
        assert reason in found["reason"]
    assert blocks["a"]["curves"]["plays"]["nll_by_position"]["value"][2] is None
    assert "nll_by_length" not in blocks["a"]["curves"]["plays"]


# --- ideal learners


def chains(share, *, seed=0):
    """Readings of documents with ideal learners, of whose gain the model reaches a share."""
    generator = np.random.default_rng(seed)
    far_NT = 2.5 + 0.1 * generator.normal(size=(DOCUMENTS, TOKENS))
    all_NT = far_NT - generator.uniform(0.5, 1.0, size=(DOCUMENTS, TOKENS))
    arrays = readings(0.0, each="chains")
    arrays["chains/nll_NT"] = far_NT - share * (far_NT - all_NT)
    arrays |= {"chains/ideal_all_NT": all_NT, "chains/ideal_far_NT": far_NT}
    return arrays | {"chains/entropy_N": np.full(DOCUMENTS, 1.5)}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_shares_of_the_ideal_gain(share):
    config = config_of(chains=SET | {"corpus": "markov", "kind": "chain"})
    blocks = report({"a": run_of(chains(share), chains(share), corpus="markov")}, config)
    found = row(blocks, "a", "chains_ideal_share")
    assert found["value"] == pytest.approx(share)
    assert found["low"] == pytest.approx(share)
    assert row(blocks, "a", "chains_ideal_share", seed=1)["value"] == pytest.approx(share)
    assert row(blocks, "r_ideal_all", "chains_entropy_rate")["value"] == 1.5
    far = row(blocks, "r_ideal_far", "chains_nll_beyond")["value"]
    best = row(blocks, "r_ideal_all", "chains_nll_beyond")["value"]
    model = row(blocks, "a", "chains_nll_beyond")["value"]
    assert far - model == pytest.approx(share * (far - best))
    curve = blocks["r_ideal_all"]["curves"]["chains"]["nll_by_position"]
    assert (
        curve["value"][2] < blocks["r_ideal_far"]["curves"]["chains"]["nll_by_position"]["value"][2]
    )


def test_the_miss_of_an_ideal_learner_is_told_by_bin():
    config = config_of(chains=SET | {"corpus": "markov", "kind": "chain"})
    arrays = chains(1.0)
    arrays["chains/nll_NT"][:, FIELD + 1 :] += 0.25
    blocks = report({"a": run_of(arrays, arrays, corpus="markov")}, config)

    def value(metric):
        return row(blocks, "a", f"chains_{metric}")["value"]

    assert value("nll_inside_minus_r_ideal_all") == pytest.approx(0)
    assert value("nll_beyond_minus_r_ideal_all") == pytest.approx(0.25)
    assert value("nll_position_minus_r_ideal_all@1") == pytest.approx(0)
    assert value("nll_position_minus_r_ideal_all@4-8") == pytest.approx(0.25 * 4 / 5)
    far = row(blocks, "r_ideal_far", "chains_nll_beyond")["value"]
    assert value("nll_beyond_minus_r_ideal_far") == pytest.approx(value("nll_beyond") - far)


def test_bins_beyond_reach_have_a_share_of_their_own():
    one = SET | {"corpus": "markov", "kind": "chain", "edges": [1, 5, 9]}
    blocks = report({"a": run_of(chains(0.5), corpus="markov")}, config_of(chains=one))
    assert row(blocks, "a", "chains_ideal_share@5-8")["value"] == pytest.approx(0.5)
    assert not [r for r in blocks["a"]["rows"] if r["metric"] == "chains_ideal_share@1-4"]


def test_the_share_s_interval_holds_the_ratio_of_means():
    generator = np.random.default_rng(0)
    possible = generator.uniform(0.5, 1.5, 40)
    gained = 0.8 * possible + 0.1 * generator.normal(size=40)
    found = share_of_gain(gained, possible, resamples=500, generator=generator)
    assert found.value == pytest.approx(gained.mean() / possible.mean())
    assert 0.7 < found.low < 0.8 < found.high < 0.9


@pytest.mark.parametrize(
    ("possible", "reason"),
    [([-1.0, 0.5], "gains nothing"), ([-0.5, 1.0], "every resample"), ([1.0], "two groups")],
)
def test_a_share_that_means_nothing_has_a_reason(possible, reason):
    generator = np.random.default_rng(0)
    found = share_of_gain(
        np.ones(len(possible)), np.array(possible), resamples=200, generator=generator
    )
    assert reason in found.reason
    assert found.low is None


# --- trainings


def history(seconds, losses, **last):
    points = [
        {"step": 10 * (i + 1), "train_loss": v + 1, "val_nll": v} for i, v in enumerate(losses)
    ]
    points[-1] |= last
    return {
        "points": points,
        "seconds": seconds,
        "tokens": 1000,
        "tokens_per_s": 1000 / seconds,
        "parameters": 50,
        "seed": 0,
        "code": "x",
    }


def test_trainings_at_equal_tokens_and_at_equal_time():
    runs = {
        name: RunConfig(recipe="r", arm=arm, steps_factor=1.0, control_of=None)
        for name, arm in (("s", "sliding"), ("b", "second"))
    }
    slow = [
        history(40.0, [4, 3, 2, 1], inner_norm=0.5, clipped=0.25),
        history(40.0, [5, 4, 3, 2], inner_norm=0.7, clipped=0.0),
    ]
    quick = [history(20.0, [4.0, 2.5]), history(20.0, [4.0, 2.5])]
    blocks = model_runs(runs, {"s": quick, "b": slow}, tried={"r": 4}, seeds=(0, 1))
    assert row(blocks, "b", "val_nll")["value"] == 1.5
    assert row(blocks, "b", "val_nll", seed=1)["value"] == 2
    assert row(blocks, "b", "val_nll_equal_time")["value"] == 3.5  # after 20 s of 40
    assert row(blocks, "s", "val_nll_equal_time")["value"] == 2.5
    assert row(blocks, "b", "time_per_token")["value"] == 2
    assert row(blocks, "b", "parameters_share")["value"] == 1
    assert row(blocks, "b", "inner_norm")["value"] == pytest.approx(0.6)
    assert row(blocks, "b", "clipped")["value"] == 0.125
    assert "inner_norm" not in {r["metric"] for r in blocks["s"]["rows"]}
    assert "code" not in blocks["b"]["history"][0]


def test_a_run_that_trains_longer_is_set_against_the_time_of_another():
    runs = {
        "s": RunConfig(recipe="r", arm="sliding", steps_factor=1.0, control_of="b"),
        "a_long": RunConfig(recipe="r", arm="sliding", steps_factor=2.0, control_of="b"),
        "b": RunConfig(recipe="r", arm="second", steps_factor=1.0, control_of=None),
    }
    slow = [history(40.0, [4, 2], val_nll_frozen=6.0), history(60.0, [4, 2], val_nll_frozen=7.0)]
    quick, long = [history(20.0, [3, 3])] * 2, [history(44.0, [3, 1]), history(52.0, [3, 1])]
    files = {"a_long": long, "b": slow, "s": quick}
    blocks = model_runs(runs, files, tried={"r": 4}, seeds=(0, 1))
    assert row(blocks, "a_long", "train_s_share")["value"] == pytest.approx(48 / 50)
    assert blocks["a_long"]["steps_factor"] == 2
    # time a token is against the sliding window at equal tokens, whatever the names' order
    assert row(blocks, "b", "time_per_token")["value"] == pytest.approx(2.5)
    for name in ("s", "b"):
        assert "train_s_share" not in {r["metric"] for r in blocks[name]["rows"]}
    assert row(blocks, "b", "val_nll_frozen")["value"] == 6.5
    assert "val_nll_frozen" not in {r["metric"] for r in blocks["s"]["rows"]}
    assert row(blocks, "s", "configurations_tried")["value"] == 4
    assert row(blocks, "s", "configurations_tried")["control_of"] == "b"


def test_losses_between_readings():
    one = history(40.0, [4, 3, 2, 1])
    assert [loss_at(one, s) for s in (0, 10, 15, 40, 50)] == [4, 4, 3.5, 1, 1]
