from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mneme.core.config import ConfigError
from mneme.ttt.corpus_config import CorpusConfig, FewStatesConfig, MarkovConfig
from mneme.ttt.markov import draw_documents
from mneme.ttt.material import markov_material, text_material

CONFIG = CorpusConfig(
    tokenizer="bytes",
    vocabulary=None,
    sources={"shakespeare": 0.25, "chitchat": 0.75},
    train_share=0.5,
    validation_share=0.25,
    test_part="last",
    min_turns=2,
    drop_offensive=False,
    limit=None,
    harmless=(),
    seed=0,
)
PLAYS, TALKS = [40, 25, 90, 60, 33, 70, 10], [5, 8, 30, 12, 6, 9, 25, 40, 7, 11, 50, 9]
SPLIT = [0, 0, 1, 2, 2, 2, 2, 0, 0, 0, 1, 1, 2, 2, 2, 2, 0, 2, 1]
TURN = 4


@pytest.fixture(scope="module")
def arrays():
    """Documents in which a token is 100 x document + place, so that a window tells where it was."""
    lengths = [*PLAYS, *TALKS]
    offsets = np.cumsum([0, *lengths])
    turns = [np.arange(0, n, TURN) for n in TALKS]
    return {
        "ids": np.concatenate([100 * i + np.arange(n) for i, n in enumerate(lengths)]),
        "offsets": offsets,
        "kind": np.repeat([0, 1], [len(PLAYS), len(TALKS)]).astype(np.int8),
        "split": np.asarray(SPLIT, np.int8),
        "group": np.arange(len(lengths), dtype=np.int32) + 100,
        "names": np.asarray([f"d{i}" for i in range(len(lengths))]),
        "turns": np.concatenate([t + o for t, o in zip(turns, offsets[7:-1], strict=True)]),
        "turn_offsets": np.cumsum([0] * 8 + [len(t) for t in turns]),
        "vocabulary": np.asarray(2000),
    }


@pytest.fixture(scope="module")
def material(arrays):
    return text_material(arrays, CONFIG)


BEGIN = FewStatesConfig(steps=0, symbols=2, concentration=0.1, tokens=10)


@pytest.fixture(scope="module")
def chains():
    return markov_material(
        MarkovConfig(symbols=6, concentration=0.2, seed=3, test_seed=4, begin=BEGIN)
    )


def test_a_batch_depends_on_step_and_seed_only(material, chains):
    for made in (material, chains):
        first = made.batch(3, 1, 4, 20)
        made.batch(4, 1, 4, 20)
        assert first.shape == (4, 21)
        assert first.dtype == np.int64
        np.testing.assert_array_equal(made.batch(3, 1, 4, 20), first)
        assert not np.array_equal(made.batch(4, 1, 4, 20), first)
        assert not np.array_equal(made.batch(3, 2, 4, 20), first)


def test_training_sequences_are_training_documents(material, arrays):
    for step in range(20):
        inside = material.batch(step, 0, 4, 20) // 100
        assert set(arrays["split"][inside].ravel()) == {0}
        plays = arrays["kind"][inside] == 0
        assert (plays.all(1) | ~plays.any(1)).all()
        assert plays.all(1).sum() == 1  # a quarter of four


def test_shares_that_do_not_divide_hold_on_average(arrays):
    config = dataclasses.replace(CONFIG, sources={"shakespeare": 0.4, "chitchat": 0.6})
    material = text_material(arrays, config)
    plays = [int((material.batch(s, 0, 3, 4)[:, 0] < 700).sum()) for s in range(400)]
    assert set(plays) == {1, 2}
    assert np.mean(plays) == pytest.approx(1.2, abs=0.07)


def test_windows_of_plays_lie_anywhere_inside_one_play(arrays):
    config = dataclasses.replace(CONFIG, sources={"shakespeare": 1.0})
    rows = text_material(arrays, config).batch(0, 0, 3000, 20)
    assert (np.diff(rows) == 1).all()
    starts, counts = np.unique(rows[:, 0], return_counts=True)
    # Plays of 40 and 25 tokens have 20 and 5 windows of 21.
    assert starts.tolist() == [*range(20), *range(100, 105)]
    assert counts.min() > 70


def test_conversations_are_packed_whole(arrays):
    config = dataclasses.replace(CONFIG, sources={"chitchat": 1.0})
    entered = set()
    for row in text_material(arrays, config).batch(0, 0, 200, 20):
        parts = np.split(row, np.flatnonzero(np.diff(row) != 1) + 1)
        assert sum(map(len, parts)) == 21
        for part in parts:
            talk, begin = divmod(int(part[0]), 100)
            length = TALKS[talk - 7]
            if length > 21:  # longer than a sequence: from a turn that leaves enough
                entered.add((talk, begin))
            else:
                assert begin == 0
                assert part is parts[-1] or len(part) == length
    assert entered == {(9, 0), (9, 4), (9, 8)}


def test_tokens_of_short_and_long_conversations_are_met_about_as_often(arrays):
    config = dataclasses.replace(CONFIG, sources={"chitchat": 1.0})
    talks = text_material(arrays, config).batch(0, 0, 2000, 5) // 100
    met = {talk: (talks == talk).sum() / TALKS[talk - 7] for talk in (7, 8, 9, 16)}
    # Of 5, 8, 30 and 11 tokens; a sequence has 6.
    assert max(met.values()) < 2 * min(met.values())


