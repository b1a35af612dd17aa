"""Decode token by token: cached keys and values, one inner update per chunk of new tokens.

A chunk's prefix outputs are kept until its last target is known; then the suffix is run again on
them, with gradients, and the fast weights take their step. Nothing else of the past is kept than
what attention may still see, so a token costs the same wherever it stands.

Legend: B batch, T position, C position in a chunk, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mneme.ttt.config import TTT_ARMS, InnerConfig
from mneme.ttt.fast import FastWeights
from mneme.ttt.inner import InnerLossError, ReaderState, learn, read
from mneme.ttt.model import Past, TTTTransformer


@dataclass(frozen=True, kw_only=True)
class DecodeState:
    """All that is kept of the tokens read so far; never changed in place."""

    fast: FastWeights | None
    """Fast weights, one set a row; None in arms that train nothing at test time."""
    inner: InnerConfig | None
    """How they learn; None leaves them as they are."""
    prefix_past: Past | None
    """Keys and values of the blocks before the fast weights; None before the first token."""
    suffix_past: Past | None
    """Keys and values of the blocks with fast weights."""
    chunk_past: Past | None
    """The same when the open chunk began."""
    x_BCD: Tensor
    """Prefix outputs of the open chunk, 0 to b of them; none where nothing learns."""
    tokens_BC: Tensor
    """Tokens of the open chunk, int64."""

    def save(self) -> dict[str, Tensor]:
        """Return plain tensors for `load`, on CPU, none larger than what it shows."""
        saved = {"x": self.x_BCD, "tokens": self.tokens_BC}
        for name in _PASTS:
            past: Past | None = getattr(self, name)
            if past is not None:
                saved[f"{name}/at"] = torch.tensor([past.held, past.position])
                for part in ("keys", "values"):
                    tensors = enumerate(getattr(past, part))
                    saved |= {f"{name}/{part}/{block}": t for block, t in tensors}
        saved |= {f"fast/{name}": w for name, w in (self.fast or {}).items()}
        return {name: t.detach().cpu().clone() for name, t in saved.items()}

    @staticmethod
    def load(
        tensors: Mapping[str, Tensor], model: TTTTransformer, inner: InnerConfig | None
    ) -> DecodeState:
        """Take up what `save` returned, where the model is.

        Parameters
        ----------
        tensors : mapping
            From `save`.
        model, inner
            As they were: neither is in the file.

        Raises
        ------
        FastWeightsError
            The fast weights belong to another model.
        """
        weight = next(model.parameters())
        fast = {n.removeprefix("fast/"): t for n, t in tensors.items() if n.startswith("fast/")}
        return DecodeState(
            fast=FastWeights.load(fast, model) if fast else None,
            inner=inner if fast else None,
            x_BCD=tensors["x"].to(weight),
            tokens_BC=tensors["tokens"].to(weight.device),
            **{name: _past_of(tensors, name, weight) for name in _PASTS},
        )


_PASTS = ("prefix_past", "suffix_past", "chunk_past")


def _past_of(tensors: Mapping[str, Tensor], name: str, weight: Tensor) -> Past | None:
    if f"{name}/at" not in tensors:
        return None
    held, position = tensors[f"{name}/at"].tolist()
    blocks = sum(key.startswith(f"{name}/keys/") for key in tensors)
    keys, values = (
        tuple(tensors[f"{name}/{part}/{block}"].to(weight) for block in range(blocks))
        for part in ("keys", "values")
    )
    return Past(keys, values, held, position)


def begin(
    model: TTTTransformer,
    batch: int,
    inner: InnerConfig | None,
    *,
    fast: FastWeights | None = None,
) -> DecodeState:
    """Return the state before the first token.

    Parameters
    ----------
    model : TTTTransformer
        Network of any arm.
    batch : int
        Rows B.
    inner : InnerConfig or None
        How fast weights learn; None, or an arm without test-time training: they do not.
    fast : FastWeights, optional
        Where they start; by default as trained.
    """
    learns = model.arm in TTT_ARMS
    if learns and fast is None:
        fast = FastWeights.init(model, batch).detached()
    weight = next(model.parameters())
    return DecodeState(
        fast=fast if learns else None,
        inner=inner if learns else None,
        prefix_past=None,
        suffix_past=None,
        chunk_past=None,
        x_BCD=weight.new_zeros(batch, 0, model.config.width),
        tokens_BC=torch.zeros(batch, 0, dtype=torch.int64, device=weight.device),
    )


def prefill(
    model: TTTTransformer,
    tokens_BT: Tensor,
    inner: InnerConfig | None,
    *,
    fast: FastWeights | None = None,
) -> tuple[Tensor, DecodeState]:
    """Read a prompt, learning on the way as `inner.read` does.

    Parameters
    ----------
    model : TTTTransformer
        Network of any arm.
    tokens_BT : Tensor
        Prompts of equal length T >= 1, int64.
    inner : InnerConfig or None
        How fast weights learn; None: they do not.
    fast : FastWeights, optional
        Where they start; by default as trained.

    Returns
    -------
    logits_BV : Tensor
        Logits of the token after the prompt.
    state : DecodeState

    Raises
    ------
    InnerLossError
        A loss or a logit is not finite; names the chunk.
    """
    return extend(model, tokens_BT, begin(model, len(tokens_BT), inner, fast=fast))


def step(model: TTTTransformer, tokens_B: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
    """Read one token a row; returns the logits (B, V) of the next and the new state."""
    return extend(model, tokens_B[:, None], state)


def extend(
    model: TTTTransformer, tokens_BT: Tensor, state: DecodeState
) -> tuple[Tensor, DecodeState]:
    """Read T >= 1 further tokens a row; returns the logits (B, V) of the next and the new state.

    The result does not depend on how a text is cut into calls.

    Raises
    ------
    InnerLossError
        A loss or, where anything is learnt, a logit is not finite; names the chunk.
    """
    assert tokens_BT.shape[1] >= 1, "no token to read"
    logits_BV = None
    while tokens_BT.shape[1]:
        if state.inner is not None and state.tokens_BC.shape[1] == state.inner.chunk:
            state = _learn(model, state, tokens_BT[:, :1])
        state, whole = _read_chunks(model, tokens_BT, state)
        room = _room(model, state)
        logits_BV, state = _read(model, tokens_BT[:, whole : whole + room], state)
        tokens_BT = tokens_BT[:, whole + room :]
    assert logits_BV is not None
    if state.inner is not None and not logits_BV.isfinite().all():
        raise _diverged("prediction", state.inner, state.chunk_past)
    return logits_BV, state


def _room(model: TTTTransformer, state: DecodeState) -> int:
    """Return how many tokens may be read at once: what is left of the chunk, or a window."""
    if state.inner is None:
        return model.config.window
    return state.inner.chunk - state.tokens_BC.shape[1]


def _read_chunks(
    model: TTTTransformer, tokens_BT: Tensor, state: DecodeState
) -> tuple[DecodeState, int]:
    """Read and learn the chunks that lie whole in the tokens, their last target included.

    Returns
    -------
    state : DecodeState
    tokens : int
        How many were read.
    """
    if state.inner is None or state.tokens_BC.shape[1]:
        return state, 0
    count = (tokens_BT.shape[1] - 1) // state.inner.chunk
    if count == 0:
        return state, 0
    before = ReaderState(state.fast, state.prefix_past, state.suffix_past)
    read_to = count * state.inner.chunk
    after = read(model, tokens_BT[:, : read_to + 1], state.inner, state=before).state
    state = replace(
        state, fast=after.fast, prefix_past=after.prefix_past, suffix_past=after.suffix_past
    )
    return learning(state, state.inner), read_to


@torch.no_grad()
def _read(
    model: TTTTransformer, tokens_BC: Tensor, state: DecodeState
) -> tuple[Tensor, DecodeState]:
    """Read tokens that stay within the open chunk."""
    x_BCD, prefix_past = model.prefix(tokens_BC, state.prefix_past)
    logits_BCV, suffix_past = model.suffix(x_BCD, state.fast, state.suffix_past)
    state = replace(state, prefix_past=prefix_past, suffix_past=suffix_past)
    if state.inner is not None:
        state = replace(
            state,
            x_BCD=torch.cat([state.x_BCD, x_BCD], dim=1),
            tokens_BC=torch.cat([state.tokens_BC, tokens_BC], dim=1),
        )
    return logits_BCV[:, -1], state


def learning(state: DecodeState, inner: InnerConfig | None) -> DecodeState:
    """Return the state with a new chunk that begins at the next token.

    Parameters
    ----------
    state : DecodeState
        What its open chunk has not learned yet is left out; see `flush`.
    inner : InnerConfig or None
        How fast weights learn from here on; None: they do not. Ignored in arms without any.
    """
    return replace(
        state,
        inner=None if state.fast is None else inner,
        chunk_past=state.suffix_past,
        x_BCD=state.x_BCD[:, :0],
        tokens_BC=state.tokens_BC[:, :0],
    )


def flush(state: DecodeState, model: TTTTransformer) -> DecodeState:
    """Learn from the open chunk as far as its targets are known, and begin a new one.

    The last token read is an input without target: nothing is learned from it.
    """
    if state.inner is None or state.tokens_BC.shape[1] < 2:
        return learning(state, state.inner)
    return _learn(model, replace(state, x_BCD=state.x_BCD[:, :-1]), state.tokens_BC[:, :0])


def _learn(model: TTTTransformer, state: DecodeState, next_B1: Tensor) -> DecodeState:
    """Update the fast weights on the open chunk, whose last target is `next_B1`."""
    assert state.fast is not None
    assert state.inner is not None
    targets_BC = torch.cat([state.tokens_BC[:, 1:], next_B1], dim=1)
    share_BC = state.x_BCD.new_full(targets_BC.shape, 1 / targets_BC.shape[1])
    made = learn(
        model,
        state.x_BCD,
        targets_BC,
        state.fast,
        state.chunk_past,
        state.inner,
        share_BC,
        order="none",
    )
    if not (made.nll_BC.isfinite().all() and made.norm_B.isfinite().all()):
        raise _diverged("inner loss", state.inner, state.chunk_past)
    return learning(replace(state, fast=made.fast), state.inner)


def _diverged(what: str, inner: InnerConfig, past: Past | None) -> InnerLossError:
    """Return the error that names the chunk after `past`, counted from the stream's start."""
    chunk = 0 if past is None else past.position // inner.chunk
    return InnerLossError(
        f"the {what} of chunk {chunk} is not finite while decoding: lower inner.learning_rate, or "
        "start again with the fast weights as trained"
    )


def generate(
    model: TTTTransformer,
    logits_BV: Tensor,
    state: DecodeState,
    *,
    draw: Callable[[Tensor], Tensor],
    limit: int,
) -> Iterator[tuple[Tensor, DecodeState]]:
    """Draw tokens one after the other.

    Parameters
    ----------
    model : TTTTransformer
        Network of any arm.
    logits_BV, state
        What `prefill`, `extend` or `step` returned.
    draw : callable
        Logits (B, V) -> tokens (B,), as `sampling.sample` does.
    limit : int
        Most tokens drawn.

    Yields
    ------
    tokens_B : Tensor
        Tokens drawn, as soon as they are; int64.
    state : DecodeState
        Before they are read: whoever stops here reads on as it likes.
    """
    for left in reversed(range(limit)):
        tokens_B = draw(logits_BV)
        yield tokens_B, state
        if left:
            logits_BV, state = step(model, tokens_B, state)
