"""Traces -> results/fatigue.json and its figure."""

from mneme.core.artefacts import read_arrays, read_json, save_figure
from mneme.core.stage import stage
from mneme.report.fatigue import fatigue_figure
from mneme.routing.fatigue import fatigue
from mneme.routing.original import original_block
from mneme.routing.published import PUBLISHED
from mneme.routing.sharing import works_of
from mneme.routing.stages import MeasureStageConfig
from mneme.routing.tried import with_tried

with stage(snakemake) as job:
    config = job.settings(MeasureStageConfig, where="routing")
    pair = config.pair_index()
    trace = read_arrays(job.input.trace)
    runs = fatigue(trace, config.runs, config.protocol, pair=pair, seeds=config.seeds)
    sequences = read_json(job.input.original)
    runs["original"] = original_block(sequences, pair, config.original, part="fatigue")
    runs = with_tried(runs, config.tried)
    published = PUBLISHED["fatigue"]
    job.headline(
        job.output[0],
        phase="fatigue",
        runs=runs,
        published=published,
        backbone=job.params.backbone,
        intervals=works_of(trace).about(),
    )
    figure = fatigue_figure(runs, published, config.pair)
    save_figure(figure, svg=job.output.svg, png=job.output.png)
