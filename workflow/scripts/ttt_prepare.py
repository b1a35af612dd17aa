"""Plays and conversations -> tokens, their tokenizer, and what was left out."""

from pathlib import Path

from mneme.core.artefacts import read_text, write_arrays, write_json, write_text
from mneme.core.corpora import read_documents
from mneme.core.stage import stage
from mneme.ttt.prepare import prepare
from mneme.ttt.stages import PrepareStageConfig

with stage(snakemake) as job:
    config = job.settings(PrepareStageConfig, where="ttt")
    documents = {Path(path).stem: read_documents(path) for path in job.input.corpora}
    given = job.input.get("tokenizer")
    tokenizer = read_text(Path(given).parent / "tokenizer.json") if given else None
    prepared = prepare(documents, config.corpus, tokenizer=tokenizer)
    for part in prepared.facts["parts"]:
        job.log("{split} {kind}: {documents} documents, {tokens} tokens".format(**part))
    write_arrays(job.output.tokens, prepared.arrays)
    write_text(job.output.tokenizer, prepared.tokenizer)
    frame = {"code": job.params.code, "provenance": job.provenance(), "name": config.name}
    write_json(job.output.facts, {**frame, **prepared.facts})
