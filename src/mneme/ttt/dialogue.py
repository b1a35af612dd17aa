"""Conversations as examples: which tokens are answers, pieces, batches, answers permuted.

A conversation is a row of tokens, a mark before each turn and one at the end; the first speaker is
the user, the second the assistant. A token counts as (part of) an answer when it stands in an
assistant's turn after its mark, or is the first token of the mark that ends one, so that a model
learns to stop too.

Legend: N pieces, T position, K turns, C conversations, B batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mneme.core.seeds import numpy_generator
from mneme.ttt.codec import Marks
from mneme.ttt.prepare import KINDS, SPLITS

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Two speakers in turn, the user first."""

    tokens_T: Ints
    """All tokens, marks included."""
    turns_K: Ints
    """Where each turn's mark begins, rising from 0."""


@dataclass(frozen=True, kw_only=True)
class Dialogues:
    """Conversations as tokens, none in two of the three."""

    train: Sequence[Conversation]
    """Conversations that are learnt."""
    validation: Sequence[Conversation]
    """Those that choose settings."""
    test: Sequence[Conversation]
    """Those that are measured."""
    marks: Marks
    """Tokens between turns."""


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Pieces of conversations, padded on the right."""

    tokens_NT: Ints
    """Tokens (N, T + 1): inputs are all but the last, targets all but the first."""
    counted_NT: Bools
    """Targets (N, T) that are answers."""
    conversation_N: Ints
    """Conversation of each piece, rising from 0."""


def dialogues_of(arrays: Mapping[str, NDArray], marks: Marks) -> Dialogues:
    """Collect the conversations of a prepared corpus.

    Parameters
    ----------
    arrays : mapping
        As `prepare.prepare` makes them.
    marks : Marks
        Of the corpus's tokenizer.

    Raises
    ------
    ValueError
        The corpus has no conversations.
    """
    found: dict[str, list[Conversation]] = {split: [] for split in SPLITS}
    for document in np.flatnonzero(arrays["kind"] == KINDS.index("conversation")):
        start, end = arrays["offsets"][document : document + 2]
        first, last = arrays["turn_offsets"][document : document + 2]
        found[SPLITS[arrays["split"][document]]].append(
            Conversation(
                tokens_T=arrays["ids"][start:end].astype(np.int64),
                turns_K=(arrays["turns"][first:last] - start).astype(np.int64),
            )
        )
    if not found["train"]:
        raise ValueError("the corpus has no conversations: choose one with chitchat among sources")
    return Dialogues(**found, marks=marks)


def answer_mask(conversation: Conversation, marks: Marks) -> Bools:
    """Tell which tokens are answers, or end one.

    Returns
    -------
    bool array (T,)
        Of an assistant's turn all but its mark, and the first token of the mark after it.
    """
    mask_T = np.zeros(len(conversation.tokens_T), np.bool_)
    ends = [*conversation.turns_K[1:], len(mask_T) - len(marks.end)]
    for start, end in list(zip(conversation.turns_K, ends, strict=True))[1::2]:
        mask_T[start + len(marks.assistant) : end + 1] = True
    return mask_T


def cut(conversations: Sequence[Conversation], marks: Marks, *, tokens: int) -> Pieces:
    """Cut conversations into pieces in which every answer's token is a target once.

    Parameters
    ----------
    conversations : sequence of Conversation
        At least one.
    marks : Marks
        Tokens between turns.
    tokens : int
        Most predicted tokens of a piece.

    Returns
    -------
    Pieces
        Pieces without an answer are left out.

    Raises
    ------
    ValueError
        A conversation has no answer.
    """
    rows, masks, owners = [], [], []
    for owner, conversation in enumerate(conversations):
        mask_T = answer_mask(conversation, marks)
        for start in range(0, len(mask_T) - 1, tokens):
            piece = slice(start, start + tokens + 1)
            if mask_T[piece][1:].any():
                rows.append(conversation.tokens_T[piece])
                masks.append(mask_T[piece][1:])
                owners.append(owner)
        if owners[-1:] != [owner]:
            raise ValueError(f"conversation {owner} has no answer: leave it out")
    assert rows, "no conversation"
    longest = max(map(len, rows))
    return Pieces(
        tokens_NT=_padded(rows, longest).astype(np.int64),
        counted_NT=_padded(masks, longest - 1).astype(np.bool_),
        conversation_N=np.asarray(owners, np.int64),
    )


def _padded(rows: Sequence[NDArray], length: int) -> NDArray:
    out = np.zeros((len(rows), length), rows[0].dtype)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return out


def batch_rows(count: int, *, batch: int, seed: int, step: int) -> Ints:
    """Return the pieces of a step (B,): permutation after permutation of all, in batches."""
    place_B = np.arange(step * batch, (step + 1) * batch)
    epoch_B, inside_B = np.divmod(place_B, count)
    rows_B = np.empty_like(place_B)
    for epoch in np.unique(epoch_B):
        order = numpy_generator(seed, "dialogue", str(epoch)).permutation(count)
        rows_B[epoch_B == epoch] = order[inside_B[epoch_B == epoch]]
    return rows_B


def trimmed(chosen: Pieces, rows_B: Ints) -> tuple[Ints, Bools]:
    """Return tokens (B, T + 1) and counted targets (B, T) of pieces, up to the last counted."""
    counted_BT = chosen.counted_NT[rows_B]
    length = int(np.flatnonzero(counted_BT.any(axis=0))[-1]) + 1
    return chosen.tokens_NT[rows_B, : length + 1], counted_BT[:, :length]


def permuted(
    conversations: Sequence[Conversation], marks: Marks, generator: np.random.Generator
) -> list[Conversation]:
    """Put into every answer's place an answer of another conversation.

    Returns
    -------
    list of Conversation
        The same turns of the user and, as a whole, the same answers, each in a foreign
        conversation.

    Raises
    ------
    ValueError
        One conversation holds more than half of all answers, so that no such exchange exists.
    """
    turns = [_turns(conversation, marks) for conversation in conversations]
    places = [(c, k) for c, found in enumerate(turns) for k in range(1, len(found), 2)]
    owner = np.asarray([c for c, _ in places])
    if 2 * np.bincount(owner).max(initial=0) > len(owner):
        raise ValueError("one conversation holds most answers: they cannot be exchanged")
    new = [list(found) for found in turns]
    for (c, k), source in zip(places, _foreign(owner, generator), strict=True):
        other, turn = places[source]
        new[c][k] = turns[other][turn]
    return [_joined(found, marks) for found in new]


def _turns(conversation: Conversation, marks: Marks) -> list[Ints]:
    """Split a conversation into its turns, each with the mark before it, without the end's."""
    whole = conversation.tokens_T[: len(conversation.tokens_T) - len(marks.end)]
    return np.split(whole, conversation.turns_K[1:])


def _joined(turns: Sequence[Ints], marks: Marks) -> Conversation:
    starts = np.cumsum([0, *map(len, turns[:-1])])
    tokens_T = np.concatenate([*turns, marks.end]).astype(np.int64)
    return Conversation(tokens_T=tokens_T, turns_K=starts.astype(np.int64))


def _foreign(owner: Ints, generator: np.random.Generator) -> Ints:
    """Draw a permutation that leaves nothing with its owner.

    What stays is exchanged with a random place; that never makes the number of clashes larger.
    """
    source = generator.permutation(len(owner))
    while (clash := np.flatnonzero(owner[source] == owner)).size:
        for place in clash:
            other = generator.integers(len(owner))
            source[[place, other]] = source[[other, place]]
    return source
