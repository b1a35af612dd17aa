"""A conversation with a network that goes on learning from what it reads.

Every turn opens with an empty key-value cache. The last exchanges are read again, with the fast
weights as they are, only to refill the cache; the newest turn and its reply are read once and
learned from, the last incomplete chunk included. So each exchange is learned from exactly once, and
fast weights are what a turn leaves behind: what the prompt has no room for lives on in them alone.

Nothing here reads or writes files: lines come in, pieces of text go out.

Legend: B batch (always 1), T position, V vocabulary.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mneme.ttt.chat_config import ChatConfig
from mneme.ttt.codec import Codec, Marks
from mneme.ttt.config import TTT_ARMS, InnerConfig
from mneme.ttt.decoder import begin, extend, flush, generate, learning
from mneme.ttt.fast import FastWeights
from mneme.ttt.model import TTTTransformer
from mneme.ttt.sampling import sample

HELP = """\
Type a turn and press Enter; the reply streams.
  /reset       forget everything: fast weights as trained, empty history
  /save PATH   save fast weights and history; mneme chat --load PATH goes on from there
  /help        this text
Ctrl-D or Ctrl-C ends."""
_NAMES = ("help", "reset", "save")
_HISTORY, _FAST = "history", "fast/"


class ChatError(ValueError):
    """A line that cannot be answered, or a saved chat that does not fit: one sentence."""


class Command(NamedTuple):
    """A line that is not said to the network."""

    name: Literal["help", "reset", "save"]
    argument: str
    """Path of `save`, else empty."""


class Exchange(NamedTuple):
    """A turn and its reply, token ids without the marks around them."""

    turn: tuple[int, ...]
    reply: tuple[int, ...]


def parse(line: str) -> Command | None:
    """Tell a command from a turn (None).

    Raises
    ------
    ChatError
        A blank line, an unknown command, or one with too little or too much after it; bytes that
        are no text.
    """
    line = line.strip()
    try:
        line.encode()
    except UnicodeEncodeError:
        raise ChatError("this line is not UTF-8: type it again") from None
    if not line:
        raise ChatError("the prompt is empty: type something, or /help")
    if not line.startswith("/"):
        return None
    name, _, argument = line[1:].partition(" ")
    argument = argument.strip()
    for known in _NAMES:
        if name == known:
            if (known == "save") != bool(argument):
                wanted = "a path after it" if known == "save" else "nothing after it"
                raise ChatError(f"/{known} takes {wanted}, got {argument!r}")
            return Command(known, argument)  # type: ignore[arg-type]
    raise ChatError(f"there is no command /{name}: the commands are /help, /reset, /save PATH")


def exchange_ids(exchange: Exchange, marks: Marks) -> list[int]:
    """Return an exchange as the network reads it, up to the mark of the next turn."""
    return [*marks.user.tolist(), *exchange.turn, *marks.assistant.tolist(), *exchange.reply]


def prompt_ids(
    history: Sequence[Exchange], turn: Sequence[int], marks: Marks, config: ChatConfig
) -> tuple[list[int], list[int]]:
    """Cut the history so that the prompt fits; the newest turn is always whole.

    Returns
    -------
    past : list of int
        The newest exchanges, at most `config.exchanges`, that leave room for the turn.
    new : list of int
        The turn, up to where the reply begins.

    Raises
    ------
    ChatError
        The turn alone is longer than the limit.
    """
    new = exchange_ids(Exchange(tuple(turn), ()), marks)
    room = config.prompt_tokens - len(new)
    if room < 0:
        raise ChatError(
            f"this turn takes {len(new)} tokens and a prompt may have {config.prompt_tokens}: "
            "write a shorter one, or raise ttt.chat.prompt_tokens"
        )
    past: list[int] = []
    for exchange in reversed(history[max(0, len(history) - config.exchanges) :]):
        ids = exchange_ids(exchange, marks)
        if len(past) + len(ids) > room:
            break
        past = [*ids, *past]
    return past, new


class TextStream:
    """Token ids -> text as soon as its characters are whole; one may span several tokens.

    Parameters
    ----------
    codec : Codec
        Tokenizer. Its special tokens give no text.
    """

    def __init__(self, codec: Codec) -> None:
        self._pieces = codec.pieces()
        for special in codec.specials:
            self._pieces[special] = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Take one id; returns the text that is complete by now, possibly empty."""
        return self._decoder.decode(self._pieces[token])

    def finish(self) -> str:
        """End the text: returns U+FFFD where its last character was never completed."""
        return self._decoder.decode(b"", final=True)


