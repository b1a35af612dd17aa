"""Statements -> what the memory grid reads: periodic texts, cells, streams of control contexts.

A text is a statement over and over, a *stream* of which every cell takes a beginning: its first
`adapted` tokens are the context, those up to `length` are counted. The contexts of all cells of a
prompt are thus beginnings of one stream, read once. Control streams keep that: they are drawn piece
by piece between neighbouring cuts, so that every beginning that some cell adapts to holds exactly
the own context's tokens (shuffled, sentences).

Legend: C cells, N prompts, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mneme.ttt.contexts import control
from mneme.ttt.statements import STATEMENTS, pieces

Ints = NDArray[np.int64]
Control = Literal["shuffled", "sentences", "other", "random"]
CONTROLS: tuple[Control, ...] = get_args(Control)
"""Contexts that are drawn anew in every trial."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A cell that would read what a cell with fewer repeats reads."""

    ratio: float
    """Adapted part."""
    repeats: int
    """Repeats asked for."""
    same_as: int
    """Fewer repeats that give the same tokens after truncation."""
    prompts: int
    """Prompts for which they do."""


@dataclass(frozen=True, kw_only=True)
class GridTexts:
    """Tokenised prompts and the cells to measure."""

    periods: tuple[Ints, ...]
    """Tokens of each statement, once."""
    ends: tuple[tuple[int, ...], ...]
    """Where each statement's sentences end, tokens from its start."""
    cells: tuple[tuple[float, int], ...]
    """(adapt ratio, repeats) of every measured cell."""
    refused: tuple[Refused, ...]
    """Cells that are not measured, and why."""
    length_CN: Ints
    """Tokens of each text after truncation."""
    adapted_CN: Ints
    """Tokens of its first part, the context."""
    max_tokens: int
    """Longest text."""

    def stream(self, prompt: int, length: int) -> Ints:
        """Return the first `length` tokens of a prompt's endlessly repeated statement."""
        return np.resize(self.periods[prompt], length)

    def ends_at(self, prompt: int, length: int) -> NDArray[np.bool_]:
        """Return which of the first `length` tokens of a prompt's stream end a sentence."""
        last_T = np.zeros(len(self.periods[prompt]), bool)
        last_T[np.asarray(self.ends[prompt]) - 1] = True
        return np.resize(last_T, length)

    def longest(self, prompt: int) -> int:
        """Return the longest context of a prompt, tokens."""
        return int(self.adapted_CN[:, prompt].max())


def grid_texts(
    encode: Callable[[str], ArrayLike],
    *,
    prompts: int,
    adapt_ratios: Sequence[float],
    repeats: Sequence[int],
    max_tokens: int,
) -> GridTexts:
    """Tokenise the first statements and lay out the cells.

    Parameters
    ----------
    encode : callable
        Text -> token ids, without special tokens.
    prompts : int
        Statements read, the first so many.
    adapt_ratios, repeats
        The grid's axes, rising.
    max_tokens : int
        Longest text, tokens.

    Returns
    -------
    GridTexts
        A cell is refused when, for some prompt, truncation leaves the same tokens as fewer repeats
        do: its number of repeats then means nothing.

    Raises
    ------
    ValueError
        When a statement has no tokens, or a cell has less than two tokens before or after its cut.
    """
    parts = [[np.asarray(encode(text), np.int64) for text in pieces(s)] for s in STATEMENTS]
    parts = parts[:prompts]
    periods = tuple(np.concatenate(part) for part in parts)
    for statement, period in zip(STATEMENTS, periods, strict=False):
        if not len(period):
            raise ValueError(f"the tokenizer gives no tokens for {statement[0]!r}: use another one")
    size_N = np.array([len(period) for period in periods])
    cells, refused, lengths, cuts = [], [], [], []
    for ratio, times in product(adapt_ratios, repeats):
        copied = {r: int((r * size_N >= max_tokens).sum()) for r in repeats if r < times}
        same = next((r for r, prompts in copied.items() if prompts), None)
        if same is not None:
            refused.append(Refused(ratio=ratio, repeats=times, same_as=same, prompts=copied[same]))
            continue
        length_N = np.minimum(times * size_N, max_tokens)
        cells.append((ratio, times))
        lengths.append(length_N)
        cuts.append(_cut(length_N, ratio, times))
    return GridTexts(
        periods=periods,
        ends=tuple(tuple(np.cumsum([len(p) for p in part]).tolist()) for part in parts),
        cells=tuple(cells),
        refused=tuple(refused),
        length_CN=np.stack(lengths),
        adapted_CN=np.stack(cuts),
        max_tokens=max_tokens,
    )


