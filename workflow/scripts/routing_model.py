"""Adapters + Time Mixer -> one reloadable directory a seed, and its held-out loss."""

import functools
from pathlib import Path

from mneme.core.artefacts import read_arrays, write_json
from mneme.core.parts import Parts
from mneme.core.stage import stage
from mneme.nn.backbone import load
from mneme.routing.mixed_loss import KINDS, mixed_losses
from mneme.routing.mixer_files import load_mixers
from mneme.routing.model import TemporalLora
from mneme.routing.stages import MixedStageConfig

with stage(snakemake) as job:
    config = job.settings(MixedStageConfig, where="routing")
    device = job.use_torch()
    backbone = load(config.backbone, device=device, resources=config.resources)
    tokens = read_arrays(job.input.tokens)
    held_out = {name: tokens[f"{name}.loss"] for name in config.domains}
    folders = {Path(path).parent.name: Path(path).parent for path in job.input.adapters}
    adapters = {name: folders[name] for name in config.domains}
    layer = config.backbone.gate_layer
    (mixers,) = load_mixers(job.input.mixers, device=device).values()
    passes = [Parts(path, fingerprint=job.fingerprint()) for path in job.output.losses]
    for number, (mixer, model_file) in enumerate(zip(mixers, job.output.models, strict=True)):
        model = TemporalLora(backbone.model, adapters, mixer=mixer, gate_layer=layer)
        model.save_pretrained(Path(model_file).parent)
        losses = mixed_losses(
            model,
            held_out,
            KINDS[:1] if number else KINDS,  # uniform gates are the same under every seed
            batch=config.batch,
            parts=passes[number],
            progress=functools.partial(job.progress, unit="batch"),
        )
        write_json(job.output.losses[number], losses)
        model.unmix()
    for parts in passes:
        parts.remove()
