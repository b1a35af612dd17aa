"""Embeddings of a teacher -> one arm, trained once a seed."""

from pathlib import Path

from mneme.core import checkpoints
from mneme.core.artefacts import read_arrays, write_json, write_tensors
from mneme.core.stage import stage
from mneme.lattice.fit import fit
from mneme.lattice.material import training_material
from mneme.lattice.stages_fit import FitStageConfig

with stage(snakemake) as job:
    config = job.settings(FitStageConfig, where="lattice")
    device = job.use_torch()
    material = training_material(read_arrays(job.input.vectors))
    folders = [Path(path).parent for path in job.output.weights]
    for seed, folder in zip(config.seeds, folders, strict=True):
        fitted = fit(
            material,
            config.arm,
            config.recipe,
            seed=seed,
            device=device,
            checkpoint=folder / "checkpoint",
            fingerprint=job.fingerprint(),
            log=job.log,
            label=f"{config.teacher} {config.name}",
        )
        write_tensors(folder / "model.safetensors", fitted.network.state_dict())
        frame = {"code": job.params.code, "provenance": job.provenance(), "name": config.name}
        record = {"teacher": config.teacher, "best_step": fitted.best_step, **fitted.history}
        write_json(folder / "history.json", {**frame, **record})
    for folder in folders:
        checkpoints.remove(folder / "checkpoint")
