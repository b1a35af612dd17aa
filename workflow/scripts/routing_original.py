"""Run `original`: generate the source's sequences under its own protocol, a set a seed."""

from pathlib import Path

from mneme.core.artefacts import write_json
from mneme.core.config import plain
from mneme.core.stage import stage
from mneme.nn.backbone import load
from mneme.routing.mixer_files import load_mixers
from mneme.routing.model import TemporalLora
from mneme.routing.original_run import generate_sequences
from mneme.routing.stages import OriginalStageConfig

with stage(snakemake) as job:
    config = job.settings(OriginalStageConfig, where="routing")
    device = job.use_torch()
    backbone = load(config.backbone, device=device, resources=config.resources)
    folders = {Path(path).parent.name: Path(path).parent for path in job.input.adapters}
    mixers = load_mixers(job.input.mixers, device=device)[config.original.mixer]
    sequences = []
    for seed, mixer in zip(config.seeds, mixers, strict=True):
        model = TemporalLora(
            backbone.model,
            {name: folders[name] for name in config.domains},
            mixer=mixer,
            gate_layer=0,  # the router sees token ids only, adapters sit on every layer
        )
        sequences += generate_sequences(
            model,
            backbone.tokenizer,
            config.original,
            pair=config.pair,
            seed=seed,
            device=device,
            log=job.log,
        )
        model.unmix()
    write_json(job.output[0], plain(sequences))
