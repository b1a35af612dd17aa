"""Loss of the outer loop: what a sequence costs a network that trains its fast weights on it.

Two objectives. `all_chunks`: the mean loss of all chunks, each before its own update. `split`:
the network adapts on the first part of the sequence, an incomplete last chunk included, and only
the second part counts, read with the fast weights as they are then; attention runs on over the
border. In both, the updates that no counted loss depends on are left out: they cost a second
derivative each.

Legend: B batch, T predicted tokens of a sequence, I inner updates.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mneme.core.config import require
from mneme.ttt.config import TTT_ARMS, Arm, InnerConfig, TrainingConfig
from mneme.ttt.inner import read

if TYPE_CHECKING:
    from mneme.ttt.model import TTTTransformer

_ORDERS: dict[str, Literal["first", "second"]] = {"first": "first", "second": "second"}


class MetaReading(NamedTuple):
    """Outer loss of some sequences, and how their inner gradients were."""

    loss: Tensor
    """Mean cross-entropy of the counted tokens, nats; carries the meta-gradient."""
    norms_BI: Tensor | None
    """Norms of the inner gradients before the clip; None where the arm has no inner loop."""


def meta_loss(
    model: TTTTransformer,
    tokens_BT1: Tensor,
    inner: InnerConfig,
    training: TrainingConfig,
    *,
    arm: Arm,
    step: int | None = None,
) -> Tensor:
    """Compute the outer loss alone; see `meta_reading`."""
    return meta_reading(model, tokens_BT1, inner, training, arm=arm, step=step).loss


def meta_reading(
    model: TTTTransformer,
    tokens_BT1: Tensor,
    inner: InnerConfig,
    training: TrainingConfig,
    *,
    arm: Arm,
    step: int | None = None,
) -> MetaReading:
    """Compute the loss that one step of the outer loop lowers.

    Parameters
    ----------
    model : TTTTransformer
        Network of the arm.
    tokens_BT1 : Tensor
        Sequences with the target of the last position, (B, T + 1) int64.
    inner : InnerConfig
        Inner loop, its learning rate as it is at this step.
    training : TrainingConfig
        Objective and share to adapt on; whether inner steps are checkpointed.
    arm : str
        `first` and `second` read with updates of that order; all others predict every token with
        the weights they have.
    step : int, optional
        Step of the outer loop, for the error message.

    Returns
    -------
    MetaReading

    Raises
    ------
    InnerLossError
        The loss of a chunk is not finite; names step and chunk.
    ConfigError
        `adapt_share` leaves nothing to adapt on or nothing to predict.

    References
    ----------
    Finn, Abbeel, Levine 2017 (gradients through gradient steps, and their first-order
    approximation).
    """
    if arm not in TTT_ARMS:
        logits_BTV = model(tokens_BT1[:, :-1])
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT1[:, 1:].flatten())
        return MetaReading(loss, None)
    adapted = adapted_tokens(training, tokens_BT1.shape[1] - 1, chunk=inner.chunk)
    options = {"order": _ORDERS[arm], "checkpointed": training.checkpointed, "step": step}
    losses, norms_BI, state = [], tokens_BT1.new_zeros(len(tokens_BT1), 0, dtype=torch.float), None
    if adapted:
        first = read(model, tokens_BT1[:, : adapted + 1], inner, flush=True, **options)
        norms_BI, state = first.norms_BI.detach(), first.state
        if training.objective == "all_chunks":
            losses.append(first.nll_BT)
    rest = read(model, tokens_BT1[:, adapted:], inner, state=state, update=False, **options)
    return MetaReading(torch.cat([*losses, rest.nll_BT], dim=1).mean(), norms_BI)


@torch.no_grad()
def validation_losses(
    model: TTTTransformer,
    tokens_BT1: Tensor,
    inner: InnerConfig,
    training: TrainingConfig,
    *,
    arm: Arm,
    update: bool = True,
    step: int | None = None,
) -> Tensor:
    """Return the losses that the objective counts, read as at test time.

    Parameters
    ----------
    model, tokens_BT1, inner, training, arm, step
        As for `meta_reading`; the inner learning rate as it is after warm-up.
    update : bool
        Whether fast weights are updated, where the arm has any that are.

    Returns
    -------
    Tensor
        Nats. `all_chunks`: of all T tokens (B, T), each chunk before its own update. `split`: of
        the second part alone, after the first was learnt to its end; of the same tokens for arms
        that learn nothing while they read.

    Raises
    ------
    InnerLossError
        As for `meta_reading`.
    """
    update = update and arm in TTT_ARMS
    if training.objective == "all_chunks":
        return read(model, tokens_BT1, inner, update=update, step=step).nll_BT
    adapted = adapted_tokens(training, tokens_BT1.shape[1] - 1, chunk=inner.chunk)
    first_BT1, rest_BT1 = tokens_BT1[:, : adapted + 1], tokens_BT1[:, adapted:]
    state = read(model, first_BT1, inner, update=update, flush=True, step=step).state
    return read(model, rest_BT1, inner, state=state, update=False, step=step).nll_BT


def adapted_tokens(training: TrainingConfig, tokens: int, *, chunk: int) -> int:
    """Return how many of a sequence's predicted tokens the fast weights are trained on.

    For `all_chunks` all but the last chunk, whose update no loss sees; for `split` the share
    `adapt_share`, rounded.
    """
    if training.objective == "all_chunks":
        return (tokens - 1) // chunk * chunk
    adapted = round(training.adapt_share * tokens)
    rule = f"a share that leaves tokens on both sides of the border in {tokens} tokens"
    require(0 < adapted < tokens, "adapt_share", rule, training.adapt_share)
    return adapted


def inner_at(inner: InnerConfig, training: TrainingConfig, *, step: int) -> InnerConfig:
    """Return the inner loop of outer step `step` (from 0): its learning rate grows linearly."""
    return replace(inner, learning_rate=inner.learning_rate * inner_share(training, step=step))


def inner_share(training: TrainingConfig, *, step: int) -> float:
    """Return the share of the inner learning rate at outer step `step`, `inner_start` to 1."""
    if step >= training.inner_warmup:
        return 1.0
    return training.inner_start + (1 - training.inner_start) * step / training.inner_warmup
