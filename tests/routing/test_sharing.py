"""Which works texts share reaches the rows: passages of each context, folders, wider intervals."""

from __future__ import annotations

import numpy as np
import pytest
from planted import PAIR, noisy_gate, own_works, protocol_of, runs_of, trace_of

from mneme.routing.fatigue import fatigue
from mneme.routing.hysteresis import control_values, hysteresis, run_values
from mneme.routing.readings import contrast
from mneme.routing.sequences import SequenceConfig, hysteresis_families
from mneme.routing.sharing import (
    EVERY_DOMAIN,
    PIECES,
    Works,
    chunk_works,
    clusters,
    pieces_of,
    works_of,
)
from mneme.routing.works import works_within

SEEDS = (0, 1)
TEXTS = 24
ARRAYS = ("a1", "a2", "a_long", "a_other_long", "b_long", "b1", "b2")
READ_AS = {"blocked": "real", "reset": "real"}  # other readings of the same sequences


def sequences(changed=None):
    """Families of two tuples; all tokens of one passage can be told apart from those of others."""
    generator = np.random.default_rng(0)
    tuples = {name: generator.integers(100, 200, (2, 16)) for name in ARRAYS}
    if changed:
        tuples[changed] = tuples[changed] + 1000
    config = SequenceConfig(
        tuples=2, segment_tokens=16, mix_piece_tokens=4, dwell_tokens=(), batch=2
    )
    return hysteresis_families(tuples, config, domains=PAIR, seed=0)


@pytest.mark.parametrize("context", PIECES)
def test_the_pieces_of_a_context_are_the_passages_that_its_sequences_are_made_of(context):
    plain = sequences()[READ_AS.get(context, context)]
    for segment, part in enumerate(("first", "middle", "last")):
        if context == "reset" and part != "last":
            assert PIECES[context][segment] == ()
            continue
        moved = {
            name
            for name in ARRAYS
            if not np.array_equal(
                getattr(sequences(name)[READ_AS.get(context, context)], part), getattr(plain, part)
            )
        }
        assert moved == set(PIECES[context][segment])


def test_pieces_up_to_a_segment():
    assert pieces_of("mixed") == {"a1", "a_other_long", "b_long", "a2"}
    assert pieces_of("mixed", segments=2) == {"a1", "a_other_long", "b_long"}
    assert pieces_of("reset", segments=2) == frozenset()


def test_files_of_a_folder_are_one_cluster_and_joined_passages_none():
    names = ["hamlet", "django/db/models/query.py", "django/db/models/sql.py", "django/db/x.py"]
    found = clusters([*names, "", "", "setup.py"])
    assert found[:4] == ["hamlet", "django/db/models", "django/db/models", "django/db"]
    assert len(set(found)) == 6


def test_a_trace_without_works_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"passages a1 are: delete .* prepare and trace"):
        works_of({"ours/real/64": np.zeros((1, 2, 3, 2))})
    kept = works_within({"works.a1": np.array(["x"]), "a1": np.zeros(1)})
    assert list(kept) == ["works.a1"]


def test_a_trace_keeps_the_works_of_its_passages_and_leaves_out_those_of_chunks():
    names = own_works(3) | {"works.python.loss": np.array(["d/x.py", "d/y.py"])}
    assert set(works_of(names).about()["clusters"]) == set(ARRAYS)


def test_chunks_of_all_domains_keep_domains_folders_and_joined_ones_apart():
    arrays = {
        "works.plays.test": np.array(["d/x", "lear", ""]),
        "works.code.test": np.array(["d/x", "d/y", ""]),
    }
    works = chunk_works(arrays, ("plays", "code"), "test")
    assert len(set(clusters(works.names[EVERY_DOMAIN]))) == 5
    assert works.about()["clusters"] == {EVERY_DOMAIN: 5, "code": 2, "plays": 3}


def test_what_is_told_of_the_intervals():
    works = Works(names={"b1": np.array(["d/x.py", "d/y.py"]), "a1": np.array(["hamlet", "lear"])})
    about = works.about()
    assert about["clusters"] == {"a1": 2, "b1": 1}
    assert list(about["clusters"]) == ["a1", "b1"]
    assert works.ways(frozenset({"a1"})) is works.ways(frozenset({"a1"}))


