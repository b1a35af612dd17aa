"""What mixing is worth: held-out loss under the mixer's gates and under uniform gates.

Legend: B batch, T position, K domains, N chunks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mneme.nn.onednn import OneDNNLinear
from mneme.routing.model import TemporalLora


@torch.inference_mode()
def mixed_losses(
    model: TemporalLora,
    held_out: Mapping[str, Tensor],
    *,
    uniform: bool,
    batch: int,
    device: torch.device,
) -> dict[str, list[float]]:
    """Measure next-token losses of the mixed model.

    Parameters
    ----------
    model : TemporalLora
        Adapters and mixer.
    held_out : mapping of str to Tensor, (N, T) int64
        Domain -> held-out chunks.
    uniform : bool
        Gate every token with 1/K each instead of the mixer.
    batch : int
        Chunks a pass.
    device : torch.device
        Where to compute.

    Returns
    -------
    dict
        Domain -> nats/token of each chunk.
    """
    count = len(model.domains)
    gates = torch.full((count,), 1 / count, device=device) if uniform else None
    return {
        domain: [
            loss
            for ids_BT in ids_NT.split(batch)
            for loss in _chunk_losses(model, ids_BT.to(device), gates)
        ]
        for domain, ids_NT in held_out.items()
    }


def _chunk_losses(model: TemporalLora, ids_BT: Tensor, gates_K: Tensor | None) -> list[float]:
    gates = None if gates_K is None else gates_K.expand(*ids_BT.shape, -1)
    with OneDNNLinear():
        logits = model(ids_BT, gates_BTK=gates).logits
    nll = F.cross_entropy(
        rearrange(logits[:, :-1].float(), "b t v -> b v t"), ids_BT[:, 1:], reduction="none"
    )
    return nll.double().mean(dim=1).tolist()
