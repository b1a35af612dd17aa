"""Pairs whose answer is a known local rule -> scores of every arm: what the lattice can do."""

import shutil
from pathlib import Path

from mneme.core.artefacts import write_arrays, write_json
from mneme.core.stage import stage
from mneme.lattice.gather import packed
from mneme.lattice.planted_stage import planted_runs
from mneme.lattice.stages_measure import PLANTED, PlantedStageConfig

with stage(snakemake) as job:
    config = job.settings(PlantedStageConfig, where="lattice")
    device = job.use_torch()
    checkpoints = Path(job.output.readings).parent / "checkpoints"
    runs, training = planted_runs(
        config, device=device, folder=checkpoints, fingerprint=job.fingerprint(), log=job.log
    )
    arrays, facts = packed(runs)
    write_arrays(job.output.readings, arrays)
    frame = {"code": job.params.code, "provenance": job.provenance(), "teacher": PLANTED}
    drawn = {"key": None, "reason": "drawn, not embedded", "dim": runs["raw"].numbers}
    write_json(job.output.facts, {**frame, "embedding": drawn, "training": training, "runs": facts})
    shutil.rmtree(checkpoints, ignore_errors=True)
