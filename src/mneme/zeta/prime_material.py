"""The transformer over the prime memory: rows of the prime arms beside each spacing it reads.

A row belongs to the zero that ends the spacing at its position, and reads zeros up to it: what a
position is told is known where it predicts. There is no rollout (`WHOLE_ARMS`).

Legend: W windows, U windows with rows, T position, F columns.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from mneme.zeta.config import RunConfig
from mneme.zeta.material import reading_material, training_material
from mneme.zeta.network import Material
from mneme.zeta.prime_config import RowConfig
from mneme.zeta.prime_fit import prime_data, readable_windows
from mneme.zeta.unfold import level_of
from mneme.zeta.windows import Arrays, split_of


def fit_material(series: Arrays, run: RunConfig, window: int, rows: RowConfig | None) -> Material:
    """Return what a training may see, with the prime memory's rows where the arm reads them.

    Parameters
    ----------
    series, run, window
        As for `training_material`.
    rows : RowConfig, optional
        Of arm `primes_transformer`; its first windows, before which there is nothing to remember,
        do not train.
    """
    material = training_material(series, run, window)
    if rows is None:
        return material
    train = readable_windows(material.train.numpy(), window, rows)
    told = with_rows(material, series, np.concatenate([train, material.val.numpy()]), rows)
    return replace(told, train=torch.tensor(train))


def told_material(series: Arrays, run: RunConfig, window: int, rows: RowConfig | None) -> Material:
    """Return all windows of the series, with rows of the test windows where the arm reads them."""
    material = reading_material(series, run, window)
    if rows is None:
        return material
    return with_rows(material, series, split_of(series, run, window).test, rows)


def with_rows(
    material: Material, series: Arrays, windows: NDArray[np.int64], rows: RowConfig
) -> Material:
    """Return the material with the rows of some windows (U,), ascending, unique.

    The memory reads the series from its start; only differences of heights and the rounded level
    enter.
    """
    count, window = material.spacings_WT.shape
    heights, spacings = series["heights"], series["spacings"]
    told = heights, spacings, level_of(heights)
    data = prime_data(*told, windows, rows, window=window, phases="memory")
    place_W = torch.full((count,), -1)
    place_W[torch.from_numpy(windows)] = torch.arange(len(windows))
    return replace(material, told_UTF=torch.from_numpy(data.rows_WTF), place_W=place_W)
