"""Settings of the room's corpora: real text, and documents of random Markov chains."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mneme.core.config import require

TokenizerName = Literal["bpe", "smollm2", "bytes"]
KINDS = ("play", "conversation")
"""Kinds of documents: numbers 0 and 1 of the array `kind`."""
KIND_OF = {"shakespeare": "play", "chitchat": "conversation", "daily_dialog": "conversation"}
"""Names of corpora under `resources/corpora` -> kind of their documents."""
SPLITS = ("train", "validation", "test")
"""Numbers 0, 1 and 2 of the array `split`."""
TestPart = Literal["first", "last"]
SPECIALS = 3
"""Special tokens of our own tokenizers: user, assistant, end."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Plays and conversations as tokens, split by play and by conversation."""

    tokenizer: TokenizerName
    """bpe: byte-level BPE trained on the training texts; bytes: the 256 bytes; smollm2: the
    tokenizer of SmolLM2 (49,152 tokens)."""
    vocabulary: int | None
    """Tokens of `bpe`, the 3 special ones included, at least 259; null for the others."""
    sources: dict[str, float]
    """shakespeare (plays), chitchat or daily_dialog (conversations; the latter is fetched from the
    hub) -> share of the training sequences; sum 1, one source a kind at most."""
    train_share: float
    """Share of plays, and of conversations, to train on."""
    validation_share: float
    """Share for validation; the rest is for tests."""
    test_part: TestPart
    """Which documents are for tests, of the order that the seed deals: last, those that follow
    training's and validation's; first, as many from the front, and training has the last ones
    instead. Validation is the same in both, and no document is for tests in both."""
    min_turns: int
    """Fewest turns of a conversation, at least 2."""
    drop_offensive: bool
    """Whether conversations with a word of better-profanity's list are left out."""
    harmless: tuple[str, ...]
    """Words of that list, in lower case, that are no reason to leave a conversation out."""
    limit: int | None
    """Plays, and conversations, that are used at most, the first so many; null: all."""
    seed: int
    """Seed of the split."""

    def __post_init__(self) -> None:
        few = self.limit is None or self.limit >= 3
        require(few, "limit", "null or at least 3 (to train, validate and test)", self.limit)
        ours = self.tokenizer == "bpe"
        rule = f"at least {256 + SPECIALS}" if ours else f"null for {self.tokenizer}"
        least = self.vocabulary is not None and self.vocabulary >= 256 + SPECIALS
        require(least if ours else self.vocabulary is None, "vocabulary", rule, self.vocabulary)
        known = bool(self.sources) and set(self.sources) <= set(KIND_OF)
        require(known, "sources", f"some of {', '.join(KIND_OF)}", list(self.sources))
        apart = len({KIND_OF[source] for source in self.sources}) == len(self.sources)
        require(apart, "sources", "one of plays and one of conversations", list(self.sources))
        shares = self.sources.values()
        whole = min(shares) > 0 and abs(sum(shares) - 1) < 1e-9
        require(whole, "sources", "shares above 0 with sum 1", self.sources)
        for name in ("train_share", "validation_share"):
            require(0 < getattr(self, name) < 1, name, "between 0 and 1", getattr(self, name))
        both = self.train_share + self.validation_share
        require(both < 1, "train_share", "below 1 together with validation_share", self.train_share)
        room = self.test_part == "last" or self.train_share >= 1 - both
        rule = "last, or there must be as many to train on as to test on"
        require(room, "test_part", rule, self.test_part)
        require(self.min_turns >= 2, "min_turns", "at least 2", self.min_turns)
        low = all(word == word.lower() for word in self.harmless)
        require(low, "harmless", "in lower case", self.harmless)

    @property
    def source_of(self) -> dict[str, str]:
        """Return kind -> the source of its documents, kinds in their order."""
        named = {KIND_OF[source]: source for source in self.sources}
        return {kind: named[kind] for kind in KINDS if kind in named}


@dataclass(frozen=True, kw_only=True)
class DailyDialogConfig:
    """Where the corpus `daily_dialog` is had: a data set of the hub, fetched where it is used."""

    name: str
    """Hub id (org/name)."""
    revision: str
    """Commit, 40 hex digits."""
    files: tuple[str, ...]
    """Parquet files with a column `dialog`, a list of turns a row."""

    def __post_init__(self) -> None:
        named = re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", self.name) is not None
        require(named, "name", "a hub id (org/name)", self.name)
        pinned = re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None
        require(pinned, "revision", "a commit of 40 hex digits", self.revision)
        whole = bool(self.files) and len(set(self.files)) == len(self.files)
        require(whole, "files", "one or more different ones", self.files)


@dataclass(frozen=True, kw_only=True)
class FewStatesConfig:
    """Documents that training begins with: short chains of few symbols, a new choice each.

    They bring a plain window off its plateau (docs/log.md): to look back for what followed a
    symbol pays little on long documents of many symbols before it is done well.
    """

    steps: int
    """First training steps that read them, in all arms alike; 0: none."""
    symbols: int
    """Symbols of a document, at least 2."""
    concentration: float
    """Of the prior of each row of its transition matrix, above 0."""
    tokens: int
    """Predicted tokens of a document; as many more documents a step, so that tokens stay equal."""

    def __post_init__(self) -> None:
        require(self.steps >= 0, "steps", "at least 0", self.steps)
        require(self.symbols >= 2, "symbols", "at least 2", self.symbols)
        require(self.concentration > 0, "concentration", "above 0", self.concentration)
        require(self.tokens >= 2, "tokens", "at least 2", self.tokens)


@dataclass(frozen=True, kw_only=True)
class MarkovConfig:
    """Every document its own Markov chain; the ideal learner's loss is known.

    How many documents and how long they are is asked by training and measuring.
    """

    symbols: int
    """Symbols V, at least 2."""
    concentration: float
    """Of the symmetric Dirichlet prior of each row of the transition matrix, above 0."""
    seed: int
    """Seed of the validation documents."""
    test_seed: int
    """Seed of the test documents."""
    begin: FewStatesConfig
    """What training begins with."""

    def __post_init__(self) -> None:
        require(self.symbols >= 2, "symbols", "at least 2", self.symbols)
        few = self.begin.symbols
        require(few <= self.symbols, "begin.symbols", f"at most symbols = {self.symbols}", few)
        require(self.concentration > 0, "concentration", "above 0", self.concentration)
