"""A trained transformer arm -> its readings on the test windows (table in `mneme.zeta.measure`).

Legend: W windows, T targets of a window, N spacings of a window, X targets at full context,
H horizon, S samples, K mixture components.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mneme.core.config import require
from mneme.nn.onednn import OneDNNLinear
from mneme.zeta.config import PredictConfig, RunConfig
from mneme.zeta.material import reading_material
from mneme.zeta.measure import ROLLOUT_CONTEXT, SOURCE_CONTEXT, mixture_scores
from mneme.zeta.mixture import Mixture
from mneme.zeta.network import Material, Network
from mneme.zeta.prime_config import RowConfig
from mneme.zeta.prime_material import told_material
from mneme.zeta.rollout import ensemble, rollout
from mneme.zeta.windows import Arrays, placed, split_of

ROWS = 64
"""Windows a pass."""


@torch.no_grad()
def read(
    network: Network,
    series: Arrays,
    run: RunConfig,
    config: PredictConfig,
    *,
    window: int,
    generator: torch.Generator,
    device: torch.device,
    rows: RowConfig | None = None,
) -> dict[str, NDArray]:
    """Read a network on the test windows of its run.

    Parameters
    ----------
    network : Network
        Trained, on `device`.
    series : mapping
        `spacings`, `heights` as `prepare_series` makes them.
    run, config : RunConfig, PredictConfig
        Which windows, and what is read.
    window : int
        Spacings N of a window.
    generator : torch.Generator
        Source of sampled rollouts, on the CPU.
    device : torch.device
        Where to compute.
    rows : RowConfig, optional
        What the prime memory tells arm `primes_transformer`. Its `full` arrays are the window's
        last targets, and it is not rolled out.

    Returns
    -------
    dict
        The arrays of the table in `mneme.zeta.measure`, float32.
    """
    material = told_material(series, run, window, rows).to(device)
    test = torch.tensor(split_of(series, run, window).test, device=device)
    with OneDNNLinear() if device.type == "cpu" else nullcontext():
        shifted = []
        if network.rolls:
            shifted = _shifted(network, series, run, config, window=window, device=device)
        # read last, so that a carried memory is left with the states of these windows
        inside = window_scores(network, material, test, targets=window - 1)
    last = {name: values[:, -config.full_stride :] for name, values in inside.items()}
    full = _joined([*shifted, last], axis=1)
    context_WT = material.spacings_WT[test]
    rolled = {}
    if network.rolls:
        rolled = _rollouts(network, material, test, config, generator=generator)
    return {
        **placed(series, split_of(series, run, window), window),
        "spacings_WN": context_WT.cpu().numpy(),
        **{f"{name}_WT": values for name, values in inside.items()},
        **{f"{name}_full_WX": full[name] for name in ("nll", "crps", "abs_error")},
        **{name: tensor.float().cpu().numpy() for name, tensor in rolled.items()},
    }


def _rollouts(
    network: Network,
    material: Material,
    rows_W: Tensor,
    config: PredictConfig,
    *,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Continue windows from their first 128 and first 10 spacings."""
    model, context_WT = network.model, material.spacings_WT[rows_W]
    beside = {"extra": network.extra(material, rows_W), "level_B": network.level(material, rows_W)}
    far_WT, near_WT = context_WT[:, :ROLLOUT_CONTEXT], context_WT[:, :SOURCE_CONTEXT]
    mean = {"mode": "mean", "generator": None, **beside}
    some = {"samples": config.samples, "generator": generator, **beside}
    return {
        "rollout_mean_WH": rollout(model, far_WT, horizon=config.horizon, **mean),
        "rollout10_WH": rollout(model, near_WT, horizon=SOURCE_CONTEXT, **mean),
        "sampled_SWH": ensemble(model, far_WT, horizon=config.horizon, **some),
    }


def window_scores(
    network: Network, material: Material, rows_W: Tensor, *, targets: int
) -> dict[str, NDArray[np.float32]]:
    """Score the last `targets` spacings of windows; each window's states are read first."""
    network.refresh(material, anchor=True)
    parts = []
    for rows_B in rows_W.split(ROWS):
        mixture = network(material, rows_B, slots=None).mixture
        last = Mixture(*(part[:, -targets:].double().cpu() for part in mixture))
        truth = material.spacings_WT[rows_B, -targets:].double().cpu()
        log_weights, means, scales = (part.numpy() for part in last)
        parts.append(mixture_scores(log_weights, means, scales, truth.numpy()))
    return _joined(parts, axis=0)


def _shifted(
    network: Network,
    series: Arrays,
    run: RunConfig,
    config: PredictConfig,
    *,
    window: int,
    device: torch.device,
) -> list[dict[str, NDArray[np.float32]]]:
    """Score all but the last `full_stride` spacings of the test windows, from shifted windows.

    The series is cut anew from `shift` spacings on, so that the window before a test window ends
    inside it; a carried memory reads all windows of that cut, in order.
    """
    test = split_of(series, run, window).test
    stride = config.full_stride
    fits = window % stride == 0 and stride < window
    require(fits, "full_stride", f"a divisor of the window {window}, below it", stride)
    require(test[0] > 0, "split", "one whose first window does not test", run.split)
    parts = []
    for shift in range(stride, window, stride):
        material = reading_material(series, run, window, shift=shift).to(device)
        # Cut from `shift` on, window w - 1 ends `shift` spacings after test window w begins.
        rows = torch.tensor(test - 1, device=device)
        parts.append(window_scores(network, material, rows, targets=stride))
    return parts


def _joined(parts: Iterable[dict[str, NDArray]], *, axis: int) -> dict[str, NDArray]:
    parts = list(parts)
    return {name: np.concatenate([p[name] for p in parts], axis=axis) for name in parts[0]}
