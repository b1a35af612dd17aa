"""Calibration material: labelled chunks of every domain, and the shuffled-label control.

Legend: N chunks, T position, D width of the states, K domains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Part = Literal["calibration", "validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """Labelled chunks of one part of the calibration material."""

    ids: Tensor
    """Token ids, (N, T), int64."""
    states: Tensor
    """Output of layer k, (N, T, D), float32."""
    domains: Tensor
    """True domain of each chunk, (N,), 0..K-1, int64."""
    labels: Tensor
    """Label that the run calibrates to, (N,), int64; `domains` unless labels are shuffled."""

    def rows(self, index: Tensor | slice) -> Chunks:
        """Select chunks."""
        fields = dataclasses.fields(self)
        return Chunks(**{field.name: getattr(self, field.name)[index] for field in fields})


def limited(
    data: Mapping[str, Tensor], domains: Sequence[str], limit: tuple[int, int] | None
) -> dict[str, Tensor]:
    """Keep only the first chunks, and their first tokens, of the calibration part.

    Parameters
    ----------
    data : mapping of str to Tensor
        As for `read_chunks`.
    domains : sequence of str
        Names.
    limit : (int, int) or None
        Chunks a domain and tokens a chunk; None keeps everything.
    """
    out = dict(data)
    if limit is not None:
        chunks, tokens = limit
        for domain in domains:
            for key in (f"{domain}.calibration", f"{domain}.calibration.ids"):
                out[key] = data[key][:chunks, :tokens]
    return out


def read_chunks(
    data: Mapping[str, Tensor], domains: Sequence[str], part: Part, *, device: torch.device
) -> Chunks:
    """Join the domains' chunks of one part, labelled by their domain.

    Parameters
    ----------
    data : mapping of str to Tensor
        `<domain>.<part>` states (N, T, D) and `<domain>.<part>.ids` (N, T).
    domains : sequence of str
        Names in the order of their labels 0..K-1.
    part : str
        `calibration`, `validation` or `test`.
    device : torch.device
        Where the chunks go.

    Returns
    -------
    Chunks

    Raises
    ------
    ValueError
        A domain has no chunks in this part.
    """
    states = [tensor_of(data, f"{domain}.{part}") for domain in domains]
    ids = [tensor_of(data, f"{domain}.{part}.ids") for domain in domains]
    for domain, states_NTD, ids_NT in zip(domains, states, ids, strict=True):
        if len(ids_NT) == 0:
            raise ValueError(f"domain {domain!r} has no {part} chunks: give it a larger corpus")
        assert states_NTD.shape[:2] == ids_NT.shape
    sizes = torch.tensor([len(x) for x in states])
    domains_N = torch.repeat_interleave(torch.arange(len(domains)), sizes).to(device)
    return Chunks(
        ids=torch.cat(ids).long().to(device),
        states=torch.cat(states).float().to(device),
        domains=domains_N,
        labels=domains_N,
    )


def tensor_of(data: Mapping[str, Tensor], key: str) -> Tensor:
    """Return one tensor; raises ValueError naming `key` when it is not there."""
    if key not in data:
        raise ValueError(
            f"calibration states lack {key!r}, they hold {sorted(data)}: make them again"
        )
    return data[key]


def shuffle_labels(chunks: Chunks, *, generator: torch.Generator) -> Chunks:
    """Deal every label evenly over each domain's chunks, in random order.

    A free permutation leaves a chance surplus of one label in a domain, and on separable domains
    a mixer would learn that surplus perfectly: a coin toss between 0 and 1, not chance level.
    """
    labels_N = chunks.domains.clone()
    count = int(chunks.domains.max()) + 1
    for domain in range(count):
        rows = (chunks.domains == domain).nonzero()[:, 0]
        order = torch.randperm(len(rows), generator=generator)
        # The offset spreads remainders, so that labels stay equally frequent over all domains.
        labels_N[rows] = ((order + domain) % count).to(labels_N.device)
    return dataclasses.replace(chunks, labels=labels_N)
