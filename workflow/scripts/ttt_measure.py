"""An arm, trained or as it began -> its losses on test documents and after other contexts."""

from mneme.core.artefacts import read_arrays, read_tensors, read_text, write_arrays, write_json
from mneme.core.stage import stage
from mneme.ttt.codec import Codec
from mneme.ttt.context_stages import read_sets
from mneme.ttt.stages import MeasureStageConfig
from mneme.ttt.trained import measured_model

with stage(snakemake) as job:
    config = job.settings(MeasureStageConfig, where="ttt")
    device = job.use_torch()
    tokens = job.input.get("tokens")
    material = config.text(read_arrays(tokens)) if tokens else config.chains()
    codec = Codec(read_text(job.input.tokenizer)) if tokens else None
    weights = job.input.get("weights") or [None] * len(config.seeds)
    places = zip(config.seeds, weights, job.output.losses, job.output.facts, strict=True)
    for seed, path, losses, facts in places:
        model = measured_model(
            config.recipe.model,
            config.arm,
            read_tensors(path) if path else None,
            vocabulary=material.vocabulary,
            seed=seed,
            device=device,
        )
        arrays, told = read_sets(model, config, material, codec, device=device, log=job.log)
        write_arrays(losses, arrays)
        write_json(facts, {"code": job.params.code, "name": config.name, **told})
