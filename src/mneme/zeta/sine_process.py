"""The best possible prediction of GUE spacings: exact conditional densities of the sine process.

Given n past spacings, the points behind the last one are known and so are the gaps between them.
What lies ahead is again a determinantal process, with a kernel that is the sine kernel minus what
the past explains (a Schur complement over the past's points and a quadrature of its gaps). One
Cholesky factorisation of 1 minus that kernel, on panels that grow to the right, gives the survival
function of the next spacing at the panels' ends and, by one more Schur complement, its density.
In this form nothing underflows: contexts of 255 spacings keep 9 digits.

Legend: B pasts, n spacings of a past, P points and quadrature nodes of the past, W windows,
T spacings of a window, G nodes where the next spacing's law is known, R nodes of the panels.

References
----------
Bornemann (2010), On the numerical evaluation of distributions in random matrix theory, MPRF 16.
Soshnikov (2000), Determinantal random point fields, section 1 (Janossy densities).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.polynomial.legendre import leggauss, legint, legval, legvander
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
LONGEST = 5.0  # the law of the next spacing is computed on 0..LONGEST; beyond lies less than 1e-12
NODES = 48  # Gauss-Legendre nodes on 0..LONGEST
PANEL_NODES = 3  # and between any two of them
PAST_NODES = (1.7, 16)  # nodes on the past: so many a mean spacing, and so many besides
CHUNK_FLOATS = 4_000_000  # of the largest intermediate array
TOLERANCE = 1e-5  # of a law's integral; pasts from spectra reach 1e-8
UNRESOLVED = (
    "pasts must be those of a sine process, but one is all but impossible: give GUE spacings"
)
NEGLIGIBLE = 1e-12  # quadrature weights below this are left out


class Estimate(NamedTuple):
    """A number and its standard error (0 where it comes from quadrature)."""

    value: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What the Bayes predictor of the sine process scores when it sees `context` spacings."""

    context: int
    """Past spacings seen."""
    nll: Estimate
    """Expected negative log-likelihood of the next spacing, nats."""
    crps: Estimate
    """Expected continuous ranked probability score, mean spacings."""
    mae: Estimate
    """Expected absolute error of the predicted mean, as of the arms, mean spacings."""
    pasts: int | None
    """Pasts averaged over; None where the average is a quadrature."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Laws of the next spacing, one a past, at the nodes of `grid()`."""

    density_BG: Floats
    """Density at the nodes, per mean spacing."""
    survival_BG: Floats
    """Chance that the next spacing is longer than the node."""

    def scores(self) -> Floats:
        """Return (3, B): expected NLL, CRPS and absolute error of the mean, by the law itself."""
        _, weights_G = grid()
        density_BG, survival_BG = self.density_BG, self.survival_BG
        nll_B = -(density_BG * np.log(np.maximum(density_BG, 1e-300))) @ weights_G
        crps_B = (survival_BG * (1 - survival_BG)) @ weights_G
        return np.stack([nll_B, crps_B, self.error_of(self.mean())])

    def gain_over(self, other: Prediction) -> Floats:
        """Return (3, B): how much worse `other` scores where this law is true.

        For the NLL that is the Kullback-Leibler divergence, for the CRPS the integral of the
        squared difference of the distribution functions: both at least 0. The absolute error of a
        mean, which no mean makes least, may fall for a single past.
        """
        _, weights_G = grid()
        mine_BG, theirs_BG = np.maximum([self.density_BG, other.density_BG], 1e-300)
        nll_B = (mine_BG * np.log(mine_BG / theirs_BG)) @ weights_G
        crps_B = np.square(self.survival_BG - other.survival_BG) @ weights_G
        mae_B = self.error_of(other.mean()) - self.error_of(self.mean())
        return np.stack([nll_B, crps_B, mae_B])

    def error_of(self, at_B: ArrayLike) -> Floats:
        """Return (B,): expected |next spacing - at| for one forecast a past, 0..`LONGEST`."""
        at_B = np.asarray(at_B, np.float64)
        # E|y - a| = a - E[y] + 2 x the integral of the survival function from a on, no kink.
        ahead = legint(np.eye(NODES), lbnd=1.0) * (-LONGEST / 2)  # of each Legendre polynomial
        beyond_BN = self.survival_BG @ _coefficients() @ ahead.T
        return at_B - self.mean() + 2 * legval(at_B * 2 / LONGEST - 1, beyond_BN.T, tensor=False)

    def mean(self) -> Floats:
        """Return (B,): the expected next spacing."""
        nodes_G, weights_G = grid()
        return self.density_BG @ (weights_G * nodes_G)

    def density_at(self, next_B: ArrayLike) -> Floats:
        """Return (B,): the density at one spacing per past, 0 beyond `LONGEST`."""
        next_B = np.asarray(next_B, np.float64)
        at_B = np.minimum(next_B, LONGEST) * (2 / LONGEST) - 1
        found_B = legval(at_B, (self.density_BG @ _coefficients()).T, tensor=False)
        return np.where(next_B <= LONGEST, np.maximum(found_B, 1e-300), 0.0)


