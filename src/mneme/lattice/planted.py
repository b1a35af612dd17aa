"""Positive control: pairs whose answer is a known local rule of the question, applied ten times.

A surface u spreads sideways while a second field w collects its square. The answer w does not
change with the sign of u, so a question and its answer have cosine 0 on average (large ones either
way are more frequent than between strangers): to find most answers a network must compute the rule.

Legend: N pairs, Y, X cells of the surface.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RULE_STEPS = 10
"""Times the rule is applied."""
SPREAD = 0.3
"""Share of a cell that is exchanged with its neighbours' mean at each step."""


def planted_pairs(
    count: int, shape: tuple[int, int], *, generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw questions and compute their answers.

    Parameters
    ----------
    count : int
        Pairs N.
    shape : (int, int)
        Rows and columns of the surface.
    generator : numpy.random.Generator
        Source of the questions, standard normal in every cell.

    Returns
    -------
    questions, answers : array (N, Y * X), float32
        Answers have mean 0 in every row.
    """
    questions = generator.normal(size=(count, *shape))
    answers = rule(questions)
    answers -= answers.mean((1, 2), keepdims=True)
    rows = (count, shape[0] * shape[1])
    return questions.reshape(rows).astype(np.float32), answers.reshape(rows).astype(np.float32)


def rule(u_NYX: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what the second field holds after `RULE_STEPS` steps: a mean of squares.

    Each step adds u^2 to w and then moves `SPREAD` of u towards the mean of its four neighbours,
    with zeros beyond the edge.
    """
    w_NYX = np.zeros_like(u_NYX)
    for _ in range(RULE_STEPS):
        w_NYX += u_NYX**2 / RULE_STEPS
        padded = np.pad(u_NYX, ((0, 0), (1, 1), (1, 1)))
        around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
        around = around + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
        u_NYX = (1 - SPREAD) * u_NYX + SPREAD * around / 4
    return w_NYX
