"""Reading: loss of every token, and after every chunk one step on the sample's fast weights.

Chunk i of b tokens are the input positions i b to (i + 1) b - 1; its targets are the tokens that
follow each. Its mean cross-entropy is taken with the weights W_i that chunks 0 to i - 1 left
behind, and then W_(i+1) = W_i - lr g min(1, clip / |g|), g the gradient for W_i. Keys and values
of earlier chunks stay as they were computed.

Legend: B batch, T position, C position in a chunk, D width, V vocabulary, I updates.

References
----------
.. [1] Tandon et al. (2025), "End-to-end test-time training for long context".
.. [2] Finn et al. (2017), "Model-agnostic meta-learning", for the orders of the outer gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mneme.core.config import require
from mneme.ttt.config import TTT_ARMS, InnerConfig
from mneme.ttt.fast import FastWeights, square_norm
from mneme.ttt.model import Past, TTTTransformer
from mneme.ttt.nll import nll_of

Order = Literal["none", "first", "second"]
"""What later gradients see of an update: nothing, all but its gradient, or everything."""
_PIECE = 1024  # tokens of a frozen reading at a time: bounds the memory of its logits


class InnerLossError(ValueError):
    """The loss that fast weights are trained on is not finite: names step and chunk."""


@dataclass(frozen=True)
class ReaderState:
    """What a reader carries from one piece of a stream to the next."""

    fast: FastWeights | None
    """Fast weights of each sample; None: as trained."""
    prefix_past: Past | None
    """Keys and values of the prefix; None: a new stream."""
    suffix_past: Past | None
    """Keys and values of the suffix; None: a new stream."""


class Reading(NamedTuple):
    """What reading gave."""

    nll_BT: Tensor
    """Cross-entropy of tokens 1 to T - 1 before they were learnt (B, T - 1), nats; 0 beyond a
    sample's length."""
    state: ReaderState
    """After the last token; keys and values are None after rows of different lengths."""
    norms_BI: Tensor
    """Norm of each update's gradient before the clip (B, I), outside any graph; 0 where a sample
    had none."""


class Step(NamedTuple):
    """One chunk, read and learnt."""

    nll_BC: Tensor
    """Cross-entropy of the chunk's targets before the update (B, C), nats."""
    fast: FastWeights
    """After the update."""
    past: Past
    """Keys and values, those of this chunk made before the update."""
    norm_B: Tensor
    """Norm of each sample's gradient before the clip (B,), outside any graph."""


def read(
    model: TTTTransformer,
    tokens_BT: Tensor,
    inner: InnerConfig,
    *,
    state: ReaderState | None = None,
    lengths_B: Tensor | None = None,
    update: bool = True,
    flush: bool = False,
    order: Order = "none",
    checkpointed: bool = False,
    step: int | None = None,
) -> Reading:
    """Read tokens, and train the fast weights on them if the arm has any that are trained.

    Parameters
    ----------
    model : TTTTransformer
        Any arm; only the arms `first` and `second` learn.
    tokens_BT : Tensor
        int64 (B, T), T at least 2. A stream is read on from the last token of the call before,
        which has been a target and not yet an input.
    inner : InnerConfig
        The inner loop. Chunks are counted from the first token of each call.
    state : ReaderState, optional
        From an earlier call; None: new streams, weights as trained.
    lengths_B : Tensor, optional
        int64 (B,), tokens of each row, 0 to T, where rows are padded at their ends. If any is
        below T the state returned has fast weights only: the rows end at different places.
    update : bool
        Whether to learn; otherwise fast weights stay as `state` has them.
    flush : bool
        Whether a last chunk shorter than the others is learnt too.
    order : {"none", "first", "second"}
        `none`: test time, no graph is kept. `first`, `second`: the losses carry a graph, in which
        the inner gradients are constants, or functions of all weights.
    checkpointed : bool
        Whether chunks are computed again in the backward pass, which saves memory.
    step : int, optional
        Outer step, for the message of an error.

    Raises
    ------
    ConfigError
        The chunk is longer than the window.
    InnerLossError
        A loss or an inner gradient is not finite.
    """
    assert tokens_BT.shape[1] >= 2, "nothing to predict"
    learns = update and model.arm in TTT_ARMS
    begin = _started(model, inner, state, batch=len(tokens_BT), learns=learns)
    pieces = _pieces(tokens_BT.shape, inner, lengths_B, learns=learns, flush=flush)
    run = _learn_again if checkpointed and order != "none" else learn
    with torch.no_grad() if order == "none" else nullcontext():
        reading = _scan(model, tokens_BT, inner, begin, pieces, run=run, order=order, step=step)
    return reading if lengths_B is None else _cut(reading, lengths_B)


