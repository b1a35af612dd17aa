"""Question-answer pairs -> one vector a text, of one teacher."""

from mneme.core.artefacts import read_json, write_arrays, write_json
from mneme.core.config import plain
from mneme.core.stage import stage
from mneme.lattice.embedding import embed_columns
from mneme.lattice.prepare import columns_of
from mneme.lattice.stages_prepare import EmbedStageConfig

with stage(snakemake) as job:
    config = job.settings(EmbedStageConfig, where="lattice")
    device = job.use_torch()
    arrays, facts = embed_columns(columns_of(read_json(job.input.pairs)), config, device=device)
    job.log("{texts} texts of {dim} numbers, {cut} cut, in {embed_s} s".format(**facts))
    if facts["kept"]:
        job.log(f"they were embedded before: {facts['key']}")
    write_arrays(job.output.vectors, arrays)
    frame = {"code": job.params.code, "provenance": job.provenance(), "name": config.name}
    settings = {"teacher": plain(config.teacher), "seconds": job.seconds()}
    write_json(job.output.facts, {**frame, **settings, **facts})