class Chat:
    """One conversation: history, fast weights, and replies.

    Parameters
    ----------
    model : TTTTransformer
        Network, an adapter merged into it or not.
    codec : Codec
        Tokenizer that it was trained with.
    inner : InnerConfig or None
        How fast weights learn; None: they do not.
    config : ChatConfig
        Limits and sampling.
    generator : torch.Generator
        Draws the replies.
    """

    def __init__(
        self,
        model: TTTTransformer,
        codec: Codec,
        inner: InnerConfig | None,
        config: ChatConfig,
        *,
        generator: torch.Generator,
    ) -> None:
        self.model, self.codec, self.config = model, codec, config
        self.inner = inner
        self.fast: FastWeights | None = None
        """Fast weights; None: as trained."""
        self.history: list[Exchange] = []
        self._generator = generator

    @property
    def learns(self) -> bool:
        """Return whether anything is learned from what is read."""
        return self.inner is not None and self.model.arm in TTT_ARMS

    def reset(self) -> None:
        """Forget: fast weights as trained, no history."""
        self.fast, self.history = None, []

    def reply(self, line: str) -> Iterator[str]:
        """Answer a turn, piece by piece.

        History and fast weights change when the reply is complete; one that is broken off, or
        fails, leaves them as they were.

        Parameters
        ----------
        line : str
            The turn; marks in it are plain characters.

        Raises
        ------
        ChatError
            The turn is empty or too long; nothing was read.
        InnerLossError, SamplingError
            The fast weights have diverged (while pieces are taken).
        """
        if not line.strip():
            raise ChatError("the prompt is empty: type something, or /help")
        turn = tuple(self.codec.encode(line.strip()).tolist())
        past, new = prompt_ids(self.history, turn, self.codec.marks, self.config)
        return self._reply(turn, past, new)

    def _reply(self, turn: tuple[int, ...], past: list[int], new: list[int]) -> Iterator[str]:
        state = begin(self.model, 1, None, fast=self.fast)
        if past:
            _, state = extend(self.model, self._row(past), state)
        logits_BV, state = extend(self.model, self._row(new), learning(state, self.inner))
        text, reply, stops = TextStream(self.codec), [], self.codec.marks.stops
        unread: list[int] = []
        limit = self.config.reply_tokens
        drawn = generate(self.model, logits_BV, state, draw=self._draw, limit=limit)
        for token_B, before in drawn:
            token, state = int(token_B), before
            if token in stops:
                unread = []
                break
            reply, unread = [*reply, token], [token]
            yield text.push(token)
        yield text.finish()
        # Whatever ended the reply, the next thing to be read is the mark of a new turn.
        _, state = extend(self.model, self._row([*unread, *self.codec.marks.user.tolist()]), state)
        self.fast = flush(state, self.model).fast
        self.history.append(Exchange(turn, tuple(reply)))

    def _draw(self, logits_BV: Tensor) -> Tensor:
        return sample(logits_BV, self.config.sampling, generator=self._generator)

    def _row(self, ids: Sequence[int]) -> Tensor:
        device = next(self.model.parameters()).device
        return torch.tensor([ids], dtype=torch.int64, device=device)

    def save(self) -> dict[str, Tensor]:
        """Return fast weights and history as tensors that `load` takes."""
        content = {"weights": fingerprint(self.model), "history": self.history}
        text = np.frombuffer(json.dumps(content).encode(), np.uint8)
        saved = {_HISTORY: torch.from_numpy(text.copy())}
        weights = {} if self.fast is None else self.fast.save()
        return saved | {_FAST + name: tensor for name, tensor in weights.items()}

    def load(self, tensors: Mapping[str, Tensor], *, where: str) -> None:
        """Go on from a saved chat.

        Parameters
        ----------
        tensors : mapping
            What `save` returned.
        where : str
            Its file, for the messages.

        Raises
        ------
        ChatError
            The file is no saved chat, or one with another network or adapter.
        """
        try:
            content = json.loads(tensors[_HISTORY].numpy().tobytes())
            weights, history = content["weights"], _exchanges(content["history"], self.codec)
        except (KeyError, TypeError, ValueError, RecursionError):
            raise ChatError(f"{where} is no saved chat: choose a file that /save wrote") from None
        if weights != fingerprint(self.model):
            raise ChatError(
                f"{where} was saved with other weights: choose the run, seed and adapter that it "
                "was saved with"
            )
        fast = {k.removeprefix(_FAST): t for k, t in tensors.items() if k.startswith(_FAST)}
        self.fast = FastWeights.load(fast, self.model) if fast else None
        self.history = history


def _exchanges(content: Sequence[Sequence[Sequence[int]]], codec: Codec) -> list[Exchange]:
    """Return saved exchanges; raises ValueError unless every token is one of the tokenizer's."""
    ids = [token for exchange in content for text in exchange for token in text]
    if not all(type(token) is int and 0 <= token < codec.vocabulary for token in ids):
        raise ValueError("tokens of another tokenizer")
    return [Exchange(tuple(turn), tuple(reply)) for turn, reply in content]


def fingerprint(model: TTTTransformer) -> str:
    """Hash all weights: 16 hex digits of SHA-256."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
