"""Dynamic evaluation: a plain network takes a gradient step on all its weights while it reads.

After every chunk each document's own copy of the weights moves down the gradient of that chunk's
loss; the chunk was scored before. Keys and values of earlier chunks stay what they were when they
were computed, and no gradient flows into them. The learning rate is chosen on validation documents.

Legend: N documents, B documents at a time, T targets, C position in a chunk, V vocabulary.

References
----------
Mikolov et al. (2010), Recurrent neural network based language model, section 2 (dynamic models).
Krause et al. (2018), Dynamic evaluation of neural sequence models, equation 4 (plain gradient
descent), here with the gradient's norm clipped a document.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from mneme.ttt.context_config import DynamicConfig
from mneme.ttt.model import Past, TTTTransformer

Weights = dict[str, Tensor]
"""Name -> each document's own weights (B, ...)."""


class DynamicEvaluationError(ValueError):
    """No learning rate can be chosen."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The learning rate that validation documents chose."""

    learning_rate: float
    """The one with the lowest loss."""
    tried: dict[float, float | None]
    """Candidate -> mean loss a token, nats; None where it diverged."""

    def facts(self) -> dict[str, Any]:
        """Return what was tried, JSON-ready."""
        return {
            "learning_rate": self.learning_rate,
            "tries": len(self.tried),
            "val_nll": {f"{rate:g}": nll for rate, nll in self.tried.items()},
        }


class _Stream(nn.Module):
    """The whole network as one call, for `functional_call`."""

    def __init__(self, model: TTTTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BC: Tensor, past: Sequence[Past] | None) -> tuple[Tensor, Any]:
        before, after = (None, None) if past is None else past
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no rule for `vmap`
            x_BCD, before = self.model.prefix(tokens_BC, before)
            logits_BCV, after = self.model.suffix(x_BCD, None, after)
        return logits_BCV, (before, after)


def own_weights(model: TTTTransformer, documents: int) -> Weights:
    """Return all weights of the network once a document, as trained."""
    return {name: w.detach().expand(documents, *w.shape) for name, w in model.named_parameters()}


def read_dynamic(
    model: TTTTransformer,
    tokens_BT: Tensor,
    weights: Weights,
    *,
    chunk: int,
    learning_rate: float,
    clip: float,
    lengths_B: Tensor | None = None,
) -> tuple[Tensor, Weights]:
    """Read documents, training each one's weights after every chunk, the last part included.

    Parameters
    ----------
    model : TTTTransformer
        A network with one MLP a block.
    tokens_BT : Tensor
        int64 (B, T), T at least 2.
    weights : dict
        Each document's weights to begin with.
    chunk : int
        Tokens a step.
    learning_rate : float
        At least 0.
    clip : float
        Largest global norm of one document's gradient.
    lengths_B : Tensor, optional
        Tokens of each document, at least 1; those after them are padding.

    Returns
    -------
    nll_BT : Tensor
        float (B, T - 1): loss of each next token before its chunk's update, nats; 0 beyond the
        document's end.
    weights : dict
        After the last update.
    """
    stream = _Stream(model)
    targets = tokens_BT.shape[1] - 1
    if lengths_B is None:
        lengths_B = torch.full((len(tokens_BT),), targets + 1, device=tokens_BT.device)
    parts, kept, shape = [], None, (0, 0)
    for start in range(0, targets, chunk):
        end = min(start + chunk, targets)
        real_BC = torch.arange(start, end, device=tokens_BT.device) < lengths_B[:, None] - 1
        gradients, nll_BC, kept = _chunk_gradients(
            stream, weights, tokens_BT[:, start : end + 1], real_BC, kept, shape
        )
        shape = (_held(model, end), end)
        parts.append(nll_BC)
        weights = descend(weights, gradients, learning_rate=learning_rate, clip=clip)
    return torch.cat(parts, dim=1), weights


def _held(model: TTTTransformer, position: int) -> int:
    return position if model.window is None else min(position, model.window - 1)