def grid() -> tuple[Floats, Floats]:
    """Return nodes and weights (G,) of the quadrature over the next spacing, 0..`LONGEST`."""
    x_G, weights_G = _gauss(NODES)
    return (x_G + 1) * LONGEST / 2, weights_G * LONGEST / 2


@lru_cache(maxsize=64)
def _gauss(count: int) -> tuple[Floats, Floats]:
    x, weights = leggauss(count)
    return x, weights


@lru_cache(maxsize=1)
def _coefficients() -> Floats:
    """Values at the nodes -> Legendre coefficients, as a matrix (G, G)."""
    x_G, weights_G = _gauss(NODES)
    return legvander(x_G, NODES - 1) * weights_G[:, None] * (np.arange(NODES) + 0.5)


def predict(pasts_Bn: ArrayLike) -> Prediction:
    """Exact law of the next spacing of the sine process after each of B pasts.

    Parameters
    ----------
    pasts_Bn : array (B, n)
        Unfolded spacings in order, the latest last; n = 0 gives the memoryless law.

    Returns
    -------
    Prediction
        Density and survival function at `grid()`; each density integrates to 1 within 1e-8.

    Raises
    ------
    ValueError
        When spacings are not finite numbers above 0, or so unlike the sine process (strings of tiny
        or huge spacings, shuffled ones at n > 30) that its law after them cannot be resolved.

    References
    ----------
    Bornemann (2010), sections 4 and 5 (Gauss-Legendre discretisation of Fredholm determinants).
    """
    pasts_Bn = np.asarray(pasts_Bn, np.float64)
    if pasts_Bn.ndim != 2 or not (np.isfinite(pasts_Bn) & (pasts_Bn > 0)).all():
        raise ValueError("pasts must be rows of finite spacings above 0: repair them first")
    longest = float(pasts_Bn.sum(axis=1).max(initial=0.0))
    per_past = (PAST_NODES[0] * longest + 2 * NODES * (PANEL_NODES + 1)) ** 2
    step = max(1, int(CHUNK_FLOATS / per_past))
    try:
        parts = [_laws(pasts_Bn[i : i + step]) for i in range(0, len(pasts_Bn), step)]
    except np.linalg.LinAlgError:
        raise ValueError(UNRESOLVED) from None
    density_BG, survival_BG = (np.concatenate(each) for each in zip(*parts, strict=True))
    if np.abs(density_BG @ grid()[1] - 1).max() > TOLERANCE:
        raise ValueError(UNRESOLVED)
    return Prediction(density_BG=density_BG, survival_BG=survival_BG)


def _laws(pasts_Bn: Floats) -> tuple[Floats, Floats]:
    """Density and survival function (B, G) by one growing Fredholm determinant per past."""
    kernel_BXX = _kernel_after(pasts_Bn)
    inner = NODES * PANEL_NODES
    last = slice(PANEL_NODES - 1, None, PANEL_NODES)  # the panels' ends
    gaps_BRR = np.eye(inner) - kernel_BXX[:, :inner, :inner]
    lower_BRR = np.linalg.cholesky(gaps_BRR)
    reduced_BRG = np.linalg.solve(lower_BRR, kernel_BXX[:, :inner, inner:])
    # The leading minors are det(I - K) on 0..node, the norms complete K to the resolvent kernel.
    pivots_BR = np.diagonal(lower_BRR, axis1=1, axis2=2)
    survival_BG = np.exp(2 * np.cumsum(np.log(pivots_BR), axis=1)[:, last])
    norms_BGG = np.cumsum(np.square(reduced_BRG), axis=1)[:, last]
    own_BG = np.diagonal(kernel_BXX[:, inner:, inner:], axis1=1, axis2=2)
    rate_BG = own_BG + np.diagonal(norms_BGG, axis1=1, axis2=2)
    return survival_BG * rate_BG, survival_BG


