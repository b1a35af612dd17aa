"""Let an adapter start as principal components, so that training begins where a codec ends.

A chain of linear layers with normalisation and GELU between them can be made nearly linear: the
normalised values are kept small and shifted to where GELU is the identity, and the next layer
shifts them back. The first layer then holds the principal components, the others drop the last of
them one after the other. What normalisation takes is each vector's length, which a cosine does not
see.

Legend: N training vectors, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mneme.lattice.adapter import Adapter
from mneme.lattice.retrieval import VectorError

GAIN, SHIFT = 0.25, 4.0
"""Size of normalised values and where they lie at the start: GELU(4 + x) is 4 + x within .02 for
|x| up to 1.5, six deviations."""


@torch.no_grad()
def start_as_pca(adapter: Adapter, train_ND: Tensor) -> None:
    """Set an adapter's weights so that its surface is the first principal components.

    Parameters
    ----------
    adapter : Adapter
        Of a strategy of `PCA_STRATEGIES`; changed in place. The decoder goes back the same way.
    train_ND : Tensor
        Standardised training embeddings: mean 0.

    Raises
    ------
    VectorError
        Fewer training vectors than the surface has numbers.
    """
    if len(train_ND) <= adapter.surface:
        raise VectorError(
            f"a start from {adapter.surface} principal components needs more training vectors, got "
            f"{len(train_ND)}: add pairs or set start: random"
        )
    basis_KD = _axes(train_ND)
    _set(adapter.encoder, basis_KD, first=True)
    _set(adapter.decoder, basis_KD.T, first=False)


def _axes(train_ND: Tensor) -> Tensor:
    """Return orthonormal principal axes (min(N, D), D), those of the largest variance first.

    By the covariance, a third of the time of a singular value decomposition at D = 4,032. What
    squaring costs in precision is lost on axes whose variance is rounding: any others do there.
    """
    x_ND = train_ND.double()
    vectors_DD = torch.linalg.eigh(x_ND.T @ x_ND).eigenvectors
    return vectors_DD.flip(1).T[: min(x_ND.shape)].float()


def _set(network: nn.Module, basis: Tensor, *, first: bool) -> None:
    """Make `network` multiply by as much of `basis` as fits, in its first or its last layer."""
    layers = [m for m in network.modules() if isinstance(m, nn.Linear)]
    norms = [m for m in network.modules() if isinstance(m, nn.LayerNorm)]
    place = 0 if first else len(layers) - 1
    for index, layer in enumerate(layers):
        wanted = basis if index == place else torch.eye(*layer.weight.shape)
        rows = min(layer.out_features, wanted.shape[0])
        columns = min(layer.in_features, wanted.shape[1])
        layer.weight.zero_()
        layer.weight[:rows, :columns] = wanted[:rows, :columns]
        layer.bias.zero_()
        if index:  # undo what the normalisation before did
            layer.weight.div_(GAIN)
            layer.bias.copy_(-SHIFT * layer.weight.sum(1))
    for norm in norms:
        norm.weight.fill_(GAIN)
        norm.bias.fill_(SHIFT)
