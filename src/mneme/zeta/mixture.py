"""Gaussian mixtures over the next spacing: density, distribution, score, samples, in log space.

Legend: ... any leading shape (B batch, T position), K components.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Mixture(NamedTuple):
    """K Gaussians per prediction; the unit of x, means and scales is the mean spacing."""

    log_weights: Tensor
    """(..., K), log of the weights, which sum to 1."""
    means: Tensor
    """(..., K)."""
    scales: Tensor
    """(..., K), standard deviations, above 0."""

    @classmethod
    def of(cls, raw: Tensor, *, scale_floor: float) -> Mixture:
        """Read a mixture from a head's raw outputs.

        Parameters
        ----------
        raw : Tensor
            (..., 3 K): logits of the weights, means, and scales before softplus.
        scale_floor : float
            Added to every scale, above 0.

        Returns
        -------
        Mixture
            In at least float32, whatever `raw` is.
        """
        raw = raw if raw.dtype == torch.float64 else raw.float()
        logits, means, scales = raw.chunk(3, dim=-1)
        return cls(F.log_softmax(logits, dim=-1), means, F.softplus(scales) + scale_floor)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density at x (...), nats per mean spacing."""
        z = (x[..., None] - self.means) / self.scales
        return torch.logsumexp(
            self.log_weights - 0.5 * z.square() - self.scales.log() - _LOG_SQRT_2PI, dim=-1
        )

    def mean(self) -> Tensor:
        """Return the mean (...)."""
        return (self.log_weights.exp() * self.means).sum(-1)

    def variance(self) -> Tensor:
        """Return the variance (...)."""
        spread = self.scales.square() + (self.means - self.mean()[..., None]).square()
        return (self.log_weights.exp() * spread).sum(-1)

    def cdf(self, x: Tensor) -> Tensor:
        """Return the distribution function at x (...), 0..1; at a truth it is its PIT."""
        z = (x[..., None] - self.means) / self.scales
        return (self.log_weights.exp() * torch.special.ndtr(z)).sum(-1)

    def crps(self, x: Tensor) -> Tensor:
        """Return the continuous ranked probability score at x (...), mean spacings.

        References
        ----------
        .. [1] Grimit, Gneiting, Berrocal & Johnson (2006), "The continuous ranked probability
           score for circular variables and its application to mesoscale forecast ensemble
           verification", eq. (5): E|X - x| - E|X - X'| / 2 for mixtures of Gaussians.
        """
        weights, variances = self.log_weights.exp(), self.scales.square()
        to_truth = _mean_abs(x[..., None] - self.means, self.scales)
        gaps = self.means[..., :, None] - self.means[..., None, :]
        between = _mean_abs(gaps, (variances[..., :, None] + variances[..., None, :]).sqrt())
        pairs = weights[..., :, None] * weights[..., None, :] * between
        return (weights * to_truth).sum(-1) - 0.5 * pairs.sum((-1, -2))

    def entropy(self) -> Tensor:
        """Return the entropy (...) of the weights, 0..ln K nats."""
        return -(self.log_weights.exp() * self.log_weights).sum(-1)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw one spacing each (...); the noise is drawn on the generator's device."""
        shape, device = self.means.shape[:-1], generator.device
        kind = {"dtype": self.means.dtype, "device": device, "generator": generator}
        return self.draw(torch.rand(shape, **kind), torch.randn(shape, **kind))

    def draw(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Turn noise (...) into samples: `uniform` picks the component, `normal` the value."""
        uniform, normal = uniform.to(self.means), normal.to(self.means)
        edges = self.log_weights.exp().cumsum(-1)[..., :-1].contiguous()
        k = torch.searchsorted(edges, uniform[..., None].contiguous(), right=True)
        return self.means.gather(-1, k)[..., 0] + self.scales.gather(-1, k)[..., 0] * normal


def _mean_abs(mean: Tensor, scale: Tensor) -> Tensor:
    """E|X| of X ~ N(mean, scale^2)."""
    z = mean / scale
    density = torch.exp(-0.5 * z.square() - _LOG_SQRT_2PI)
    return mean * torch.erf(z * math.sqrt(0.5)) + 2 * scale * density