@lru_cache(maxsize=1)
def _ahead() -> tuple[Floats, Floats, Floats]:
    """Panels' nodes, then `grid()`: places (X,), roots of weights (X,), weighted kernel (X, X)."""
    ends_G = grid()[0]
    starts_G = np.append(0.0, ends_G[:-1])
    x, weights = _gauss(PANEL_NODES)
    half_G1 = (ends_G - starts_G)[:, None] / 2
    ahead_X = np.append(starts_G[:, None] + (x + 1) * half_G1, ends_G)
    root_X = np.append(np.sqrt(weights * half_G1), np.ones(NODES))
    return ahead_X, root_X, np.sinc(ahead_X[:, None] - ahead_X) * root_X[:, None] * root_X


def _kernel_after(pasts_Bn: Floats) -> Floats:
    """Kernel (B, X, X) of the points ahead, given points at 0 and behind and none between them."""
    batch, spacings = pasts_Bn.shape
    ahead_X, root_X, kernel_XX = _ahead()
    points_BN = -np.cumsum(np.pad(pasts_Bn[:, ::-1], [(0, 0), (1, 0)]), axis=1)
    length_B1 = -points_BN[:, -1:]
    gaps = int(PAST_NODES[0] * length_B1.max() + PAST_NODES[1]) if spacings else 0
    x, weights = _gauss(gaps) if gaps else (np.zeros(0), np.zeros(0))
    behind_BP = np.concatenate([-length_B1 * (1 - x) / 2, points_BN], axis=1)
    root_BP = np.concatenate([np.sqrt(weights * length_B1 / 2), np.ones((batch, spacings + 1))], 1)
    past_BPP = np.sinc(behind_BP[:, :, None] - behind_BP[:, None, :])
    past_BPP *= root_BP[:, :, None]
    past_BPP *= -root_BP[:, None, :]
    hole = np.arange(gaps)
    past_BPP[:, hole, hole] += 1  # I - K on the gaps, -K (rows' signs turned) at the points
    across_BPX = np.sinc(behind_BP[:, :, None] - ahead_X)
    across_BPX *= root_BP[:, :, None]
    across_BPX *= root_X
    explained_BXX = np.swapaxes(across_BPX, 1, 2) @ np.linalg.solve(past_BPP, across_BPX)
    explained_BXX += kernel_XX
    return explained_BXX


def spacing_density(spacing: ArrayLike) -> Floats:
    """Exact density of one GUE spacing (Gaudin's law), 0 beyond `LONGEST`.

    Parameters
    ----------
    spacing : array (...)
        Unfolded spacings, at least 0.

    Returns
    -------
    array (...)
        Density, float64.

    References
    ----------
    Gaudin (1961), Sur la loi limite de l'espacement des valeurs propres; Mehta, chapter 6.
    """
    spacing = np.asarray(spacing, np.float64)
    law = predict(np.zeros((1, 0)))
    flat = Prediction(
        density_BG=np.broadcast_to(law.density_BG, (spacing.size, NODES)),
        survival_BG=law.survival_BG,
    )
    return np.maximum(flat.density_at(spacing.ravel()), 0).reshape(spacing.shape)


def bayes_nll(windows_WT: ArrayLike, *, context: int) -> Floats:
    """NLL of the Bayes predictor at every spacing of windows but the first, pairwise with a model.

    Parameters
    ----------
    windows_WT : array (W, T)
        Unfolded GUE spacings, no window across a joint of two spectra.
    context : int
        Most past spacings used, at least 1; fewer at the start of a window.

    Returns
    -------
    array (W, T - 1)
        -log p(s_{i+1} | up to `context` spacings before it in the window), nats.
    """
    windows_WT = np.asarray(windows_WT, np.float64)
    if context < 1:
        raise ValueError(f"context must be at least 1, got {context}")
    columns = []
    for position in range(1, windows_WT.shape[1]):
        law = predict(windows_WT[:, max(0, position - context) : position])
        columns.append(-np.log(law.density_at(windows_WT[:, position])))
    return np.stack(columns, axis=1)


