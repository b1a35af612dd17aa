"""Sequences -> mixing weights: one backbone pass up to layer k serves every mixer.

All dwell lengths of a family share one pass over their longest prefix: its KV cache is cropped
from the longest length down and the last segment is read on top of each. `blocked` (no attention
from A2 to B) is the last segment read on the cache of A1 alone, `reset` on no cache at all, both
at the positions they have in the real sequence; since keys carry their own rotary positions, the
first equals masking B out (a test compares it with an explicit mask). Rotary positions are seen as
differences only, so `reset` is the same at every dwell length and read once, at the longest.

Legend: B batch of texts, T position, D width, K domains, N texts, S training seeds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mneme.nn.onednn import OneDNNLinear
from mneme.nn.split import LowerHalf
from mneme.routing.sequences import Family

Mixers = Mapping[str, Sequence[nn.Module]]
"""Mixer name -> one module a training seed."""


def read_family(
    lower: LowerHalf, family: Family, rows: slice, *, device: torch.device, controls: bool
) -> Iterator[tuple[str, int, Tensor, Tensor, Tensor]]:
    """Read a batch of one family at every dwell length, longest first.

    Parameters
    ----------
    lower : LowerHalf
        The backbone up to layer k (`mneme.nn.split.lower`).
    family : Family
        Sequences.
    rows : slice
        Which texts.
    controls : bool
        Also yield `blocked` and `reset` readings of this family.

    Yields
    ------
    reading : str
        `plain`, `blocked` or `reset`.
    n : int
        Dwell length, tokens.
    ids_BT, labels_BT : Tensor, int64
        Tokens and known domains of the sequence (of the last segment alone for `reset`).
    states_BTD : Tensor
        Output of layer k.
    """
    first, middle, last = (
        torch.as_tensor(part[rows], dtype=torch.long, device=device)
        for part in (family.first, family.middle, family.last)
    )
    size, longest = first.shape[1], max(family.lengths)
    prefix = torch.cat([first, middle[:, :longest]], dim=1)
    prefix_BTD, cache = lower(prefix, use_cache=True)
    for n in sorted(family.lengths, reverse=True):
        _crop(cache, size + n)
        last_BTD = _read_last(lower, last, cache, position=size + n)
        ids = torch.cat([prefix[:, : size + n], last], dim=1)
        labels = _labels(family, n, device=device)[rows]
        yield "plain", n, ids, labels, torch.cat([prefix_BTD[:, : size + n], last_BTD], dim=1)
    if not controls:
        return
    alone_BTD = None
    for n in sorted(family.lengths, reverse=True):
        labels = _labels(family, n, device=device)[rows]
        ids = torch.cat([prefix[:, : size + n], last], dim=1)
        _crop(cache, size)
        last_BTD = _read_last(lower, last, cache, position=size + n)
        yield "blocked", n, ids, labels, torch.cat([prefix_BTD[:, : size + n], last_BTD], dim=1)
        if alone_BTD is None or lower.learnt_positions:
            alone_BTD = _read_last(lower, last, None, position=size + n)
        yield "reset", n, last, labels[:, size + n :], alone_BTD


def _crop(cache: Any, length: int) -> None:
    """Keep the first `length` positions (negative: that many are removed).

    By layer: before transformers 5.2x the cache also has the layers above k, which never ran.
    """
    extra = cache.get_seq_length() - length
    for layer in cache.layers:
        if extra > 0 and layer.is_initialized:
            layer.crop(-extra)


def _read_last(lower: LowerHalf, last: Tensor, cache: Any, *, position: int) -> Tensor:
    positions = torch.arange(position, position + last.shape[1], device=last.device)[None]
    states, _ = lower(
        last, past_key_values=cache, position_ids=positions, use_cache=cache is not None
    )
    return states


def _labels(family: Family, n: int, *, device: torch.device) -> Tensor:
    """Return the known domain of every token of every text of a family at dwell n, (N, T)."""
    first, last = family.domains
    labels = np.concatenate(
        [
            np.full(family.first.shape[1], first),
            family.middle_domains[:n],
            np.full(family.last.shape[1], last),
        ]
    )
    return torch.as_tensor(labels, device=device)[None].expand(len(family.first), -1)


def gate(mixer: nn.Module, ids: Tensor, states: Tensor, labels: Tensor) -> np.ndarray:
    """Return mixing weights, shape (B, T, K), float32: softmax of the mixer's logits."""
    logits, _ = mixer(ids, states, labels_BT=labels)
    return torch.softmax(logits.float(), dim=-1).cpu().numpy()


@torch.inference_mode()
def trace_batch(
    lower: LowerHalf,
    families: Mapping[str, Family],
    mixers: Mixers,
    wanted: Mapping[str, set[str]],
    rows: slice,
    *,
    device: torch.device,
    fast: bool = True,
) -> dict[str, np.ndarray]:
    """Read a batch of texts of every family and gate it with every mixer that wants it.

    Parameters
    ----------
    lower : LowerHalf
        Backbone up to layer k.
    families : mapping of str to Family
        Sequences by name.
    mixers : mapping of str to sequence of Module
        Mixer name -> one module a seed.
    wanted : mapping of str to set of str
        Mixer name -> contexts on which it is read: names of families, `blocked`, `reset`.
    rows : slice
        Texts of this batch.
    device : torch.device
        Where to compute.
    fast : bool
        Use oneDNN for float32 products on the CPU (same values but for the order of summation).

    Returns
    -------
    dict of ndarray, float32, shape (S, B, T, K)
        Key `mixer/context/n`: weights along the whole sequence (for `reset`: the last segment).
    """
    out: dict[str, np.ndarray] = {}
    with OneDNNLinear() if fast else contextlib.nullcontext():
        for name, family in families.items():
            controls = name == "real" and any({"blocked", "reset"} & w for w in wanted.values())
            if not controls and not any(name in contexts for contexts in wanted.values()):
                continue
            for reading, n, ids, labels, states in read_family(
                lower, family, rows, device=device, controls=controls
            ):
                context = _context(name, reading)
                for mixer, modules in mixers.items():
                    if context in wanted.get(mixer, ()):
                        weights = [gate(module, ids, states, labels) for module in modules]
                        out[f"{mixer}/{context}/{n}"] = np.stack(weights)
    return out


def _context(family: str, reading: str) -> str:
    return family if reading == "plain" else reading
