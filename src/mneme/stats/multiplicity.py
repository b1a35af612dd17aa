"""Many claims at once: Holm's step-down adjustment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p for the number of tests, controlling the chance of any false one.

    Parameters
    ----------
    p_values : sequence of float or None
        p of every test of one family, 0..1; None for a test that could not be made, which counts
        for nothing and stays None.

    Returns
    -------
    list of float or None
        Adjusted p in the same order.

    Raises
    ------
    ValueError
        When a p is outside 0..1.

    References
    ----------
    Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    known = [p for p in p_values if p is not None]
    for p in known:
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in 0..1, got {p}")
    if not known:
        return list(p_values)
    from statsmodels.stats.multitest import multipletests  # slow to import

    adjusted = iter(np.asarray(multipletests(known, method="holm")[1]))
    return [None if p is None else float(next(adjusted)) for p in p_values]
