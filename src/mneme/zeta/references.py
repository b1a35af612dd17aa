"""Reference predictors of the next spacing: memoryless, linear, walking linear, return to level.

They are fitted on the same series, read on the same test windows and give the same readings
(`mneme.zeta.measure`) as the neural arms, so that no reference is a number typed in.

- `kde`: the law of a training spacing, whatever came before.
- `ar<p>`: linear prediction from p spacings, fitted once on the training windows.
- `ar<P>_walk`: the same, refitted before every test window on the windows just below it.
- `level`: linear prediction from how far the sum of all spacings so far is off the straight line.

Residuals are Gaussian. Inside a window every target has the spacings before it in the window, as
the neural arms do; at full context it has all lags, from the window before.

Legend: W windows, N spacings of a window, T targets of a window (N - 1), H horizon, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mneme.zeta.density import kernel_law
from mneme.zeta.linear import (
    Reading,
    Task,
    assemble,
    gaussian_scores,
    static_readings,
    walking_reading,
)
from mneme.zeta.measure import ROLLOUT_CONTEXT, SOURCE_CONTEXT
from mneme.zeta.reading_config import ReferenceConfig
from mneme.zeta.windows import Split

Floats = NDArray[np.float64]
MEMORYLESS = "none: the law of a spacing"


@dataclass(frozen=True)
class Reference:
    """One reference predictor, read."""

    reading: Reading
    """Arrays as in the table of `mneme.zeta.measure`, float32."""
    information: str
    """What it may use of the past."""
    chosen: dict[str, float]
    """What the validation windows chose, and from what; empty where nothing is chosen."""


def reference_readings(
    spacings: Floats,
    split: Split,
    config: ReferenceConfig,
    *,
    window: int,
    generator: np.random.Generator,
) -> dict[str, Reference]:
    """Fit and read every reference on one series.

    Parameters
    ----------
    spacings : array (n,)
        The series, mean spacings, float64.
    split : Split
        Its windows: fitted on `train`, chosen on `val`, read on `test`.
    config : ReferenceConfig
        Which.
    window : int
        Spacings a window.
    generator : numpy.random.Generator
        Source of the sampled rollouts.

    Returns
    -------
    dict
        Run name (`kde`, `ar<p>`, `ar<P>_walk`, `level`) -> Reference.
    """
    task = Task(
        spacings=spacings,
        split=split,
        window=window,
        horizon=config.horizon,
        samples=config.samples,
    )
    order = config.walk_order
    walk = walking_reading(task, order=order, memories=config.walk_windows, generator=generator)
    static = static_readings(task, config.orders, generator=generator)
    return {
        "kde": Reference(kde_reading(task, generator=generator), MEMORYLESS, {}),
        **{f"ar{p}": Reference(r, _past(p), {}) for p, r in static.items()},
        f"ar{order}_walk": Reference(
            walk.reading,
            f"{_past(order)}; coefficients from the {walk.memory} windows below",
            {"windows": walk.memory, **{f"val_nll@{m}": v for m, v in walk.val_nll.items()}},
        ),
        "level": Reference(
            level_reading(task, generator=generator),
            "past spacings: all from the first zero on, as their sum (the zero's index)",
            {},
        ),
    }


def kde_reference(
    spacings: Floats,
    split: Split,
    config: ReferenceConfig,
    window: int,
    generator: np.random.Generator,
) -> Reference:
    """Read the memoryless law alone, for a system without other references."""
    task = Task(
        spacings=spacings,
        split=split,
        window=window,
        horizon=config.horizon,
        samples=config.samples,
    )
    return Reference(kde_reading(task, generator=generator), MEMORYLESS, {})


def _past(order: int) -> str:
    return f"past spacings: those in the window, at full context the last {order}"


def kde_reading(task: Task, *, generator: np.random.Generator) -> Reading:
    """Read the memoryless law: the same density for every target."""
    law = kernel_law(task.cut(task.split.train).ravel())
    windows_WN = task.cut(task.split.test)
    windows = len(windows_WN)
    return assemble(
        windows_WN,
        law.scores(windows_WN[:, 1:]),
        law.scores(windows_WN),
        rollout_WH=np.full((windows, task.horizon), law.mean),
        rollout10_WH=np.full((windows, SOURCE_CONTEXT), law.mean),
        sampled_SWH=law.draw((task.samples, windows, task.horizon), generator),
    )


def level_reading(task: Task, *, generator: np.random.Generator) -> Reading:
    """Read the regression of a spacing on the level: the sum of deviations of all before it.

    The sum returns to its mean, since zeros stay near where their count puts them; the window's
    own context does not matter beside it, so both contexts read alike.
    """
    x = task.spacings - task.train_mean
    # Unfolding makes the mean spacing 1: any other value would let the level drift for ever.
    level = np.concatenate([[0.0], np.cumsum(task.spacings - 1)[:-1]])  # before each spacing
    index_VN = np.arange(len(x) // task.window * task.window).reshape(-1, task.window)
    train, test = index_VN[task.split.train].ravel(), index_VN[task.split.test]
    slope, intercept = np.polyfit(level[train], x[train], 1)
    scale = float(np.std(x[train] - intercept - slope * level[train]))
    full = gaussian_scores(intercept + slope * level[test], np.array(scale), x[test])

    def roll(context: int, horizon: int, noise: Floats) -> Floats:
        here, path = level[test[:, context]], []
        for step in range(horizon):
            path.append(task.train_mean + intercept + slope * here + noise[..., step])
            here = here + path[-1] - 1
        return np.stack(path, axis=-1)

    windows, still = len(test), np.zeros(max(task.horizon, SOURCE_CONTEXT))
    noise_SWH = scale * generator.normal(size=(task.samples, windows, task.horizon))
    return assemble(
        task.cut(task.split.test),
        {name: values[:, 1:] for name, values in full.items()},
        full,
        rollout_WH=roll(ROLLOUT_CONTEXT, task.horizon, still),
        rollout10_WH=roll(SOURCE_CONTEXT, SOURCE_CONTEXT, still),
        sampled_SWH=roll(ROLLOUT_CONTEXT, task.horizon, noise_SWH),
    )
