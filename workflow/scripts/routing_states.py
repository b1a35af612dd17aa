"""Calibration chunks -> states of layer k, read once for every mixer."""

import torch

from mneme.core.artefacts import read_arrays, write_tensors
from mneme.core.stage import stage
from mneme.nn.backbone import load
from mneme.nn.split import lower
from mneme.routing.stages import StatesStageConfig
from mneme.routing.states import states_of

with stage(snakemake) as job:
    config = job.settings(StatesStageConfig, where="routing")
    device = job.use_torch()
    backbone = load(config.backbone, device=device, resources=config.resources)
    half = lower(backbone.model, config.backbone.gate_layer)
    tokens = read_arrays(job.input.tokens)
    tensors = {"vocab": torch.tensor(backbone.model.config.vocab_size)}
    for domain in config.domains:
        for part in ("calibration", "validation", "test"):
            key = f"{domain}.{part}"
            ids = torch.as_tensor(tokens[key], dtype=torch.long)
            tensors[f"{key}.ids"] = ids
            tensors[key] = states_of(half, ids, batch=config.batch, device=device)
            job.log(f"{key}: {tuple(tensors[key].shape)}")
    write_tensors(job.output[0], tensors)
