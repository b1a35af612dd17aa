"""Plays and conversations -> token arrays, split by play and by conversation, and a tokenizer.

Everything that is fitted (the vocabulary) sees training texts only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mneme.core.config import ConfigError
from mneme.core.corpora import Document
from mneme.core.seeds import numpy_generator
from mneme.ttt.codec import Codec, Ids, byte_tokenizer, train_bpe
from mneme.ttt.corpus_config import KINDS, SPLITS, CorpusConfig

_WORD = re.compile(r"[^\W_]+")
_SIGNED = re.compile(r"[^\W_]+(?:[!@$+][^\W_]+)*")
_LEET = str.maketrans("4@10357$!", "aaioestsi")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What rule `ttt_prepare` makes."""

    arrays: dict[str, np.ndarray]
    """`ids` (tokens,) int32: documents one after the other; `offsets` (D + 1,) int64; `kind`,
    `split` (D,) int8, numbers in `corpus_config.KINDS` and `SPLITS`; `group` (D,) int32, a number
    of its own for each document; `names` (D,) text: play or conversation; `turns` int64: where in
    `ids` each turn's mark begins; `turn_offsets` (D + 1,) int64, empty spans for plays;
    `vocabulary` () int64."""
    tokenizer: str
    """Text of the `tokenizer.json`."""
    facts: dict[str, Any]
    """Documents, tokens and bytes a token by split and kind; conversations left out, and why."""


def prepare(
    documents: Mapping[str, Sequence[Document]], config: CorpusConfig, *, tokenizer: str | None
) -> Prepared:
    """Make one corpus.

    Parameters
    ----------
    documents : mapping of str to sequence of Document
        Source (shakespeare, chitchat, daily_dialog) -> scenes or conversations, at least those
        of `config.sources`.
    config : CorpusConfig
        Settings.
    tokenizer : str or None
        Text of SmolLM2's `tokenizer.json`; needed for `smollm2` only.

    Raises
    ------
    ConfigError
        Too few plays or conversations to split, too little text for the vocabulary, or no
        tokenizer for `smollm2`.
    """
    texts, left_out = _texts(documents, config)
    codec = _codec(texts, config, tokenizer)
    coded = [_encode(codec, text) for text in texts]
    arrays = _arrays(texts, coded, codec)
    sizes = np.asarray([len(text.text.encode()) for text in texts])
    facts = {"vocabulary": codec.vocabulary, **left_out, "parts": _parts(arrays, sizes)}
    return Prepared(arrays=arrays, tokenizer=codec.json, facts=facts)


@dataclass(frozen=True, kw_only=True)
class _Text:
    kind: str
    name: str
    split: int
    text: str


def _texts(
    documents: Mapping[str, Sequence[Document]], config: CorpusConfig
) -> tuple[list[_Text], dict[str, int]]:
    """Return the texts with their splits, and how many conversations were left out and why.

    The split is dealt before anything is left out, so that the filter moves no text from one
    part to another.
    """
    named: dict[str, dict[str, str]] = {}
    for kind, source in config.source_of.items():
        if kind == "play":
            named[kind] = plays(documents[source])
        else:
            named[kind] = {talk.group: talk.text for talk in documents[source]}
            assert len(named[kind]) == len(documents[source])
    listed = offensive(config.harmless) if config.drop_offensive else None
    texts, short, offending = [], 0, 0
    for kind, texts_of_kind in named.items():
        of_kind = dict(list(texts_of_kind.items())[: config.limit])
        generator = numpy_generator(config.seed, "split", kind)
        split = split_of(len(of_kind), config, generator=generator)
        for (name, text), part in zip(of_kind.items(), split, strict=True):
            if kind == "conversation" and text.count("\n") + 1 < config.min_turns:
                short += 1
            elif kind == "conversation" and listed and listed.found(text):
                offending += 1
            else:
                texts.append(_Text(kind=kind, name=name, split=int(part), text=text))
        _require_all_parts(texts, kind)
    return texts, {"dropped_short": short, "dropped_offensive": offending}


def _require_all_parts(texts: Sequence[_Text], kind: str) -> None:
    for number, split in enumerate(SPLITS):
        if not any(text.kind == kind and text.split == number for text in texts):
            raise ConfigError(
                f"no {kind} is left for {split}: add documents, lower min_turns or set "
                "drop_offensive to false"
            )


def plays(scenes: Iterable[Document]) -> dict[str, str]:
    """Join the scenes of each play in order, a blank line between two; play -> text."""
    parts: dict[str, list[str]] = defaultdict(list)
    for scene in scenes:
        parts[scene.group].append(scene.text)
    return {play: "\n\n".join(texts) for play, texts in parts.items()}


