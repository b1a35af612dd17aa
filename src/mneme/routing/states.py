"""States of layer k on chunks of text.

Legend: N chunks, T position, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mneme.nn.onednn import OneDNNLinear


@torch.inference_mode()
def states_of(lower: nn.Module, ids_NT: Tensor, *, batch: int, device: torch.device) -> Tensor:
    """Read the raw output of layer k on every chunk.

    Parameters
    ----------
    lower : Module
        Backbone up to layer k (`mneme.nn.split.lower`).
    ids_NT : Tensor, int64
        Chunks of equal length.
    batch : int
        Chunks a pass.
    device : torch.device
        Where to compute.

    Returns
    -------
    Tensor, (N, T, D) float32 on the CPU
        States.
    """
    with OneDNNLinear():
        parts = [
            lower(part_BT.to(device))[0].float().cpu()
            for part_BT in tqdm(ids_NT.split(batch), desc="states", unit="batch")
        ]
    return torch.cat(parts)
