"""What memory slots are asked to tell about a window: window statistics and the Q3 invariants.

Slot m's output tells target m through a linear head of its own. Targets are standardised by the
mean and standard deviation over the training windows, so that all weigh alike and the loss of a
head that knows nothing is 1. Under a causal mask prefix slots stand before the data: the best they
can tell is that mean, and their loss stays 1; the source trains them so, and so does this room.

Legend: B batch, T position, D width, M slots, I targets, F frequencies, N bins.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mneme.core.config import require

Aux = Literal["window_stats", "q3"]
LAGS = (1, 5)
"""Lags of the autocorrelations among the window statistics."""
HISTOGRAM = (0.0, 4.0, 16)
"""Lower end, upper end (mean spacings) and bins of the histogram; outliers fill the end bins."""
LOW_QUANTILE = 0.01
TOP_FREQUENCY = 0.375
"""Where the top quarter of the frequencies 0..1/2 begins, cycles a spacing."""
LEAST_SCALE = 1e-6
"""Least standard deviation of a target; only targets that never change lie below it."""


def targets(spacings_BT: Tensor, kind: Aux) -> Tensor:
    """Compute what the slots must tell: `window_stats` (B, 4) or `q3` (B, 8), not standardised."""
    return window_stats(spacings_BT) if kind == "window_stats" else q3_invariants(spacings_BT)


def window_stats(spacings_BT: Tensor) -> Tensor:
    """Compute mean, standard deviation and autocorrelation at lags 1 and 5 of each window.

    Parameters
    ----------
    spacings_BT : Tensor (B, T), float32
        Unfolded spacings, T at least 6.

    Returns
    -------
    Tensor (B, 4), float32
        Mean and standard deviation (of the window, divided by T) in mean spacings; the
        autocorrelations are sums over the pairs divided by the sum of squares, -1..1 (0 where a
        window is constant).
    """
    mean_B, std_B = spacings_BT.mean(1), spacings_BT.std(1, correction=0)
    off_BT = spacings_BT - mean_B[:, None]
    power_B = off_BT.square().sum(1).clamp_min(LEAST_SCALE)
    correlations = [(off_BT[:, lag:] * off_BT[:, :-lag]).sum(1) / power_B for lag in LAGS]
    return torch.stack([mean_B, std_B, *correlations], dim=1)


def q3_invariants(spacings_BT: Tensor) -> Tensor:
    """Compute the eight invariants M0..M7 of the source's memory map.

    Parameters
    ----------
    spacings_BT : Tensor (B, T), float32
        Unfolded spacings, T at least 8.

    Returns
    -------
    Tensor (B, 8), float32
        M0 mean - 1; M1 entropy of the histogram (`HISTOGRAM`), nats, 0..ln 16; M2 largest |dx|;
        M3 1 % quantile (interpolated); M4 mean |second difference|; M5 |difference of the means|
        plus |difference of the standard deviations| of the two halves; M6 share of the power of
        dx - its mean at frequencies from 3/8, 0..1; M7 root mean square deviation of the
        cumulative sum (from 0 on) from its least-squares line.
    """
    step_BT = spacings_BT.diff(dim=1)
    invariants = [
        spacings_BT.mean(1) - 1,
        _histogram_entropy(spacings_BT),
        step_BT.abs().amax(1),
        torch.quantile(spacings_BT, LOW_QUANTILE, dim=1),
        step_BT.diff(dim=1).abs().mean(1),
        _halves_apart(spacings_BT),
        _high_frequency_share(step_BT),
        _rigidity(spacings_BT),
    ]
    return torch.stack(invariants, dim=1)


def _histogram_entropy(x_BT: Tensor) -> Tensor:
    """Entropy of the histogram (B,), nats."""
    low, high, bins = HISTOGRAM
    place_BT = ((x_BT - low) * (bins / (high - low))).long().clamp(0, bins - 1)
    count_BN = x_BT.new_zeros(len(x_BT), bins).scatter_add_(1, place_BT, torch.ones_like(x_BT))
    return torch.special.entr(count_BN / x_BT.shape[1]).sum(1)


def _halves_apart(x_BT: Tensor) -> Tensor:
    """How far mean and deviation of the halves are apart (B,); an odd middle is left out."""
    half = x_BT.shape[1] // 2
    first_BT, second_BT = x_BT[:, :half], x_BT[:, -half:]
    means_B = (first_BT.mean(1) - second_BT.mean(1)).abs()
    return means_B + (first_BT.std(1, correction=0) - second_BT.std(1, correction=0)).abs()


def _high_frequency_share(step_BT: Tensor) -> Tensor:
    """Share of the power at the top quarter of the frequencies (B,)."""
    power_BF = torch.fft.rfft(step_BT - step_BT.mean(1, keepdim=True)).abs().square()
    frequency_F = torch.fft.rfftfreq(step_BT.shape[1], device=step_BT.device)
    top_B = (power_BF * (frequency_F >= TOP_FREQUENCY)).sum(1)
    return top_B / power_BF.sum(1).clamp_min(LEAST_SCALE)


def _rigidity(x_BT: Tensor) -> Tensor:
    """Root mean square distance of the T+1 places from their own line (B,)."""
    path_BT = (x_BT - 1).cumsum(1)  # a line less: float32 keeps its digits
    path_BT = torch.nn.functional.pad(path_BT, (1, 0))  # the first place: 0
    time_T = torch.arange(path_BT.shape[1], device=x_BT.device, dtype=x_BT.dtype)
    time_T = time_T - time_T.mean()
    path_BT = path_BT - path_BT.mean(1, keepdim=True)
    slope_B = (path_BT * time_T).sum(1) / time_T.square().sum()
    return (path_BT - slope_B[:, None] * time_T).square().mean(1).sqrt()


class AuxHeads(nn.Module):
    """One linear head a target: output of slot m -> standardised target m."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, spacings_WT: Tensor, kind: Aux, *, slots: int, width: int) -> None:
        """Prepare heads whose first answer is the mean.

        Parameters
        ----------
        spacings_WT : Tensor (W, T), float32
            Training windows as the model sees them: they give the targets' mean and scale.
        kind : str
            Which targets.
        slots, width : int
            Memory slots M of the model and their width D.

        Raises
        ------
        ConfigError
            There are fewer slots than targets.
        """
        super().__init__()
        self.kind: Aux = kind
        told_WI = targets(spacings_WT, kind)
        count = told_WI.shape[1]
        require(slots >= count, "slots", f"at least {count}, one a target of aux {kind}", slots)
        self.weight = nn.Parameter(torch.zeros(count, width, device=spacings_WT.device))
        self.bias = nn.Parameter(torch.zeros(count, device=spacings_WT.device))
        self.register_buffer("mean", told_WI.mean(0))
        self.register_buffer("scale", told_WI.std(0, correction=0).clamp_min(LEAST_SCALE))

    def forward(self, memory_BMD: Tensor, spacings_BT: Tensor) -> Tensor:
        """Return the mean squared error over windows and standardised targets, a scalar."""
        told_BI = (memory_BMD[:, : len(self.bias)] * self.weight).sum(-1) + self.bias
        wanted_BI = (targets(spacings_BT, self.kind) - self.mean) / self.scale
        return (told_BI - wanted_BI).square().mean()
