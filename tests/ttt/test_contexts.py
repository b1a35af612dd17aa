from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.ttt.codec import Codec, byte_tokenizer, train_bpe
from mneme.ttt.contexts import KINDS, control, sentence_ends, split_sentences

OWN = np.asarray([5, 6, 7, 5, 6, 9, 9, 2])
ENDS = np.asarray([0, 0, 1, 0, 0, 1, 0, 0], bool)
ALLOWED = np.arange(3, 50)
OTHERS = [np.arange(10, 17), np.arange(20, 30), np.arange(40, 60)]
TALK = "Hi. Hello there! (Really?) Yes\nno end here\n\nA new verse, 3.14 wide... Then\tmore"
PARTS = [
    "Hi. ",
    "Hello there! ",
    "(Really?) ",
    "Yes\nno end here\n\n",
    "A new verse, 3.14 wide... ",
    "Then\tmore",
]


@pytest.fixture(scope="module")
def coder():
    return Codec(byte_tokenizer())


def made(kind, own=OWN, *, others=OTHERS, ends=ENDS, vocabulary=ALLOWED, seed=0):
    return control(
        kind,
        own,
        others=others,
        sentence_ends=ends,
        vocabulary=vocabulary,
        generator=np.random.default_rng(seed),
    )


def test_known_answers():
    np.testing.assert_array_equal(made("own").ids, OWN)
    assert made("none").ids.tolist() == []
    assert {tuple(made("other", seed=s).ids) for s in range(20)} == {
        tuple(range(20, 28)),
        tuple(range(40, 48)),
    }
    whole = [[5, 6, 7], [5, 6, 9], [9, 2]]
    found = {tuple(made("sentences", seed=s).ids) for s in range(60)}
    orders = [(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    assert found == {tuple(symbol for i in order for symbol in whole[i]) for order in orders}


def test_the_own_context_is_never_written_to():
    for kind in KINDS:
        own, others = OWN.copy(), [other.copy() for other in OTHERS]
        result = made(kind, own, others=others)
        result.ids[:] = -1
        np.testing.assert_array_equal(own, OWN)
        assert all((a == b).all() for a, b in zip(others, OTHERS, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    own=st.lists(st.integers(3, 9), min_size=1, max_size=12),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_each_control_keeps_what_it_should(own, kind, seed, data):
    ends = data.draw(st.lists(st.booleans(), min_size=len(own), max_size=len(own)))
    result = made(kind, own, ends=ends, seed=seed)
    assert (result.ids is None) == (result.reason is not None)
    if result.ids is None:
        assert kind in ("shuffled", "sentences")
        return
    ids = result.ids
    assert ids.dtype == np.int64
    assert len(ids) == (0 if kind == "none" else len(own))
    if kind in ("shuffled", "sentences"):
        assert sorted(ids) == sorted(own)
        assert ids.tolist() != own
    if kind == "sentences":
        left = sorted((part.tolist() for part in split_sentences(own, ends)), key=len, reverse=True)
        assert _tiles(ids.tolist(), left)
    np.testing.assert_array_equal(made(kind, own, ends=ends, seed=seed).ids, ids)


def _tiles(ids, parts):
    """Tell whether the parts, each used once, can be laid end to end to give the ids."""
    if not parts:
        return not ids
    return any(
        ids[: len(part)] == part and _tiles(ids[len(part) :], parts[:i] + parts[i + 1 :])
        for i, part in enumerate(parts)
    )


def test_random_tokens_are_uniform_over_what_is_allowed():
    ids = made("random", np.zeros(9000, int), vocabulary=[3, 5, 6]).ids
    values, counts = np.unique(ids, return_counts=True)
    assert values.tolist() == [3, 5, 6]
    assert np.abs(counts - 3000).max() < 200


def test_why_a_control_cannot_be_made():
    cases = [
        (made("other", others=OTHERS[:1]), "no document of another group has 8 tokens"),
        (made("shuffled", [4, 4, 4]), "the context has fewer than two different tokens"),
        (made("sentences", ends=None), "this corpus has no sentences"),
        (made("sentences", ends=ENDS * 0), "the context has fewer than two different sentences"),
        (made("sentences", [4, 4], ends=[1, 1]), "the context has fewer than two different"),
        (made("sentences", [4, 4, 4], ends=[1, 0, 0]), "no other order of its sentences changes"),
    ]
    for result, reason in cases:
        assert result.ids is None
        assert result.reason.startswith(reason)


def test_sentences_of_a_text(coder):
    ids = coder.encode(TALK)
    ends = sentence_ends(ids, coder.pieces(), starts=coder.marks.stops)
    assert [coder.decode(part) for part in split_sentences(ids, ends)] == PARTS


def test_an_end_inside_a_token_is_moved_to_the_end_of_the_token():
    pieces = [b"Hi. Yo", b" ho", b"!", b" ", b"\n", b"so"]
    ends = sentence_ends([0, 1, 2, 3, 4, 5], pieces, starts=())
    assert ends.tolist() == [True, False, False, False, True, False]
    assert not sentence_ends([1, 5], pieces, starts=()).any()
    assert sentence_ends([], pieces, starts=()).tolist() == []


def test_a_turn_is_a_boundary(coder):
    ids, _ = coder.dialogue(["oh. well", "no", "yes"], ended=True)
    ends = sentence_ends(ids, coder.pieces(), starts=coder.marks.stops)
    texts = [coder.decode(part) for part in split_sentences(ids, ends)]
    assert texts == ["<|user|>oh. ", "well", "<|assistant|>no", "<|user|>yes", "<|end|>"]


@settings(max_examples=30, deadline=None)
@given(parts=st.lists(st.sampled_from([*PARTS, "a.b", " ", "\n", "..."]), max_size=8))
def test_no_text_is_lost_and_no_token_is_cut(learned, parts):
    pieces = learned.pieces()
    ids = learned.encode("".join(parts))
    ends = sentence_ends(ids, pieces, starts=learned.marks.stops)
    cut = split_sentences(ids, ends)
    assert np.concatenate([*cut, []]).tolist() == ids.tolist()
    assert all(len(part) for part in cut)


@pytest.fixture(scope="module")
def learned():
    return Codec(train_bpe([TALK] * 3, vocabulary=300))


def test_tokens_that_open_with_a_space_open_the_next_sentence(learned):
    ids = learned.encode(TALK)
    assert max(len(learned.pieces()[i]) for i in ids) > 4
    ends = sentence_ends(ids, learned.pieces(), starts=learned.marks.stops)
    texts = [learned.decode(part) for part in split_sentences(ids, ends)]
    assert [text.strip() for text in texts] == [part.strip() for part in PARTS]
    assert texts[1] == " Hello there!"
