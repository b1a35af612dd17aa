"""Control contexts: what a network adapts on instead of the document's own beginning.

Each control keeps something of the own context and destroys the rest: its tokens without their
order, its sentences without their order, another document of the same kind, any tokens at all.
Suffix T: positions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Kind = Literal["own", "shuffled", "sentences", "other", "random", "none"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# A full stop (or several, or another closing sign) with closing quotes before white space, or a
# blank line; what follows in white space belongs to the sentence that it closes.
_END = re.compile(rb"(?P<mark>[.!?]+[\"')\]]*(?=\s|$)|\n[ \t]*(?=\n))\s*")
_TRIES = 20


@dataclass(frozen=True)
class Control:
    """A context to adapt on, or why there is none."""

    ids: Ints | None
    """Shape (T,), int64; length 0 for `none`; None when the control cannot be made."""
    reason: str | None
    """Why not; None beside ids."""


def control(
    kind: Kind,
    own_T: ArrayLike,
    *,
    others: Sequence[ArrayLike],
    sentence_ends: ArrayLike | None,
    vocabulary: ArrayLike,
    generator: np.random.Generator,
) -> Control:
    """Make one control context.

    Parameters
    ----------
    kind : Kind
        own: as it is; shuffled: the same tokens in another order; sentences: the same sentences,
        each whole, in another order; other: the beginning of another document; random: any
        tokens; none: nothing.
    own_T : array, shape (T,)
        The document's own context, token ids.
    others : sequence of 1-D arrays
        Contexts of other documents, of other groups only; those of at least T tokens are used.
    sentence_ends : array, shape (T,), bool, or None
        Which tokens are the last of a sentence (`sentence_ends`); None: a corpus without any.
    vocabulary : 1-D array
        Ids that random tokens are drawn from: all but the special ones.
    generator : numpy Generator
        Source of chance.

    Returns
    -------
    Control
        As many tokens as `own_T` has (none at all for `none`).
    """
    own = np.asarray(own_T, np.int64)
    if kind == "own":
        return Control(own.copy(), None)
    if kind == "none":
        return Control(own[:0], None)
    if kind == "random":
        return Control(generator.choice(np.asarray(vocabulary, np.int64), len(own)), None)
    if kind == "other":
        return _other(own, others, generator)
    if kind == "shuffled":
        return _rearranged(own, list(own[:, None]), "tokens", generator)
    if sentence_ends is None:
        return Control(None, "this corpus has no sentences")
    return _rearranged(own, split_sentences(own, sentence_ends), "sentences", generator)


def _other(own: Ints, others: Sequence[ArrayLike], generator: np.random.Generator) -> Control:
    enough = [ids for other in others if len(ids := np.asarray(other, np.int64)) >= len(own)]
    if not enough:
        return Control(None, f"no document of another group has {len(own)} tokens")
    return Control(enough[int(generator.integers(len(enough)))][: len(own)].copy(), None)


def _rearranged(
    own: Ints, parts: Sequence[Ints], what: str, generator: np.random.Generator
) -> Control:
    """Put parts in another order, one that changes the text."""
    if len({part.tobytes() for part in parts}) < 2:
        return Control(None, f"the context has fewer than two different {what}")
    for _ in range(_TRIES):
        ids = np.concatenate([parts[i] for i in generator.permutation(len(parts))])
        if not np.array_equal(ids, own):
            return Control(ids, None)
    return Control(None, f"no other order of its {what} changes the context")


def split_sentences(ids: ArrayLike, sentence_ends: ArrayLike) -> list[Ints]:
    """Cut a context after the tokens that end a sentence; what is left over is the last one.

    Parameters
    ----------
    ids, sentence_ends : array, shape (T,)
        Token ids, and which of them are the last of a sentence.

    Returns
    -------
    list of ndarray
        None is empty; joined they are the context.
    """
    tokens, ends = np.asarray(ids, np.int64), np.asarray(sentence_ends, bool)
    assert tokens.shape == ends.shape
    parts = np.split(tokens, np.flatnonzero(ends) + 1)
    return [part for part in parts if len(part)]


def sentence_ends(
    ids: ArrayLike, pieces: Sequence[bytes], *, starts: Sequence[int] = ()
) -> NDArray[np.bool_]:
    """Find which tokens are the last of a sentence.

    A sentence ends with a full stop, question or exclamation mark before white space, at a blank
    line, and before the tokens `starts` (a turn of a conversation). White space after the end
    belongs to the sentence; a token is never cut, so a boundary inside a token is moved to its
    end.

    Parameters
    ----------
    ids : array, shape (T,)
        Token ids.
    pieces : sequence of bytes
        Bytes of each id (`Codec.pieces`).
    starts : sequence of int
        Ids before which a sentence ends (`Marks.stops`).

    Returns
    -------
    ndarray, shape (T,), bool
    """
    tokens = np.asarray(ids, np.int64)
    last = np.zeros(len(tokens), bool)
    last[:-1] |= np.isin(tokens[1:], list(starts))
    ends = np.cumsum([len(pieces[i]) for i in tokens], dtype=np.int64)
    text = b"".join(pieces[i] for i in tokens)
    for match in _END.finditer(text):
        # The last token that ends in the white space, else the first one past it.
        at = int(np.searchsorted(ends, match.end(), side="right")) - 1
        inside = at >= 0 and ends[at] >= match.end("mark")
        last[at if inside else at + 1] = True
    return last
