"""A trained arm reads test documents: loss by position, by length of context, and its controls.

Memory is measured so that only the weights differ: a context (the document's own beginning, or a
control) is read with updates; then the document's own tokens are read from an empty cache with the
weights held, a lead-in of one receptive field that is not counted, then the counted tokens. The
lead-in follows the adapted tokens, so that attention never reaches them.

Legend: N documents, M documents with all contexts, X documents long enough for all lengths, L
lengths of context, T targets, A adapted tokens, B documents at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mneme.ttt.config import BASELINES, TTT_ARMS, Arm, InnerConfig
from mneme.ttt.context_config import ContextConfig, DynamicConfig, SetConfig
from mneme.ttt.context_documents import Documents, draw_contexts
from mneme.ttt.contexts import Kind
from mneme.ttt.dynamic import Weights, choose_rate, own_weights, read_dynamic, read_frozen
from mneme.ttt.fast import FastWeights
from mneme.ttt.inner import ReaderState, read
from mneme.ttt.model import TTTTransformer

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Losses = Callable[[Tensor], Tensor]
"""Tokens (B, T) -> loss of every next token (B, T - 1), nats."""


class ReadingError(ValueError):
    """A loss on test documents is not finite: names document and chunk."""


class Reader(Protocol):
    """How an arm reads."""

    @property
    def batch(self) -> int:
        """Return how many documents are read at a time."""
        ...

    @property
    def chunk(self) -> int:
        """Return the tokens of an update."""
        ...

    def losses(self, tokens_BT: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return the loss of every next token (B, T - 1), read from the start with updates."""
        ...

    def after(self, context_BA: Tensor | None) -> Losses:
        """Read a context with updates (None: nothing); return how to read on, weights held."""
        ...


