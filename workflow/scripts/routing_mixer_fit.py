"""Layer-k states of calibration chunks -> one Time Mixer, calibrated once a seed."""

from pathlib import Path

from mneme.core.artefacts import read_tensors, write_json, write_tensors
from mneme.core.seeds import torch_generator
from mneme.core.stage import stage
from mneme.routing.calibrate import MixerFitConfig, calibrate
from mneme.routing.chunks import limited

with stage(snakemake) as job:
    config = job.settings(MixerFitConfig, where="routing")
    device = job.use_torch()
    data = limited(read_tensors(job.input.states), config.domains, config.limit)
    starts = {Path(path).parent.name: Path(path).parent for path in job.input.ours}
    for seed, weights, record in zip(
        config.seeds, job.output.weights, job.output.records, strict=True
    ):
        before = job.seconds()
        start = starts.get(f"seed{seed}")
        result = calibrate(
            data,
            config.mixer,
            config.calibration,
            domains=config.domains,
            generator=torch_generator(seed, "mixer"),
            device=device,
            start=None if start is None else read_tensors(start / "mixer.safetensors"),
        )
        seconds = round(job.seconds() - before, 3)
        nll = [entry["validation_nll"] for entry in result.tried]
        accuracy = f"test token accuracy {result.test.token:.4f}"
        job.log(f"{config.name} seed {seed}: validation nll {nll}, {accuracy}")
        write_tensors(weights, result.mixer.state_dict())
        facts = {"name": config.name, "seed": seed, "domains": config.domains, "seconds": seconds}
        frame = {"code": job.params.code, "provenance": job.provenance()}
        write_json(record, {**facts, **frame, **result.record()})
