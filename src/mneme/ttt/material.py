"""What networks are trained and tested on: sequences that depend on step and seed only.

Real text (windows of plays, packed conversations) and documents of random Markov chains. A
sequence has one token more than is predicted of it. Suffixes: N documents, T predicted tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mneme.core.config import ConfigError
from mneme.core.seeds import numpy_generator
from mneme.ttt.corpus_config import KINDS, SPLITS, CorpusConfig, MarkovConfig
from mneme.ttt.markov import Floats, draw_documents

Ints = NDArray[np.int64]


class Material(Protocol):
    """Sequences to train and validate on."""

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of test documents: play, conversation; or chain."""
        ...

    def batch(self, step: int, seed: int, sequences: int, tokens: int) -> Ints:
        """Return training sequences of one step, shape (sequences, tokens + 1), or shorter ones.

        Shorter ones are as many more.
        """
        ...

    def validation(self, documents: int, tokens: int) -> Ints:
        """Return fixed validation sequences, shape (documents, tokens + 1)."""
        ...

    def test_documents(self, kind: str, tokens: int, count: int) -> tuple[Ints, Ints]:
        """Return test documents (N, tokens + 1) and the group (N,) of each."""
        ...


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """Documents of different lengths."""

    ids: Ints
    """Shape (N, longest), 0 after a document's end."""
    lengths: Ints
    """Shape (N,), tokens of each document."""
    groups: Ints
    """Shape (N,)."""


