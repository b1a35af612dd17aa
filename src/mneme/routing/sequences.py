"""The protocol's sequences: three segments with known boundaries, for the real thing and controls.

Legend: N texts, S segment length, L longest middle segment; all arrays are token ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mneme.core.seeds import numpy_generator
from mneme.routing.config import ProtocolConfig


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of sequence: first, middle (cut to each dwell length), last."""

    first: np.ndarray
    """(N, S) ids before the middle."""
    middle: np.ndarray
    """(N, L) ids of the longest middle; shorter dwells are its *first* tokens."""
    last: np.ndarray
    """(N, S) ids after it."""
    domains: tuple[int, int, int]
    """Index of the domain of each segment (the middle of a mixed sequence counts as B)."""
    lengths: tuple[int, ...]
    """Dwell lengths at which this family is read."""


def hysteresis_families(
    tuples: Mapping[str, np.ndarray],
    protocol: ProtocolConfig,
    *,
    domains: tuple[int, int],
    seed: int,
) -> dict[str, Family]:
    """Return the families of the hysteresis tests, all with middles of one segment's length.

    Besides those of `fatigue_families`: `other` (A1, A'', A2: the null of the return gap), `mixed`
    (A1, alternating pieces of A and B, A2), `repeated` (A1, B, A1: the source's own return) and its
    control `repeated_aa` (A1, A', A1).
    """
    size = protocol.segment_tokens
    families = fatigue_families(tuples, protocol, domains=domains, seed=seed, lengths=(size,))
    a, b = domains
    a1, a2 = tuples["a1"], tuples["a2"]
    piece = protocol.mix_piece_tokens
    mix = mixed_segment(tuples["a_other"], tuples["b_long"][:, :size], piece=piece)
    short = {"lengths": (size,)}
    families["other"] = Family(
        first=a1, middle=tuples["a_other"], last=a2, domains=(a, a, a), **short
    )
    families["mixed"] = Family(first=a1, middle=mix, last=a2, domains=(a, b, a), **short)
    families["repeated"] = Family(
        first=a1, middle=tuples["b_long"], last=a1, domains=(a, b, a), **short
    )
    families["repeated_aa"] = Family(
        first=a1, middle=tuples["a_long"], last=a1, domains=(a, a, a), **short
    )
    return families


def fatigue_families(
    tuples: Mapping[str, np.ndarray],
    protocol: ProtocolConfig,
    *,
    domains: tuple[int, int],
    seed: int,
    lengths: tuple[int, ...] | None = None,
) -> dict[str, Family]:
    """Return the families `real`, `same_domain`, `swapped` and `shuffled` over dwell lengths.

    `blocked` and `reset` are the real family read with attention from A2 to B cut, and A2 alone.
    """
    lengths = lengths or protocol.dwell_tokens
    a, b = domains
    longest = max(lengths)
    a1, a2 = tuples["a1"], tuples["a2"]
    a_long, b_long = tuples["a_long"][:, :longest], tuples["b_long"][:, :longest]
    permuted = nested_permutation(b_long, lengths, seed=seed)
    same = {"lengths": tuple(lengths)}
    return {
        "real": Family(first=a1, middle=b_long, last=a2, domains=(a, b, a), **same),
        "same_domain": Family(first=a1, middle=a_long, last=a2, domains=(a, a, a), **same),
        "swapped": Family(
            first=tuples["b1"], middle=a_long, last=tuples["b2"], domains=(b, a, b), **same
        ),
        "shuffled": Family(first=a1, middle=permuted, last=a2, domains=(a, b, a), **same),
    }


def nested_permutation(ids_NT: np.ndarray, lengths: tuple[int, ...], *, seed: int) -> np.ndarray:
    """Permute tokens inside the blocks between consecutive lengths.

    Every prefix of a dwell length then holds the same tokens as the unshuffled prefix, so that all
    dwell lengths share one forward pass.
    """
    generator = numpy_generator(seed, "sequences", "shuffled")
    out = ids_NT.copy()
    bounds = [0, *sorted(lengths)]
    for low, high in itertools.pairwise(bounds):
        for row in out:
            row[low:high] = row[low:high][generator.permutation(high - low)]
    return out


def mixed_segment(a_NT: np.ndarray, b_NT: np.ndarray, *, piece: int) -> np.ndarray:
    """Alternate pieces of `piece` tokens, beginning with B, to the length of `a_NT`."""
    position = np.arange(a_NT.shape[1])
    from_b = (position // piece) % 2 == 0
    return np.where(from_b, b_NT, a_NT)
