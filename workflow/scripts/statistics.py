"""Series and sampled rollouts -> results/statistics.json: laws, pairs, variance, rigidity."""

from pathlib import Path

import numpy as np

from mneme.core.artefacts import read_arrays, save_figure
from mneme.core.seeds import numpy_generator
from mneme.core.stage import stage
from mneme.report.zeta_statistics import statistics_figure
from mneme.zeta.gather import sampled_sequences
from mneme.zeta.paths import by_run
from mneme.zeta.published import PUBLISHED
from mneme.zeta.stages import StatisticsStageConfig
from mneme.zeta.statistics import sequences_of, statistics

with stage(snakemake) as job:
    config = job.settings(StatisticsStageConfig, where="zeta.statistics")
    runs = {}
    for path in job.input.series:
        sequences = sequences_of(read_arrays(path)["spacings"], config.sequence)
        generator = numpy_generator(0, "bootstrap", "statistics")
        units = np.arange(len(sequences))
        found = statistics(sequences, units, config.statistics, generator=generator)
        runs[Path(path).stem] = found
    for name, files in by_run(job.input.measures).items():
        sequences, units, raised = sampled_sequences(map(read_arrays, files))
        generator = numpy_generator(0, "bootstrap", "statistics")
        found = statistics(sequences, units, config.statistics, generator=generator)
        runs[f"sampled_{name}"] = {**found, "raised": raised}
        job.log(f"{name}: {len(sequences)} sampled rollouts, {raised:.2%} of spacings raised")
    job.headline(job.output[0], phase="statistics", runs=runs, published=PUBLISHED["statistics"])
    save_figure(statistics_figure(runs), svg=job.output.svg, png=job.output.png)