def _cut(length_N: Ints, ratio: float, repeats: int) -> Ints:
    """Return how many tokens of each text are its first part."""
    cut_N = np.round(ratio * length_N).astype(np.int64)
    least = int(np.minimum(cut_N, length_N - cut_N).min())
    if least < 2:
        raise ValueError(
            f"adapt ratio {ratio:g} of {repeats} repeats leaves {least} tokens on one side of "
            "its cut, at least 2 are needed: raise repeats or max_tokens"
        )
    return cut_N


@dataclass(frozen=True, kw_only=True)
class Context:
    """One stream to adapt to, for one prompt."""

    kind: Literal["own"] | Control
    """The prompt's own text, or what stands in for it."""
    trial: int
    """Which draw; 0 for the own text."""
    prompt: int
    """Whose context it is."""
    tokens_T: Ints
    """Its beginnings of `adapted_CN[:, prompt]` tokens are the cells' contexts."""


def contexts_of(
    texts: GridTexts,
    controls: Sequence[Control],
    *,
    trials: int,
    vocabulary: Ints,
    generator: np.random.Generator,
) -> tuple[Context, ...]:
    """Draw every context that the grid adapts to, own ones first.

    Parameters
    ----------
    texts : GridTexts
        The prompts.
    controls : sequence of str
        Kinds drawn besides the own text.
    trials : int
        Draws of each.
    vocabulary : int array (V,)
        Ids that random tokens are drawn from.
    generator : numpy.random.Generator
        Source of the draws; networks are compared on the same ones.

    Raises
    ------
    ValueError
        When a statement gives no control of a kind, for example none of its sentences differ.
    """
    prompts = range(len(texts.periods))
    found = [
        Context(kind="own", trial=0, prompt=p, tokens_T=texts.stream(p, texts.longest(p)))
        for p in prompts
    ]
    for trial, kind, prompt in product(range(trials), controls, prompts):
        tokens_T = _stream(texts, kind, prompt, vocabulary, generator)
        found.append(Context(kind=kind, trial=trial, prompt=prompt, tokens_T=tokens_T))
    return tuple(found)


def _stream(
    texts: GridTexts, kind: Control, prompt: int, vocabulary: Ints, generator: np.random.Generator
) -> Ints:
    """Draw one control stream, as long as the prompt's longest context."""
    length = texts.longest(prompt)
    own_T = texts.stream(prompt, length)
    cuts = np.unique(texts.adapted_CN[:, prompt]).tolist()
    nested = kind in ("shuffled", "sentences")
    others = [texts.stream(p, length) for p in range(len(texts.periods)) if p != prompt]
    drawn = []
    for start, stop in pairwise([0, *cuts] if nested else [0, length]):
        made = control(
            kind,
            own_T[start:stop],
            others=others,
            sentence_ends=texts.ends_at(prompt, length)[start:stop],
            vocabulary=vocabulary,
            generator=generator,
        )
        if made.ids is None and not drawn:
            raise ValueError(
                f"statement {STATEMENTS[prompt][0]!r} gives no context of kind {kind}: "
                f"{made.reason}; raise adapt_ratios or max_tokens"
            )
        # A short piece further on may have one order only; what is before it is rearranged.
        drawn.append(own_T[start:stop] if made.ids is None else made.ids)
    return np.concatenate(drawn)
