"""Losses through a frozen language-model head, without ever holding all logits.

The head's weights get no gradient, so loss and gradient with respect to the states are computed
together, a block of rows at a time: logits of (8, 128) tokens over 49152 words would be 200 MB,
and as much again for every copy that a plain cross-entropy makes.

Legend: B batch, T position, D width, V vocabulary, R rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROWS = 256
"""Rows a block: large enough for fast products, small enough to stay near the cache."""


def head_weight(model: nn.Module) -> Tensor:
    """Return the frozen head's weight (V, D), detached; raises `ValueError` if it has a bias."""
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    head = base.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise ValueError("the backbone's head has a bias, which is not supported: choose another")
    return head.weight.detach()


def head_nll(states_BTD: Tensor, weight_VD: Tensor, labels_BT: Tensor) -> Tensor:
    """Next-token loss of every position: -log softmax(W h)[label].

    Parameters
    ----------
    states_BTD : Tensor
        Normed states that the head reads; gradients flow into them.
    weight_VD : Tensor
        Weight of the frozen head; no gradient.
    labels_BT : Tensor
        The tokens to be predicted, int64, 0..V-1.

    Returns
    -------
    Tensor, shape (B, T), float32
        Loss in nats, >= 0.
    """

    def block(states_RD: Tensor, labels_R: Tensor, gradient: bool) -> tuple[Tensor, Tensor | None]:
        logp_RV = _log_softmax(states_RD, weight_VD, 1.0)
        nll_R = -logp_RV.gather(-1, labels_R[:, None])[:, 0]
        if not gradient:
            return nll_R, None
        p_RV = logp_RV.exp_()
        p_RV[torch.arange(len(labels_R), device=labels_R.device), labels_R] -= 1
        return nll_R, p_RV

    return _Loss.apply(states_BTD, weight_VD, labels_BT, block)


def head_kl(
    states_BTD: Tensor, weight_VD: Tensor, target_BTD: Tensor, *, temperature: float
) -> Tensor:
    """T^2 KL(target || current) of the next-token distributions of every position.

    Parameters
    ----------
    states_BTD : Tensor
        Normed states of the current model; gradients flow into them.
    weight_VD : Tensor
        Weight of the frozen head that both models share; no gradient.
    target_BTD : Tensor
        Normed states of the frozen target model; no gradient.
    temperature : float
        T > 0; both distributions are softmax(logits / T).

    Returns
    -------
    Tensor, shape (B, T), float32
        Divergence in nats times T^2, >= 0.

    References
    ----------
    Hinton, Vinyals, Dean (2015), Distilling the knowledge in a neural network, section 2: the
    factor T^2 keeps the gradient's size independent of T.
    """

    def block(states_RD: Tensor, target_RD: Tensor, gradient: bool) -> tuple[Tensor, Tensor | None]:
        logq_RV = _log_softmax(states_RD, weight_VD, temperature)
        logp_RV = _log_softmax(target_RD, weight_VD, temperature)
        p_RV = logp_RV.exp()
        kl_R = (p_RV * logp_RV.sub_(logq_RV)).sum(-1) * temperature**2
        if not gradient:
            return kl_R, None
        return kl_R, logq_RV.exp_().sub_(p_RV).mul_(temperature)

    return _Loss.apply(states_BTD, weight_VD, target_BTD, block)


_Block = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]
"""(states, labels or target, whether a gradient is needed) -> loss, d loss / d logits."""


class _Loss(torch.autograd.Function):
    """A loss of each row whose gradient is computed on the way forward."""

    @staticmethod
    def forward(
        ctx: Any, states_BTD: Tensor, weight_VD: Tensor, other: Tensor, block: _Block
    ) -> Tensor:
        assert not weight_VD.requires_grad, "the head must be frozen"
        gradient = ctx.needs_input_grad[0]
        states, others = states_BTD.flatten(0, 1), other.flatten(0, 1)
        losses, slopes = [], []
        for rows, beside in zip(states.split(_ROWS), others.split(_ROWS), strict=True):
            loss_R, slope_RV = block(rows, beside, gradient)
            losses.append(loss_R)
            if slope_RV is not None:
                slopes.append(F.linear(slope_RV.to(weight_VD.dtype), weight_VD.t()))
        if gradient:
            ctx.save_for_backward(torch.cat(slopes).view_as(states_BTD))
        return torch.cat(losses).view(states_BTD.shape[:2])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        (slope_BTD,) = ctx.saved_tensors
        return (gradients[0][..., None] * slope_BTD).to(slope_BTD.dtype), None, None, None


def _log_softmax(states_RD: Tensor, weight_VD: Tensor, temperature: float) -> Tensor:
    logits_RV = F.linear(states_RD, weight_VD).float()
    if temperature != 1.0:
        logits_RV.div_(temperature)
    return F.log_softmax(logits_RV, dim=-1)
