"""What calibration minimises besides NLL: recency-weighted pooling and supervised contrast.

Legend: B chunks of a batch, T position, H hidden width, X any width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pool(x_BTX: Tensor, *, recency: float) -> Tensor:
    """Average over positions with weight proportional to exp(recency * i / T), i = 0..T-1.

    Parameters
    ----------
    x_BTX : Tensor
        Values at each position.
    recency : float
        Any finite number; above 0 late tokens count more.

    Returns
    -------
    Tensor
        (B, X); the plain mean at recency 0.
    """
    length = x_BTX.shape[1]
    weight_T = torch.softmax(recency * torch.arange(length, device=x_BTX.device) / length, dim=0)
    return torch.einsum("btx,t->bx", x_BTX, weight_T)


def supervised_contrast(x_BH: Tensor, labels_B: Tensor, *, temperature: float) -> Tensor:
    """Supervised contrastive loss, positives outside the logarithm.

    With z = x / |x|: mean over anchors i that have positives P(i) (others of their label) of
    - 1 / |P(i)| sum_(p in P(i)) log [exp(z_i z_p / tau) / sum_(a != i) exp(z_i z_a / tau)].

    Parameters
    ----------
    x_BH : Tensor
        Pooled hidden activations, any norm.
    labels_B : Tensor
        Label of each, int64.
    temperature : float
        tau, > 0.

    Returns
    -------
    Tensor
        Scalar, nats; 0 when no two examples share a label.

    References
    ----------
    Khosla et al. (2020), Supervised contrastive learning, equation 2 (a mean instead of its sum).
    """
    itself_BB = torch.eye(len(labels_B), dtype=torch.bool, device=x_BH.device)
    positive_BB = (labels_B[:, None] == labels_B) & ~itself_BB
    anchor_B = positive_BB.any(1)
    if not bool(anchor_B.any()):
        return x_BH.new_zeros(())
    z_BH = F.normalize(x_BH, dim=-1)
    similarity_BB = (z_BH @ z_BH.T / temperature).masked_fill(itself_BB, -torch.inf)
    log_p_BB = similarity_BB.log_softmax(-1).masked_fill(~positive_BB, 0.0)
    return -(log_p_BB.sum(1)[anchor_B] / positive_BB.sum(1)[anchor_B]).mean()