def _started(
    model: TTTTransformer,
    inner: InnerConfig,
    state: ReaderState | None,
    *,
    batch: int,
    learns: bool,
) -> ReaderState:
    """Return the state to begin with; one that learns has fast weights of each sample's own."""
    state = ReaderState(None, None, None) if state is None else state
    if not learns:
        return state
    window = model.config.window
    rule = f"at most the window (k = {window}): k >= b"
    require(inner.chunk <= window, "inner.chunk", rule, inner.chunk)
    if state.fast is not None:
        return state
    return replace(state, fast=FastWeights.init(model, batch))


def _scan(
    model: TTTTransformer,
    tokens_BT: Tensor,
    inner: InnerConfig,
    state: ReaderState,
    pieces: Iterable[tuple[slice, Tensor | None]],
    *,
    run: Callable[..., Step],
    order: Order,
    step: int | None,
) -> Reading:
    """Run the prefix once, then the suffix piece by piece; `run` learns one chunk."""
    x_BTD, prefix_past = model.prefix(tokens_BT[:, :-1], state.prefix_past)
    fast, past, losses, norms = state.fast, state.suffix_past, [], []
    begun = 0 if past is None else past.position
    pieces = list(pieces)
    # Split at once: the gradient of a slice would be as long as the whole text.
    parts = x_BTD.split([span.stop - span.start for span, _ in pieces], dim=1)
    for x_BCD, (span, share_BC) in zip(parts, pieces, strict=True):
        targets_BC = tokens_BT[:, 1:][:, span]
        if share_BC is None or fast is None:
            logits_BCV, past = model.suffix(x_BCD, fast, past)
            losses.append(nll_of(logits_BCV, targets_BC))
        else:
            share_BC = share_BC.to(x_BTD)
            made = run(model, x_BCD, targets_BC, fast, past, inner, share_BC, order=order)
            nll_BC, fast, past, norm_B = made
            losses.append(nll_BC)
            norms.append(norm_B)
        norm_B = norms[-1] if share_BC is not None and norms else None
        _require_finite(losses[-1], norm_B, inner, begun + span.start, step=step)
    assert past is not None
    if order == "none":
        prefix_past, past = prefix_past.detached(), past.detached()
    nll_BT = torch.cat(losses, dim=1)
    norms_BI = torch.stack(norms, dim=1) if norms else nll_BT.new_zeros(len(nll_BT), 0)
    return Reading(nll_BT, ReaderState(fast, prefix_past, past), norms_BI)


def _cut(reading: Reading, lengths_B: Tensor) -> Reading:
    """Return the reading of rows that end before their padding."""
    nll_BT, state, norms_BI = reading
    ends_B = lengths_B.to(nll_BT.device) - 1
    if bool((ends_B == nll_BT.shape[1]).all()):
        return reading
    beyond_BT = torch.arange(nll_BT.shape[1], device=nll_BT.device) >= ends_B[:, None]
    state = ReaderState(state.fast, None, None)
    return Reading(nll_BT.masked_fill(beyond_BT, 0), state, norms_BI)


def learn(
    model: TTTTransformer,
    x_BCD: Tensor,
    targets_BC: Tensor,
    fast: FastWeights,
    past: Past | None,
    inner: InnerConfig,
    share_BC: Tensor,
    *,
    order: Order,
) -> Step:
    """Read one chunk and take one step on the fast weights.

    Parameters
    ----------
    model : TTTTransformer
        Arm with fast weights.
    x_BCD : Tensor
        The chunk's stream (B, C, D) from the prefix.
    targets_BC : Tensor
        int64 (B, C), the token after each.
    fast : FastWeights
        Of each sample, W_i.
    past : Past or None
        Of the suffix, before the chunk.
    inner : InnerConfig
        Learning rate and clip.
    share_BC : Tensor
        Weight of each token in its sample's loss (B, C): 1 / C for a full chunk; a row of zeros
        learns nothing.
    order : {"none", "first", "second"}
        As for `read`.
    """
    # Where the model is frozen, in part or whole, its fast weights start without a gradient.
    own = {
        name: w if w.requires_grad and order != "none" else w.detach().requires_grad_()
        for name, w in fast.items()
    }
    fast = FastWeights(own)
    with torch.enable_grad():
        logits_BCV, past = model.suffix(x_BCD, fast, past, twice=order == "second")
        nll_BC = nll_of(logits_BCV, targets_BC, twice=order == "second")
        found = torch.autograd.grad(
            (nll_BC * share_BC).sum(),
            list(fast.values()),
            retain_graph=order != "none",
            create_graph=order == "second",
        )
    gradients = dict(zip(fast, found, strict=True))
    square_B = square_norm(gradients)
    moved = fast.update(gradients, inner, square_B=square_B)
    norm_B = square_B.detach().sqrt()
    if order == "none":
        return Step(nll_BC.detach(), moved.detached(), past.cut(), norm_B)
    return Step(nll_BC, moved, past, norm_B)


