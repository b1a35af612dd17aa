"""Losses and histories of every adapter run -> results/adapters.json and its figure."""

from pathlib import Path

from mneme.core.artefacts import read_json, save_figure
from mneme.core.stage import stage
from mneme.report.routing import adapters_figure
from mneme.routing.adapters import PUBLISHED, adapter_runs
from mneme.routing.stages import AdaptersStageConfig

with stage(snakemake) as job:
    config = job.settings(AdaptersStageConfig, where="routing")

    def by_run(paths):
        grouped = {run: [] for run in config.adapters.runs}
        for path in paths:
            grouped[Path(path).parent.parent.name].append(read_json(path))
        return grouped

    runs = adapter_runs(
        by_run(job.input.losses),
        by_run(job.input.histories),
        config.domains,
        seeds=config.adapters.seeds,
        resamples=config.resamples,
    )
    job.headline(job.output[0], phase="adapters", runs=runs, published=PUBLISHED)
    svg, png = job.output.figures
    save_figure(adapters_figure(runs, config.domains), svg=svg, png=png)
