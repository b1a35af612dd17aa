"""The memory grid: how much a repeated statement's first part helps with the rest of it.

A context is read with updates; then the statement's own text is read with the fast weights frozen.
Attention sees the same own text in every condition, so only fast weights differ.

Two things are read once that cells share. Contexts of all cells are beginnings of one stream, read
chunk by chunk, all streams of a batch in step; what a cell's cut leaves of a chunk is learnt on the
side. And a text of period s tokens, read with frozen weights, has losses of period s from the first
target on that sees repeats only, R + 1 tokens in: one period tells the rest, and the blocks below
the fast weights run once a prompt.

Legend: B batch, T position, D width, C cells, N prompts, R trials.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mneme.ttt.config import TTT_ARMS, InnerConfig
from mneme.ttt.fast import FastWeights
from mneme.ttt.grid_texts import Context, GridTexts
from mneme.ttt.inner import InnerLossError, ReaderState, first_not_finite, read
from mneme.ttt.model import Past, TTTTransformer
from mneme.ttt.nll import nll_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_PIECE = 1024  # tokens of a frozen reading at a time: bounds the memory of its logits


def measure_grid(
    model: TTTTransformer,
    texts: GridTexts,
    contexts: Sequence[Context],
    inner: InnerConfig,
    *,
    batch: int,
    source_measure: bool,
) -> dict[str, NDArray]:
    """Measure the loss of every cell, prompt and context.

    Parameters
    ----------
    model : TTTTransformer
        Any arm with a sliding window; adapters included.
    texts : GridTexts
        Prompts and cells.
    contexts : sequence of Context
        As `contexts_of` draws them.
    inner : InnerConfig
        Inner loop.
    batch : int
        Contexts read at a time.
    source_measure : bool
        Whether to take the source's own measure too (the second part alone).

    Returns
    -------
    dict
        `none_CN`, `own_CN`, `shuffled_RCN` and so on: mean loss of the counted tokens, nats,
        float64; with `source_` before them by the source's measure. And what was read: `ratio_C`,
        `repeats_C`, `length_CN`, `adapted_CN` (tokens), `prompt_N` (checksums of tokens),
        `max_tokens`, `refused_<field>_F` of the cells that are not measured.

    Raises
    ------
    ValueError
        The model has full attention.
    InnerLossError
        An inner loss is not finite.
    """
    counted_NC = [_counted(model, texts, prompt) for prompt in range(len(texts.periods))]
    fresh = FastWeights.init(model, 1).detached() if model.arm in TTT_ARMS else None
    shape = texts.adapted_CN.shape
    trials = 1 + max(context.trial for context in contexts)
    kinds = {context.kind: np.zeros((trials, *shape)) for context in contexts}
    none = np.array([[one.loss(model, fresh, inner) for one in each_C] for each_C in counted_NC]).T
    alone = {kind: np.zeros_like(loss) for kind, loss in kinds.items()}
    for context, cell, fast in adapted(model, texts, contexts, inner, batch=batch):
        at = context.trial, cell, context.prompt
        kinds[context.kind][at] = counted_NC[context.prompt][cell].loss(model, fast, inner)
        if source_measure:
            alone[context.kind][at] = _alone(model, texts, context.prompt, cell, fast, inner)
    arrays = {"none_CN": none, **_named(kinds, "")}
    if source_measure:
        places = np.ndindex(shape)
        before = [_alone(model, texts, prompt, cell, fresh, inner) for cell, prompt in places]
        arrays["source_none_CN"] = np.reshape(before, shape)
        arrays |= _named(alone, "source_")
    return arrays | _described(texts)


def _named(kinds: dict[str, Floats], prefix: str) -> dict[str, NDArray]:
    named = {f"{prefix}{kind}_RCN": loss for kind, loss in kinds.items() if kind != "own"}
    return {f"{prefix}own_CN": kinds["own"][0], **named}


def _described(texts: GridTexts) -> dict[str, NDArray]:
    """Return what was read, as arrays."""
    refused = texts.refused
    sums = [zlib.crc32(period.tobytes()) for period in texts.periods]
    return {
        "ratio_C": np.array([ratio for ratio, _ in texts.cells]),
        "repeats_C": np.array([repeats for _, repeats in texts.cells], np.int64),
        "length_CN": texts.length_CN,
        "adapted_CN": texts.adapted_CN,
        "prompt_N": np.array(sums, np.int64),
        "max_tokens": np.array(texts.max_tokens, np.int64),
        "refused_ratio_F": np.array([cell.ratio for cell in refused], float),
        "refused_repeats_F": np.array([cell.repeats for cell in refused], np.int64),
        "refused_same_F": np.array([cell.same_as for cell in refused], np.int64),
        "refused_prompts_F": np.array([cell.prompts for cell in refused], np.int64),
    }


@dataclass(frozen=True)
class _Counted:
    """The part of a prompt's text whose losses tell the loss of a cell's counted tokens."""

    x_BTD: Tensor
    """The stream that enters the suffix (1, T, D)."""
    targets_BT: Tensor
    """The token after each, int64 (1, T)."""
    share_T: Floats
    """Share of each target's loss in the cell's mean, adding up to 1."""
    start: int
    """Place of the part's first token in the text."""

    @torch.no_grad()
    def loss(self, model: TTTTransformer, fast: FastWeights | None, inner: InnerConfig) -> float:
        """Return the cell's loss under one sample's frozen fast weights, nats.

        Raises
        ------
        InnerLossError
            It is not finite; names the chunk of the text.
        """
        past, found = None, []
        for start in range(0, self.x_BTD.shape[1], _PIECE):
            span = slice(start, start + _PIECE)
            logits_BCV, past = model.suffix(self.x_BTD[:, span], fast, past)
            found.append(nll_of(logits_BCV, self.targets_BT[:, span])[0].double())
        nll_T = torch.cat(found)
        if not nll_T.isfinite().all():
            chunk = (self.start + first_not_finite(nll_T[None])) // inner.chunk
            raise InnerLossError(
                f"the loss of chunk {chunk} is not finite after a context was learnt: lower "
                "inner.learning_rate"
            )
        return float(self.share_T @ nll_T.cpu().numpy())


