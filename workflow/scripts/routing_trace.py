"""Text tuples -> mixing weights of every run, seed and context (one phase a job), resumable."""

from mneme.core.artefacts import read_arrays, write_arrays
from mneme.core.parts import Parts, fill
from mneme.core.stage import stage
from mneme.nn.backbone import load
from mneme.nn.split import lower
from mneme.routing import sequences
from mneme.routing.mixer_files import load_mixers
from mneme.routing.readings import FURTHER_CONTEXTS, wanted_contexts
from mneme.routing.stages import TraceStageConfig
from mneme.routing.trace import trace_batch

with stage(snakemake) as job:
    config = job.settings(TraceStageConfig, where="routing")
    device = job.use_torch()
    backbone = load(config.backbone, device=device, resources=config.resources)
    half = lower(backbone.model, config.backbone.gate_layer)
    mixers = load_mixers(job.input.mixers, device=device)
    make = getattr(sequences, f"{job.wildcards.phase}_families")
    families = make(
        read_arrays(job.input.tokens),
        config.protocol,
        domains=config.pair_index(),
        seed=config.seed,
    )
    wanted = wanted_contexts(config.runs, FURTHER_CONTEXTS[job.wildcards.phase])
    texts, batch = config.protocol.tuples, config.protocol.batch
    rows = [slice(i, min(i + batch, texts)) for i in range(0, texts, batch)]
    parts = Parts(job.output[0], fingerprint=job.fingerprint())
    weights = fill(
        parts,
        lambda i: trace_batch(half, families, mixers, wanted, rows[i], device=device),
        job.progress(range(len(rows)), unit="batch"),
        axis=1,
    )
    write_arrays(job.output[0], weights)
    parts.remove()
