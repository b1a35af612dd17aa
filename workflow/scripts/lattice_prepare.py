"""Conversations and source files -> question-answer pairs, split by source."""

from pathlib import Path

from mneme.core.artefacts import write_json
from mneme.core.corpora import read_documents
from mneme.core.stage import stage
from mneme.lattice.prepare import prepare
from mneme.lattice.stages_prepare import PrepareStageConfig

with stage(snakemake) as job:
    config = job.settings(PrepareStageConfig, where="lattice")
    documents = {Path(path).stem: read_documents(path) for path in job.input.corpora}
    parts = prepare(documents, config.pairs)
    for split, pairs in parts.items():
        job.log(f"{split}: {len(pairs)} pairs of {len({pair.group for pair in pairs})} sources")
    triples = {
        split: [[pair.group, pair.question, pair.answer] for pair in pairs]
        for split, pairs in parts.items()
    }
    write_json(job.output[0], triples)
