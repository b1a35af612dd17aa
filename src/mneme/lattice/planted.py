"""Positive control: pairs whose answer is a known local rule of the question, applied ten times.

A surface u is squared, and then drifts: at each step every cell hands a share of what it holds to
its neighbour on the right. After ten steps a place shows what stood three cells away, so that no
network finds an answer that treats each place by itself. The answer does not change with the sign
of u: question and answer have cosine 0 on average, and words or components of it find nothing.

Legend: N pairs, Y, X cells of the surface.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.core.seeds import numpy_generator
from mneme.lattice.planted_config import PlantedConfig

RULE_STEPS = 10
"""Times the rule is applied."""
DRIFT = 0.3
"""Share of a cell that moves one cell to the right at each step."""


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
    """Return u^2 after `RULE_STEPS` steps of drift; what leaves on the right is lost.

    After k steps a share binomial(k; `RULE_STEPS`, `DRIFT`) has moved k cells.
    """
    w_NYX = u_NYX**2
    for _ in range(RULE_STEPS):
        from_left = np.pad(w_NYX, ((0, 0), (0, 0), (1, 0)))[:, :, :-1]
        w_NYX = (1 - DRIFT) * w_NYX + DRIFT * from_left
    return w_NYX


def planted_vectors(config: PlantedConfig) -> dict[str, NDArray[Any]]:
    """Draw the pairs of every split.

    Returns
    -------
    dict
        `<split>_questions`, `<split>_answers` (N, Y * X) for train, val and test, each split from a
        stream of its own.
    """
    vectors = {}
    for split in ("train", "val", "test"):
        generator = numpy_generator(config.seed, "lattice", "planted", split)
        shape = config.recipe.cell.shape[1:]
        both = planted_pairs(getattr(config, split), shape, generator=generator)
        for side, made in zip(("questions", "answers"), both, strict=True):
            vectors[f"{split}_{side}"] = made
    return vectors
