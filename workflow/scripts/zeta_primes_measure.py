"""A trained prime arm -> its readings on the test windows, once a seed."""

from mneme.core.artefacts import read_arrays, read_tensors, write_arrays
from mneme.core.seeds import torch_generator
from mneme.core.stage import stage
from mneme.zeta.prime_stages import PrimesMeasureConfig, read_primes, reopened

with stage(snakemake) as job:
    config = job.settings(PrimesMeasureConfig, where="zeta")
    device = job.use_torch()
    series = read_arrays(job.input.series)
    for seed, weights, path in zip(config.seeds, job.input.weights, job.output, strict=True):
        net = reopened(config, read_tensors(weights)).to(device)
        generator = torch_generator(seed, "rollout")
        readings = read_primes(net, series, config, generator=generator)
        nll = readings["nll_WT"].mean()
        job.log(f"{config.name} seed {seed}: {len(readings['nll_WT'])} windows, nll {nll:.4f}")
        write_arrays(path, readings)
