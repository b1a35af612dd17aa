"""What mixing is worth: held-out loss under the mixer's gates and under uniform gates.

Legend: B batch, T position, K domains, N chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mneme.core.parts import Parts, fill
from mneme.nn.onednn import OneDNNLinear
from mneme.routing.model import TemporalLora

KINDS = ("mixer", "uniform")
"""Gates of the mixer, and 1/K for every domain and token."""


def mixed_losses(
    model: TemporalLora,
    held_out: Mapping[str, np.ndarray],
    kinds: Sequence[str],
    *,
    batch: int,
    parts: Parts,
    progress: Callable[[Iterable[int]], Iterator[int]] = iter,
) -> dict[str, dict[str, list[float]]]:
    """Measure next-token losses of the mixed model.

    Parameters
    ----------
    model : TemporalLora
        Adapters and mixer.
    held_out : mapping of str to ndarray, (N, T) int
        Domain -> held-out chunks.
    kinds : sequence of str
        Gates to read with, of `KINDS`.
    batch : int
        Chunks a pass.
    parts : Parts
        Keeps the passes that are done; the caller removes them.
    progress : callable
        Wraps the passes' indices, e.g. in a progress bar.

    Returns
    -------
    dict
        Kind -> domain -> nats/token of each chunk.
    """
    passes = [
        (kind, domain, ids_BT)
        for kind in kinds
        for domain, ids_NT in held_out.items()
        for ids_BT in torch.as_tensor(ids_NT, dtype=torch.long).split(batch)
    ]
    nll_N = fill(
        parts,
        lambda i: {"nll": _chunk_losses(model, passes[i][2], uniform=passes[i][0] == "uniform")},
        progress(range(len(passes))),
        axis=0,
    )["nll"]
    ends = np.cumsum([len(ids_BT) for _, _, ids_BT in passes])
    losses: dict[str, dict[str, list[float]]] = {
        kind: {domain: [] for domain in held_out} for kind in kinds
    }
    for (kind, domain, _), nll_B in zip(passes, np.split(nll_N, ends[:-1]), strict=True):
        losses[kind][domain] += nll_B.tolist()
    return losses


@torch.inference_mode()
def _chunk_losses(model: TemporalLora, ids_BT: Tensor, *, uniform: bool) -> np.ndarray:
    ids_BT = ids_BT.to(next(model.parameters()).device)
    count = len(model.domains)
    gates = torch.full((*ids_BT.shape, count), 1 / count, device=ids_BT.device) if uniform else None
    with OneDNNLinear():
        logits = model(ids_BT, gates_BTK=gates).logits
    nll = F.cross_entropy(
        rearrange(logits[:, :-1].float(), "b t v -> b v t"), ids_BT[:, 1:], reduction="none"
    )
    return nll.double().mean(dim=1).cpu().numpy()
