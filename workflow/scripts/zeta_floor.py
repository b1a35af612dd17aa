"""Bayes predictor of the sine process -> floor.json."""

from mneme.core.artefacts import write_json
from mneme.core.stage import stage
from mneme.zeta.floor import FloorConfig, as_json, floor_levels

with stage(snakemake) as job:
    config = job.settings(FloorConfig, where="zeta.floor")
    levels = floor_levels(config)
    for level in levels:
        job.log(f"{level.context} past spacings: {level.nll.value:.4f} +- {level.nll.error:.4f}")
    write_json(job.output[0], as_json(levels))