def test_a_metric_names_the_passages_that_it_was_read_from():
    protocol, run = protocol_of(), runs_of("ours")["ours"]
    weights = noisy_gate(protocol, seeds=len(SEEDS), texts=6)
    trace = trace_of({"ours": run}, protocol, weights, phase="hysteresis")
    own = run_values(trace, run, protocol, pair=PAIR)
    own |= contrast(own, control_values(trace, "ours", protocol, pair=PAIR), "aa")
    entered, both = {"a1", "b_long"}, {"a1", "a_long", "b_long", "a2"}
    for metric, pieces in {
        "switch_lag_AB": entered,
        "switch_lag_BA": entered | {"a2"},
        "relax_time_0.99": entered | {"a2"},
        "switching_asymmetry_signed": entered | {"a2"},
        "switch_lag_BA_minus_aa": both,
        "return_gap_cosine": both,
        "return_gap_cosine_minus_aa": both | {"a_other_long"},
        "switch_lag_mixA": entered | {"a_other_long", "a2"},
        "mix_entropy": entered | {"a_other_long"},
        "return_gap_repeated_cosine": entered,
        "return_gap_repeated_cosine_minus_aa": entered | {"a_long"},
    }.items():
        assert own[metric].pieces == pieces, metric


def by_play(plays=6):
    """Weights whose speed of return belongs to the play of A2, and which texts are of which."""

    def gate(protocol):
        plain = noisy_gate(protocol, seeds=len(SEEDS), texts=TEXTS)
        late = (np.arange(TEXTS) % plays) * 2

        def weights(mixer, context, n):
            a = plain(mixer, context, n).copy()
            if context in ("real", "blocked"):
                start = protocol.segment_tokens + n
                for text in range(TEXTS):
                    a[:, text, start : start + late[text]] = 0.01
            return a

        return weights

    return gate, np.array([f"play {i}" for i in np.arange(TEXTS) % plays])


def rows_by_metric(block):
    return {row["metric"]: row for row in block["rows"] if row["seed"] is None}


@pytest.mark.parametrize(
    ("measure", "phase", "metric", "free"),
    [
        (hysteresis, "hysteresis", "switch_lag_BA", "switch_lag_AB"),
        (fatigue, "fatigue", "tail_area_32@16", "deep_crystallization_ratio@16"),
    ],
)
def test_texts_that_share_the_play_of_a2_widen_what_is_read_from_a2_only(
    measure, phase, metric, free
):
    protocol, runs = protocol_of(tuples=TEXTS, dwell_tokens=(16, 32, 64)), runs_of("ours", "aa")
    gate, plays = by_play()
    apart = trace_of(runs, protocol, gate(protocol), phase=phase)
    shared = apart | {"works.a2": plays}
    alone, wide = (
        measure(trace, runs, protocol, pair=PAIR, seeds=SEEDS)["ours"] for trace in (apart, shared)
    )
    one, two = rows_by_metric(alone), rows_by_metric(wide)
    assert list(one) == list(two)
    assert two[metric]["value"] == one[metric]["value"]
    assert two[metric]["low"] < one[metric]["low"] < one[metric]["high"] < two[metric]["high"]
    assert two[free] == one[free]
    for name, row in one.items():
        if row["low"] is not None:
            assert two[name]["low"] <= row["low"], name
            assert two[name]["high"] >= row["high"], name
    assert all(wide["p_values"][name] >= p for name, p in alone["p_values"].items())


def test_one_play_for_all_texts_leaves_values_without_interval_and_p():
    protocol, runs = protocol_of(tuples=TEXTS), runs_of("ours")
    gate, _ = by_play()
    trace = trace_of(runs, protocol, gate(protocol), phase="hysteresis")
    trace |= {"works.a2": np.array(["hamlet"] * TEXTS)}
    ours = hysteresis(trace, runs, protocol, pair=PAIR, seeds=SEEDS)["ours"]
    found = rows_by_metric(ours)
    assert found["switch_lag_BA"]["low"] is None
    assert "at least two works" in found["switch_lag_BA"]["reason"]
    assert found["switch_lag_AB"]["low"] is not None
    assert "switch_lag_BA_minus_aa" not in ours["p_values"]


def test_own_works_are_of_every_passage_and_shared_by_no_two_texts():
    works = works_of(own_works(5))
    assert set(works.names) == set(ARRAYS)
    assert works.ways(frozenset(ARRAYS)).moves == ()