def test_validation_is_fixed_and_apart(material, arrays):
    rows = material.validation(4, 8)
    assert rows.shape == (4, 9)
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(rows, material.validation(4, 8))
    inside = rows // 100
    assert set(arrays["split"][inside].ravel()) == {1}
    assert (arrays["kind"][inside[:, 0]] == 0).sum() == 1
    assert len(np.unique(rows)) == rows.size
    # The one window of plays lies in the middle of the one play of 90 tokens.
    assert rows[0, 0] == 240


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_test_windows_are_spread_over_all_plays(material, count):
    ids, groups = material.test_documents("play", 9, count)
    assert ids.shape == (count, 10)
    assert (np.diff(ids) == 1).all()
    assert len(np.unique(ids)) == ids.size
    np.testing.assert_array_equal(ids // 100 + 100, np.tile(groups, (10, 1)).T)
    assert set(groups) <= {103, 104, 105, 106}
    counts = np.unique(groups, return_counts=True)[1]
    # 6, 3, 7 and 1 windows fit.
    assert len(counts) == min(count, 4)
    assert sorted(counts) == {1: [1], 2: [1, 1], 5: [1, 1, 1, 2], 12: [1, 3, 4, 4]}[count]


def test_every_window_can_be_had_and_not_one_more(material):
    assert len(material.test_documents("play", 9, 17)[0]) == 17
    with pytest.raises(
        ConfigError, match="18 play documents of 10 tokens were asked, there are 17"
    ):
        material.test_documents("play", 9, 18)
    with pytest.raises(ConfigError, match="there are 0"):
        material.test_documents("play", 90, 1)


def test_test_conversations_are_long_enough(material):
    ids, groups = material.test_documents("conversation", 8, 3)
    assert groups.tolist() == [112, 114, 117]  # of 9, 25, 40 and 50 tokens
    np.testing.assert_array_equal(ids, 100 * (groups[:, None] - 100) + np.arange(9))
    message = "5 test conversations of 9 tokens were asked, there are 4"
    with pytest.raises(ConfigError, match=message):
        material.test_documents("conversation", 8, 5)


def test_ragged_conversations_end_in_zeros(material):
    ragged = material.test_conversations(8, 29, 4)
    assert ragged.groups.tolist() == [112, 113, 114, 117]
    assert ragged.lengths.tolist() == [9, 25, 30, 30]
    assert ragged.ids.shape == (4, 30)
    for row, length, group in zip(ragged.ids, ragged.lengths, ragged.groups, strict=True):
        np.testing.assert_array_equal(row[:length], 100 * (group - 100) + np.arange(length))
        assert not row[length:].any()


def test_too_long_sequences_are_refused(material):
    with pytest.raises(ConfigError, match="tokens must be below 40, the longest play, got 40"):
        material.batch(0, 0, 4, 40)
    with pytest.raises(ConfigError, match="windows of 81 tokens were asked of validation conv"):
        material.validation(4, 80)


def test_kinds_follow_the_sources(material, chains, arrays):
    assert material.kinds == ("play", "conversation")
    alone = text_material(arrays, dataclasses.replace(CONFIG, sources={"chitchat": 1.0}))
    assert alone.kinds == ("conversation",)
    assert chains.kinds == ("chain",)
    assert (material.vocabulary, chains.vocabulary) == (2000, 6)


def test_chains_of_training_validation_and_test_are_never_shared(chains):
    test, groups = chains.test_documents("chain", 30, 4)
    validation = chains.validation(4, 30)
    other = markov_material(dataclasses.replace(chains.config, test_seed=5))
    np.testing.assert_array_equal(other.validation(3, 30), chains.validation(3, 30))
    assert (other.test_chains(30, 3)[0] != chains.test_chains(30, 3)[0]).any(axis=1).all()
    trained = np.concatenate([chains.batch(s, seed, 4, 30) for s in range(5) for seed in (0, 3)])
    rows = np.concatenate([test, validation, trained])
    assert len(np.unique(rows, axis=0)) == len(rows) == 48
    assert groups.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(chains.test_documents("chain", 30, 4)[0], test)
    np.testing.assert_array_equal(chains.validation(4, 30), validation)


def test_training_may_begin_with_short_chains_of_few_symbols(chains):
    begin = dataclasses.replace(BEGIN, steps=3)
    material = markov_material(dataclasses.replace(chains.config, begin=begin))
    found = material.batch(2, 1, 40, 20)
    assert found.shape == (80, 11), "the same tokens in shorter documents"
    kinds = [frozenset(row.tolist()) for row in found]
    assert max(map(len, kinds)) == 2
    assert len(set(kinds)) > 10, "each its own symbols"
    assert set(found.ravel().tolist()) == set(range(6))
    np.testing.assert_array_equal(material.batch(2, 1, 40, 20), found)
    np.testing.assert_array_equal(material.batch(3, 1, 4, 20), chains.batch(3, 1, 4, 20))
    for name in ("validation", "test_chains"):
        ours, theirs = (getattr(m, name)(*a) for m, a in ((material, (20, 4)), (chains, (20, 4))))
        np.testing.assert_array_equal(ours[0], theirs[0])


def test_test_chains_come_with_their_matrices(chains):
    ids, matrices = chains.test_chains(400, 2)
    np.testing.assert_array_equal(ids, chains.test_documents("chain", 400, 2)[0])
    rows = np.arange(2)[:, None]
    assert (matrices[rows, ids[:, :-1], ids[:, 1:]] > 0).all()
    other = draw_documents(2, 1, symbols=6, concentration=0.2, generator=np.random.default_rng(0))[
        1
    ]
    own = np.log(matrices[rows, ids[:, :-1], ids[:, 1:]]).mean()
    foreign = np.log(other[rows, ids[:, :-1], ids[:, 1:]] + 1e-12).mean()
    assert own > foreign + 0.5