@torch.no_grad()
def _counted(model: TTTTransformer, texts: GridTexts, prompt: int) -> list[_Counted]:
    """Read a prompt's text through the prefix, as far as it is not periodic, for every cell."""
    if model.window is None:
        raise ValueError("the memory grid needs a sliding window, this model sees everything")
    size = len(texts.periods[prompt])
    periodic = model.config.receptive_field + 1  # first target that sees nothing but repeats
    # The suffix sees so many tokens back from a target's input: its first block's attention is
    # part of the prefix.
    behind = (model.config.ttt_blocks - 1) * (model.window - 1)
    cut_C, length_C = texts.adapted_CN[:, prompt], texts.length_CN[:, prompt]
    device = next(model.parameters()).device
    read_T = texts.stream(prompt, min(int(length_C.max()), periodic + size))
    tokens_BT = torch.from_numpy(read_T)[None].to(device)
    x_BTD, _ = model.prefix(tokens_BT[:, :-1])
    found = []
    for cut, length in zip(cut_C.tolist(), length_C.tolist(), strict=True):
        first = min(cut, periodic) - 1  # input of the first target
        start = max(0, first - behind)
        target = np.arange(cut, length)
        place = np.where(target < periodic, target, periodic + (target - periodic) % size)
        stop = min(length, periodic + size) - 1
        share_T = np.bincount(place - 1 - start, minlength=stop - start) / len(target)
        span = slice(start, stop)
        found.append(_Counted(x_BTD[:, span], tokens_BT[:, 1:][:, span], share_T, start))
    return found


def _alone(
    model: TTTTransformer,
    texts: GridTexts,
    prompt: int,
    cell: int,
    fast: FastWeights | None,
    inner: InnerConfig,
) -> float:
    """Return the mean loss of a cell's second part, read without the text before it."""
    cut, length = int(texts.adapted_CN[cell, prompt]), int(texts.length_CN[cell, prompt])
    device = next(model.parameters()).device
    second_BT = torch.from_numpy(texts.stream(prompt, length)[cut:])[None].to(device)
    state = ReaderState(fast, None, None)
    return float(read(model, second_BT, inner, state=state, update=False).nll_BT.double().mean())


