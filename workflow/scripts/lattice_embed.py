"""Question-answer pairs, and eight of the source's kind -> one vector a text, of one teacher."""

from mneme.core.artefacts import read_json, write_arrays, write_json
from mneme.core.config import plain
from mneme.core.stage import stage
from mneme.lattice.embedding import embed_columns
from mneme.lattice.own_pairs import EIGHT, own_columns
from mneme.lattice.prepare import columns_of
from mneme.lattice.stages_prepare import EmbedStageConfig

with stage(snakemake) as job:
    config = job.settings(EmbedStageConfig, where="lattice")
    device = job.use_torch()
    sets = {"pairs": columns_of(read_json(job.input.pairs)), EIGHT: own_columns()}
    arrays, facts = embed_columns(sets, config, device=device)
    job.log("{texts} texts of {dim} numbers in {embed_s} s".format(**facts))
    for name, told in facts["sets"].items():
        made = f"embedded before: {told['key']}" if told["kept"] else "new"
        job.log(f"{name}: {told['texts']} texts, {told['cut']} cut, {made}")
    write_arrays(job.output.vectors, arrays)
    frame = {"code": job.params.code, "provenance": job.provenance(), "name": config.name}
    settings = {"teacher": plain(config.teacher), "seconds": job.seconds()}
    write_json(job.output.facts, {**frame, **settings, **facts})
