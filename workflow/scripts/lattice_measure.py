"""A teacher's embeddings and its trained arms -> scores of every run on the test pairs."""

from mneme.core.artefacts import read_arrays, read_json, read_tensors, write_arrays, write_json
from mneme.core.stage import stage
from mneme.lattice.gather import packed
from mneme.lattice.measure_stage import measured_teacher
from mneme.lattice.paths import by_arm
from mneme.lattice.stages_measure import MeasureStageConfig

with stage(snakemake) as job:
    config = job.settings(MeasureStageConfig, where="lattice")
    device = job.use_torch()
    vectors, texts = read_arrays(job.input.vectors), read_json(job.input.pairs)
    states = {n: [*map(read_tensors, paths)] for n, paths in by_arm(job.input.weights).items()}
    trained = {n: [*map(read_json, paths)] for n, paths in by_arm(job.input.histories).items()}
    runs = measured_teacher(config, vectors, texts, states, device=device, log=job.log)
    arrays, facts = packed(runs)
    write_arrays(job.output.readings, arrays)
    frame = {"code": job.params.code, "provenance": job.provenance(), "teacher": config.teacher}
    embedding = read_json(job.input.embedding)
    told = {"embedding": embedding, "training": trained, "runs": facts}
    write_json(job.output.facts, {**frame, **told})
