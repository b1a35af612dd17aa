"""All settings of the room (no torch here)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mneme.core.config import require
from mneme.zeta.ablation_config import AblationConfig, DiagnosticsConfig, KernelStageConfig
from mneme.zeta.carry_config import CarryConfig
from mneme.zeta.config import (
    PHASE_ARMS,
    SLOT_ARMS,
    WHOLE_ARMS,
    ModelConfig,
    PredictConfig,
    RunConfig,
    TrainingConfig,
    TriedConfig,
)
from mneme.zeta.prime_config import PrimesConfig, WindowPrimesConfig
from mneme.zeta.reading_config import (
    KEPT,
    FloorConfig,
    MdnConfig,
    PrepareConfig,
    ReferenceConfig,
    StatisticsConfig,
)
from mneme.zeta.transfer_config import TransferConfig
from mneme.zeta.zeros_config import ZerosConfig


@dataclass(frozen=True, kw_only=True)
class StatisticsRuleConfig:
    """Statistics of series and of sampled rollouts."""

    sequence: int
    """Length of the sequences that a series is cut into, spacings: the bootstrap's units."""
    read: StatisticsConfig
    """What is read."""

    def __post_init__(self) -> None:
        require(self.sequence >= 2, "sequence", "at least 2", self.sequence)


@dataclass(frozen=True, kw_only=True)
class ZetaConfig:
    """Room `zeta`."""

    seeds: tuple[int, ...]
    """Training seeds, at least one."""
    zeros: ZerosConfig
    """Zeros that are computed."""
    prepare: PrepareConfig
    """Surrogates."""
    model: ModelConfig
    """Transformer of every arm that has one."""
    training: TrainingConfig
    """Training of every such arm."""
    carry: CarryConfig
    """Memory of arm `carry`."""
    primes: PrimesConfig
    """Arms `primes` and `oracle`."""
    primes_window: WindowPrimesConfig
    """Arm `primes_window`."""
    predict: PredictConfig
    """What is read of a trained run."""
    references: ReferenceConfig
    """Reference predictors."""
    floor: FloorConfig
    """Bayes predictor of the sine process."""
    transfer: TransferConfig
    """What is read of zeros elsewhere."""
    mdn: MdnConfig
    """How readings become `mdn.json`."""
    slot_ablation: AblationConfig
    """How slots are cut."""
    diagnostics: DiagnosticsConfig
    """How slots are diagnosed."""
    uncut: tuple[str, ...]
    """Runs with slots that others are compared with and that are neither cut nor diagnosed."""
    kernel: KernelStageConfig
    """How attention is read and what formulas are tried."""
    statistics: StatisticsRuleConfig
    """Statistics of spacings."""
    runs: dict[str, RunConfig]
    """All runs; controls are runs beside the real ones."""
    tried: TriedConfig
    """Configurations compared before these; told in `mdn.json`."""

    def __post_init__(self) -> None:
        unique = len(set(self.seeds)) == len(self.seeds) > 0
        require(unique, "seeds", "different ones, at least one", self.seeds)
        for name, run in self.runs.items():
            fits = re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None
            require(fits, "runs", "named in lower case, digits and _", name)
            known = run.control_of is None or run.control_of in self.runs
            require(known, f"runs.{name}.control_of", "null or a run", run.control_of)
        slots = {n for n, r in self.runs.items() if r.arm in SLOT_ARMS and r.system == "zeta"}
        require(set(self.uncut) <= slots, "uncut", "runs with slots on the zeros", self.uncut)
        for kind, least in (("none", "a run without memory"), ("prefix", "a run with slots")):
            cut = {name: run for name, run in self.runs.items() if name not in self.uncut}
            runs = [r for r in cut.values() if r.arm == kind and r.system == "zeta"]
            there = any(run.without_slot is None for run in runs)
            require(there, "runs", f"with {least} (arm {kind}) on the zeros", sorted(self.runs))
        there = any(run.arm in PHASE_ARMS for run in self.runs.values())
        require(there, "runs", "with one of arm primes", sorted(self.runs))
        window = self.model.window
        for name, horizon in (
            ("predict.horizon", self.predict.horizon),
            ("mdn.horizons", self.mdn.horizons[-1]),
        ):
            require(horizon + 128 <= window, name, f"at most {window - 128}", horizon)
        self._require_room(window)
        self._require_transfer(window)
        stride = self.predict.full_stride
        divides = window % stride == 0 and stride < window
        require(divides, "predict.full_stride", f"a divisor of {window} below it", stride)

    def _require_transfer(self, window: int) -> None:
        """Raise ConfigError where a run cannot be read elsewhere, or a block is too short."""
        for name in self.transfer.runs:
            run = self.runs.get(name)
            barred = ("oracle", *WHOLE_ARMS)
            fits = run is not None and run.system == "zeta" and run.arm not in barred
            rule = f"runs on the zeros, of other arms than {', '.join(barred)}"
            require(fits, "transfer.runs", rule, name)
        least = max(10, self.transfer.skip + 1) * window + 1
        for name, block in self.zeros.blocks.items():
            enough = block.count >= least
            rule = f"at least {least}, for transfer.skip and one window"
            require(enough, f"zeros.blocks.{name}.count", rule, block.count)

    def _require_room(self, window: int) -> None:
        """Raise ConfigError where a step would fail hours later, or compare unlike things."""
        whole = KEPT % window == 0 and window >= self.primes.rows.memory.refresh
        rule = f"a divisor of {KEPT} (a spectrum), at least primes.rows.memory.refresh"
        require(whole, "model.window", rule, window)
        edges = self.mdn.context_edges
        require(edges[-1] <= window, "mdn.context_edges", f"at most {window}", edges)
        far = max(self.slot_ablation.horizons)
        context = self.slot_ablation.context
        require(context == 128, "slot_ablation.context", "128, as in mdn", context)
        enough = self.zeros.count > 10 * window
        require(enough, "zeros.count", f"above 10 windows of {window}", self.zeros.count)
        for name, horizon in (
            ("slot_ablation.horizons", far),
            ("references.horizon", self.references.horizon),
            ("diagnostics.horizon", self.diagnostics.horizon),
        ):
            require(horizon + 128 <= window, name, f"at most {window - 128}", horizon)
        slots, read = self.model.slots, self.diagnostics
        require(slots >= 2, "model.slots", "at least 2, which the diagnostics permute", slots)
        fits = read.context + read.horizon <= window
        rule = f"at most {window - read.horizon}, the window without diagnostics.horizon"
        require(fits, "diagnostics.context", rule, read.context)
        lag = self.kernel.pairs.max_lag
        require(lag < window, "kernel.pairs.max_lag", f"below the window {window}", lag)
        longest = max(far, self.mdn.horizons[-1])
        for name in ("predict", "references"):
            reach = getattr(self, name).horizon
            require(longest <= reach, f"{name}.horizon", f"at least {longest}", reach)
        for name, run in self.runs.items():
            half = run.drift_weight == 0 or run.drift_horizon <= window // 2
            rule = f"at most half a window ({window // 2})"
            require(half, f"runs.{name}.drift_horizon", rule, run.drift_horizon)
            cut = run.without_slot is None or run.without_slot < slots
            rule = f"below model.slots = {slots}"
            require(cut, f"runs.{name}.without_slot", rule, run.without_slot)
            other = run.control_of != name
            require(other, f"runs.{name}.control_of", "another run", run.control_of)
