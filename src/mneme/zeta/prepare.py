"""Heights of zeros -> the series of spacings that a system's runs are trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mneme.core.seeds import numpy_generator
from mneme.zeta.config import System
from mneme.zeta.reading_config import PrepareConfig
from mneme.zeta.surrogates import surrogate
from mneme.zeta.unfold import spacings_of


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
