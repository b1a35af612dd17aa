"""Symbolic regression finds the formula that was planted, and the same one twice."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest

from mneme.core.seeds import numpy_generator
from mneme.zeta.symbolic import SymbolicConfig, r_squared, symbolic_front

CONFIG = SymbolicConfig(
    symbols=("add", "mul", "div", "sin", "exp", "square"),
    length=12,
    population=1000,
    evaluations=150_000,
    polish=10,
    restarts=2,
)
R_N = np.linspace(0.05, 4, 80)
SINE_N = (np.sin(np.pi * R_N) / (np.pi * R_N)) ** 2


def front_of(y_N, held_out_N=None, *, config=CONFIG, seed=0):
    held_out_N = y_N if held_out_N is None else held_out_N
    generator = numpy_generator(seed, "symbolic")
    return symbolic_front(R_N, y_N, held_out_N, variable="r", config=config, generator=generator)


def evaluated(formula: str) -> np.ndarray:
    """Read a formula independently of the library that wrote it."""
    names = {"r": R_N, "sin": np.sin, "exp": np.exp, "__builtins__": {}}
    return eval(formula.replace("^", "**"), names) * np.ones_like(R_N)


@pytest.fixture(scope="module")
def sine():
    return front_of(0.02 * SINE_N + 0.001)


def test_the_sine_kernel_is_recovered_with_its_period(sine):
    exact = [f for f in sine if f["r_squared"] > 1 - 1e-6]
    assert exact, sine
    assert "sin" in exact[0]["formula"]
    periods = [
        abs(float(c)) for c in re.findall(r"sin\(\(\(?(-?[\d.]+)\)? \* r\)\)", exact[0]["formula"])
    ]
    assert any(math.isclose(c, math.pi, rel_tol=1e-3) for c in periods), exact[0]["formula"]


def test_a_decay_is_recovered_with_its_rate():
    front = front_of(0.5 * np.exp(-1.7 * R_N) + 0.02)
    exact = next(f for f in front if f["r_squared"] > 1 - 1e-6)
    assert exact["complexity"] <= 12
    assert "exp" in exact["formula"]
    assert "sin" not in exact["formula"]
    assert "1.7000" in exact["formula"]


def test_complexity_and_closeness_rise_together(sine):
    assert len(sine) >= 3
    for simpler, closer in itertools.pairwise(sine):
        assert simpler["complexity"] < closer["complexity"]
        assert simpler["r_squared"] < closer["r_squared"]


def test_a_formula_says_what_its_r_squared_says(sine):
    y_N = 0.02 * SINE_N + 0.001
    for line in sine:
        said = r_squared(y_N, y_N.max() * evaluated(line["formula"]))
        assert said == pytest.approx(line["r_squared"], abs=1e-3), line["formula"]


def test_the_held_out_curve_is_never_fitted():
    noise = np.random.default_rng(3).normal(size=R_N.size)
    other = np.random.default_rng(4).normal(size=R_N.size)
    last = front_of(noise, other)[-1]
    assert last["r_squared"] > 0.1, "a long formula follows noise"
    assert last["r_squared_held_out"] < 0.1


def test_equal_seeds_give_equal_fronts():
    small = SymbolicConfig(**{**vars(CONFIG), "evaluations": 20_000, "restarts": 1})
    y_N = SINE_N + 0.05 * np.random.default_rng(0).normal(size=R_N.size)
    assert front_of(y_N, config=small) == front_of(y_N, config=small)
    assert front_of(y_N, config=small) != front_of(y_N, config=small, seed=1)


@pytest.mark.parametrize("y_N", [np.ones_like(R_N), np.full_like(R_N, np.nan), SINE_N[:5]])
def test_what_cannot_be_fitted_is_refused(y_N):
    with pytest.raises(ValueError, match=r"constant|finite|equal shapes"):
        front_of(y_N, SINE_N)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="restarts"):
        SymbolicConfig(**{**vars(CONFIG), "restarts": 0})
