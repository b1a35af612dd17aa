"""Linear predictors read on test windows: fitted once, or again before every window.

Legend: W windows, V all windows of the series, N spacings of a window, T targets of a window
(N - 1), X all N spacings at full context, P largest order, L lags 0..P, H horizon,
S samples, B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mneme.zeta.autoregression import (
    forecast,
    gram,
    lagged_products,
    least_squares,
    predict_full,
    predict_windows,
)
from mneme.zeta.measure import ROLLOUT_CONTEXT, SOURCE_CONTEXT, mixture_scores
from mneme.zeta.windows import Split, cut

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Reading = dict[str, NDArray]
_BATCH = 32  # windows whose coefficients of all orders are held at once: 17 MB at P = 255


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every reference reads: one series, its windows, and how far to predict."""

    spacings: Floats
    """All spacings in order, (n,)."""
    split: Split
    """Windows that train, select and test."""
    window: int
    """Spacings a window."""
    horizon: int
    """Longest rollout, spacings."""
    samples: int
    """Sampled rollouts a window."""

    @property
    def train_mean(self) -> float:
        """Mean training spacing."""
        return float(self.cut(self.split.train).mean())

    def cut(self, windows: Ints) -> Floats:
        """Return windows of the series, (W, N)."""
        return cut(self.spacings, windows, self.window)


@dataclass(frozen=True)
class Predictor:
    """Linear coefficients and error variances of all orders, one set a window or one for all."""

    coefficients_BPP: Floats
    """As `least_squares` gives them."""
    variance_BP: Floats
    """Mean squared errors of orders 0..P."""

    def scales(self, contexts: Ints) -> Floats:
        """Return the error's standard deviation after each number of spacings."""
        return np.sqrt(self.variance_BP[:, np.minimum(contexts, self.variance_BP.shape[1] - 1)])


def gaussian_scores(predicted: Floats, scale: Floats, truth: Floats) -> Reading:
    """Score normal predictions of any shape; `scale` broadcasts."""
    scale = np.broadcast_to(scale, truth.shape)
    return mixture_scores(
        np.zeros((*truth.shape, 1)), predicted[..., None], scale[..., None], truth
    )


def assemble(
    spacings_WN: Floats,
    inside: Reading,
    full: Reading,
    *,
    rollout_WH: Floats,
    rollout10_WH: Floats,
    sampled_SWH: Floats,
) -> Reading:
    """Name the arrays as the table in `mneme.zeta.measure` does, float32."""
    arrays = {
        "spacings_WN": spacings_WN,
        **{f"{name}_WT": values for name, values in inside.items()},
        **{f"{name}_full_WX": full[name] for name in ("nll", "crps", "abs_error")},
        "rollout_mean_WH": rollout_WH,
        "rollout10_WH": rollout10_WH,
        "sampled_SWH": sampled_SWH,
    }
    return {name: values.astype(np.float32) for name, values in arrays.items()}


def static_readings(
    task: Task, orders: Sequence[int], *, generator: np.random.Generator
) -> dict[int, Reading]:
    """Read autoregressions fitted once, on the training windows.

    Returns
    -------
    dict
        Order -> readings.
    """
    x = task.spacings - task.train_mean
    sums = _Sums.of(x, window=task.window, lags=max(orders))
    runs = np.split(task.split.train, np.flatnonzero(np.diff(task.split.train) > 1) + 1)
    first, past = np.array([[run[0], run[-1] + 1] for run in runs]).T
    gram_1LL = sums.gram(first, past).sum(axis=0, keepdims=True)
    coefficients_BPP, variance_BP = least_squares(
        gram_1LL, np.array([task.window * len(task.split.train)])
    )
    readings = {}
    for p in orders:
        predictor = Predictor(coefficients_BPP[:, :p, :p], variance_BP[:, : p + 1])
        noise_SWH = _noise(task, generator)
        readings[p] = _read(task, predictor, x, task.split.test, noise_SWH)
    return readings


@dataclass(frozen=True)
class _Sums:
    """Lagged products of a series by windows: what any stretch of it is fitted from."""

    padded: Floats
    """P + 1 zeros, then deviations from the mean."""
    products_VL: Floats
    """`lagged_products` of every window."""
    window: int
    """Spacings a window."""

    @classmethod
    def of(cls, x: Floats, *, window: int, lags: int) -> _Sums:
        products_VL = lagged_products(x, window=window, lags=lags)
        return cls(np.concatenate([np.zeros(lags + 1), x]), products_VL, window)

    def gram(self, first_B: Ints, past_B: Ints) -> Floats:
        """Return the matrix of the targets in windows first .. past - 1."""
        # Differences of running sums would be shorter, and lose digits that the fit needs.
        pairs = zip(first_B, past_B, strict=True)
        products_BL = np.stack([self.products_VL[a:b].sum(axis=0) for a, b in pairs])
        return gram(products_BL, self._before(first_B), self._before(past_B))

    def _before(self, windows_B: Ints) -> Floats:
        """Return the P + 1 values before each window, the nearest first."""
        size = self.products_VL.shape[1]
        return self.padded[windows_B[:, None] * self.window + size - 1 - np.arange(size)]


