"""Histories of every training -> results/ttt_model.json and its figure."""

from mneme.core.artefacts import read_json, save_figure
from mneme.core.stage import stage
from mneme.report.ttt_model import model_figure
from mneme.ttt.model_report import model_runs
from mneme.ttt.paths import by_run
from mneme.ttt.published import PUBLISHED
from mneme.ttt.stages import ModelStageConfig

with stage(snakemake) as job:
    config = job.settings(ModelStageConfig, where="ttt")
    files = by_run(job.input.histories)
    histories = {name: [read_json(path) for path in paths] for name, paths in files.items()}
    runs = model_runs(config.runs, histories, tried=config.tried, seeds=config.seeds)
    job.headline(job.output[0], phase="ttt_model", runs=runs, published=PUBLISHED["ttt_model"])
    save_figure(model_figure(runs), svg=job.output.svg, png=job.output.png)
