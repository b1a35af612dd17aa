"""Trained networks, with and without adapters -> results/ttt_grid.json, its table and figure."""

from pathlib import Path

from mneme.core.artefacts import read_tensors, read_text, save_figure, write_text
from mneme.core.stage import stage
from mneme.report.ttt_grid import ttt_grid_figure
from mneme.ttt.codec import Codec
from mneme.ttt.grid_report import grid_runs, grid_table
from mneme.ttt.grid_stages import PROMPTS, measured_nets
from mneme.ttt.paths import by_run
from mneme.ttt.published import PUBLISHED
from mneme.ttt.stages import GridStageConfig

with stage(snakemake) as job:
    config = job.settings(GridStageConfig, where="ttt")
    device = job.use_torch()
    codecs = {str(path).split("/")[-2]: Codec(read_text(path)) for path in job.input.tokenizers}
    states = {n: [*map(read_tensors, paths)] for n, paths in by_run(job.input.weights).items()}
    adapters = by_run(str(Path(path).parent) for path in job.input.adapters)
    measured = measured_nets(config, codecs, states, adapters, device=device, log=job.log)
    runs = grid_runs(measured, config.grid)
    write_text(job.output.csv, grid_table(measured, PROMPTS))
    published = PUBLISHED["ttt_grid"]
    job.headline(job.output[0], phase="ttt_grid", runs=runs, published=published)
    save_figure(
        ttt_grid_figure(runs, published["document"]), svg=job.output.svg, png=job.output.png
    )