def _learn_again(
    model: TTTTransformer,
    x_BCD: Tensor,
    targets_BC: Tensor,
    fast: FastWeights,
    past: Past | None,
    inner: InnerConfig,
    share_BC: Tensor,
    *,
    order: Order,
) -> Step:
    """Do as `learn`, keeping the chunk's inputs only; the backward pass computes it again."""
    names, blocks = tuple(fast), 0 if past is None else len(past.keys)

    def run(order: Order, tensors: Sequence[Tensor]) -> Step:
        x, own, seen = tensors[0], tensors[1 : 1 + len(names)], tensors[1 + len(names) :]
        keys, values = tuple(seen[:blocks]), tuple(seen[blocks:])
        before = None if past is None else past._replace(keys=keys, values=values)
        weights = FastWeights(dict(zip(names, own, strict=True)))
        return learn(model, x, targets_BC, weights, before, inner, share_BC, order=order)

    seen = () if past is None else (*past.keys, *past.values)
    parameters = [p for p in model.parameters() if p.requires_grad]
    inputs = [x_BCD, *fast.values(), *seen]
    held, steps = (0, 0) if past is None else (past.held, past.position)
    nll_BC, norm_B, *made = _Again.apply(run, order, len(inputs), *inputs, *parameters)
    moved, kept = made[: len(names)], made[len(names) :]
    half, read = len(kept) // 2, targets_BC.shape[1]
    held = min(held + read, model.config.window - 1)  # arms that learn have a window
    after = Past(tuple(kept[:half]), tuple(kept[half:]), held, steps + read)
    return Step(nll_BC, FastWeights(dict(zip(names, moved, strict=True))), after, norm_B)


class _Again(torch.autograd.Function):
    """A chunk whose forward pass is the one of test time, and whose graph is built in backward.

    A checkpoint of torch would run the chunk forwards three times, once for the inner gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, run: Callable[..., Step], order: Order, count: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.run, ctx.order, ctx.parameters = run, order, tensors[count:]
        ctx.save_for_backward(*tensors[:count])
        ctx.set_materialize_grads(False)
        made = run("none", [t.detach() for t in tensors[:count]])
        ctx.mark_non_differentiable(made.norm_B)
        return made.nll_BC, made.norm_B, *made.fast.values(), *made.past.keys, *made.past.values

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[3:]
        inputs = [t.detach().requires_grad_() for t in ctx.saved_tensors]
        with torch.enable_grad():
            made = ctx.run(ctx.order, inputs)
        outputs = (made.nll_BC, made.norm_B, *made.fast.values(), *made.past[0], *made.past[1])
        told = [i for i, slope in enumerate(slopes) if slope is not None]
        wanted = [t for t, needed in zip((*inputs, *ctx.parameters), needs, strict=True) if needed]
        found = iter(
            torch.autograd.grad(
                [outputs[i] for i in told], wanted, [slopes[i] for i in told], allow_unused=True
            )
        )
        return (None, None, None, *(next(found) if needed else None for needed in needs))


def _pieces(
    shape: Sequence[int],
    inner: InnerConfig,
    lengths_B: Tensor | None,
    *,
    learns: bool,
    flush: bool,
) -> Iterator[tuple[slice, Tensor | None]]:
    """Yield parts of the inputs, with tokens' weights in the loss (B, C) where one is learnt."""
    batch, inputs = shape[0], shape[1] - 1
    size = inner.chunk if learns else _PIECE
    ends_B = torch.full((batch,), inputs) if lengths_B is None else lengths_B.cpu() - 1
    for start in range(0, inputs, size):
        span = slice(start, min(start + size, inputs))
        count_B = (ends_B - start).clamp(0, size)
        counts_B = (count_B == size) | (flush & (count_B > 0))
        if not learns or not counts_B.any():
            yield span, None
            continue
        inside_BC = torch.arange(span.stop - start) < count_B[:, None]
        share_B = counts_B.double() / count_B.clamp(min=1)
        yield span, inside_BC * share_B[:, None]


def _require_finite(
    nll_BC: Tensor, norm_B: Tensor | None, inner: InnerConfig, start: int, *, step: int | None
) -> None:
    """Name the chunk of the first loss, of tokens read from `start` on, that is not finite."""
    total = nll_BC.detach().sum() + (0 if norm_B is None else norm_B.sum())
    if not torch.isfinite(total):
        # What is not learnt may be many chunks at once.
        place = start if norm_B is not None else start + first_not_finite(nll_BC)
        at = "" if step is None else f" at step {step}"
        raise InnerLossError(
            f"the inner loss of chunk {place // inner.chunk}{at} is not finite: lower "
            "inner.learning_rate or training.learning_rate"
        )


def first_not_finite(values_BT: Tensor) -> int:
    """Return the first position at which some row is not finite; 0 where all are."""
    return int((~values_BT.detach().isfinite()).any(dim=0).int().argmax())
