"""Stage `lattice_planted`: every arm on planted pairs, trained and read as on a teacher's.

The same functions as for a teacher, in one process: the arms take seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mneme.core.checkpoints import Log
from mneme.lattice.fit import fit
from mneme.lattice.gather import Measured
from mneme.lattice.material import training_material
from mneme.lattice.measure_stage import measured_teacher
from mneme.lattice.planted import planted_vectors
from mneme.lattice.stages_measure import PLANTED, MeasureStageConfig, PlantedStageConfig


def planted_runs(
    config: PlantedStageConfig,
    *,
    device: torch.device,
    folder: Path,
    fingerprint: str,
    log: Log,
) -> tuple[dict[str, Measured], dict[str, Any]]:
    """Train and measure every arm.

    Parameters
    ----------
    config : PlantedStageConfig
        Pairs, arms, recipe, seeds.
    device : torch.device
        Where networks compute.
    folder : Path
        Folder of the checkpoints; the caller removes it.
    fingerprint : str
        Hash of settings and code.
    log : callable
        Takes progress lines.

    Returns
    -------
    runs : dict
        Baseline or arm -> what was measured.
    training : dict
        Arm -> history of each seed, JSON-ready.
    """
    vectors = planted_vectors(config.planted)
    material, states, training = training_material(vectors), {}, {}
    for name, arm in config.planted.arms.items():
        fitted = [
            fit(
                material,
                arm,
                config.planted.recipe,
                seed=seed,
                device=device,
                checkpoint=folder / name / f"seed{seed}",
                fingerprint=fingerprint,
                log=log,
                label=f"{PLANTED} {name}",
            )
            for seed in config.seeds
        ]
        states[name] = [one.network.state_dict() for one in fitted]
        training[name] = [{"best_step": one.best_step, **one.history} for one in fitted]
    told = MeasureStageConfig(
        teacher=PLANTED,
        recipe=config.planted.recipe,
        arms=config.planted.arms,
        seeds=config.seeds,
        read=config.read,
    )
    return measured_teacher(told, vectors, None, states, device=device, log=log), training
