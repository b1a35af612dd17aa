"""Mixing weights with known boundaries -> the room's metrics, one number per text (numpy only).

Legend: N texts (any leading axes), T tokens of one segment, K domains. A segment starts at a known
boundary; `weights_NT` is the weight of one domain, `weights_NTK` the weights of all. Averages,
intervals and tests over texts are made by `mneme.stats`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
ROUNDING = 1e-2  # a softmax in bfloat16 sums to 1 only within this


def switch_lag(
    weights_NT: ArrayLike, *, threshold: float, run_tokens: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Tokens after the boundary until the entered domain holds.

    The lag is the least i >= 0 with w >= `threshold` at tokens i .. i + `run_tokens` - 1, all of
    them inside the segment.

    Parameters
    ----------
    weights_NT : array (..., T)
        Weight of the domain just entered, 0..1, from its first token on.
    threshold : float
        Weight that counts as switched, 0..1.
    run_tokens : int
        Tokens in a row that must reach it, 1..T.

    Returns
    -------
    lag_N : int64 array (...)
        Lag in tokens, 0..T - run_tokens; T where it was never reached (right-censored).
    observed_N : bool array (...)
        False where censored; a censored lag is never 0.

    Raises
    ------
    ValueError
        When the segment is shorter than `run_tokens`, or a weight is not in 0..1.
    """
    weights_NT = _weights(weights_NT)
    tokens = weights_NT.shape[-1]
    if not 1 <= run_tokens <= tokens:
        raise ValueError(f"run_tokens must be 1..{tokens} (segment length), got {run_tokens}")
    high_NT = weights_NT >= threshold
    windows = np.lib.stride_tricks.sliding_window_view(high_NT, run_tokens, axis=-1)
    held = windows.all(axis=-1)
    observed_N = np.asarray(held.any(axis=-1))
    return np.where(observed_N, held.argmax(axis=-1), tokens), observed_N


def switching_asymmetry(lag_BA_N: ArrayLike, lag_AB_N: ArrayLike) -> dict[str, Floats]:
    """Lag back into A minus lag into B, paired by text.

    Parameters
    ----------
    lag_BA_N, lag_AB_N : array (N,)
        Restricted lags of the same texts, tokens.

    Returns
    -------
    dict
        `signed` (N,) lag B->A minus lag A->B; `absolute` (N,) its absolute value; tokens.
    """
    back_N, into_N = np.asarray(lag_BA_N, float), np.asarray(lag_AB_N, float)
    if back_N.shape != into_N.shape:
        raise ValueError(f"lags must be paired by text, got {back_N.shape} and {into_N.shape}")
    signed_N = back_N - into_N
    return {"signed": signed_N, "absolute": np.abs(signed_N)}


def return_gap(first_NTK: ArrayLike, second_NTK: ArrayLike, *, domain: int) -> dict[str, Floats]:
    """How far two weight trajectories lie apart.

    Parameters
    ----------
    first_NTK, second_NTK : array (..., T, K)
        Mixing weights on equally many tokens: the reference, and the trajectory in question.
    domain : int
        Column of the domain returned to (A).

    Returns
    -------
    dict of arrays (...)
        `cosine` mean over tokens of 1 - cos(first, second), 0..1; `euclidean` mean over tokens of
        the distance, 0..sqrt(2); `dtw` accumulated cost and `dtw_normalised` the same per step of
        the warping path (see `dtw`); `mean_difference` mean of w_A in second minus first, -1..1.
        Equal trajectories give exactly 0 everywhere.

    Raises
    ------
    ValueError
        When the shapes differ or rows are not weights that sum to 1.
    """
    first_NTK, second_NTK = _simplex(first_NTK), _simplex(second_NTK)
    if first_NTK.shape != second_NTK.shape:
        raise ValueError(f"shapes must agree, got {first_NTK.shape} and {second_NTK.shape}")
    accumulated_N, steps_N = dtw(first_NTK, second_NTK)
    # |u - v|^2 / 2 = 1 - cos for unit vectors; unlike 1 - cos it is exactly 0 when u == v.
    apart_NTK = _unit(first_NTK) - _unit(second_NTK)
    difference_NTK = second_NTK - first_NTK
    return {
        "cosine": (np.square(apart_NTK).sum(axis=-1) / 2).mean(axis=-1),
        "euclidean": np.linalg.norm(difference_NTK, axis=-1).mean(axis=-1),
        "dtw": accumulated_N,
        "dtw_normalised": accumulated_N / steps_N,
        "mean_difference": difference_NTK[..., domain].mean(axis=-1),
    }


