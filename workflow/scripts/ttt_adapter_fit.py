"""A trained run -> one dialogue adapter a seed, its losses on test dialogues, its replies."""

from pathlib import Path

from mneme.core import checkpoints
from mneme.core.artefacts import read_arrays, read_tensors, read_text, write_arrays, write_json
from mneme.core.assets import atomic_folder
from mneme.core.stage import stage
from mneme.ttt.adapter_stages import adapted
from mneme.ttt.codec import Codec
from mneme.ttt.stages import AdapterFitStageConfig
from mneme.ttt.tinylora import save_adapter

with stage(snakemake) as job:
    config = job.settings(AdapterFitStageConfig, where="ttt")
    device = job.use_torch()
    arrays, codec = read_arrays(job.input.tokens), Codec(read_text(job.input.tokenizer))
    folders = [Path(path).parent for path in job.output.losses]
    pairs = zip(config.base.seeds, folders, job.input.weights, strict=True)
    for seed, folder, weights in pairs:
        fitted, losses, told = adapted(
            config,
            read_tensors(weights),
            arrays,
            codec,
            seed=seed,
            device=device,
            checkpoint=folder / "checkpoint",
            fingerprint=job.fingerprint(),
            log=job.log,
        )
        with atomic_folder(folder / "adapter") as whole:
            save_adapter(fitted.adapter, whole, base_name=config.run.base)
        write_arrays(folder / "losses.npz", losses)
        frame = {"code": job.params.code, "provenance": job.provenance(), "name": config.name}
        write_json(folder / "told.json", {**frame, **told})
    for folder in folders:
        checkpoints.remove(folder / "checkpoint")