class TextMaterial:
    """Plays and conversations (arrays of `prepare`)."""

    def __init__(self, arrays: Mapping[str, np.ndarray], config: CorpusConfig) -> None:
        self.vocabulary = int(arrays["vocabulary"])
        given = {kind: config.sources[source] for kind, source in config.source_of.items()}
        self._shares = {kind: given.get(kind, 0.0) for kind in KINDS}
        self.kinds = tuple(kind for kind in KINDS if self._shares[kind] > 0)
        self._arrays = arrays
        self._train = {kind: self._documents(kind, "train") for kind in self.kinds}

    def batch(self, step: int, seed: int, sequences: int, tokens: int) -> Ints:
        """Return training sequences of one step.

        Windows of plays first, then packed conversations: whole ones after one another, the last
        cut short; of one longer than a sequence, a part that begins at a turn.

        Parameters
        ----------
        step, seed : int
            All that chance depends on.
        sequences, tokens : int
            Sequences and predicted tokens of each.

        Returns
        -------
        ndarray, shape (sequences, tokens + 1), int64

        Raises
        ------
        ConfigError
            No play is that long.
        """
        generator = numpy_generator(seed, "batch", str(step))
        wanted = self._shares.get("play", 0.0) * sequences
        plays = int(wanted + generator.random())  # its mean over steps is the share
        rows = [self._window(tokens + 1, generator) for _ in range(plays)]
        rows += [self._pack(tokens + 1, generator) for _ in range(sequences - plays)]
        return np.stack(rows).astype(np.int64)

    def validation(self, documents: int, tokens: int) -> Ints:
        """Return evenly spread windows of validation documents, kinds by their shares.

        Conversations are packed in their order. No chance is involved.
        """
        plays = round(documents * self._shares["play"])
        rows = []
        if plays:
            rows.append(self._spread(self._documents("play", "validation"), plays, tokens, "play"))
        if documents > plays:
            inside = self._documents("conversation", "validation")
            stream = np.concatenate([self._ids(d) for d in inside])
            starts = _evenly(len(stream), tokens + 1, documents - plays, "validation conversations")
            rows.append(stream[starts[:, None] + np.arange(tokens + 1)])
        return np.concatenate(rows).astype(np.int64)

    def test_documents(self, kind: str, tokens: int, count: int) -> tuple[Ints, Ints]:
        """Return test documents of equal length; no two share a token.

        Parameters
        ----------
        kind : str
            play: windows spread over all test plays; conversation: beginnings of conversations
            that are long enough, spread over them.
        tokens, count : int
            Predicted tokens of a document, and documents N.

        Returns
        -------
        ids : ndarray, shape (N, tokens + 1), int64
            Documents.
        groups : ndarray, shape (N,), int64
            Play or conversation of each.

        Raises
        ------
        ConfigError
            There are not so many.
        """
        inside = self._documents(kind, "test")
        if kind == "conversation":
            chosen = self._long(tokens + 1, count)
            ids = np.stack([self._ids(d)[: tokens + 1] for d in chosen])
            return ids.astype(np.int64), self._arrays["group"][chosen].astype(np.int64)
        ids = self._spread(inside, count, tokens, kind)
        owners = np.repeat(inside, self._deal(inside, count, tokens + 1, kind))
        return ids.astype(np.int64), self._arrays["group"][owners].astype(np.int64)

    def test_conversations(self, least: int, most: int, count: int) -> Ragged:
        """Return test conversations of at least `least` predicted tokens, cut after `most`.

        Raises
        ------
        ConfigError
            There are not `count` of them.
        """
        chosen = self._long(least + 1, count)
        parts = [self._ids(d)[: most + 1] for d in chosen]
        lengths = np.asarray([len(part) for part in parts])
        ids = np.zeros((len(parts), int(lengths.max())), np.int64)
        for row, part in zip(ids, parts, strict=True):
            row[: len(part)] = part
        return Ragged(ids=ids, lengths=lengths, groups=self._arrays["group"][chosen].astype(int))

    def _documents(self, kind: str, split: str) -> Ints:
        of_kind = self._arrays["kind"] == KINDS.index(kind)
        return np.flatnonzero(of_kind & (self._arrays["split"] == SPLITS.index(split)))

    def _ids(self, document: int) -> np.ndarray:
        start, end = self._arrays["offsets"][document : document + 2]
        return self._arrays["ids"][start:end]

    def _lengths(self, documents: Ints) -> Ints:
        return np.diff(self._arrays["offsets"])[documents]

    def _window(self, length: int, generator: np.random.Generator) -> np.ndarray:
        """Cut one window of a training play, every window equally likely."""
        plays = self._train["play"]
        windows = np.maximum(self._lengths(plays) - length + 1, 0)
        if not windows.any():
            longest = int(self._lengths(plays).max())
            raise ConfigError(f"tokens must be below {longest}, the longest play, got {length - 1}")
        at = int(generator.integers(windows.sum()))
        last = np.cumsum(windows)
        play = int(np.searchsorted(last, at, side="right"))
        start = at - int(last[play] - windows[play])
        return self._ids(plays[play])[start : start + length]

    def _pack(self, length: int, generator: np.random.Generator) -> np.ndarray:
        """Fill a sequence with training conversations."""
        talks = self._train["conversation"]
        # Short ones are read whole, of long ones a part: tokens are about equally likely to be met.
        last = np.cumsum(np.maximum(self._lengths(talks), length))
        parts, room = [], length
        while room > 0:
            at = int(generator.integers(last[-1]))
            talk = talks[np.searchsorted(last, at, side="right")]
            ids = self._ids(talk)
            if len(ids) > length:
                ids = ids[self._turn(talk, length, generator) :]
            parts.append(ids[:room])
            room -= len(parts[-1])
        return np.concatenate(parts)

    def _turn(self, talk: int, length: int, generator: np.random.Generator) -> int:
        """Choose a turn of a long conversation that a whole sequence can begin with."""
        first, last = self._arrays["turn_offsets"][talk : talk + 2]
        turns = self._arrays["turns"][first:last] - self._arrays["offsets"][talk]
        usable = turns[turns <= len(self._ids(talk)) - length]
        return int(generator.choice(usable))

    def _long(self, length: int, count: int) -> Ints:
        inside = self._documents("conversation", "test")
        inside = inside[self._lengths(inside) >= length]
        if not 1 <= count <= len(inside):
            raise ConfigError(
                f"{count} test conversations of {length} tokens were asked, there are "
                f"{len(inside)}: ask for fewer or for shorter ones"
            )
        return inside[np.linspace(0, len(inside) - 1, count).round().astype(int)]

    def _deal(self, plays: Ints, count: int, length: int, kind: str) -> Ints:
        """Tell how many windows each play gives: as equal as their lengths allow."""
        room = self._lengths(plays) // length
        if not 1 <= count <= room.sum():
            raise ConfigError(
                f"{count} {kind} documents of {length} tokens were asked, there are "
                f"{int(room.sum())}: ask for fewer or for shorter ones"
            )
        given = np.zeros_like(room)
        while given.sum() < count:
            open_ = np.flatnonzero(given < room)
            fewest = open_[given[open_] == given[open_].min()]
            given[fewest[: count - given.sum()]] += 1
        return given

    def _spread(self, plays: Ints, count: int, tokens: int, kind: str) -> np.ndarray:
        rows = []
        for play, windows in zip(plays, self._deal(plays, count, tokens + 1, kind), strict=True):
            if windows:
                ids = self._ids(play)
                starts = _evenly(len(ids), tokens + 1, int(windows), kind)
                rows.append(ids[starts[:, None] + np.arange(tokens + 1)])
        return np.concatenate(rows)