@dataclass(frozen=True)
class InnerReader:
    """Arms as they were trained: fast weights are updated where there are any."""

    model: TTTTransformer
    """The network."""
    inner: InnerConfig
    """Inner loop."""
    batch: int
    """Documents at a time."""
    update: bool = True
    """Whether `losses` updates fast weights; `after` always does while a context is read."""

    @property
    def chunk(self) -> int:
        """Return the tokens of an update."""
        return self.inner.chunk

    def losses(self, tokens_BT: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return the loss of every next token, read from the start, with updates or without."""
        return read(
            self.model, tokens_BT, self.inner, lengths_B=lengths_B, update=self.update
        ).nll_BT

    def after(self, context_BA: Tensor | None) -> Losses:
        """Read a context with updates, its last part included; return how to read on."""
        fast = None
        if context_BA is not None:
            fast = read(self.model, context_BA, self.inner, flush=True).state.fast

        def held(own_BT: Tensor) -> Tensor:
            # As trained, but by the path of those that were: equal weights, equal numbers.
            fresh = self.model.arm in TTT_ARMS and fast is None
            own = FastWeights.init(self.model, len(own_BT)) if fresh else fast
            state = ReaderState(own, None, None)
            return read(self.model, own_BT, self.inner, state=state, update=False).nll_BT

        return held


@dataclass(frozen=True)
class DynamicReader:
    """Dynamic evaluation of a plain network."""

    model: TTTTransformer
    """The network."""
    config: DynamicConfig
    """Chunk, clip, documents at a time."""
    learning_rate: float
    """As validation documents chose it."""

    @property
    def batch(self) -> int:
        """Return how many documents are read at a time."""
        return self.config.batch

    @property
    def chunk(self) -> int:
        """Return the tokens of an update."""
        return self.config.chunk

    def losses(self, tokens_BT: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return the loss of every next token, read from the start with updates."""
        return self._read(tokens_BT, lengths_B)[0]

    def after(self, context_BA: Tensor | None) -> Losses:
        """Read a context with updates, its last part included; return how to read on."""
        weights = None if context_BA is None else self._read(context_BA, None)[1]
        return lambda own_BT: read_frozen(
            self.model,
            own_BT,
            own_weights(self.model, len(own_BT)) if weights is None else weights,
        )

    def _read(self, tokens_BT: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Weights]:
        return read_dynamic(
            self.model,
            tokens_BT,
            own_weights(self.model, len(tokens_BT)),
            chunk=self.config.chunk,
            learning_rate=self.learning_rate,
            clip=self.config.clip,
            lengths_B=lengths_B,
        )


def reader_of(
    model: TTTTransformer,
    arm: Arm,
    inner: InnerConfig,
    config: ContextConfig,
    *,
    validation_NT: Integers,
) -> tuple[Reader, dict[str, Any]]:
    """Return how an arm reads, and what was chosen for it.

    Parameters
    ----------
    model : TTTTransformer
        The trained network; for arm `dynamic` that of a sliding window.
    arm : str
        Which.
    inner : InnerConfig
        Inner loop.
    config : ContextConfig
        Documents at a time; candidates of dynamic evaluation.
    validation_NT : int array (N, T + 1)
        Validation documents that choose the learning rate of dynamic evaluation.

    Returns
    -------
    reader : Reader
    facts : dict
        JSON-ready; `dynamic` -> `learning_rate`, `tries`, `val_nll` where that was chosen.

    Raises
    ------
    DynamicEvaluationError
        When every candidate diverges.
    """
    if arm != "dynamic":
        return InnerReader(model, inner, config.batch), {}
    chosen = choose_rate(model, validation_NT, config.dynamic)
    reader = DynamicReader(model, config.dynamic, chosen.learning_rate)
    return reader, {"dynamic": chosen.facts()}


def kinds_of(arm: Arm, config: ContextConfig) -> tuple[Kind, ...]:
    """Return the contexts that an arm is measured with: plain arms have `none` alone."""
    few = {"dynamic": config.dynamic.kinds, **dict.fromkeys(BASELINES, config.untrained_kinds)}
    return few.get(arm, config.kinds if arm in TTT_ARMS else ("none",))


def read_set(
    reader: Reader,
    documents: Documents,
    one: SetConfig,
    *,
    arm: Arm,
    kinds: tuple[Kind, ...],
    every_kind: tuple[Kind, ...],
    receptive_field: int,
    device: torch.device,
) -> dict[str, NDArray]:
    """Read the documents of one set with one arm.

    Parameters
    ----------
    reader, documents, one
        The arm; test documents of the set; what is adapted on, counted and followed.
    arm : str
        Full attention is counted in its ordinary reading besides: its memory is attention. Those
        not meta-trained are not followed over lengths of context.
    kinds, every_kind : tuple of str
        Contexts of this arm, as `kinds_of` gives them, may be empty; contexts of all arms:
        documents that do not allow them all are counted by no arm.
    receptive_field : int
        Lead-in R, tokens.
    device : torch.device

    Returns
    -------
    dict
        Arrays as in `context_metrics`, without the set's name; what no document allows is absent.

    Raises
    ------
    ReadingError
        A loss is not finite.
    """
    tokens_NT, lengths_N = documents.tokens_NT, documents.lengths_N
    found = _whole(reader, documents, arm, device)
    nll_NT = found["nll_NT"]
    found |= {
        "targets_N": lengths_N - 1,
        "group_N": documents.group_N,
        "document_N": documents.checksums(),
        **documents.ideals,
    }
    if one.contexts and arm not in BASELINES:
        found |= _by_length(reader, documents, one, device)
    kept_M, contexts = draw_contexts(documents, one, every_kind, receptive_field=receptive_field)
    if len(kept_M) and kinds:
        found["kept_M"] = kept_M
        own_MT = tokens_NT[kept_M, one.adapt_tokens : (end := one.needed(receptive_field))]
        for kind in kinds:
            if kind in {"none", *contexts}:
                loss_M = _counted(reader, own_MT, contexts.get(kind), one, device)
                found[f"loss_{kind}_M"] = loss_M
        if arm == "full":
            counted_MT = nll_NT[kept_M, end - 1 - one.counted_tokens : end - 1]
            found["loss_own_M"] = counted_MT.mean(axis=1, dtype=float)
    return found


def _whole(
    reader: Reader, documents: Documents, arm: Arm, device: torch.device
) -> dict[str, NDArray]:
    """Read whole documents; meta-trained arms also with updates off."""
    given = documents.tokens_NT, documents.lengths_N, device
    found = {"nll_NT": _losses(reader, *given)}
    if arm in TTT_ARMS and arm not in BASELINES:
        assert isinstance(reader, InnerReader)
        found["frozen_NT"] = _losses(replace(reader, update=False), *given)
    return found


def _losses(
    reader: Reader, tokens_NT: Integers, lengths_N: Integers | None, device: torch.device
) -> NDArray[np.float32]:
    """Return the losses of ordinary reading (N, T)."""
    parts = []
    for rows in _batches(len(tokens_NT), reader.batch):
        lengths_B = None if lengths_N is None else _tensor(lengths_N[rows], device)
        nll_BT = reader.losses(_tensor(tokens_NT[rows], device), lengths_B)
        _require_finite(nll_BT, reader, rows, "read from its beginning")
        parts.append(nll_BT.float().cpu().numpy())
    return np.concatenate(parts)


def _by_length(
    reader: Reader, documents: Documents, one: SetConfig, device: torch.device
) -> dict[str, NDArray]:
    """Read the last tokens of each document, beginning farther and farther before them."""
    lengths_N, counted = documents.lengths_N, one.counted_tokens
    long_X = np.flatnonzero(lengths_N >= one.contexts[-1] + counted)
    if not len(long_X):
        return {}
    columns = []
    for context in one.contexts:
        span = context + counted
        places_XT = lengths_N[long_X, None] - span + np.arange(span)
        nll_XT = _losses(reader, documents.tokens_NT[long_X[:, None], places_XT], None, device)
        columns.append(nll_XT[:, -counted:].mean(axis=1, dtype=float))
    return {"long_X": long_X, "length_XL": np.stack(columns, axis=1)}


def _counted(
    reader: Reader,
    own_MT: Integers,
    context_MA: Integers | None,
    one: SetConfig,
    device: torch.device,
) -> Floats:
    """Return the mean loss of the counted tokens (M,), the weights held as a context left them."""
    losses = []
    for rows in _batches(len(own_MT), reader.batch):
        context_BA = None if context_MA is None else _tensor(context_MA[rows], device)
        nll_BT = reader.after(context_BA)(_tensor(own_MT[rows], device))
        _require_finite(nll_BT, reader, rows, "after a context was learnt")
        losses.append(nll_BT[:, -one.counted_tokens :].double().mean(dim=1).cpu().numpy())
    return np.concatenate(losses)


def _batches(documents: int, batch: int) -> Iterator[slice]:
    return (slice(start, start + batch) for start in range(0, documents, batch))


def _tensor(array: Integers, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.int64)).to(device)


def _require_finite(nll_BT: Tensor, reader: Reader, rows: slice, when: str) -> None:
    """Name the first document of a batch, and its chunk, whose loss is not finite."""
    if not nll_BT.isfinite().all():
        row, place = nll_BT.isfinite().logical_not().nonzero()[0].tolist()
        raise ReadingError(
            f"the loss of chunk {place // reader.chunk} of test document {rows.start + row}, "
            f"{when}, is not finite: lower the inner learning rate, or the candidates of "
            "context.dynamic.learning_rates"
        )
