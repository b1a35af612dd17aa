"""Dialogues: what counts as an answer, pieces, batches, and answers that change places."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.core.seeds import numpy_generator
from mneme.ttt.codec import Marks
from mneme.ttt.dialogue import (
    Conversation,
    answer_mask,
    batch_rows,
    cut,
    dialogues_of,
    permuted,
    trimmed,
)

ONE = Marks(*(np.asarray([i], np.int32) for i in range(3)))
MANY = Marks(*(np.asarray(ids, np.int32) for ids in ([0, 1], [0, 2, 2], [3])))


def talk(*turns, marks=ONE):
    """A conversation of turns (lists of tokens from 10 on), the user first."""
    parts = [[*(marks.assistant if i % 2 else marks.user), *t] for i, t in enumerate(turns)]
    starts = np.cumsum([0, *map(len, parts)])[:-1]
    tokens = [token for part in parts for token in part] + list(marks.end)
    return Conversation(tokens_T=np.asarray(tokens, np.int64), turns_K=starts)


def drawn(generator, *, conversations, marks=ONE):
    counts = generator.integers(2, 7, conversations)
    sizes = iter(generator.integers(1, 6, counts.sum()))
    return [
        talk(*(generator.integers(10, 99, next(sizes)).tolist() for _ in range(n)), marks=marks)
        for n in counts
    ]


def slow_mask(conversation, marks):
    """Read token by token, as a reader that knows the marks would."""
    tokens, spans = conversation.tokens_T.tolist(), []
    kinds = {"user": marks.user, "assistant": marks.assistant, "end": marks.end}
    at = 0
    while at < len(tokens):
        for kind, ids in kinds.items():
            if tokens[at : at + len(ids)] == list(ids):
                spans.append((kind, at, at + len(ids)))
                at += len(ids) - 1
        at += 1
    mask = [False] * len(tokens)
    for (kind, _, begin), (_, end, _) in pairwise(spans):
        for t in range(begin, end + 1):
            mask[t] = mask[t] or kind == "assistant"
    return mask


def test_an_answer_and_what_ends_it_count():
    conversation = talk([10, 11], [12, 13], [14], [15])
    #                   0  10 11  1  12 13  0  14  1  15  2
    expected = [0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert answer_mask(conversation, ONE).tolist() == [bool(one) for one in expected]


def test_a_last_turn_of_the_user_does_not_count():
    assert answer_mask(talk([10], [11], [12]), ONE).tolist() == [0, 0, 0, 1, 1, 0, 0]


def test_marks_of_several_tokens():
    #                               0  1  10  0  2  2  11  0  1  12  3
    expected = [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert answer_mask(talk([10], [11], [12], marks=MANY), MANY).tolist() == expected


@pytest.mark.parametrize("marks", [ONE, MANY])
def test_the_mask_is_the_slow_readers(marks):
    for conversation in drawn(numpy_generator(0, "talks"), conversations=40, marks=marks):
        assert answer_mask(conversation, marks).tolist() == slow_mask(conversation, marks)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), tokens=st.integers(8, 30))
def test_pieces_count_every_answers_token_once(seed, tokens):
    talks = drawn(numpy_generator(seed, "talks"), conversations=4)
    pieces = cut(talks, ONE, tokens=tokens)
    assert pieces.tokens_NT.shape[1] == pieces.counted_NT.shape[1] + 1 <= tokens + 1
    assert (np.diff(pieces.conversation_N) >= 0).all()
    for owner, conversation in enumerate(talks):
        mine = pieces.conversation_N == owner
        targets = pieces.tokens_NT[mine][:, 1:][pieces.counted_NT[mine]]
        assert targets.tolist() == conversation.tokens_T[answer_mask(conversation, ONE)].tolist()


def test_pieces_have_one_answer_or_are_left_out():
    conversation = talk([10] * 9, [11], [12] * 9, [13])
    pieces = cut([conversation], ONE, tokens=5)
    assert pieces.counted_NT.any(axis=1).all()
    assert pieces.counted_NT.sum() == 4


def test_a_conversation_without_an_answer_is_an_error():
    with pytest.raises(ValueError, match="conversation 1 has no answer: leave it out"):
        cut([talk([10], [11]), talk([10] * 9)], ONE, tokens=5)


def test_batches_depend_on_seed_and_step_only_and_meet_all_equally_often():
    rows = [batch_rows(10, batch=4, seed=0, step=step) for step in range(10)]
    again = [batch_rows(10, batch=4, seed=0, step=step) for step in reversed(range(10))]
    assert all((a == b).all() for a, b in zip(rows, reversed(again), strict=True))
    assert Counter(np.concatenate(rows).tolist()) == dict.fromkeys(range(10), 4)
    assert sorted(np.concatenate(rows[:3])[:10].tolist()) == list(range(10))
    other = np.concatenate([batch_rows(10, batch=4, seed=1, step=step) for step in range(10)])
    assert (other != np.concatenate(rows)).any()


def test_a_batch_ends_with_its_last_answer():
    pieces = cut([talk([10], [11, 12], [13] * 8), talk([10], [11])], ONE, tokens=20)
    tokens, counted = trimmed(pieces, np.asarray([0, 1]))
    assert tokens.tolist() == [[0, 10, 1, 11, 12, 0], [0, 10, 1, 11, 2, 0]]
    assert counted.tolist() == [[0, 0, 1, 1, 1], [0, 0, 1, 1, 0]]


def turns_of(conversation, marks):
    ends = [*conversation.turns_K[1:], len(conversation.tokens_T) - len(marks.end)]
    pairs = zip(conversation.turns_K, ends, strict=True)
    return [tuple(conversation.tokens_T[a:b].tolist()) for a, b in pairs]


@pytest.mark.parametrize("marks", [ONE, MANY])
def test_permuted_answers_are_all_kept_and_all_foreign(marks):
    # Every turn holds its conversation's number, so that nothing foreign looks like one's own.
    talks = [talk(*([[100 + c, 10 + k] for k in range(2 + c % 5)]), marks=marks) for c in range(12)]
    moved = permuted(talks, marks, numpy_generator(0, "permuted"))
    before, after = ([turns_of(c, marks) for c in some] for some in (talks, moved))
    assert [c[0::2] for c in before] == [c[0::2] for c in after]
    assert Counter(t for c in before for t in c[1::2]) == Counter(t for c in after for t in c[1::2])
    for number, turns in enumerate(after):
        assert all(100 + number not in turn for turn in turns[1::2])
    for conversation in moved:
        assert answer_mask(conversation, marks).tolist() == slow_mask(conversation, marks)


def test_two_conversations_exchange_their_answers():
    moved = permuted([talk([10], [11]), talk([12], [13, 14])], ONE, numpy_generator(0, "p"))
    assert [turns_of(c, ONE) for c in moved] == [
        [(0, 10), (1, 13, 14)],
        [(0, 12), (1, 11)],
    ]
    with pytest.raises(ValueError, match="most answers"):
        permuted([talk([10], [11], [12], [13]), talk([12], [13])], ONE, numpy_generator(0, "p"))


def arrays_of(talks, *, kinds, splits):
    starts = np.cumsum([0, *(len(c.tokens_T) for c in talks)])
    turns = [c.turns_K + s for c, s in zip(talks, starts, strict=False)]
    return {
        "ids": np.concatenate([c.tokens_T for c in talks]).astype(np.int32),
        "offsets": starts,
        "kind": np.asarray(kinds, np.int8),
        "split": np.asarray(splits, np.int8),
        "turns": np.concatenate(turns),
        "turn_offsets": np.cumsum([0, *map(len, turns)]),
    }


def test_conversations_of_a_corpus():
    talks = drawn(numpy_generator(2, "talks"), conversations=4)
    arrays = arrays_of(talks, kinds=[1, 0, 1, 1], splits=[0, 0, 2, 1])
    found = dialogues_of(arrays, ONE)
    expected = {"train": [talks[0]], "validation": [talks[3]], "test": [talks[2]]}
    for name, some in expected.items():
        assert [turns_of(c, ONE) for c in getattr(found, name)] == [turns_of(c, ONE) for c in some]
    with pytest.raises(ValueError, match="no conversations"):
        dialogues_of(arrays_of(talks, kinds=[0] * 4, splits=[0] * 4), ONE)