def _evenly(available: int, length: int, count: int, what: str) -> Ints:
    """Return where `count` windows begin that lie evenly and do not overlap."""
    if count * length > available:
        raise ConfigError(
            f"{count} windows of {length} tokens were asked of {what}, which have {available} "
            "tokens: ask for fewer or for shorter ones"
        )
    if count == 1:
        return np.asarray([(available - length) // 2])
    return np.floor(np.linspace(0, available - length, count)).astype(np.int64)


def text_material(arrays: Mapping[str, np.ndarray], config: CorpusConfig) -> TextMaterial:
    """Return the sequences of one prepared corpus."""
    return TextMaterial(arrays, config)


@dataclass(frozen=True)
class MarkovMaterial:
    """Documents of random chains: each has a transition matrix that no other one has."""

    config: MarkovConfig
    """Symbols, prior and the seeds of fixed documents."""

    @property
    def vocabulary(self) -> int:
        """Return the number of symbols."""
        return self.config.symbols

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the one kind of documents."""
        return ("chain",)

    def batch(self, step: int, seed: int, sequences: int, tokens: int) -> Ints:
        """Return new documents, shape (sequences, tokens + 1), int64.

        In the first steps, of `begin`: as many times more as they are shorter, of few symbols.
        """
        generator, few = numpy_generator(seed, "batch", str(step)), self.config.begin
        if step >= few.steps:
            return self._draw(generator, sequences, tokens)[0]
        count = sequences * (tokens // few.tokens)
        law = {"symbols": few.symbols, "concentration": few.concentration}
        ids, _ = draw_documents(count, few.tokens, **law, generator=generator)
        chosen = np.argsort(generator.random((count, self.config.symbols)), axis=1)
        return np.take_along_axis(chosen, ids, axis=1)

    def validation(self, documents: int, tokens: int) -> Ints:
        """Return fixed documents, shape (documents, tokens + 1), int64."""
        generator = numpy_generator(self.config.seed, "validation")
        return self._draw(generator, documents, tokens)[0]

    def test_documents(self, kind: str, tokens: int, count: int) -> tuple[Ints, Ints]:
        """Return fixed documents (count, tokens + 1); each is a group of its own."""
        assert kind == "chain", kind
        return self.test_chains(tokens, count)[0], np.arange(count)

    def test_chains(self, tokens: int, count: int) -> tuple[Ints, Floats]:
        """Return the documents of `test_documents` and their matrices (count, V, V)."""
        return self._draw(numpy_generator(self.config.test_seed, "test"), count, tokens)

    def _draw(
        self, generator: np.random.Generator, documents: int, tokens: int
    ) -> tuple[Ints, Floats]:
        return draw_documents(
            documents,
            tokens,
            symbols=self.config.symbols,
            concentration=self.config.concentration,
            generator=generator,
        )


def markov_material(config: MarkovConfig) -> MarkovMaterial:
    """Return documents of random chains."""
    return MarkovMaterial(config)
