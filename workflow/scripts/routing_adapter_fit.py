"""Training chunks -> one PEFT adapter a domain, trained one after another, once a seed."""

from pathlib import Path

from mneme.core import checkpoints
from mneme.core.artefacts import read_arrays, write_json
from mneme.core.assets import atomic_folder
from mneme.core.stage import stage
from mneme.nn.backbone import load
from mneme.routing.begun import read_begun
from mneme.routing.fit import fitted_adapters
from mneme.routing.lora import save_adapters
from mneme.routing.stages import AdapterFitConfig

with stage(snakemake) as job:
    config = job.settings(AdapterFitConfig, where="routing")
    device = job.use_torch()
    base = load(config.backbone, device=device, resources=config.resources).model
    folders = [Path(path).parent for path in job.output.losses]
    begun = read_begun(job.input.begun, config.adapters.seeds, config.domains[0])
    shared = {"device": device, "fingerprint": job.fingerprint(), "log": job.log}
    for seed, folder in zip(config.adapters.seeds, folders, strict=True):
        with (
            fitted_adapters(
                base,
                read_arrays(job.input.tokens),
                config,
                seed=seed,
                checkpoint=folder / "checkpoint",
                begun=begun.get(seed),
                **shared,
            ) as fitted,
            atomic_folder(folder / "adapters") as whole,
        ):
            save_adapters(fitted.model, whole, base_name=config.backbone.name)
        write_json(folder / "losses.json", fitted.losses)
        frame = {"code": job.params.code, "provenance": job.provenance(), "name": config.name}
        write_json(folder / "history.json", frame | fitted.history)
    for folder in folders:
        checkpoints.remove(folder / "checkpoint")
