"""What mixing is worth: held-out loss under the mixer's gates, uniform gates and the known domain.

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

GATES = ("mixer", "uniform", "known")


@torch.inference_mode()
def mixed_losses(
    model: TemporalLora, held_out: Mapping[str, Tensor], *, batch: int, device: torch.device
) -> dict[str, dict[str, list[float]]]:
    """Measure next-token losses of the mixed model.

    Parameters
    ----------
    model : TemporalLora
        Adapters and mixer; its domains in the order of `held_out`.
    held_out : mapping of str to Tensor, (N, T) int64
        Domain -> held-out chunks.
    batch : int
        Chunks a pass.
    device : torch.device
        Where to compute.

    Returns
    -------
    dict
        `mixer` (its own gates), `uniform` (1/K each) and `known` (one-hot on the true domain) ->
        domain -> nats/token of each chunk.
    """
    losses: dict[str, dict[str, list[float]]] = {kind: {} for kind in GATES}
    names, count = list(held_out), len(held_out)
    for domain, ids_NT in held_out.items():
        known = F.one_hot(torch.tensor(names.index(domain)), count).float()
        fixed = {"mixer": None, "uniform": torch.full((count,), 1 / count), "known": known}
        for kind in GATES:
            losses[kind][domain] = [
                loss
                for ids_BT in ids_NT.split(batch)
                for loss in _chunk_losses(model, ids_BT.to(device), fixed[kind])
            ]
    return losses


def _chunk_losses(model: TemporalLora, ids_BT: Tensor, gates_K: Tensor | None) -> list[float]:
    gates = None if gates_K is None else gates_K.to(ids_BT.device).expand(*ids_BT.shape, -1)
    with OneDNNLinear():
        logits = model(ids_BT, gates_BTK=gates).logits
    nll = F.cross_entropy(
        rearrange(logits[:, :-1].float(), "b t v -> b v t"), ids_BT[:, 1:], reduction="none"
    )
    return nll.double().mean(dim=1).tolist()
