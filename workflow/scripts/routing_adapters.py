"""Losses and histories of every adapter run -> results/adapters.json and its figure."""

from pathlib import Path

from mneme.core.artefacts import read_arrays, read_json, save_figure
from mneme.core.stage import stage
from mneme.report.training import adapters_figure
from mneme.routing.adapters import adapter_runs, by_run
from mneme.routing.published import PUBLISHED
from mneme.routing.sharing import chunk_works
from mneme.routing.stages import AdaptersStageConfig
from mneme.routing.tried import with_tried

with stage(snakemake) as job:
    config = job.settings(AdaptersStageConfig, where="routing")
    losses, histories = (
        by_run((Path(path).parent.parent.name, read_json(path)) for path in paths)
        for paths in (job.input.losses, job.input.histories)
    )
    works = chunk_works(read_arrays(job.input.tokens), config.domains, "loss")
    runs = adapter_runs(
        losses,
        histories,
        config.adapters,
        config.domains,
        works=works,
        resamples=config.resamples,
        original=config.original,
    )
    job.headline(
        job.output[0],
        phase="adapters",
        runs=with_tried(runs, config.tried),
        published=PUBLISHED["adapters"],
        backbone=job.params.backbone,
        intervals=works.about(),
    )
    save_figure(adapters_figure(runs, config.domains), svg=job.output.svg, png=job.output.png)