@dataclass(frozen=True)
class Offensive:
    """Words and phrases, in lower case, that a conversation must not hold."""

    words: frozenset[str]
    """Single words, some with signs for letters."""
    phrases: tuple[str, ...]
    """Words joined by one space."""

    def found(self, text: str) -> set[str]:
        """Return what a text holds: whole words, also with figures or signs for letters."""
        signed = _SIGNED.findall(text.lower())
        plain = [word for one in signed for word in _plain(one)]
        odd = [one for one in signed if not one.isalpha()]
        tokens = {*plain, *odd, *(one.translate(_LEET) for one in odd)}
        # A phrase's words may stand apart by any signs or spaces.
        joined = f" {' '.join(plain)} "
        return (tokens & self.words) | {p for p in self.phrases if f" {p} " in joined}


def _plain(signed: str) -> list[str]:
    return [signed] if signed.isalpha() else _WORD.findall(signed)


def offensive(harmless: Iterable[str]) -> Offensive:
    """Return the words and phrases of better-profanity's list, the harmless ones left out.

    Raises
    ------
    ConfigError
        A word said to be harmless is not in the list.
    """
    from better_profanity import Profanity

    listed = {str(word) for word in Profanity().CENSOR_WORDSET}
    unknown = sorted(set(harmless) - listed)
    if unknown:
        raise ConfigError(
            f"harmless names {', '.join(unknown)}, which the list of offensive words does not "
            "hold: take it out"
        )
    kept = sorted(listed - set(harmless))
    single = frozenset(word for word in kept if _SIGNED.fullmatch(word))
    phrases = {" ".join(_WORD.findall(word)) for word in kept if word not in single}
    return Offensive(words=single, phrases=tuple(sorted(p for p in phrases if " " in p)))


def split_of(documents: int, config: CorpusConfig, *, generator: np.random.Generator) -> np.ndarray:
    """Deal documents to train (0), validation (1) and test (2); shape (documents,), int8.

    Raises
    ------
    ConfigError
        Fewer than three documents, or with `test_part` first fewer to train on than to test on.
    """
    if documents < 3:
        raise ConfigError(
            f"the corpus holds {documents} documents of a kind, at least 3 are needed to split it "
            "into train, validation and test: add documents"
        )
    first = min(max(1, round(documents * config.train_share)), documents - 2)
    second = round(documents * (config.train_share + config.validation_share))
    second = min(max(first + 1, second), documents - 1)
    order = generator.permutation(documents)
    split = np.full(documents, 2, np.int8)
    split[order[:first]] = 0
    split[order[first:second]] = 1
    if config.test_part == "first":
        tests = documents - second
        if tests > first:
            raise ConfigError(
                f"test_part first needs as many documents to train on as to test on, {documents} "
                f"give {first} and {tests}: raise train_share"
            )
        split[order[second:]] = 0
        split[order[:tests]] = 2
    return split


def _codec(texts: Sequence[_Text], config: CorpusConfig, tokenizer: str | None) -> Codec:
    if config.tokenizer == "bytes":
        return Codec(byte_tokenizer())
    if config.tokenizer == "smollm2":
        if tokenizer is None:
            raise ConfigError("tokenizer smollm2 needs the tokenizer.json of SmolLM2: none given")
        return Codec(tokenizer)
    assert config.vocabulary is not None
    train = (line for text in texts if text.split == 0 for line in text.text.splitlines(True))
    return Codec(train_bpe(train, vocabulary=config.vocabulary))


def _encode(codec: Codec, text: _Text) -> tuple[Ids, np.ndarray]:
    if text.kind == "conversation":
        return codec.dialogue(text.text.split("\n"), ended=True)
    return codec.encode(text.text), np.zeros(0, np.int64)


def _arrays(
    texts: Sequence[_Text], coded: Sequence[tuple[Ids, np.ndarray]], codec: Codec
) -> dict[str, np.ndarray]:
    ids, turns = zip(*coded, strict=True)
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    return {
        "ids": np.concatenate(ids).astype(np.int32),
        "offsets": offsets,
        "kind": np.asarray([KINDS.index(text.kind) for text in texts], np.int8),
        "split": np.asarray([text.split for text in texts], np.int8),
        "group": np.arange(len(texts), dtype=np.int32),
        "names": np.asarray([text.name for text in texts]),
        "turns": np.concatenate([t + o for t, o in zip(turns, offsets[:-1], strict=True)]),
        "turn_offsets": np.cumsum([0, *map(len, turns)], dtype=np.int64),
        "vocabulary": np.asarray(codec.vocabulary, np.int64),
    }


def _parts(arrays: Mapping[str, np.ndarray], sizes: np.ndarray) -> list[dict[str, Any]]:
    """Count documents, tokens and bytes of text a token by split and kind."""
    lengths = np.diff(arrays["offsets"])
    rows = []
    for k in np.unique(arrays["kind"]):
        for s, split in enumerate(SPLITS):
            here = (arrays["kind"] == k) & (arrays["split"] == s)
            tokens = int(lengths[here].sum())
            rows.append(
                {
                    "kind": KINDS[k],
                    "split": split,
                    "documents": int(here.sum()),
                    "tokens": tokens,
                    "longest": int(lengths[here].max()),
                    "bytes_per_token": float(sizes[here].sum() / tokens),
                }
            )
    return rows
