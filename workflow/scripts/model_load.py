"""Backbone + held-out tokens -> model.json."""

from mneme.core.artefacts import read_arrays
from mneme.core.headline import run_block
from mneme.core.seeds import numpy_generator
from mneme.core.stage import stage
from mneme.nn.backbone import load
from mneme.routing.describe import ModelStageConfig, about, describe, unpinned
from mneme.routing.published import PUBLISHED
from mneme.routing.sharing import chunk_works

with stage(snakemake) as job:
    config = job.settings(ModelStageConfig, where="routing")
    backbone = load(config.backbone, device=job.use_torch(), resources=config.resources)
    job.log(f"{config.name} loaded in {backbone.load_seconds} s")
    if line := unpinned(backbone):
        job.log(f"WARNING: {line}")
    tokens = read_arrays(job.input.tokens)
    works = chunk_works(tokens, config.domains, "loss")
    rows = describe(
        backbone,
        {domain: tokens[f"{domain}.loss"] for domain in config.domains},
        works=works,
        batch=config.batch,
        resamples=config.resamples,
        generator=numpy_generator(0, "model_load"),
    )
    for row in rows:
        job.log(f"{row.metric} {row.value:.6g} {row.unit}")
    runs = {config.name: run_block(rows, **about(backbone))}
    timing = {"timing": {"model_load_sec": backbone.load_seconds}}
    runs["original"] = run_block([], published_keys=timing)
    job.headline(
        job.output[0],
        phase="model",
        runs=runs,
        published=PUBLISHED["model"],
        backbone=job.params.backbone,
        intervals=works.about(),
    )
