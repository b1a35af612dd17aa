"""A corpus -> one arm, trained once a seed."""

from pathlib import Path

from mneme.core import checkpoints
from mneme.core.artefacts import read_arrays, write_json, write_tensors
from mneme.core.config import plain
from mneme.core.stage import stage
from mneme.ttt.fit import fit
from mneme.ttt.stages import FitStageConfig

with stage(snakemake) as job:
    config = job.settings(FitStageConfig, where="ttt")
    device = job.use_torch()
    tokens = job.input.get("tokens")
    material = config.text(read_arrays(tokens)) if tokens else config.chains()
    folders = [Path(path).parent for path in job.output.weights]
    for seed, folder in zip(config.seeds, folders, strict=True):
        fitted = fit(
            material,
            config.recipe,
            config.arm,
            vocabulary=material.vocabulary,
            seed=seed,
            device=device,
            checkpoint=folder / "checkpoint",
            fingerprint=job.fingerprint(),
            log=job.log,
            label=config.name,
        )
        write_tensors(folder / "model.safetensors", fitted.model.state_dict())
        made = {"arm": config.arm, "recipe": plain(config.recipe), "corpus": config.recipe.corpus}
        frame = {"code": job.params.code, "provenance": job.provenance(), "name": config.name}
        record = {**frame, **made, "vocabulary": material.vocabulary, **fitted.history}
        write_json(folder / "history.json", record)
    for folder in folders:
        checkpoints.remove(folder / "checkpoint")
