"""One system's series -> the readings of its reference predictors."""

from mneme.core.artefacts import read_arrays, write_arrays, write_json
from mneme.core.stage import stage
from mneme.zeta.gather import flatten, references_of
from mneme.zeta.stages import ReferenceStageConfig
from mneme.zeta.windows import placed, split_windows, window_count

with stage(snakemake) as job:
    config = job.settings(ReferenceStageConfig, where="zeta.references")
    series, system = read_arrays(job.input.series), job.wildcards.system
    spacings, window = series["spacings"], config.window
    split = split_windows(window_count(len(spacings), window), "height", share=1.0)
    found = references_of(system, spacings, split, config.references, window=window)
    for name, reference in found.items():
        job.log(f"{name}: nll {reference.reading['nll_WT'].mean():.4f} {reference.chosen}")
    write_arrays(job.output.readings, flatten(found) | placed(series, split, window))
    facts = {n: {"information": r.information, "chosen": r.chosen} for n, r in found.items()}
    write_json(job.output.facts, facts)
