"""A trained transformer arm -> its readings on the test windows, once a seed."""

from mneme.core.artefacts import read_arrays, read_tensors, write_arrays
from mneme.core.seeds import torch_generator
from mneme.core.stage import stage
from mneme.zeta.network import build_network
from mneme.zeta.predict import read
from mneme.zeta.stages import MeasureStageConfig

with stage(snakemake) as job:
    config = job.settings(MeasureStageConfig, where="zeta")
    device = job.use_torch()
    series = read_arrays(job.input.series)
    for seed, weights, path in zip(config.seeds, job.input.weights, job.output, strict=True):
        told = {"carry": config.carry, "rows": config.rows, "seed": seed}
        network = build_network(config.run, config.model, **told)
        network.load_state_dict(read_tensors(weights))
        readings = read(
            network.to(device).eval(),
            series,
            config.run,
            config.predict,
            window=config.model.window,
            generator=torch_generator(seed, "rollout"),
            device=device,
            rows=config.rows,
        )
        nll = readings["nll_WT"].mean()
        job.log(f"{config.name} seed {seed}: {len(readings['nll_WT'])} windows, nll {nll:.4f}")
        write_arrays(path, readings)
