"""What each rule of the room is told: exactly the settings that its script uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mneme.zeta.config import CARRY_ARMS
from mneme.zeta.paths import ZetaPaths
from mneme.zeta.settings import ZetaConfig

Block = Any | Callable[[Any], Mapping[str, Any]]


def zeta_paths(results: str, config: ZetaConfig) -> ZetaPaths:
    """Return where the files of a configuration lie below one results folder."""
    told = {"runs": config.runs, "seeds": config.seeds, "uncut": config.uncut}
    return ZetaPaths(results=results, **told)


def zeta_blocks(config: ZetaConfig, paths: ZetaPaths) -> dict[str, Block]:
    """Return rule name -> its settings, or a function of the rule's wildcards returning them."""
    window, seeds = config.model.window, config.seeds

    def trained(wildcards: Any) -> dict[str, Any]:
        run = config.runs[wildcards.run]
        carry = config.carry if run.arm in CARRY_ARMS else None
        rows = config.primes.rows if run.arm == "primes_transformer" else None
        fixed = {"model": config.model, "carry": carry, "rows": rows, "seeds": seeds}
        return {"name": wildcards.run, "run": run, **fixed}

    def phased(wildcards: Any) -> dict[str, Any]:
        run = config.runs[wildcards.run]
        inside = run.arm == "primes_window"
        fixed = {
            "primes": None if inside else config.primes,
            "primes_window": config.primes_window if inside else None,
            "window": window,
            "seeds": seeds,
        }
        return {"name": wildcards.run, "run": run, **fixed}

    chosen = {name: config.runs[name] for name in paths.slot_runs}
    read = {"model": config.model, "seeds": seeds, "bootstrap": config.mdn}
    return {
        "zeros": config.zeros,
        "zeta_prepare": config.prepare,
        "zeta_fit": lambda wildcards: {**trained(wildcards), "training": config.training},
        "zeta_primes_fit": phased,
        "zeta_measure": lambda wildcards: {**trained(wildcards), "predict": config.predict},
        "zeta_primes_measure": lambda wildcards: {**phased(wildcards), "predict": config.predict},
        "zeta_references": {"references": config.references, "window": window},
        "zeta_floor": config.floor,
        "zeta_transfer": _transfer(config),
        "mdn": {n: getattr(config, n) for n in ("runs", "mdn", "tried", "transfer", "seeds")},
        "slot_ablation": {
            **read,
            "runs": chosen,
            "ablation": config.slot_ablation,
            "lacking": {name: config.runs[name] for name in paths.lacking_runs},
        },
        "diagnostics": {**read, "runs": chosen, "diagnostics": config.diagnostics},
        "kernel": {
            **read,
            "runs": {name: config.runs[name] for name in paths.kernel_runs},
            "kernel": config.kernel,
        },
        "statistics": {
            "statistics": config.statistics.read,
            "sequence": config.statistics.sequence,
        },
    }


def _transfer(config: ZetaConfig) -> dict[str, Any]:
    shared = ("transfer", "model", "carry", "primes", "seeds")
    return {
        **{name: getattr(config, name) for name in shared},
        "runs": {name: config.runs[name] for name in config.transfer.runs},
        "walk_order": config.references.walk_order,
    }