def floors(contexts: Sequence[int], pasts: Sequence[int], windows_WT: ArrayLike) -> list[Floor]:
    """Scores of the Bayes predictor against the number of spacings that it sees.

    Contexts 0, 1 and 2 are quadratures over the sine process. Each longer one lies below the next
    shorter by what the shorter law loses against the longer one where that is true (no noise of
    targets: a mean Kullback-Leibler divergence), averaged over pasts cut from GUE spectra.

    Parameters
    ----------
    contexts : sequence of int
        Ascending, starting with 0, 1, 2; the last at most T - 1.
    pasts : sequence of int
        Pasts averaged over at each context; unused at 0, 1, 2.
    windows_WT : array (W, T)
        Unfolded GUE spacings, no window across a joint; pasts end at evenly spaced places.

    Returns
    -------
    list of Floor
        One a context. Errors treat windows as independent and include those of shorter contexts.

    Raises
    ------
    ValueError
        When contexts do not ascend from 0, 1, 2, or need longer windows, or lack their pasts.
    """
    windows_WT = np.asarray(windows_WT, np.float64)
    ordered = all(a < b for a, b in pairwise(contexts))
    if list(contexts[:3]) != [0, 1, 2] or not ordered or len(pasts) != len(contexts):
        raise ValueError(f"contexts must ascend from 0, 1, 2, one number of pasts each: {contexts}")
    if contexts[-1] >= windows_WT.shape[1]:
        raise ValueError(f"contexts must be below the windows' {windows_WT.shape[1]} spacings")
    found = [_exact(context) for context in (0, 1, 2)]
    value_3 = np.array([found[2].nll.value, found[2].crps.value, found[2].mae.value])
    influence_3W = np.zeros((3, len(windows_WT)))
    for shorter, context, count in zip(contexts[2:-1], contexts[3:], pasts[3:], strict=True):
        rows_B, cut_Bn = _cut(windows_WT, context, count)
        gain_3B = predict(cut_Bn).gain_over(predict(cut_Bn[:, -shorter:]))
        value_3 = value_3 - gain_3B.mean(axis=1)
        centred_3B = (gain_3B - gain_3B.mean(axis=1, keepdims=True)) / len(rows_B)
        np.add.at(influence_3W.T, rows_B, centred_3B.T)
        errors_3 = np.sqrt(np.square(influence_3W).sum(axis=1))
        both_32 = np.stack([value_3, errors_3], axis=1).tolist()
        nll, crps, mae = (Estimate(*each) for each in both_32)
        found.append(Floor(context=context, nll=nll, crps=crps, mae=mae, pasts=len(rows_B)))
    return found


def _cut(windows_WT: Floats, context: int, count: int) -> tuple[NDArray[np.int64], Floats]:
    """Window numbers and pasts of `count` targets, evenly over windows, then within them."""
    total, length = windows_WT.shape
    each = -(-count // total)
    stride = (length - context) // each
    if count < 2 or stride < 1:
        room = total * (length - context)
        raise ValueError(f"pasts at context {context} must be 2..{room}, got {count}: more windows")
    rows = np.arange(total)[:: total // count] if count < total else np.arange(total)
    cuts = [windows_WT[rows, e - context : e] for e in length - stride * np.arange(each)]
    return np.tile(rows, each)[:count], np.concatenate(cuts)[:count]


def _exact(context: int) -> Floor:
    """Floor by quadrature over the past's own law."""
    pasts_Bn, weights_B = past_quadrature(context)
    scores = predict(pasts_Bn).scores() @ weights_B
    nll, crps, mae = (Estimate(float(score), 0.0) for score in scores)
    return Floor(context=context, nll=nll, crps=crps, mae=mae, pasts=None)


def past_quadrature(context: int) -> tuple[Floats, Floats]:
    """Quadrature over the joint law of `context` consecutive spacings of the sine process.

    Parameters
    ----------
    context : int
        0, 1 or 2 (each more costs 48 times as much).

    Returns
    -------
    pasts_Bn : array (B, context)
        Nodes.
    weights_B : array (B,)
        Joint density times quadrature weight; they sum to 1 within 1e-8.
    """
    nodes_G, weights_G = grid()
    pasts_Bn, weights_B = np.zeros((1, 0)), np.ones(1)
    for _ in range(context):
        chances_BG = weights_B[:, None] * predict(pasts_Bn).density_BG * weights_G
        before, after = np.nonzero(chances_BG > NEGLIGIBLE)
        pasts_Bn = np.concatenate([pasts_Bn[before], nodes_G[after, None]], axis=1)
        weights_B = chances_BG[before, after]
    return pasts_Bn, weights_B


def window_average(found: Sequence[Floor], *, longest: int) -> dict[str, Estimate]:
    """Mean floor over contexts 1..`longest`, linear in log context between those computed.

    Parameters
    ----------
    found : sequence of Floor
        From `floors`, context 1 among them. Beyond the last the floor is held: an upper bound.
    longest : int
        Last context of the average (255 for windows of 256).

    Returns
    -------
    dict
        `nll`, `crps`, `mae`: values with errors that add up as if fully correlated.
    """
    known = [floor for floor in found if floor.context >= 1]
    at = np.log([floor.context for floor in known])
    wanted = np.log(np.arange(1, longest + 1))
    averages = {}
    for score in ("nll", "crps", "mae"):
        pairs = np.array([getattr(floor, score) for floor in known])
        value, error = (float(np.interp(wanted, at, pairs[:, i]).mean()) for i in (0, 1))
        averages[score] = Estimate(value, error)
    return averages
