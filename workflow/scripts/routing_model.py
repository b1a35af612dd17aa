"""Adapters + Time Mixer -> one reloadable directory a seed, and its held-out loss."""

from pathlib import Path

import torch

from mneme.core.artefacts import read_arrays, write_json
from mneme.core.stage import stage
from mneme.nn.backbone import load
from mneme.routing.mixed_loss import mixed_losses
from mneme.routing.mixer_files import load_mixers
from mneme.routing.model import TemporalLora
from mneme.routing.stages import MixedStageConfig

with stage(snakemake) as job:
    config = job.settings(MixedStageConfig, where="routing")
    device = job.use_torch()
    backbone = load(config.backbone, device=device, resources=config.resources)
    tokens = read_arrays(job.input.tokens)
    held_out = {
        name: torch.as_tensor(tokens[f"{name}.loss"], dtype=torch.long) for name in config.domains
    }
    folders = {Path(path).parent.name: Path(path).parent for path in job.input.adapters}
    adapters = {name: folders[name] for name in config.domains}
    layer = config.backbone.gate_layer
    (mixers,) = load_mixers(job.input.mixers, device=device).values()
    for seed, mixer, model_file, loss_file in zip(
        config.seeds, mixers, job.output.models, job.output.losses, strict=True
    ):
        model = TemporalLora(backbone.model, adapters, mixer=mixer, gate_layer=layer)
        model.save_pretrained(Path(model_file).parent)
        kinds = ("mixer", "uniform") if seed == config.seeds[0] else ("mixer",)
        losses = {
            kind: mixed_losses(
                model, held_out, uniform=kind == "uniform", batch=config.batch, device=device
            )
            for kind in kinds
        }
        write_json(loss_file, losses)
        model.unmix()
