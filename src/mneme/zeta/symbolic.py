"""Symbolic regression of a curve: short formulas, from the simplest to the closest.

N points of the curve. A genetic search (NSGA-II over closeness and length, constants polished by
Levenberg-Marquardt) is repeated from several starts and the fronts are merged: a formula stays when
no other is both simpler and closer. Closeness is also told on a second curve that the search never
saw, since a long formula follows the noise of the first.

References
----------
Burlacu, Kronberger and Kommenda (2020), Operon C++: an efficient genetic programming framework for
symbolic regression.
Deb et al. (2002), A fast and elitist multiobjective genetic algorithm: NSGA-II.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mneme.stats.intervals import finite
from mneme.zeta.ablation_config import SymbolicConfig

Floats = NDArray[np.float64]
DIGITS = 4  # of the constants in a formula, as far as a reader looks


def symbolic_front(
    x_N: ArrayLike,
    y_N: ArrayLike,
    held_out_N: ArrayLike,
    *,
    variable: str,
    config: SymbolicConfig,
    generator: np.random.Generator,
) -> list[dict[str, Any]]:
    """Return the front of formulas y(x), simplest first.

    Parameters
    ----------
    x_N : array (N,)
        Places, finite, N >= 8.
    y_N : array (N,)
        The curve there; not constant.
    held_out_N : array (N,)
        The same curve measured on other data.
    variable : str
        Name of x in the formulas.
    config : SymbolicConfig
        Size of the search.
    generator : numpy.random.Generator
        Source of the starts; equal generators give equal fronts.

    Returns
    -------
    list of dict
        `formula` (str; y in units of its largest size, constants to 4 decimals), `complexity`
        (nodes), `r_squared` (at most 1) and `r_squared_held_out` (None where the held-out curve
        is constant); complexity and r_squared both rise strictly.

    Raises
    ------
    ValueError
        When the three do not pair, a number is not finite, or the curve is constant or too short.
    """
    x_N, y_N = finite("x", x_N, ndim=1), finite("y", y_N, ndim=1)
    held_out_N = finite("held_out", held_out_N, ndim=1)
    if not x_N.shape == y_N.shape == held_out_N.shape:
        raise ValueError("x, y and held_out must have equal shapes")
    if len(x_N) < 8 or y_N.min() == y_N.max():
        raise ValueError("a formula needs a curve of at least 8 points that is not constant")
    found = [
        formula
        for seed in generator.integers(2**31, size=config.restarts)
        for formula in _search(x_N, y_N, held_out_N, variable, config=config, seed=int(seed))
    ]
    return _undominated(found)


def r_squared(y_N: Floats, fitted_N: Floats) -> float | None:
    """Return the share of the variance of y that is explained, at most 1; None if y is constant."""
    total = float(((y_N - y_N.mean()) ** 2).sum())
    return None if total == 0 else 1 - float(((y_N - fitted_N) ** 2).sum()) / total


def _search(
    x_N: Floats,
    y_N: Floats,
    held_out_N: Floats,
    variable: str,
    *,
    config: SymbolicConfig,
    seed: int,
) -> list[dict[str, Any]]:
    from pyoperon.sklearn import SymbolicRegressor  # 1 s to import

    scale = float(np.abs(y_N).max())  # constants of order 1 are found, and read, best
    search = SymbolicRegressor(
        allowed_symbols=",".join((*config.symbols, "constant", "variable")),
        objectives=["r2", "length"],
        population_size=config.population,
        generations=config.evaluations,  # never reached: evaluations end the search
        max_evaluations=config.evaluations,
        max_length=config.length,
        optimizer_iterations=config.polish,
        uncertainty=[1.0],
        n_threads=1,
        random_state=seed,
    )
    search.fit(x_N[:, None], y_N / scale)
    return [
        {
            "formula": search.get_model_string(member["tree"], DIGITS, [variable]),
            "complexity": int(member["complexity"]),
            "r_squared": r_squared(y_N, fitted_N),
            "r_squared_held_out": r_squared(held_out_N, fitted_N),
        }
        for member in search.pareto_front_
        if np.isfinite(
            fitted_N := scale * np.asarray(search.evaluate_model(member["tree"], x_N[:, None]))
        ).all()
    ]


def _undominated(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep, from simple to complex, what is closer than everything simpler."""
    front: list[dict[str, Any]] = []
    for formula in sorted(found, key=lambda f: (f["complexity"], -f["r_squared"], f["formula"])):
        if not front or formula["r_squared"] > front[-1]["r_squared"] + 1e-9:
            front.append(formula)
    return front
