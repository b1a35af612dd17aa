"""Text <-> token ids: one tokenizer file, with marks for who speaks and where a talk ends.

Our own tokenizers have the marks as special tokens. SmolLM2's keeps its vocabulary, so there a
mark is the opening of its own chat format: a special token and a word. A text can never contain
a special token: what looks like one is encoded as plain characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mneme.core.config import ConfigError

Ids = NDArray[np.int32]
OUR_MARKS = ("<|user|>", "<|assistant|>", "<|end|>")
CHAT_MARKS = ("<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>")
"""Marks in a tokenizer without ours: the chat format that SmolLM2's vocabulary was made for."""


@dataclass(frozen=True)
class Marks:
    """Token ids of each mark, 1-D int32."""

    user: Ids
    """Before a turn of the first speaker."""
    assistant: Ids
    """Before a turn of the second speaker."""
    end: Ids
    """After the last turn."""

    @property
    def stops(self) -> tuple[int, ...]:
        """Return the ids that end a turn: each mark's first token, ascending."""
        return tuple(sorted({int(ids[0]) for ids in (self.user, self.assistant, self.end)}))


class Codec:
    """A tokenizer and its marks, from the text of a `tokenizer.json`.

    Raises
    ------
    ConfigError
        The text is no tokenizer, or it has neither our special tokens nor the chat format's.
    """

    def __init__(self, tokenizer: str) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer: Any = Tokenizer.from_str(tokenizer)
        except Exception as error:  # the library raises plain Exception
            raise ConfigError(
                f"the tokenizer is damaged ({error}): delete its file and run snakemake again"
            ) from None
        self.json = tokenizer
        """Text of the `tokenizer.json`."""
        self.vocabulary: int = self._tokenizer.get_vocab_size()
        """Number of token ids, special ones included."""
        added = json.loads(tokenizer)["added_tokens"]
        self.specials = tuple(sorted(token["id"] for token in added if token["special"]))
        """Ids of special tokens, ascending."""
        self.marks = self._marks()
        # Only now: from here on, marks in a text are plain characters.
        self._tokenizer.encode_special_tokens = True

    def _marks(self) -> Marks:
        ours = all(self._tokenizer.token_to_id(mark) is not None for mark in OUR_MARKS)
        coded = [self.encode(mark) for mark in (OUR_MARKS if ours else CHAT_MARKS)]
        if not all(int(ids[0]) in self.specials for ids in coded):
            raise ConfigError(
                f"the tokenizer has neither the special tokens {' '.join(OUR_MARKS)} nor those of "
                "a chat format: choose bpe, bytes or smollm2"
            )
        return Marks(*coded)

    @property
    def plain_ids(self) -> NDArray[np.int64]:
        """Return all ids but the special ones, ascending."""
        return np.setdiff1d(np.arange(self.vocabulary), self.specials)

    def encode(self, text: str) -> Ids:
        """Encode plain text, shape (T,); nothing is added."""
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Encode many texts."""
        coded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [np.asarray(one.ids, np.int32) for one in coded]

    def decode(self, ids: ArrayLike) -> str:
        """Decode ids, special tokens included; the inverse of `encode`.

        Bytes that are no UTF-8 (a character cut in two) become U+FFFD.
        """
        listed = np.asarray(ids).tolist()
        return self._tokenizer.decode(listed, skip_special_tokens=False)

    def pieces(self) -> list[bytes]:
        """Return the bytes of every id: joined over a text's ids, its UTF-8."""
        letters = _byte_letters()
        special = set(self.specials)
        pieces = []
        for i in range(self.vocabulary):
            token = self._tokenizer.id_to_token(i)
            whole = i in special
            pieces.append(token.encode() if whole else bytes(letters[sign] for sign in token))
        return pieces

    def dialogue(self, turns: Iterable[str], *, ended: bool) -> tuple[Ids, NDArray[np.int64]]:
        """Encode a conversation: a mark before each turn, the first speaker being the user.

        Parameters
        ----------
        turns : iterable of str
            The two speakers' turns, alternating.
        ended : bool
            Whether the end mark follows the last turn.

        Returns
        -------
        ids : ndarray (T,), int32
            Tokens.
        starts : ndarray (turns,), int64
            Where each turn's mark begins.
        """
        marks = (self.marks.user, self.marks.assistant)
        parts = [
            np.concatenate([marks[i % 2], coded])
            for i, coded in enumerate(self.encode_batch(list(turns)))
        ]
        starts = np.cumsum([0, *(len(part) for part in parts)])[: len(parts)]
        tail = [self.marks.end] if ended else []
        return np.concatenate([*parts, *tail]), starts.astype(np.int64)


def _byte_letters() -> dict[str, int]:
    """Return which byte each letter of a byte-level vocabulary stands for (GPT-2's alphabet)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + i): byte for i, byte in enumerate(others)}


def train_bpe(texts: Iterable[str], *, vocabulary: int) -> str:
    """Train a byte-level BPE; return its `tokenizer.json`.

    Parameters
    ----------
    texts : iterable of str
        Training texts.
    vocabulary : int
        Tokens, our special ones (ids 0, 1, 2) included.

    References
    ----------
    Sennrich et al. 2016 (BPE); Radford et al. 2019 (on bytes).
    """
    from tokenizers import models, pre_tokenizers, trainers

    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(OUR_MARKS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocabulary:
        raise ConfigError(
            f"vocabulary must be at most {tokenizer.get_vocab_size()} for so little text, "
            f"got {vocabulary}"
        )
    return tokenizer.to_str()


def byte_tokenizer() -> str:
    """Return the `tokenizer.json` of the 256 bytes and our special tokens, ids 0 to 258."""
    from tokenizers import models

    vocabulary = {mark: i for i, mark in enumerate(OUR_MARKS)}
    letters = sorted(_byte_letters().items(), key=lambda item: item[1])
    vocabulary |= {letter: len(OUR_MARKS) + byte for letter, byte in letters}
    tokenizer = _byte_level(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(list(OUR_MARKS))
    return tokenizer.to_str()


def _byte_level(model: Any) -> Any:
    from tokenizers import Tokenizer, decoders, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
