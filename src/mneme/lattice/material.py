"""Arrays of `lattice_embed` -> what networks are trained on.

Legend: N pairs, D width of the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from mneme.lattice.network import Material


def training_material(arrays: Mapping[str, NDArray]) -> Material:
    """Return the pairs that train and those that select; nothing of the test pairs.

    Parameters
    ----------
    arrays : mapping
        `train_questions`, `train_answers`, `val_questions`, `val_answers` (N, D), float32.
    """
    sides = {
        side: torch.from_numpy(
            np.concatenate([arrays[f"train_{side}"], arrays[f"val_{side}"]]).astype(np.float32)
        )
        for side in ("questions", "answers")
    }
    trained = len(arrays["train_questions"])
    return Material(
        questions_ND=sides["questions"],
        answers_ND=sides["answers"],
        train=torch.arange(trained),
        val=torch.arange(trained, len(sides["questions"])),
    )
