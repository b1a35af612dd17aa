"""Test documents of the long-context experiment, and the contexts that replace their beginnings.

What is drawn for a context depends on the document alone: it is the same for all runs and seeds, so
that seeds are crossed with documents.

Legend: N documents, M documents with all contexts, T targets, A adapted tokens, V symbols.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mneme.core.seeds import numpy_generator
from mneme.ttt.codec import Codec
from mneme.ttt.context_config import SetConfig
from mneme.ttt.contexts import Kind, control, sentence_ends
from mneme.ttt.markov import entropy_rate, ideal_nll
from mneme.ttt.material import MarkovMaterial, TextMaterial

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Test documents of one set, padded to one length."""

    tokens_NT: Integers
    """(N, T + 1), 0 after a document's end."""
    lengths_N: Integers
    """Tokens of each, at least 2."""
    group_N: Integers
    """Play or conversation that each is part of."""
    ends_NT: NDArray[np.bool_] | None
    """(N, T + 1), which tokens end a sentence; None where there are no sentences."""
    plain: Integers
    """Ids that random tokens are drawn from: all but the special ones."""
    ideals: Mapping[str, NDArray]
    """`ideal_all_NT`, `ideal_far_NT` (N, T) and `entropy_N`, where documents have a known law."""

    def __post_init__(self) -> None:
        assert len(self.tokens_NT) == len(self.lengths_N) == len(self.group_N) >= 1
        assert self.lengths_N.min() >= 2
        assert self.lengths_N.max() == self.tokens_NT.shape[1]

    def checksums(self) -> Integers:
        """Return a checksum of each document's tokens (N,)."""
        pairs = zip(self.tokens_NT, self.lengths_N, strict=True)
        return np.array([zlib.crc32(row[:length].tobytes()) for row, length in pairs], np.int64)


def text_documents(material: TextMaterial, codec: Codec, one: SetConfig) -> Documents:
    """Return plays' windows or conversations of the test split.

    Raises
    ------
    ConfigError
        There are fewer documents of that length than the set asks for.
    """
    if one.kind == "conversation":
        ragged = material.test_conversations(one.least_tokens, one.tokens, one.documents)
        tokens_NT, lengths_N, group_N = ragged.ids, ragged.lengths, ragged.groups
    else:
        tokens_NT, group_N = material.test_documents(one.kind, one.tokens, one.documents)
        lengths_N = np.full(len(tokens_NT), one.tokens + 1)
    ends_NT, pieces = np.zeros(tokens_NT.shape, bool), codec.pieces()
    for row, tokens_T, length in zip(ends_NT, tokens_NT, lengths_N, strict=True):
        row[:length] = sentence_ends(tokens_T[:length], pieces, starts=codec.marks.stops)
    return Documents(
        tokens_NT=tokens_NT,
        lengths_N=lengths_N,
        group_N=group_N,
        ends_NT=ends_NT,
        plain=np.asarray(codec.plain_ids, np.int64),
        ideals={},
    )


def markov_documents(
    material: MarkovMaterial, one: SetConfig, *, receptive_field: int
) -> Documents:
    """Return test documents of random Markov chains, and what ideal learners lose on them.

    Parameters
    ----------
    material : MarkovMaterial
        Their law.
    one : SetConfig
        How many, how long.
    receptive_field : int
        Tokens R back that the learner with a short memory sees.
    """
    tokens_NT, matrices_NVV = material.test_chains(one.tokens, one.documents)
    law = {
        "symbols": material.config.symbols,
        "concentration": material.config.concentration,
    }
    return Documents(
        tokens_NT=tokens_NT,
        lengths_N=np.full(len(tokens_NT), one.tokens + 1),
        group_N=np.arange(len(tokens_NT)),
        ends_NT=None,
        plain=np.arange(material.vocabulary),
        ideals={
            "ideal_all_NT": ideal_nll(tokens_NT, memory=None, **law),
            "ideal_far_NT": ideal_nll(tokens_NT, memory=receptive_field, **law),
            "entropy_N": entropy_rate(matrices_NVV),
        },
    )


def draw_contexts(
    documents: Documents, one: SetConfig, kinds: Sequence[Kind], *, receptive_field: int
) -> tuple[Integers, dict[Kind, Integers]]:
    """Draw the contexts of every document that is long enough and allows all of them.

    Parameters
    ----------
    documents : Documents
        Documents of one set.
    one : SetConfig
        Adapted and counted tokens.
    kinds : sequence of str
        Contexts; sentences are left out where there are none, `none` needs no drawing.
    receptive_field : int
        Lead-in R, tokens.

    Returns
    -------
    kept_M : int array (M,)
        Documents, ascending; may be empty.
    contexts : dict
        Kind -> (M, A), without `none`.
    """
    long_M = np.flatnonzero(documents.lengths_N >= one.needed(receptive_field))
    absent = {"none"} if documents.ends_NT is not None else {"none", "sentences"}
    drawable: list[Kind] = [kind for kind in kinds if kind not in absent]
    kept: list[int] = []
    drawn: dict[Kind, list[Integers]] = {kind: [] for kind in drawable}
    for index in map(int, long_M):
        made = [_context(kind, documents, index, long_M, one) for kind in drawable]
        whole = [ids for ids in made if ids is not None]
        if len(whole) == len(drawable):
            kept.append(index)
            for kind, ids in zip(drawable, whole, strict=True):
                drawn[kind].append(ids)
    if not kept:
        return np.zeros(0, np.int64), {}
    return np.asarray(kept), {kind: np.stack(rows) for kind, rows in drawn.items()}


def _context(
    kind: Kind, documents: Documents, index: int, long_M: Integers, one: SetConfig
) -> Integers | None:
    first = slice(one.adapt_tokens)
    strangers_M = long_M[documents.group_N[long_M] != documents.group_N[index]]
    ends_NT = documents.ends_NT
    return control(
        kind,
        documents.tokens_NT[index, first],
        others=list(documents.tokens_NT[strangers_M, first]),
        sentence_ends=None if ends_NT is None else ends_NT[index, first],
        vocabulary=documents.plain,
        generator=numpy_generator(0, "context", kind, str(index)),
    ).ids
