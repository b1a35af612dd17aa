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
class SequenceConfig:
    """Lengths of the protocol's sequences: all that reading them depends on."""

    tuples: int
    """Text tuples."""
    segment_tokens: int
    """Length of first and last segment, and of every middle of `hysteresis`, tokens."""
    mix_piece_tokens: int
    """Length of the alternating pieces of a mixed segment, tokens; the last is of B."""
    dwell_tokens: tuple[int, ...]
    """Dwell lengths of `fatigue`, tokens."""
    batch: int
    """Tuples a forward pass."""

    def longest(self) -> int:
        """Return the length of the longest sequence, tokens."""
        return 2 * self.segment_tokens + max(self.segment_tokens, *self.dwell_tokens, 0)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of sequence: first, middle (cut to each dwell length), last."""

    first: np.ndarray
    """(N, S) ids before the middle."""
    middle: np.ndarray
    """(N, L) ids of the longest middle; shorter dwells are its *first* tokens."""
    last: np.ndarray
    """(N, S) ids after it."""
    middle_domains: np.ndarray
    """(L,) domain of each token of the middle."""
    domains: tuple[int, int]
    """Domains of the first and of the last segment."""
    lengths: tuple[int, ...]
    """Dwell lengths at which this family is read."""


def hysteresis_families(
    tuples: Mapping[str, np.ndarray],
    config: SequenceConfig | ProtocolConfig,
    *,
    domains: tuple[int, int],
    seed: int,
) -> dict[str, Family]:
    """Return the families of the hysteresis tests, all with middles of one segment's length.

    Besides those of `fatigue_families`: `mixed` (A1, alternating pieces of A and B of which the
    last is of B, A2), `repeated` (A1, B, A1: the source's own return) and its control `repeated_aa`
    (A1, A', A1).
    """
    size = config.segment_tokens
    families = fatigue_families(tuples, config, domains=domains, seed=seed, lengths=(size,))
    a, b = domains
    a1, a2 = tuples["a1"], tuples["a2"]
    a_middle, b_middle = tuples["a_other_long"][:, :size], tuples["b_long"][:, :size]
    from_b = mixed_pattern(size, piece=config.mix_piece_tokens)
    mixed = np.where(from_b, b_middle, a_middle)
    families["mixed"] = _family(a1, mixed, a2, (a, np.where(from_b, b, a), a), (size,))
    families["repeated"] = _family(a1, b_middle, a1, (a, b, a), (size,))
    again = tuples["a_long"][:, :size]
    families["repeated_aa"] = _family(a1, again, a1, (a, a, a), (size,))
    return families


def fatigue_families(
    tuples: Mapping[str, np.ndarray],
    config: SequenceConfig | ProtocolConfig,
    *,
    domains: tuple[int, int],
    seed: int,
    lengths: tuple[int, ...] | None = None,
) -> dict[str, Family]:
    """Return the families `real`, `same_domain`, `other`, `swapped`, `shuffled` over dwell lengths.

    `same_domain` is A1, A', A2; `other` is A1, A'', A2, the null of the return gap. `blocked` and
    `reset` are the real family read with attention from A2 to B cut, and A2 alone.
    """
    lengths = lengths or config.dwell_tokens
    a, b = domains
    longest = max(lengths)
    a1, a2 = tuples["a1"], tuples["a2"]
    a_long, b_long = tuples["a_long"][:, :longest], tuples["b_long"][:, :longest]
    other = tuples["a_other_long"][:, :longest]
    permuted = nested_permutation(b_long, lengths, seed=seed)
    return {
        "real": _family(a1, b_long, a2, (a, b, a), lengths),
        "same_domain": _family(a1, a_long, a2, (a, a, a), lengths),
        "other": _family(a1, other, a2, (a, a, a), lengths),
        "swapped": _family(tuples["b1"], a_long, tuples["b2"], (b, a, b), lengths),
        "shuffled": _family(a1, permuted, a2, (a, b, a), lengths),
    }


def _family(
    first: np.ndarray,
    middle: np.ndarray,
    last: np.ndarray,
    domains: tuple[int, int | np.ndarray, int],
    lengths: tuple[int, ...],
) -> Family:
    return Family(
        first=first,
        middle=middle,
        last=last,
        middle_domains=np.broadcast_to(domains[1], middle.shape[1:]).astype(np.int64),
        domains=(domains[0], domains[2]),
        lengths=tuple(lengths),
    )


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


def mixed_pattern(tokens: int, *, piece: int) -> np.ndarray:
    """Tell which tokens of a mixed segment are of B.

    Pieces are counted from the end and the last is of B, so that the known boundary behind the
    segment is a switch into A, whatever the lengths; the first piece is the one that may be short.

    Parameters
    ----------
    tokens : int
        Length of the segment, tokens.
    piece : int
        Length of a piece, tokens.

    Returns
    -------
    ndarray, shape (tokens,), bool
    """
    return (np.arange(tokens)[::-1] // piece) % 2 == 0
