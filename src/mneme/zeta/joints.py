"""Joints of series that are put together from stretches of their own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mneme.zeta.reading_config import KEPT
from mneme.zeta.surrogates import BLOCK

STRETCHES = {"gue": KEPT, "scrambled": BLOCK}
"""System -> spacings between two joints: a spectrum each, phases drawn together."""


def after_joint(system: str, windows: NDArray[np.int64], window: int) -> NDArray[np.bool_]:
    """Return which windows begin at a joint: what lies before them tells nothing of them.

    Parameters
    ----------
    system : str
        Whose spacings; systems without joints have no such window.
    windows : int array (W,)
        Windows.
    window : int
        Spacings of a window.

    Returns
    -------
    bool array (W,)
    """
    if system not in STRETCHES:
        return np.zeros(len(windows), dtype=bool)
    return windows * window % STRETCHES[system] == 0
