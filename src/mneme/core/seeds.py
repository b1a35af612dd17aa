"""Random generators from a seed and a purpose: independent streams, never global state."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *purpose: str) -> int:
    """Derive a 63-bit seed from a run's seed and the names of what it is for.

    Two purposes under one seed, or one purpose under two seeds, give unrelated streams.
    """
    text = "/".join([str(seed), *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *purpose: str) -> np.random.Generator:
    """Return a numpy generator for `purpose` under `seed`."""
    return np.random.default_rng(derive(seed, *purpose))


def torch_generator(seed: int, *purpose: str) -> torch.Generator:
    """Return a CPU torch generator for `purpose` under `seed` (draw on CPU, then move)."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *purpose))
