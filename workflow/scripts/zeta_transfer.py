"""Trained runs, and blocks of zeros at other heights -> their readings there."""

from mneme.core.artefacts import read_arrays, read_tensors, write_arrays
from mneme.core.stage import stage
from mneme.zeta.paths import by_run
from mneme.zeta.transfer import TransferStageConfig, transfer_readings

with stage(snakemake) as job:
    config = job.settings(TransferStageConfig, where="zeta")
    device = job.use_torch()
    files = by_run(job.input.weights)
    readings = transfer_readings(
        config,
        read_arrays(job.input.series),
        read_arrays(job.input.blocks),
        lambda run: map(read_tensors, files[run]),
        device=device,
        log=job.log,
    )
    write_arrays(job.output[0], readings)
