"""Losses of every arm on test documents -> results/ttt_context.json and its figure."""

from pathlib import Path

from mneme.core.artefacts import read_arrays, read_json, save_figure
from mneme.core.stage import stage
from mneme.report.ttt_context import context_figure
from mneme.ttt.context_gather import bytes_per_token, measured_runs
from mneme.ttt.context_report import context_runs
from mneme.ttt.paths import by_run
from mneme.ttt.published import PUBLISHED
from mneme.ttt.stages import ContextStageConfig

with stage(snakemake) as job:
    config = job.settings(ContextStageConfig, where="ttt")
    read = {name: [*map(read_arrays, paths)] for name, paths in by_run(job.input.losses).items()}
    told = {name: [*map(read_json, paths)] for name, paths in by_run(job.input.chosen).items()}
    trained = {n: [*map(read_json, paths)] for n, paths in by_run(job.input.histories).items()}
    facts = {Path(path).parent.name: read_json(path) for path in job.input.facts}
    measured = measured_runs(config, read, told, trained)
    scale = bytes_per_token(config.context, facts)
    runs = context_runs(measured, config.context, bytes_per_token=scale)
    published = PUBLISHED["ttt_context"]
    job.headline(job.output[0], phase="ttt_context", runs=runs, published=published)
    save_figure(context_figure(runs), svg=job.output.svg, png=job.output.png)