def _unit(x_NTK: Floats) -> Floats:
    return x_NTK / np.linalg.norm(x_NTK, axis=-1, keepdims=True)


def dtw(first_NTK: ArrayLike, second_NUK: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    """Dynamic time warping of whole trajectories, token cost Euclidean, no window.

    Steps are (1, 1), (1, 0) and (0, 1), each charging the cost of the cell it enters. Of several
    paths of least cost the shortest counts, so that both results are symmetric in the arguments.
    Cells are filled by anti-diagonals, all texts at once.

    Parameters
    ----------
    first_NTK : array (..., T, K)
        One trajectory per text.
    second_NUK : array (..., U, K)
        The other; U may differ from T.

    Returns
    -------
    accumulated_N : float64 array (...)
        Least accumulated cost.
    steps_N : int64 array (...)
        Cells on that path, max(T, U)..T + U - 1.

    References
    ----------
    Sakoe and Chiba (1978), Dynamic programming algorithm optimization for spoken word recognition.
    """
    x, y = np.asarray(first_NTK, float), np.asarray(second_NUK, float)
    lead, (rows, width), columns = x.shape[:-2], x.shape[-2:], y.shape[-2]
    if (lead, width) != (y.shape[:-2], y.shape[-1]) or min(rows, columns) < 1:
        raise ValueError(f"dtw needs equal texts and domains, got {x.shape} and {y.shape}")
    x, y = x.reshape(-1, rows, width), y.reshape(-1, columns, width)
    # Slot i + 1 of a diagonal holds (cost, steps) of cell (i, d - i); slot 0 is the border.
    empty = np.stack([np.full((len(x), rows + 1), np.inf), np.zeros((len(x), rows + 1))])
    before, last = empty.copy(), empty
    before[:, :, 0] = 0.0
    for diagonal in range(rows + columns - 1):
        low, high = max(0, diagonal - columns + 1), min(diagonal, rows - 1) + 1
        opposite = y[:, diagonal - high + 1 : diagonal - low + 1][:, ::-1]
        cost = np.linalg.norm(x[:, low:high] - opposite, axis=-1)
        ways = np.stack(
            [before[:, :, low:high], last[:, :, low:high], last[:, :, low + 1 : high + 1]]
        )
        least = ways[:, 0].min(axis=0)
        steps = np.where(ways[:, 0] == least, ways[:, 1], np.inf).min(axis=0)
        now = empty.copy()
        now[:, :, low + 1 : high + 1] = least + cost, steps + 1
        before, last = last, now
    return last[0, :, -1].reshape(lead), last[1, :, -1].astype(np.int64).reshape(lead)


def mix_entropy(weights_NTK: ArrayLike) -> Floats:
    """Mean entropy of the token's mixing weights, nats, 0..ln K, shape (...)."""
    weights_NTK = _simplex(weights_NTK)
    logs_NTK = np.log(np.where(weights_NTK > 0, weights_NTK, 1.0))  # 0 ln 0 = 0
    return np.abs((weights_NTK * logs_NTK).sum(axis=-1)).mean(axis=-1)


def mix_balance(weights_NTK: ArrayLike, *, domains: Sequence[int] | None = None) -> Floats:
    """Least over greatest mean weight, 0 (one domain only) .. 1 (even), shape (...).

    Parameters
    ----------
    weights_NTK : array (..., T, K)
        Mixing weights of the mixed segment.
    domains : sequence of int, optional
        Columns of the domains that are in the mix; all when left out.

    Raises
    ------
    ValueError
        When the chosen domains have no weight at all in some text.
    """
    means_NK = _simplex(weights_NTK).mean(axis=-2)
    if domains is not None:
        means_NK = means_NK[..., list(domains)]
    greatest_N = means_NK.max(axis=-1)
    if not (greatest_N > 0).all():
        raise ValueError(f"mix_balance: domains {domains} have no weight in some text")
    return means_NK.min(axis=-1) / greatest_N


def deep_crystallization_ratio(weights_NT: ArrayLike, deep_weight: float) -> Floats:
    """Share of the segment's tokens with w > `deep_weight`, 0..1, shape (...).

    The source's measure. It rises with the segment's length by itself, see
    `constant_lag_deep_ratio`; `mneme.routing.settled` reads what is left of that.
    """
    return (_weights(weights_NT) > deep_weight).mean(axis=-1)


def deep_crystallization_ratio_after(
    weights_NT: ArrayLike, deep_weight: float, skip_tokens: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """Share of deep tokens among those `skip_tokens` or more after entry.

    Returns
    -------
    ratio_N : float64 array (...)
        Share, 0..1; 0 where undefined.
    valid_N : bool array (...)
        False (for every text) when the segment has no such token.
    """
    deep_NT = (_weights(weights_NT) > deep_weight)[..., skip_tokens:]
    return _share(deep_NT, valid=deep_NT.shape[-1] > 0)


def deep_crystallization_ratio_last(
    weights_NT: ArrayLike, deep_weight: float, tokens: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """Share of deep tokens among the last `tokens` of the segment.

    Returns
    -------
    ratio_N : float64 array (...)
        Share, 0..1; 0 where undefined.
    valid_N : bool array (...)
        False (for every text) when the segment is shorter than `tokens`.
    """
    if tokens < 1:
        raise ValueError(f"tokens must be at least 1, got {tokens}")
    deep_NT = _weights(weights_NT) > deep_weight
    return _share(deep_NT[..., -tokens:], valid=deep_NT.shape[-1] >= tokens)


def _share(deep_NT: NDArray[np.bool_], *, valid: bool) -> tuple[Floats, NDArray[np.bool_]]:
    ratio_N = deep_NT.mean(axis=-1) if valid else np.zeros(deep_NT.shape[:-1])
    return ratio_N, np.full(deep_NT.shape[:-1], valid)


def constant_lag_deep_ratio(lag: ArrayLike, n_tokens: ArrayLike) -> Floats:
    """Null curve of `deep_crystallization_ratio`: a gate deep from token `lag` on, 1 - lag / n."""
    n_tokens = np.asarray(n_tokens, float)
    # One rounding only, as in a mean of booleans: a gate of whole lag is met exactly.
    return np.maximum(0.0, n_tokens - np.asarray(lag, float)) / n_tokens


def avg_weight(weights_NT: ArrayLike) -> Floats:
    """Mean weight over the segment, 0..1, shape (...)."""
    return _weights(weights_NT).mean(axis=-1)


def tail_area(weights_NT: ArrayLike, tokens: int) -> Floats:
    """Sum of 1 - w over the first `tokens` tokens after the return, 0..tokens, shape (...).

    Raises
    ------
    ValueError
        When the segment has fewer tokens: a shorter sum would not be comparable.
    """
    weights_NT = _weights(weights_NT)
    if not 1 <= tokens <= weights_NT.shape[-1]:
        raise ValueError(f"tail_area over {tokens} tokens, segment has {weights_NT.shape[-1]}")
    return (1.0 - weights_NT[..., :tokens]).sum(axis=-1)


def _weights(values: ArrayLike) -> Floats:
    """Check weights of one domain and widen them to float64."""
    weights = np.asarray(values, float)
    if weights.ndim < 1 or weights.size == 0:
        raise ValueError(f"weights must hold at least one token, got shape {weights.shape}")
    if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.max() <= 1 + ROUNDING):
        raise ValueError("weights must be finite and in 0..1")
    return weights


def _simplex(values: ArrayLike) -> Floats:
    """Check weights of all domains: each token's sum is 1."""
    weights_NTK = _weights(values)
    if weights_NTK.ndim < 2:
        raise ValueError(f"weights must have shape (..., T, K), got {weights_NTK.shape}")
    worst = float(np.abs(weights_NTK.sum(axis=-1) - 1).max())
    if worst > ROUNDING:
        raise ValueError(f"weights of a token must sum to 1, one is off by {worst:.3g}")
    return weights_NTK
