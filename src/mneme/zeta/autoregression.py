"""Linear prediction of spacings: least squares of all orders at once, predictions, forecasts.

An autoregression of order p predicts x_t by a_1 x_(t-1) + ... + a_p x_(t-p), x the deviation from
the mean spacing. One Cholesky factor holds the least-squares coefficients of every order 1..P, so a
window can be read at all its contexts: with i spacings before the target the order is min(i, P).

Least squares over the targets (the covariance method), not Yule-Walker: the spectrum of zeta's
spacings has deep gaps, which the window at the ends of autocovariances fills up.

Legend: B batch of windows (or of fits), N spacings of a window, T targets of a window (N - 1),
P largest order, L lags 0..P, H horizon.

References
----------
Brockwell and Davis (1991), Time Series: Theory and Methods, section 5.2.
Kay (1988), Modern Spectral Estimation, section 7.4 (the covariance method).
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.linalg import solve_triangular

Floats = NDArray[np.float64]


def lagged_products(x: Floats, *, window: int, lags: int) -> Floats:
    """Sum x_t x_(t-k) over the t of each window, for every lag: what a fit needs to know of it.

    Parameters
    ----------
    x : array (n,)
        Deviations from the mean.
    window : int
        Spacings a window; the rest of the series is left out.
    lags : int
        Largest lag L; before the series' start x counts as 0.

    Returns
    -------
    array (n // window, L + 1)
        Lag k in column k; products reach back into the windows before.
    """
    count = len(x) // window
    padded = np.concatenate([np.zeros(lags), x[: count * window]])
    size = next_fast_len(window + lags, real=True)
    out = np.empty((count, lags + 1))
    views = sliding_window_view(padded, window + lags)[::window]
    for start in range(0, count, 512):  # bounded memory
        past = views[start : start + 512]
        now = past[:, lags:]
        # Correlation of the window with itself and its past: entry L - k of it is lag k.
        product = np.fft.rfft(past, size) * np.conj(np.fft.rfft(now, size))
        out[start : start + 512] = np.fft.irfft(product, size)[:, lags::-1]
    return out


def gram(products_BL: Floats, before_start_BL: Floats, before_end_BL: Floats) -> Floats:
    """Sum x_(t-i) x_(t-j) over a stretch of targets t, for all i, j in 0..P, from its row i = 0.

    Moving both lags by one moves the stretch back by one: a product enters at its start, one leaves
    at its end. So the matrix needs no pass over the data.

    Parameters
    ----------
    products_BL : array (B, P + 1)
        Row i = 0: sum of x_t x_(t-j) over the stretch (`lagged_products`, added up).
    before_start_BL : array (B, P + 1)
        The P + 1 values before the stretch, the nearest first.
    before_end_BL : array (B, P + 1)
        Its last P + 1 values, the last first.

    Returns
    -------
    array (B, P + 1, P + 1)
        Symmetric.
    """
    size = products_BL.shape[1]
    gram_BLL = np.zeros((len(products_BL), size, size))
    gram_BLL[:, 0] = products_BL
    for i in range(1, size):
        enters = before_start_BL[:, i - 1, None] * before_start_BL[:, i - 1 : -1]
        leaves = before_end_BL[:, i - 1, None] * before_end_BL[:, i - 1 : -1]
        gram_BLL[:, i, i:] = gram_BLL[:, i - 1, i - 1 : -1] + enters - leaves
        gram_BLL[:, i, :i] = gram_BLL[:, :i, i]
    gram_BLL[:, 1:, 0] = gram_BLL[:, 0, 1:]
    return gram_BLL


def least_squares(gram_BLL: Floats, targets: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Regress x_t on x_(t-1) .. x_(t-p), for every order p = 1..P at once.

    With C the Cholesky factor of the regressors' part of the matrix and z = C^-1 (their products
    with x_t), order p explains z_1^2 + ... + z_p^2, and its coefficients are the sum over j <= p
    of z_j times row j of C^-1: both hold for the leading p x p block by itself.

    Parameters
    ----------
    gram_BLL : array (B, P + 1, P + 1)
        As `gram` gives it, or a sum of several; positive definite.
    targets : int array (B,) or (1,)
        How many targets were summed, above P.

    Returns
    -------
    coefficients_BPP : array (B, P, P)
        Entry (b, p - 1, k - 1) is a_k of order p, 0 for k > p.
    variance_BP : array (B, P + 1)
        Mean squared error that order 0..P will have on new data: residual squares over n - p,
        times 1 + p / n.

    Raises
    ------
    ValueError
        When there are too few targets for so high an order.

    References
    ----------
    Akaike (1969), Fitting autoregressive models for prediction (final prediction error).
    """
    orders = gram_BLL.shape[1] - 1
    if targets.min() <= orders:
        raise ValueError(
            f"order {orders} cannot be fitted on {targets.min()} spacings: fit on more windows or "
            "ask for a lower order"
        )
    factor_BPP = np.linalg.cholesky(gram_BLL[:, 1:, 1:])
    one_PP = np.eye(orders)
    inverse_BPP = np.stack([solve_triangular(c_PP, one_PP, lower=True) for c_PP in factor_BPP])
    z_BP = np.einsum("bjk,bk->bj", inverse_BPP, gram_BLL[:, 0, 1:])
    coefficients_BPP = np.cumsum(z_BP[:, :, None] * inverse_BPP, axis=1)
    explained_BP = np.cumsum(z_BP**2, axis=1)
    left_BP = gram_BLL[:, 0, :1] - np.concatenate([np.zeros((len(z_BP), 1)), explained_BP], axis=1)
    share = np.arange(orders + 1) / targets[:, None]
    return coefficients_BPP, left_BP / targets[:, None] * (1 + share) / (1 - share)


def predict_windows(x_BN: Floats, coefficients_BPP: Floats) -> Floats:
    """Predict every spacing of a window but the first from those before it in the window.

    Parameters
    ----------
    x_BN : array (B, N)
        Deviations from the mean.
    coefficients_BPP : array (B, P, P)
        As `least_squares` gives them, one set a window (or B = 1 for all).

    Returns
    -------
    array (B, N - 1)
        Entry i is for x[:, i + 1], by order min(i + 1, P).
    """
    orders = coefficients_BPP.shape[1]
    targets = x_BN.shape[1] - 1
    padded = np.concatenate([np.zeros((len(x_BN), orders)), x_BN[:, :-1]], axis=1)
    lags_BTP = sliding_window_view(padded, orders, axis=1)[:, 1:, ::-1]  # k - 1 -> x_(t - k)
    used = np.minimum(np.arange(targets), orders - 1)
    if len(coefficients_BPP) == 1:
        return np.einsum("btp,tp->bt", lags_BTP, coefficients_BPP[0, used], optimize=True)
    return np.einsum("btp,btp->bt", lags_BTP, coefficients_BPP[:, used])


def predict_full(x: Floats, starts_B: NDArray[np.int64], length: int, a_BP: Floats) -> Floats:
    """Predict `length` values from each start on, each from the P values before it.

    Parameters
    ----------
    x : array (n,)
        Deviations from the mean of the whole series.
    starts_B : int array (B,)
        Index of each stretch's first target, at least P.
    a_BP : array (B, P)
        Coefficients of one order, for each stretch (or B = 1 for all).

    Returns
    -------
    array (B, length)
    """
    orders = a_BP.shape[1]
    assert starts_B.min() >= orders, "the first targets lack lags"
    index_BX = starts_B[:, None] - orders + np.arange(orders + length - 1)
    lags_BXP = sliding_window_view(x[index_BX], orders, axis=1)
    return np.einsum(
        "bxp,bp->bx", lags_BXP, np.broadcast_to(a_BP, (len(starts_B), orders))[:, ::-1]
    )


def forecast(
    context_BC: Floats,
    coefficients_BPP: Floats,
    *,
    horizon: int,
    noise_BH: Floats | None = None,
) -> Floats:
    """Predict H steps on, each from the context and the predictions before it.

    Parameters
    ----------
    context_BC : array (B, C)
        Deviations from the mean, C >= 1.
    coefficients_BPP : array (B, P, P)
        As in `predict_windows`.
    horizon : int
        Steps H.
    noise_BH : array (B, H), optional
        Added to the prediction of each step: then it is a sampled path.

    Returns
    -------
    array (B, H)
    """
    batch, context = context_BC.shape
    orders = coefficients_BPP.shape[1]
    path_BN = np.concatenate([context_BC, np.zeros((batch, horizon))], axis=1)
    for end in range(context, context + horizon):
        order = min(end, orders)
        a_BP = coefficients_BPP[:, order - 1, :order]
        past_BP = path_BN[:, end - order : end][:, ::-1]
        path_BN[:, end] = (past_BP * a_BP).sum(axis=1)
        if noise_BH is not None:
            path_BN[:, end] += noise_BH[:, end - context]
    return path_BN[:, context:]
