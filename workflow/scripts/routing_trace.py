"""Text tuples -> mixing weights of every run, seed and context (one phase a job), resumable."""

from mneme.core.artefacts import read_arrays, write_arrays
from mneme.core.parts import Parts, fill
from mneme.core.stage import stage
from mneme.nn.backbone import load, require_context
from mneme.nn.split import lower
from mneme.routing import sequences
from mneme.routing.mixer_files import load_mixers
from mneme.routing.stages import TraceStageConfig
from mneme.routing.trace import trace_batch
from mneme.routing.works import works_within

with stage(snakemake) as job:
    config = job.settings(TraceStageConfig, where="routing")
    device = job.use_torch()
    backbone = load(config.backbone, device=device, resources=config.resources)
    longest = config.sequences.longest()
    require_context(backbone.model, longest, "routing.protocol.segment_tokens or dwell_tokens")
    half = lower(backbone.model, config.backbone.gate_layer)
    mixers = load_mixers(job.input.mixers, device=device)
    make = getattr(sequences, f"{job.wildcards.phase}_families")
    tokens = read_arrays(job.input.tokens)
    families = make(tokens, config.sequences, domains=config.pair_index(), seed=config.seed)
    wanted = {mixer: set(contexts) for mixer, contexts in config.contexts.items()}
    texts, batch = config.sequences.tuples, config.sequences.batch
    rows = [slice(i, min(i + batch, texts)) for i in range(0, texts, batch)]
    parts = Parts(job.output[0], fingerprint=job.fingerprint())
    weights = fill(
        parts,
        lambda i: trace_batch(half, families, mixers, wanted, rows[i], device=device),
        job.progress(range(len(rows)), unit="batch"),
        axis=1,
    )
    write_arrays(job.output[0], weights | works_within(tokens))
    parts.remove()
