"""A series of spacings -> one transformer arm, trained once a seed."""

from pathlib import Path

from mneme.core import checkpoints
from mneme.core.artefacts import read_arrays, write_json, write_tensors
from mneme.core.stage import stage
from mneme.zeta.fit import fit
from mneme.zeta.prime_material import fit_material
from mneme.zeta.stages import FitStageConfig

with stage(snakemake) as job:
    config = job.settings(FitStageConfig, where="zeta")
    device = job.use_torch()
    series = read_arrays(job.input.series)
    material = fit_material(series, config.run, config.model.window, config.rows)
    job.log(f"{config.name}: {len(material.train)} windows train, {len(material.val)} select")
    folders = [Path(path).parent for path in job.output.weights]
    for seed, folder in zip(config.seeds, folders, strict=True):
        fitted = fit(
            material,
            config.run,
            config.model,
            config.training,
            carry=config.carry,
            seed=seed,
            device=device,
            checkpoint=folder / "checkpoint",
            fingerprint=job.fingerprint(),
            log=job.log,
            label=config.name,
            rows=config.rows,
        )
        write_tensors(folder / "last.safetensors", fitted.last)
        write_tensors(folder / "model.safetensors", fitted.best)
        frame = {"code": job.params.code, "provenance": job.provenance(), "name": config.name}
        record = {"best_step": fitted.best_step, **fitted.history}
        write_json(folder / "history.json", {**frame, **record})
    for folder in folders:
        checkpoints.remove(folder / "checkpoint")
