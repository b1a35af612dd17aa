"""Does a gate become deeper after it has entered? The share of deep tokens since its own entry.

Entry is the first run of deep tokens (weight above `deep_weight`); what is read begins
`SETTLE_TOKENS` after that run has ended. Entry is known from the tokens up to there, so a gate
whose deep tokens come and go with one probability, whatever it is in this text, has that expected
share in every stretch behind it: the share up to n minus the share up to the longest dwell is 0 on
average at every n, for any lag, any probability, and any mixture of texts. Where deep tokens depend
on those just before them, with correlation r a token, the run pulls the first share up by at most
(1 - p) r^SETTLE_TOKENS, which is what the wait is for.

Counting from the boundary instead, minus p (1 - lag / n), does not do: deep tokens before entry,
the run that defines it, and texts that never enter make it fall with n for any flickering gate.

Legend: N texts (any leading axes), T tokens of the middle segment, D dwell lengths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mneme.routing.measure import switch_lag

SETTLE_TOKENS = 16
"""Tokens left out between the run that is the entry and the first token that is read."""
LEAST_TOKENS = 8
"""Fewest tokens that a share is read from."""

Floats = NDArray[np.float64]


def shortest_dwell(run_tokens: int) -> int:
    """Return the shortest dwell at which a text that enters at once has a share, tokens."""
    return run_tokens + SETTLE_TOKENS + LEAST_TOKENS


def settled_excess(
    weights_NT: ArrayLike, lengths: Sequence[int], *, deep_weight: float, run_tokens: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """Share of deep tokens since entry up to each dwell, minus that up to the longest.

    Parameters
    ----------
    weights_NT : array (..., T)
        Weight of the domain entered, 0..1, over the longest dwell.
    lengths : sequence of int
        Dwell lengths, tokens, increasing, at most T: each is a prefix of the same trajectory.
    deep_weight : float
        Weight above which a token is deep.
    run_tokens : int
        Deep tokens in a row that are an entry.

    Returns
    -------
    excess_ND : float64 array (..., D)
        Difference of shares, -1..1, 0 at the longest. A text with too few tokens since its entry
        takes the share at the shortest dwell that has enough; one that has none, as it never
        enters or enters too late, is 0 at every dwell.
    settled_ND : bool array (..., D)
        Whether a text has a share of its own at a dwell.

    Raises
    ------
    ValueError
        Lengths do not increase or exceed T; otherwise as `mneme.routing.measure.switch_lag`.
    """
    weights_NT, sizes = np.asarray(weights_NT, float), list(lengths)
    tokens = weights_NT.shape[-1]
    if sizes != sorted(set(sizes)) or not 1 <= sizes[0] <= sizes[-1] <= tokens:
        raise ValueError(f"lengths must increase within 1..{tokens}, got {sizes}")
    # A weight equal to deep_weight is not deep: the next float above it is the least that is.
    least = float(np.nextafter(deep_weight, 2.0))
    lag_N, entered_N = switch_lag(weights_NT, threshold=least, run_tokens=run_tokens)
    start_N1 = np.minimum(lag_N + run_tokens + SETTLE_TOKENS, tokens)[..., None]
    deep_NT = weights_NT > deep_weight
    counts_NT = np.concatenate(
        [np.zeros((*deep_NT.shape[:-1], 1)), np.cumsum(deep_NT, axis=-1)], axis=-1
    )
    read_ND = np.asarray(sizes) - start_N1
    settled_ND = (read_ND >= LEAST_TOKENS) & entered_N[..., None]
    deep_ND = counts_NT[..., sizes] - np.take_along_axis(counts_NT, start_N1, axis=-1)
    share_ND = np.divide(deep_ND, read_ND, out=np.zeros_like(deep_ND), where=settled_ND)
    for place in range(len(sizes) - 2, -1, -1):
        later_N = share_ND[..., place + 1]
        share_ND[..., place] = np.where(settled_ND[..., place], share_ND[..., place], later_N)
    return share_ND - share_ND[..., -1:], settled_ND
