"""Learning rate along a training: linear warm-up, then a cosine to 0."""

from __future__ import annotations

import math


def warm_cosine(index: int, *, steps: int, warmup: int) -> float:
    """Return the share of the peak learning rate at a step.

    Parameters
    ----------
    index : int
        Step, 0 to steps - 1.
    steps : int
        Steps of the training.
    warmup : int
        Steps of linear warm-up, 0 for none; the first has share 1 / warmup.

    Returns
    -------
    float
        Above 0, at most 1.

    References
    ----------
    Loshchilov and Hutter (2017), SGDR, equation 5 without restarts.

    Examples
    --------
    >>> [round(warm_cosine(i, steps=6, warmup=2), 3) for i in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if index < warmup:
        return (index + 1) / warmup
    done = (index - warmup) / max(steps - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * done))
