"""A series of spacings -> the density head of one prime arm, trained once a seed."""

from pathlib import Path

from mneme.core import checkpoints
from mneme.core.artefacts import read_arrays, write_json, write_tensors
from mneme.core.stage import stage
from mneme.zeta.prime_fit import fit_primes
from mneme.zeta.prime_stages import PrimesStageConfig, training_data

with stage(snakemake) as job:
    config = job.settings(PrimesStageConfig, where="zeta")
    device = job.use_torch()
    train, val = training_data(read_arrays(job.input.series), config)
    job.log(f"{config.name}: rows of {len(train.truth_WT)} windows train")
    folders = [Path(path).parent for path in job.output.weights]
    for seed, folder in zip(config.seeds, folders, strict=True):
        fitted = fit_primes(
            train,
            val,
            config.arm,
            seed=seed,
            device=device,
            checkpoint=folder / "checkpoint",
            fingerprint=job.fingerprint(),
            log=job.log,
            label=config.name,
        )
        write_tensors(folder / "last.safetensors", fitted.last)
        write_tensors(folder / "model.safetensors", fitted.net.state_dict())
        frame = {"code": job.params.code, "provenance": job.provenance(), "name": config.name}
        record = {"best_step": fitted.best_step, **fitted.history}
        write_json(folder / "history.json", {**frame, **record})
    for folder in folders:
        checkpoints.remove(folder / "checkpoint")
