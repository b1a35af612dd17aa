"""The lag of the oracle `ema` gate in closed form: the positive control of the protocol.

The gate smooths the logits x = +L of the true domain and -L of every other one,

    z_i = a z_(i-1) + (1 - a) x_i,                 z before the first token = 0,

so a stay of n tokens with constant x turns z into a^n z + (1 - a^n) x. Within A -> B -> A ... the
two visited domains always carry opposite logits, +z for the one entered and -z for the one left,
while a domain never visited carries y = -L (1 - a^t) after t tokens in all. With s the entered
domain's logit at the boundary and t0 the tokens before it, token i = 0, 1, ... after it has

    z_i = a^(i+1) s + (1 - a^(i+1)) L,             y_i = -L (1 - a^(t0+i+1)),
    w_i = 1 / (1 + exp(-2 z_i) + (K - 2) exp(y_i - z_i)).

After one very long stay s = -L and z_i = L (1 - 2 a^(i+1)); after one stay of n tokens from the
cold start s = -L (1 - a^n) and z_i = L (1 - a^(i+1) (2 - a^n)). As s >= -L, w_i rises with i, so a
run of any length holds as soon as it starts, and for K = 2 the lag is the least i >= 0 with
a^(i+1) <= (1 - logit(theta) / (2 L)) / (1 - s / L).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def ema_weight(
    token: ArrayLike,
    *,
    decay: float,
    oracle_logit: float,
    domains: int,
    stays: Sequence[int] | None,
) -> NDArray[np.float64]:
    """Weight of the entered domain `token` tokens after the boundary.

    Parameters
    ----------
    token : array of int
        Tokens after the boundary; the first token of the segment is 0.
    decay : float
        a, 0 <= a < 1.
    oracle_logit : float
        L > 0.
    domains : int
        K >= 2, of which two are visited.
    stays : sequence of int or None
        Lengths of the alternating stays before the boundary, tokens, from the cold start on; the
        last is the stay in the domain being left. None: one endless stay.

    Returns
    -------
    array
        w_i, 0..1, shape of `token`.
    """
    _check(decay, oracle_logit, domains, stays)
    start, tokens_before = -oracle_logit, np.inf
    if stays is not None:
        start, tokens_before = 0.0, float(sum(stays))
        signs = [-1.0 if back % 2 == 0 else 1.0 for back in range(len(stays))][::-1]
        for sign, stay in zip(signs, stays, strict=True):
            start = decay**stay * start + (1 - decay**stay) * sign * oracle_logit
    after = np.asarray(token, float) + 1.0
    kept = decay**after
    z = kept * start + (1 - kept) * oracle_logit
    y = -oracle_logit * (1 - decay ** (tokens_before + after))
    return 1.0 / (1.0 + np.exp(-2 * z) + (domains - 2) * np.exp(y - z))


def ema_lag(
    *,
    decay: float,
    oracle_logit: float,
    threshold: float,
    domains: int,
    stays: Sequence[int] | None,
) -> int | None:
    """Switch lag of the oracle gate: least i >= 0 with w_i >= `threshold`, for any `run_tokens`.

    Parameters
    ----------
    decay, oracle_logit, domains, stays
        As in `ema_weight`.
    threshold : float
        theta, 0..1.

    Returns
    -------
    int or None
        Lag, tokens; None when the weight stays below theta for ever. In a segment of T tokens the
        lag is observed when it is at most T - run_tokens.
    """

    def reached(token: int) -> bool:
        weight = ema_weight(
            token, decay=decay, oracle_logit=oracle_logit, domains=domains, stays=stays
        )
        return bool(weight >= threshold)

    above = 0  # the weight rises: double until it is reached, then halve down to the first
    while not reached(above):
        if decay ** (above + 1) == 0.0:
            return None  # at its limit, and still below
        above = 2 * above + 1
    below = -1
    while above - below > 1:
        middle = (above + below) // 2
        below, above = (below, middle) if reached(middle) else (middle, above)
    return above


def _check(decay: float, oracle_logit: float, domains: int, stays: Sequence[int] | None) -> None:
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")
    if oracle_logit <= 0:
        raise ValueError(f"oracle_logit must be positive, got {oracle_logit}")
    if domains < 2:
        raise ValueError(f"domains must be at least 2, got {domains}")
    if stays is not None and any(stay < 1 for stay in stays):
        raise ValueError(f"stays must be at least one token each, got {list(stays)}")
