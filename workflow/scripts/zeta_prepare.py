"""Heights of zeros -> the series of spacings of one system."""

from mneme.core.artefacts import read_arrays, write_arrays
from mneme.core.stage import stage
from mneme.zeta.prepare import prepare_series
from mneme.zeta.reading_config import PrepareConfig

with stage(snakemake) as job:
    config = job.settings(PrepareConfig, where="zeta.prepare")
    zeros = read_arrays(job.input.heights)["heights"]
    series = prepare_series(job.wildcards.system, zeros, config)
    spacings = series["spacings"]
    job.log(f"{job.wildcards.system}: {len(spacings)} spacings, mean {spacings.mean():.6f}")
    write_arrays(job.output[0], series)
