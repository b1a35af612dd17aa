"""Cross-entropy of tokens, once for gradients and once for gradients of gradients.

Legend: B batch, C position, V vocabulary, P positions of all rows.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F


def nll_of(logits_BCV: Tensor, targets_BC: Tensor, *, twice: bool = False) -> Tensor:
    """Return the cross-entropy of each target (B, C), nats.

    Parameters
    ----------
    logits_BCV, targets_BC : Tensor
        Logits; int64 ids.
    twice : bool
        Whether gradients of gradients are taken: their formula is written out, which passes over
        the logits half as often as what torch composes. Values and gradients are the same.
    """
    # Flat: with the classes in the middle the same kernel takes four times as long.
    logits_PV, targets_P = logits_BCV.flatten(0, 1), targets_BC.flatten()
    if twice:
        nll_P = _Nll.apply(logits_PV, targets_P)
        assert isinstance(nll_P, Tensor)
    else:
        nll_P = F.cross_entropy(logits_PV, targets_P, reduction="none")
    return nll_P.view(targets_BC.shape)


class _Nll(Function):
    """-log softmax at the target; its gradient for the logits is `_NllSlope`."""

    @staticmethod
    def forward(ctx: Any, logits_PV: Tensor, targets_P: Tensor) -> Tensor:
        log_p_PV = logits_PV.log_softmax(-1)
        ctx.save_for_backward(logits_PV, targets_P, log_p_PV)
        return -log_p_PV.gather(1, targets_P[:, None])[:, 0]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        logits_PV, targets_P, log_p_PV = ctx.saved_tensors
        return _NllSlope.apply(slopes[0], logits_PV, targets_P, log_p_PV.detach()), None


class _NllSlope(Function):
    """(p - 1 at the target) g of each position, g the slope of its loss; log p given for p."""

    @staticmethod
    def forward(
        ctx: Any, slope_P: Tensor, logits_PV: Tensor, targets_P: Tensor, log_p_PV: Tensor
    ) -> Tensor:
        p_PV = log_p_PV.exp()
        ctx.save_for_backward(slope_P, targets_P, p_PV)
        found_PV = p_PV * slope_P[:, None]
        return found_PV.scatter_add_(1, targets_P[:, None], -slope_P[:, None])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        slope_P, targets_P, p_PV = ctx.saved_tensors
        (along_PV,) = slopes
        told_PV = p_PV * along_PV
        mean_P1 = told_PV.sum(1, keepdim=True)
        at_P1 = along_PV.gather(1, targets_P[:, None])
        bent_PV = told_PV.addcmul_(p_PV, mean_P1, value=-1).mul_(slope_P[:, None])
        return (mean_P1 - at_P1)[:, 0], bent_PV, None, None
