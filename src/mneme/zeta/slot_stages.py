"""Stages that open trained models again: slot ablation, diagnostics, kernel.

Legend: W windows, N spacings of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mneme.core.checkpoints import Log
from mneme.core.seeds import numpy_generator, torch_generator
from mneme.zeta.ablation import ablate
from mneme.zeta.ablation_config import AblationConfig, DiagnosticsConfig, KernelStageConfig
from mneme.zeta.ablation_report import ALL, Ablated, Resampling, Retrained
from mneme.zeta.carry_config import CarryConfig
from mneme.zeta.config import CARRY_ARMS, ModelConfig, RunConfig
from mneme.zeta.material import reading_material
from mneme.zeta.measure import window_metrics
from mneme.zeta.network import Network, build_network
from mneme.zeta.partners import lacks_memory
from mneme.zeta.scores import MdnConfig
from mneme.zeta.window_set import WindowSet
from mneme.zeta.windows import split_of

Arrays = Mapping[str, NDArray]
FOCUS = ("v1", "e2", "e1")
"""Runs that figures show slot by slot, where they were trained."""
KERNEL_FOCUS = ("e0", "e0_distance", "e0_gue")
"""Runs whose attention the figure shows curve by curve."""


@dataclass(frozen=True, kw_only=True)
class _ModelsConfig:
    """Which trained models are opened, and how intervals are made."""

    runs: dict[str, RunConfig]
    """Runs by name, in the order of the weights."""
    model: ModelConfig
    """Transformer."""
    seeds: tuple[int, ...]
    """Training seeds."""
    bootstrap: MdnConfig
    """Block length and resamples."""


@dataclass(frozen=True, kw_only=True)
class AblationStageConfig(_ModelsConfig):
    """Rule `slot_ablation`."""

    ablation: AblationConfig
    """How slots are cut."""
    lacking: dict[str, RunConfig]
    """Runs trained for as many steps without slots, or without one of them."""


@dataclass(frozen=True, kw_only=True)
class DiagnosticsStageConfig(_ModelsConfig):
    """Rule `diagnostics`."""

    diagnostics: DiagnosticsConfig
    """How slots are diagnosed."""

    def every(self, windows: int) -> int:
        """Return how many windows lie between two that are read."""
        return max(1, windows // self.diagnostics.windows)


@dataclass(frozen=True, kw_only=True)
class KernelRuleConfig(_ModelsConfig):
    """Rule `kernel`."""

    kernel: KernelStageConfig
    """What is read, and what formulas are tried."""

    def every(self, windows: int) -> int:
        """Return how many windows lie between two that are read."""
        return max(1, windows // self.kernel.pairs.windows)


def trained_networks(
    config: _ModelsConfig,
    name: str,
    states: Iterable[Mapping[str, Tensor]],
    device: torch.device,
    *,
    carry: CarryConfig | None,
) -> Iterator[tuple[int, Network]]:
    """Yield (seed, network) of one run, ready to be read."""
    run = config.runs[name]
    for seed, state in zip(config.seeds, states, strict=True):
        network = build_network(
            run, config.model, carry=carry if run.arm in CARRY_ARMS else None, seed=seed
        )
        network.load_state_dict(dict(state))
        yield seed, network.to(device).eval()


def cut_run(
    config: AblationStageConfig,
    name: str,
    states: Iterable[Mapping[str, Tensor]],
    series: Arrays,
    device: torch.device,
    log: Log,
) -> dict[int, tuple[Ablated, ...]]:
    """Cut the slots of one run on its test windows; seed -> readings."""
    run, window = config.runs[name], config.model.window
    material = reading_material(series, run, window).to(device)
    test, cuts = split_of(series, run, window).test, {}
    for seed, network in trained_networks(config, name, states, device, carry=None):
        windows = WindowSet.of(network, material, test)
        generator = torch_generator(seed, "ablation")
        cuts[seed] = ablate(network.model, windows, config=config.ablation, generator=generator)
        log(f"{name} seed {seed}: slots cut on {len(test)} windows")
    return cuts


def resampling(bootstrap: MdnConfig, purpose: str, *, every: int) -> Resampling:
    """Return the bootstrap of a stage that reads every so-manieth window; equal draws for runs."""
    return Resampling(
        block=max(1, bootstrap.block // every),
        resamples=bootstrap.resamples,
        generator=numpy_generator(0, "bootstrap", purpose),
    )


def retrained(
    config: AblationStageConfig,
    name: str,
    measures: Mapping[str, Sequence[str]],
    read: Callable[[str], Arrays],
) -> list[Retrained]:
    """Return the scores of a run and of every run that lacks nothing but one or all of its slots.

    Parameters
    ----------
    measures : mapping
        Run -> files of readings, one a seed; the runs that lack slots among them.
    read : callable
        Reads such a file.
    """
    found = []
    for lacking, other in config.lacking.items():
        if not _alike(config.runs[name], other):
            continue
        ours = [read(path) for path in measures[name]]
        theirs = [read(path) for path in measures[lacking]]
        if not np.array_equal(ours[0]["windows_W"], theirs[0]["windows_W"]):
            continue
        whole, without = {}, {}
        for seed, our, their in zip(config.seeds, ours, theirs, strict=True):
            whole[seed], without[seed] = _scores(our, config), _scores(their, config)
        slot = ALL if other.without_slot is None else str(other.without_slot)
        found.append(Retrained(run=lacking, slot=slot, whole=whole, without=without))
    return found


def _alike(run: RunConfig, other: RunConfig) -> bool:
    """Return whether `other` lacks slots of `run` and nothing else.

    A run without any slot cannot have the slots' own losses either; a drift loss, which trains
    every parameter, it must share.
    """
    if other.without_slot is not None:
        return other == replace(run, without_slot=other.without_slot, control_of=other.control_of)
    return lacks_memory(run, other)


def _scores(arrays: Arrays, config: AblationStageConfig) -> dict[str, NDArray[np.float64]]:
    kept = {key: a for key, a in arrays.items() if key not in ("windows_W", "heights_W")}
    kept.pop("sampled_SWH", None)
    horizons = tuple(sorted(config.ablation.horizons))
    found = window_metrics(kept, horizons=horizons)
    return {name: found[name] for name in ("nll", *(f"err_step@{h}" for h in horizons))}
