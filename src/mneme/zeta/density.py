"""A law without memory: the kernel density of spacings, tabulated with its scores.

Legend: G grid points, N data.

References
----------
Silverman (1982), Kernel density estimation using the fast Fourier transform.
Silverman (1986), Density Estimation for Statistics and Data Analysis, equation 3.31 (bandwidth).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_STEPS_A_BANDWIDTH = 20  # linear interpolation of the density is then off by 3e-4 of it at most


@dataclass(frozen=True)
class KernelLaw:
    """A Gaussian kernel estimate on an even grid."""

    grid_G: Floats
    """Points, mean spacings; the density beyond them is 0."""
    density_G: Floats
    """Density, integrates to 1 by the trapezium rule."""
    bandwidth: float
    """Standard deviation of the kernel."""

    @property
    def distribution(self) -> Floats:
        """Distribution function on the grid (G,), 0 at its start and 1 at its end."""
        return _integral(self.density_G, self.grid_G)

    @property
    def mean(self) -> float:
        """Mean of the law."""
        return float(np.trapezoid(self.grid_G * self.density_G, self.grid_G))

    def scores(self, truth: ArrayLike) -> dict[str, NDArray[np.float32]]:
        """Score the law at what came.

        Parameters
        ----------
        truth : array (...)
            Spacings, anywhere on the grid.

        Returns
        -------
        dict
            `nll`, `crps`, `abs_error` (from the mean), `pit`, each (...), float32.

        Raises
        ------
        ValueError
            When a spacing lies where the density is 0.
        """
        truth = np.asarray(truth, float)
        density = np.interp(truth, self.grid_G, self.density_G, left=0.0, right=0.0)
        if not (density > 0).all():
            raise ValueError(
                f"the kernel density is 0 at {truth[density <= 0][0]}: no such spacing"
            )
        below_G = _integral(self.distribution**2, self.grid_G)
        above_G = _integral((1 - self.distribution) ** 2, self.grid_G)
        scores = {
            "nll": -np.log(density),
            "crps": np.interp(truth, self.grid_G, below_G + above_G[-1] - above_G),
            "abs_error": np.abs(truth - self.mean),
            "pit": np.clip(np.interp(truth, self.grid_G, self.distribution), 0.0, 1.0),
        }
        return {name: values.astype(np.float32) for name, values in scores.items()}

    def draw(self, shape: tuple[int, ...], generator: np.random.Generator) -> Floats:
        """Draw independent values by inverting the distribution function."""
        return np.interp(generator.random(shape), self.distribution, self.grid_G)


def kernel_law(data_N: ArrayLike) -> KernelLaw:
    """Estimate the density of data by a Gaussian kernel of Silverman's bandwidth.

    Data are first split linearly between neighbouring points of a fine grid, the kernel is then one
    convolution.

    Parameters
    ----------
    data_N : array (N,)
        At least two finite values, not all equal.

    Returns
    -------
    KernelLaw
        On a grid from 40 bandwidths below the least value to 40 above the greatest: a test value
        somewhat beyond all training data still has a density, if a tiny one.

    Raises
    ------
    ValueError
        When the data have no spread.
    """
    from scipy.signal import fftconvolve  # half a second, which most who import this never need

    data_N = np.asarray(data_N, float)
    quarter, three_quarters = np.quantile(data_N, (0.25, 0.75))
    spread = min(data_N.std(ddof=1), (three_quarters - quarter) / 1.34) if len(data_N) > 1 else 0.0
    if not spread > 0:
        raise ValueError(f"a density needs values that differ, got {len(data_N)} without spread")
    bandwidth = float(0.9 * spread * len(data_N) ** -0.2)
    step = bandwidth / _STEPS_A_BANDWIDTH
    low = data_N.min() - 40 * bandwidth
    points = int(np.ceil((data_N.max() + 40 * bandwidth - low) / step)) + 1
    place_N = (data_N - low) / step
    cell_N = place_N.astype(int)
    right_N = place_N - cell_N
    mass_G = np.bincount(cell_N, 1 - right_N, points) + np.bincount(cell_N + 1, right_N, points)
    reach = step * np.arange(-38 * _STEPS_A_BANDWIDTH, 38 * _STEPS_A_BANDWIDTH + 1) / bandwidth
    kernel = np.exp(-0.5 * reach**2)
    grid_G = low + step * np.arange(points)
    density_G = np.maximum(fftconvolve(mass_G, kernel, mode="same"), 0.0)
    return KernelLaw(grid_G, density_G / np.trapezoid(density_G, grid_G), bandwidth)


def _integral(values_G: Floats, grid_G: Floats) -> Floats:
    """Integrate from the grid's start to each point, by trapezia."""
    steps = np.diff(grid_G) * (values_G[1:] + values_G[:-1]) / 2
    return np.concatenate([[0.0], np.cumsum(steps)])