def _chunk_gradients(
    stream: _Stream,
    weights: Weights,
    tokens_BC1: Tensor,
    real_BC: Tensor,
    kept: Any,
    shape: tuple[int, int],
) -> tuple[Weights, Tensor, Any]:
    """Return each document's gradient of its mean loss of a chunk, the losses, keys and values."""

    def loss(weights: Weights, tokens_C1: Tensor, real_C: Tensor, kept: Any) -> tuple[Tensor, Any]:
        past = None if kept is None else [Past(k, v, *shape) for k, v in kept]
        named = {f"model.{name}": w for name, w in weights.items()}
        logits_1CV, made = functional_call(stream, named, (tokens_C1[None, :-1], past))
        nll_C = F.cross_entropy(logits_1CV[0], tokens_C1[1:], reduction="none") * real_C
        held = tuple((part.keys, part.values) for part in made)
        return nll_C.sum() / real_C.sum().clamp(min=1), (nll_C, held)

    each = vmap(grad_and_value(loss, has_aux=True), in_dims=(0, 0, 0, None if kept is None else 0))
    gradients, (_, (nll_BC, made)) = each(weights, tokens_BC1, real_BC, kept)
    return gradients, nll_BC.detach(), made


@torch.no_grad()
def read_frozen(model: TTTTransformer, tokens_BT: Tensor, weights: Weights) -> Tensor:
    """Return the loss of every next token (B, T - 1), each document with weights of its own, held.

    Reading starts from an empty cache.
    """
    stream = _Stream(model)

    def nll(weights: Weights, tokens_T: Tensor) -> Tensor:
        named = {f"model.{name}": w for name, w in weights.items()}
        logits_1TV, _ = functional_call(stream, named, (tokens_T[None, :-1], None))
        return F.cross_entropy(logits_1TV[0], tokens_T[1:], reduction="none")

    return vmap(nll)(weights, tokens_BT)


@torch.no_grad()
def descend(weights: Weights, gradients: Weights, *, learning_rate: float, clip: float) -> Weights:
    """Return weights after one step of gradient descent, clipped a document."""
    square_B = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0)
    step_B = learning_rate / (square_B.sqrt() / clip).clamp(min=1)
    return {
        name: w - step_B.reshape(-1, *[1] * (w.ndim - 1)) * gradients[name]
        for name, w in weights.items()
    }


def choose_rate(
    model: TTTTransformer, tokens_NT: NDArray[np.int64], config: DynamicConfig
) -> Chosen:
    """Choose the learning rate with the lowest mean loss on validation documents.

    Parameters
    ----------
    model : TTTTransformer
        A network with one MLP a block.
    tokens_NT : int array (N, T + 1)
        Validation documents of equal length; at most `config.documents` are read.
    config : DynamicConfig
        Candidates.

    Raises
    ------
    DynamicEvaluationError
        When every candidate diverges.
    """
    device = next(model.parameters()).device
    tokens_NT = tokens_NT[: config.documents]
    tried: dict[float, float | None] = {}
    for rate in config.learning_rates:
        total = 0.0
        for tokens_BT in _batches(tokens_NT, config.batch):
            nll_BT, _ = read_dynamic(
                model,
                torch.as_tensor(tokens_BT, device=device),
                own_weights(model, len(tokens_BT)),
                chunk=config.chunk,
                learning_rate=rate,
                clip=config.clip,
            )
            total += float(nll_BT.double().sum())
        mean = total / (tokens_NT.shape[0] * (tokens_NT.shape[1] - 1))
        tried[rate] = mean if math.isfinite(mean) else None
    sure = {rate: nll for rate, nll in tried.items() if nll is not None}
    if not sure:
        raise DynamicEvaluationError(
            f"every learning rate of dynamic evaluation diverges ({list(tried)}): add a smaller one"
        )
    return Chosen(learning_rate=min(sure, key=lambda rate: sure[rate]), tried=tried)


def _batches(tokens_NT: NDArray[np.int64], batch: int) -> Sequence[NDArray[np.int64]]:
    return [tokens_NT[start : start + batch] for start in range(0, len(tokens_NT), batch)]
