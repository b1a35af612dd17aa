"""Heights of zeros -> the series of spacings that a system's runs are trained on.

Legend: W windows, T spacings of a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mneme.core.seeds import numpy_generator
from mneme.zeta.config import RunConfig, System
from mneme.zeta.reading_config import PrepareConfig
from mneme.zeta.surrogates import surrogate
from mneme.zeta.unfold import level_of, spacings_of
from mneme.zeta.windows import Split, cut, split_windows, window_count

if TYPE_CHECKING:
    from mneme.zeta.network import Material

Arrays = Mapping[str, NDArray]


def prepare_series(
    system: System, zeros: ArrayLike, config: PrepareConfig
) -> dict[str, NDArray[np.float64]]:
    """Make one system's series.

    Parameters
    ----------
    system : str
        `zeta` for the zeros themselves, else a surrogate.
    zeros : array (n + 1,)
        Heights of consecutive zeros, increasing.
    config : PrepareConfig
        Size and seed of surrogates.

    Returns
    -------
    dict
        `spacings` (n,) float64, mean 1, and `heights` (n + 1,) float64: spacing k lies between
        heights k and k + 1.
    """
    heights = np.asarray(zeros, np.float64)
    spacings = spacings_of(heights)
    if system != "zeta":
        spacings, heights = surrogate(
            system,
            spacings,
            heights,
            size=min(config.surrogate_size, len(spacings)),
            generator=numpy_generator(config.seed, "zeta", system),
        )
    return {"spacings": spacings, "heights": heights}


def split_of(series: Arrays, run: RunConfig, window: int) -> Split:
    """Split the windows of a series as a run asks."""
    count = window_count(len(series["spacings"]), window)
    return split_windows(count, run.split, share=run.share)


def placed(series: Arrays, split: Split, window: int) -> dict[str, NDArray]:
    """Return which windows were read and where they lie: `windows_W` and `heights_W`."""
    return {"windows_W": split.test, "heights_W": series["heights"][split.test * window]}


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
    import torch

    from mneme.zeta.network import Material

    level = level_of(series["heights"][:-1])
    return Material(
        spacings_WT=torch.tensor(cut(series["spacings"], windows, window), dtype=torch.float32),
        level_WT=torch.tensor(cut(level, windows, window), dtype=torch.float32),
        train=torch.tensor(split.train),
        val=torch.tensor(split.val),
    )
