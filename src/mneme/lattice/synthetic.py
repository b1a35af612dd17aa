"""Teacher `synthetic`: vectors of any width whose question and answer have a known correlation.

Legend: N pairs, D width of the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mneme.core.seeds import torch_generator
from mneme.lattice.teacher_config import SyntheticConfig


def related_vectors(
    count: int, width: int, rho: float, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw unit vectors from N(0, I) whose partners have cosine `rho` on average.

    Parameters
    ----------
    count, width : int
        Pairs N and numbers D of a vector.
    rho : float
        Correlation of a question's numbers with its answer's, -1 to 1.
    generator : torch.Generator
        Source of the vectors, on the CPU.

    Returns
    -------
    questions_ND, answers_ND : Tensor, float32
    """
    questions = torch.randn(count, width, generator=generator)
    further = torch.randn(count, width, generator=generator)
    answers = rho * questions + (1 - rho**2) ** 0.5 * further
    return F.normalize(questions, dim=1), F.normalize(answers, dim=1)


def drawn(
    columns: Mapping[str, Sequence[str]], config: SyntheticConfig
) -> dict[str, NDArray[np.float32]]:
    """Draw as many vectors as there are texts, every split on its own.

    Parameters
    ----------
    columns : mapping
        `<split>_questions` and `<split>_answers` -> texts; only how many there are is used.
    config : SyntheticConfig
        Width, correlation and seed.

    Returns
    -------
    dict
        Same names -> (N, D), float32. More pairs in one split change nothing in another.
    """
    vectors = {}
    for split in dict.fromkeys(name.rpartition("_")[0] for name in columns):
        count = len(columns[f"{split}_questions"])
        generator = torch_generator(config.seed, "lattice", "synthetic", split)
        both = related_vectors(count, config.width, config.rho, generator=generator)
        for side, made in zip(("questions", "answers"), both, strict=True):
            vectors[f"{split}_{side}"] = made.numpy()
    return vectors
