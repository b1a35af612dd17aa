"""What training makes small: contrast with in-batch negatives, or the source's positives only.

Legend: B batch, D width, S size of the surface.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ORIGINAL_MSE = 0.1
"""Weight of the squared error in the source's loss."""


def info_nce(first_BS: Tensor, second_BS: Tensor, *, temperature: float) -> Tensor:
    """Return the symmetric InfoNCE loss of paired vectors.

    Parameters
    ----------
    first_BS, second_BS : Tensor
        Row b of both belong together; every other row is a negative.
    temperature : float
        Cosines are divided by it, above 0.

    Returns
    -------
    Tensor, scalar
        Mean of both directions' cross-entropy, nats; ln B when nothing tells the rows apart.

    References
    ----------
    Oord, Li and Vinyals 2018; both directions: Radford et al. 2021.
    """
    cosines_BB = F.normalize(first_BS, dim=1) @ F.normalize(second_BS, dim=1).T
    own = torch.arange(len(first_BS), device=first_BS.device)
    logits_BB = cosines_BB / temperature
    return 0.5 * (F.cross_entropy(logits_BB, own) + F.cross_entropy(logits_BB.T, own))


def reconstruction_loss(vectors_BD: Tensor, made_BD: Tensor) -> Tensor:
    """Return the mean squared error over all numbers."""
    return F.mse_loss(made_BD, vectors_BD)


def positive_only(first_BS: Tensor, second_BS: Tensor) -> Tensor:
    """Return the source's loss: 1 - cosine of the pairs, plus a tenth of their squared error.

    Nothing keeps unrelated vectors apart: one vector for everything makes it 0.
    """
    apart = 1 - F.cosine_similarity(first_BS, second_BS, dim=1).mean()
    return apart + ORIGINAL_MSE * F.mse_loss(first_BS, second_BS)
