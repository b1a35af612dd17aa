"""The source's run, on vectors whose relation is known -> its curve and how it ends."""

from mneme.core.artefacts import write_json
from mneme.core.stage import stage
from mneme.lattice.original import run_original
from mneme.lattice.original_report import original_name
from mneme.lattice.stages_measure import OriginalStageConfig

with stage(snakemake) as job:
    config = job.settings(OriginalStageConfig, where="lattice")
    device = job.use_torch()
    runs = {}
    for rho in config.original.correlations:
        runs[original_name(rho)] = [
            run_original(config.original, rho, seed=seed, device=device) for seed in config.seeds
        ]
        job.log(f"original, correlation {rho:g}: done")
    frame = {"code": job.params.code, "provenance": job.provenance()}
    write_json(job.output[0], {**frame, "runs": runs})
