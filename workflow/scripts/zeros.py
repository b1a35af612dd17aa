"""Zeros of zeta and what checks them -> results/zeros.json and the heights."""

from mneme.core.artefacts import write_arrays
from mneme.core.headline import run_block
from mneme.core.seeds import numpy_generator
from mneme.core.stage import stage
from mneme.zeta.zeros import METHOD
from mneme.zeta.zeros_report import ZerosConfig, measure_zeros

with stage(snakemake) as job:
    config = job.settings(ZerosConfig, where="zeta.zeros")
    measured = measure_zeros(
        config,
        threads=job.threads,
        generator=numpy_generator(config.seed, "zeta", "zeros"),
        log=job.log,
    )
    heights = {name: part.range.heights for name, part in measured.items()}
    write_arrays(job.output.heights, {"heights": heights.pop("zeta")})
    write_arrays(job.output.blocks, heights)
    runs = {name: run_block(part.rows, method=METHOD) for name, part in measured.items()}
    job.headline(job.output[0], phase="zeros", runs=runs, published={})
