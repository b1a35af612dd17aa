"""Windows of consecutive spacings, and which of them train, select and test.

Windows are 256 spacings long and do not overlap (stride = length). `height` keeps the order of the
zeros: what is tested lies above what was seen. Its test tail is the validation part of the source,
read once a committed configuration; `source` is the source's own split, which selects and tests on
the same windows; `interpolation` holds out blocks spread over the whole range, so that no height is
new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mneme.zeta.config import RunConfig

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Arrays = Mapping[str, NDArray]
BLOCKS = 20
"""Held-out blocks of each kind under `interpolation`, where there are windows enough."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Window indices, ascending; `source` has equal `val` and `test`."""

    train: Ints
    """Windows whose spacings are fitted."""
    val: Ints
    """Windows on which everything is chosen."""
    test: Ints
    """Windows read once."""


def window_count(spacings: int, window: int) -> int:
    """Return how many whole windows a series of `spacings` has.

    Raises
    ------
    ValueError
        When there are fewer than 10, too few to split.
    """
    count = spacings // window
    if count < 10:
        raise ValueError(
            f"{spacings} spacings give {count} windows of {window}: ask for more zeros "
            f"(zeta.zeros.count) so that there are at least 10"
        )
    return count


def split_windows(
    count: int, kind: Literal["height", "source", "interpolation"], *, share: float
) -> Split:
    """Split windows 0..count-1, 80 : 10 : 10 (`source`: 90 : 10).

    Parameters
    ----------
    count : int
        Windows, at least 10.
    kind : str
        height: in order. source: val = test = the same last tenth. interpolation: 20 blocks of
        each of val and test, spread evenly.
    share : float
        Share of the training windows that is kept, as evenly spaced ones, 0..1.

    Returns
    -------
    Split
        For 7,816 windows `height` gives 0-6253, 6254-7034 and 7035-7815.
    """
    tenth = count // 10
    order = np.arange(count)
    if kind == "interpolation":
        blocks = min(BLOCKS, tenth)
        place = order * 10 * blocks // count % 10  # which tenth of its block a window lies in
        parts = Split(train=order[place < 8], val=order[place == 8], test=order[place == 9])
    else:
        train = count - 2 * tenth if kind == "height" else count - tenth
        val = order[train : train + tenth]
        parts = Split(train=order[:train], val=val, test=order[count - tenth :])
    kept = max(1, round(share * len(parts.train)))
    chosen = np.unique(np.linspace(0, len(parts.train) - 1, kept).round().astype(int))
    return Split(train=parts.train[chosen], val=parts.val, test=parts.test)


def cut(series: Floats, indices: Ints, window: int) -> Floats:
    """Return the windows of a series (n,), shape (W, window)."""
    count = len(series) // window
    return series[: count * window].reshape(count, window)[indices]


def shifted(series: Floats, indices: Ints, window: int, *, stride: int) -> Floats:
    """Return the windows that end in window w, shifted back by multiples of `stride`.

    They serve readings at full context: the last `stride` targets of each, joined, are all
    spacings of window w, every one predicted from at least `window - stride` spacings before it.

    Returns
    -------
    array (W, window // stride, window)
        Entry (w, j) ends with spacing (j + 1) * stride - 1 of window w.

    Raises
    ------
    ValueError
        Unless stride divides window and no window is the series' first.
    """
    if window % stride or (len(indices) and indices[0] < 1):
        raise ValueError(
            f"stride {stride} must divide window {window}, and windows start after the first"
        )
    ends = indices[:, None] * window + stride * np.arange(1, window // stride + 1)
    return series[ends[..., None] - window + np.arange(window)]


def split_of(series: Arrays, run: RunConfig, window: int) -> Split:
    """Split the windows of a series as a run asks."""
    count = window_count(len(series["spacings"]), window)
    return split_windows(count, run.split, share=run.share)


def placed(series: Arrays, split: Split, window: int) -> dict[str, NDArray]:
    """Return which windows were read and where they lie: `windows_W` and `heights_W`."""
    return {"windows_W": split.test, "heights_W": series["heights"][split.test * window]}
