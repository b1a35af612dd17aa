"""What each rule of the room is told: exactly the settings that its script uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mneme.lattice.paths import LatticePaths
from mneme.lattice.settings import LatticeConfig
from mneme.lattice.stages_measure import PLANTED

Block = Any | Callable[[Any], Mapping[str, Any]]


def lattice_blocks(config: LatticeConfig, paths: LatticePaths, resources: str) -> dict[str, Block]:
    """Return rule name -> its settings, or a function of the rule's wildcards returning them."""

    def arms_of(teacher: str) -> dict[str, Any]:
        return {name: config.arms[name] for name in paths.runs[teacher]}

    return {
        "lattice_prepare": {"pairs": config.pairs},
        "lattice_embed": lambda wildcards: {
            "name": wildcards.backbone,
            "teacher": config.teachers[wildcards.backbone],
            "resources": resources,
            "batch": config.batch,
        },
        "lattice_fit": lambda wildcards: {
            "teacher": wildcards.backbone,
            "name": wildcards.run,
            "arm": config.arms[wildcards.run],
            "recipe": config.recipes[wildcards.backbone],
            "seeds": config.seeds,
        },
        "lattice_measure": lambda wildcards: {
            "teacher": wildcards.backbone,
            "recipe": config.recipes[wildcards.backbone],
            "arms": arms_of(wildcards.backbone),
            "seeds": config.seeds,
            "read": config.measure.read,
        },
        "lattice_original": {"original": config.original, "seeds": config.seeds},
        "lattice_planted": {
            "planted": config.planted,
            "seeds": config.seeds,
            "read": config.measure.read,
        },
        "lattice": {
            "arms": {
                **{teacher: arms_of(teacher) for teacher in paths.teachers},
                PLANTED: config.planted.arms,
            },
            "seeds": config.seeds,
            "measure": config.measure,
            "tried": {t: config.tried[t] for t in paths.teachers},
        },
    }
