"""Trained slot arms with their slots cut -> results/slot_ablation.json and its figure."""

from mneme.core.artefacts import read_arrays, read_tensors, save_figure
from mneme.core.stage import stage
from mneme.report.slot_ablation import slot_ablation_figure
from mneme.zeta.ablation_report import ablation_block
from mneme.zeta.paths import by_run
from mneme.zeta.published import PUBLISHED, figures_by_run
from mneme.zeta.slot_stages import (
    FOCUS,
    AblationStageConfig,
    cut_run,
    resampling,
    retrained,
)

with stage(snakemake) as job:
    config = job.settings(AblationStageConfig, where="zeta")
    device, series = job.use_torch(), read_arrays(job.input.series)
    measures = by_run(job.input.measures)
    runs = {}
    for name, files in by_run(job.input.weights).items():
        cuts = cut_run(config, name, map(read_tensors, files), series, device, job.log)
        beside = retrained(config, name, measures, read_arrays)
        chance = resampling(config.bootstrap, "ablation", every=1)
        runs[name] = ablation_block(cuts, retrained=beside, resampling=chance)
    told = PUBLISHED["slot_ablation"]
    job.headline(job.output[0], phase="slot_ablation", runs=runs, published=told)
    figure = slot_ablation_figure(runs, figures_by_run(told["document"]), focus=FOCUS)
    save_figure(figure, svg=job.output.svg, png=job.output.png)