def adapted(
    model: TTTTransformer,
    texts: GridTexts,
    contexts: Sequence[Context],
    inner: InnerConfig,
    *,
    batch: int,
) -> Iterator[tuple[Context, int, FastWeights | None]]:
    """Yield the fast weights that the context of every cell leaves, a last partial chunk learnt.

    Parameters
    ----------
    model, texts, contexts, inner, batch
        As for `measure_grid`.

    Yields
    ------
    context : Context
    cell : int
        Place among `texts.cells`: the first `adapted_CN[cell, prompt]` tokens were read.
    fast : FastWeights or None
        Of one sample; None where the arm learns nothing.
    """
    device = next(model.parameters()).device
    streams = _streams(contexts)
    for start in range(0, len(streams), batch):
        chosen = streams[start : start + batch]
        tokens_BT = np.zeros((len(chosen), len(chosen[0][0].tokens_T)), np.int64)
        cuts = []
        for row, readers in enumerate(chosen):
            tokens_BT[row, : len(readers[0].tokens_T)] = readers[0].tokens_T
            for context in readers:
                own_C = texts.adapted_CN[:, context.prompt].tolist()
                cuts += [_Cut(row, cut, context, cell) for cell, cut in enumerate(own_C)]
        yield from _in_step(model, torch.from_numpy(tokens_BT).to(device), cuts, inner)


def _streams(contexts: Sequence[Context]) -> list[list[Context]]:
    """Sort contexts by length, longest first; one that begins another is read along with it.

    Another prompt's text is that prompt's own context: it costs no further reading.
    """
    streams: list[list[Context]] = []
    for context in sorted(contexts, key=lambda context: -len(context.tokens_T)):
        wanted_T = context.tokens_T
        for stream in streams:
            if np.array_equal(stream[0].tokens_T[: len(wanted_T)], wanted_T):
                stream.append(context)
                break
        else:
            streams.append([context])
    return streams


@dataclass(frozen=True)
class _Cut:
    """Where in a row of a batch a cell's context ends."""

    row: int
    """Row of the batch."""
    tokens: int
    """Tokens of the context."""
    context: Context
    """Whose it is."""
    cell: int
    """Which cell."""


def _in_step(
    model: TTTTransformer, tokens_BT: Tensor, cuts: Sequence[_Cut], inner: InnerConfig
) -> Iterator[tuple[Context, int, FastWeights | None]]:
    """Read the rows' full chunks together, and yield fast weights as cuts are reached."""
    due: dict[int, list[_Cut]] = {}  # full chunks of inputs before the cut -> cuts
    for cut in cuts:
        due.setdefault((cut.tokens - 1) // inner.chunk, []).append(cut)
    last = {cut.row: chunks for chunks in sorted(due) for cut in due[chunks]}
    rows, done = list(range(len(tokens_BT))), 0
    fast = FastWeights.init(model, len(rows)).detached() if model.arm in TTT_ARMS else None
    state = ReaderState(fast, None, None)
    for chunks in sorted(due):
        left = [place for place, row in enumerate(rows) if last[row] >= chunks]
        rows, state = [rows[place] for place in left], _rows(state, left)
        if chunks > done:
            span = slice(done * inner.chunk, chunks * inner.chunk + 1)
            state = read(model, tokens_BT[rows, span], inner, state=state).state
            done = chunks
        for first in range(0, len(due[chunks]), len(tokens_BT)):  # as many at a time as rows
            few = due[chunks][first : first + len(tokens_BT)]
            there = _rows(state, [rows.index(cut.row) for cut in few])
            fast = _rest_learnt(model, tokens_BT, few, done * inner.chunk, there, inner)
            for place, cut in enumerate(few):
                yield cut.context, cut.cell, None if fast is None else fast.row(place)


def _rest_learnt(
    model: TTTTransformer,
    tokens_BT: Tensor,
    cuts: Sequence[_Cut],
    begin: int,
    state: ReaderState,
    inner: InnerConfig,
) -> FastWeights | None:
    """Learn what lies between `begin` and every cut, less than a chunk of inputs."""
    longest = max(cut.tokens for cut in cuts)
    if longest - 1 == begin:
        return state.fast
    rest_BT = tokens_BT[[cut.row for cut in cuts], begin:longest]
    lengths_B = torch.tensor([cut.tokens - begin for cut in cuts])
    made = read(model, rest_BT, inner, state=state, lengths_B=lengths_B, flush=True)
    return made.state.fast


def _rows(state: ReaderState, places: list[int]) -> ReaderState:
    """Return the state of some rows, in the given order."""

    def chosen(past: Past | None) -> Past | None:
        if past is None:
            return None
        keys, values = (tuple(t[places] for t in part) for part in (past.keys, past.values))
        return past._replace(keys=keys, values=values)

    fast = (
        None if state.fast is None else FastWeights({k: w[places] for k, w in state.fast.items()})
    )
    return ReaderState(fast, chosen(state.prefix_past), chosen(state.suffix_past))