@dataclass(frozen=True)
class Walk:
    """An autoregression refitted before every window."""

    reading: Reading
    """Its readings on the test windows."""
    memory: int
    """Windows below the target's that it is fitted on, as chosen."""
    val_nll: dict[int, float]
    """Mean NLL on the validation windows (contexts 1..T) of every memory tried."""


def walking_reading(
    task: Task, *, order: int, memories: Sequence[int], generator: np.random.Generator
) -> Walk:
    """Read an autoregression refitted before every window on the windows just below.

    Parameters
    ----------
    task : Task
        What to read.
    order : int
        P.
    memories : sequence of int
        Windows it may be fitted on: the number best on the validation windows is taken. Where
        fewer lie below, all of them are.
    generator : numpy.random.Generator
        Source of the sampled rollouts.

    Returns
    -------
    Walk
    """
    x = task.spacings - task.train_mean
    sums = _Sums.of(x, window=task.window, lags=order)
    val_nll = {}
    for memory in memories:
        nll = [
            _inside(predictor, cut(x, windows, task.window))["nll"]
            for windows, predictor in _walk(sums, task.split.val, memory)
        ]
        val_nll[memory] = float(np.concatenate(nll).mean(dtype=float))
    best = min(val_nll, key=lambda memory: val_nll[memory])
    noise_SWH = _noise(task, generator)
    parts, done = [], 0
    for windows, predictor in _walk(sums, task.split.test, best):
        here = noise_SWH[:, done : done + len(windows)]
        parts.append(_read(task, predictor, x, windows, here))
        done += len(windows)
    axis = {name: values.ndim - 2 for name, values in parts[0].items()}
    reading = {name: np.concatenate([p[name] for p in parts], axis=axis[name]) for name in axis}
    return Walk(reading, best, val_nll)


def _walk(sums: _Sums, windows_W: Ints, memory: int) -> Iterator[tuple[Ints, Predictor]]:
    """Yield windows by batches, with the predictor fitted on the `memory` windows below each."""
    for start in range(0, len(windows_W), _BATCH):
        windows = windows_W[start : start + _BATCH]
        below = np.maximum(windows - memory, 0)
        targets = sums.window * (windows - below)
        yield windows, Predictor(*least_squares(sums.gram(below, windows), targets))


def _noise(task: Task, generator: np.random.Generator) -> Floats:
    return generator.normal(size=(task.samples, len(task.split.test), task.horizon))


def _inside(predictor: Predictor, x_BN: Floats) -> Reading:
    predicted = predict_windows(x_BN, predictor.coefficients_BPP)
    scale = predictor.scales(np.arange(1, x_BN.shape[1]))
    return gaussian_scores(predicted, scale, x_BN[:, 1:])


def _read(task: Task, predictor: Predictor, x: Floats, windows: Ints, noise_SBH: Floats) -> Reading:
    """Read windows; x is the series' deviation from the mean training spacing."""
    x_BN, mean = cut(x, windows, task.window), task.train_mean
    last = predict_full(x, windows * task.window, task.window, predictor.coefficients_BPP[:, -1])
    full = gaussian_scores(last, predictor.scales(np.array([task.window])), x_BN)
    scale_BH = predictor.scales(ROLLOUT_CONTEXT + np.arange(task.horizon))

    def roll(context: int, horizon: int, noise_BH: Floats | None = None) -> Floats:
        past = x_BN[:, :context]
        return mean + forecast(past, predictor.coefficients_BPP, horizon=horizon, noise_BH=noise_BH)

    return assemble(
        x_BN + mean,
        _inside(predictor, x_BN),
        full,
        rollout_WH=roll(ROLLOUT_CONTEXT, task.horizon),
        rollout10_WH=roll(SOURCE_CONTEXT, SOURCE_CONTEXT),
        sampled_SWH=np.stack(
            [roll(ROLLOUT_CONTEXT, task.horizon, scale_BH * noise_BH) for noise_BH in noise_SBH]
        ),
    )
