"""Losses and replies of every adapter -> results/ttt_adapter.json and its figure."""

from mneme.core.artefacts import read_arrays, read_json, save_figure
from mneme.core.stage import stage
from mneme.report.ttt_adapter import adapter_figure
from mneme.ttt.adapter_gather import adapter_runs
from mneme.ttt.paths import by_run
from mneme.ttt.published import PUBLISHED
from mneme.ttt.stages import AdapterStageConfig

with stage(snakemake) as job:
    config = job.settings(AdapterStageConfig, where="ttt")
    losses = {name: [*map(read_arrays, paths)] for name, paths in by_run(job.input.losses).items()}
    told = {name: [*map(read_json, paths)] for name, paths in by_run(job.input.told).items()}
    how = {"tried": config.tried, "seeds": config.seeds, "resamples": config.resamples}
    runs = adapter_runs(config.runs, losses, told, **how)
    job.headline(job.output[0], phase="ttt_adapter", runs=runs, published=PUBLISHED["ttt_adapter"])
    save_figure(adapter_figure(runs), svg=job.output.svg, png=job.output.png)
