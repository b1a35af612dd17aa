"""Trained runs read on blocks of zeros at other heights: does what they learnt hold there?

Nothing is trained or chosen on a block. Its memories begin with it: the first windows only fill
them. The memoryless law is that of the series' training windows; the walking linear prediction
brings nothing along and is refitted inside the block.

Legend: W windows read, S seeds, T targets of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mneme.core.seeds import numpy_generator
from mneme.nn.onednn import OneDNNLinear
from mneme.zeta.carry_config import CarryConfig
from mneme.zeta.config import CARRY_ARMS, PHASE_ARMS, ModelConfig, RunConfig
from mneme.zeta.density import kernel_law
from mneme.zeta.linear import Task, walking_reading
from mneme.zeta.material import reading_material
from mneme.zeta.measure import mixture_scores
from mneme.zeta.network import build_network
from mneme.zeta.predict import window_scores
from mneme.zeta.prime_config import PrimesConfig
from mneme.zeta.prime_fit import predict, prime_data
from mneme.zeta.prime_net import PrimeNet
from mneme.zeta.transfer_config import TransferConfig
from mneme.zeta.unfold import level_of, spacings_of
from mneme.zeta.windows import Arrays, Split, cut, split_windows, window_count

Floats = NDArray[np.float64]
Scores = Mapping[str, NDArray]
States = Callable[[str], Iterable[Mapping[str, Tensor]]]
"""Run -> its weights, seed by seed."""
READ = {"nll": "nll", "mae": "abs_error"}
"""Metric -> score it is the window's mean of."""


@dataclass(frozen=True, kw_only=True)
class TransferStageConfig:
    """Rule `zeta_transfer`."""

    transfer: TransferConfig
    """What is read."""
    runs: dict[str, RunConfig]
    """The runs that are read."""
    model: ModelConfig
    """Transformer."""
    carry: CarryConfig
    """Carried memory."""
    primes: PrimesConfig
    """Prime memory, rows and head."""
    walk_order: int
    """Lags of the walking linear prediction."""
    seeds: tuple[int, ...]
    """Training seeds."""


def transfer_readings(
    config: TransferStageConfig,
    series: Arrays,
    blocks: Mapping[str, Floats],
    states: States,
    *,
    device: torch.device,
    log: Callable[[str], None],
) -> dict[str, NDArray]:
    """Read every run and reference on every block.

    Parameters
    ----------
    config : TransferStageConfig
        Settings.
    series : mapping
        `spacings`, `heights` that the runs were trained on.
    blocks : mapping
        Name -> heights of consecutive zeros (n + 1,).
    states : callable
        Returns a run's weights, one a seed.
    device, log
        Where to compute; takes a line a run.

    Returns
    -------
    dict
        `<block>/<run>/nll` and `/mae` (S, W), nats and mean spacings; `<block>/heights` (W,)
        height at the start of each window; `<block>/ends` (2,) first and last height of the
        windows read; `trained` (2,) first and last height of the windows that trained.

    Raises
    ------
    ValueError
        When a block has fewer windows than are skipped.
    """
    window = config.model.window
    train = split_windows(window_count(len(series["spacings"]), window), "height", share=1.0).train
    law = kernel_law(cut(series["spacings"], train, window).ravel())
    ends = [train[0] * window, (train[-1] + 1) * window]
    found: dict[str, NDArray] = {"trained": series["heights"][ends]}
    nets = {name: list(states(name)) for name in config.runs}
    for block, heights in blocks.items():
        here = {"heights": heights, "spacings": spacings_of(heights)}
        windows = _windows(block, len(here["spacings"]), config)
        found[f"{block}/heights"] = heights[windows * window]
        found[f"{block}/ends"] = heights[[windows[0] * window, (windows[-1] + 1) * window]]
        truth_WT = cut(here["spacings"], windows, window)[:, 1:]
        scores = {name: [] for name in config.runs}
        for name, run in config.runs.items():
            for seed, state in zip(config.seeds, nets[name], strict=True):
                scores[name].append(_read(run, state, here, windows, config, seed, device))
            log(f"{block}: {name} nll {scores[name][0]['nll'].mean():.4f}")
        scores["kde"] = [law.scores(truth_WT)]
        scores[f"ar{config.walk_order}_walk"] = [_walk(here["spacings"], windows, config)]
        for name, seeds in scores.items():
            for metric, key in READ.items():
                means = [np.asarray(s[key], float).mean(axis=1) for s in seeds]
                found[f"{block}/{name}/{metric}"] = np.stack(means)
    return found


def _windows(block: str, spacings: int, config: TransferStageConfig) -> NDArray[np.int64]:
    count, skip = spacings // config.model.window, config.transfer.skip
    if count <= skip:
        raise ValueError(
            f"block {block} has {count} windows, of which {skip} are skipped: ask for more zeros "
            f"(zeta.zeros.blocks.{block}.count)"
        )
    return np.arange(skip, count)


@torch.no_grad()
def _read(
    run: RunConfig,
    state: Mapping[str, Tensor],
    here: Arrays,
    windows: NDArray[np.int64],
    config: TransferStageConfig,
    seed: int,
    device: torch.device,
) -> Scores:
    """Score one trained run on windows of a block."""
    window = config.model.window
    if run.arm in PHASE_ARMS:
        net = PrimeNet(config.primes.rows, config.primes.head, generator=torch.Generator())
        net.load_state_dict(dict(state))
        told = here["heights"], here["spacings"], level_of(here["heights"])
        data = prime_data(*told, windows, config.primes.rows, window=window, phases="memory")
        mixture = predict(net.to(device).eval(), data.rows_WTF)
        log_weights, means, scales = (part.double().numpy() for part in mixture)
        return mixture_scores(log_weights, means, scales, data.truth_WT)
    carry = config.carry if run.arm in CARRY_ARMS else None
    network = build_network(run, config.model, carry=carry, seed=seed)
    network.load_state_dict(dict(state))
    material = reading_material(here, run, window).to(device)
    rows = torch.tensor(windows, device=device)
    with OneDNNLinear() if device.type == "cpu" else nullcontext():
        return window_scores(network.to(device).eval(), material, rows, targets=window - 1)


def _walk(spacings: Floats, windows: NDArray[np.int64], config: TransferStageConfig) -> Scores:
    """Read the walking linear prediction: its readings at contexts 1..T."""
    before = np.arange(windows[0])
    split = Split(train=before, val=before[-1:], test=windows)
    task = Task(spacings=spacings, split=split, window=config.model.window, horizon=1, samples=2)
    generator = numpy_generator(0, "transfer")
    told = {"order": config.walk_order, "memories": (config.transfer.walk,)}
    reading = walking_reading(task, generator=generator, **told).reading
    return {key: reading[f"{key}_WT"] for key in READ.values()}
