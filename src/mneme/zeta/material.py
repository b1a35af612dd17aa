"""A series as the transformer arms read it: windows as tensors, and which of them train and select.

Apart from `prepare`, so that an edit of the network makes no series anew.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mneme.zeta.config import RunConfig
from mneme.zeta.network import Material
from mneme.zeta.unfold import level_of
from mneme.zeta.windows import Arrays, Split, cut, split_of


def training_material(series: Arrays, run: RunConfig, window: int) -> Material:
    """Return what a training may see: windows up to the last that selects, none that tests.

    Under `interpolation` the held-out test windows lie between others: they stay in the series,
    so that a memory carried across windows is not torn, but are neither trained nor selected on.
    """
    split = split_of(series, run, window)
    last = int(max(split.train[-1], split.val[-1]))
    return _material(series, split, np.arange(last + 1), window)


def reading_material(series: Arrays, run: RunConfig, window: int, *, shift: int = 0) -> Material:
    """Return all windows of the series, the tests' included, in the splits of a run.

    With `shift` they are cut from that many spacings on (below `window`); `train` and `val` keep
    the numbers of the series cut from its start.
    """
    split = split_of(series, run, window)
    moved = {name: series[name][shift:] for name in ("spacings", "heights")}
    return _material(moved, split, np.arange(len(moved["spacings"]) // window), window)


def _material(series: Arrays, split: Split, windows: NDArray[np.int64], window: int) -> Material:
    level = level_of(series["heights"][:-1])
    return Material(
        spacings_WT=torch.tensor(cut(series["spacings"], windows, window), dtype=torch.float32),
        level_WT=torch.tensor(cut(level, windows, window), dtype=torch.float32),
        train=torch.tensor(split.train),
        val=torch.tensor(split.val),
    )
