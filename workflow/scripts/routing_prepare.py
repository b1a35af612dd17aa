"""Tokenise the corpora and cut the room's material -> tokens.npz."""

from pathlib import Path

from mneme.core.artefacts import write_arrays
from mneme.core.corpora import read_documents
from mneme.core.stage import stage
from mneme.nn.tokenizer import encoder, load_tokenizer
from mneme.routing.prepare import PrepareStageConfig, chunks_and_works, tuples_and_works
from mneme.routing.works import PREFIX

with stage(snakemake) as job:
    config = job.settings(PrepareStageConfig, where="routing")
    encode = encoder(load_tokenizer(config.backbone, folder=config.resources))
    arrays, pools = {}, {}
    for domain, path in zip(config.domains, job.input.corpora, strict=True):
        documents = read_documents(path)
        job.log(f"{domain.name}: {len(documents)} documents from {Path(path).name}")
        parts, groups, pools[domain.name] = chunks_and_works(
            documents, encode, config.prepare, name=domain.name
        )
        arrays |= {f"{domain.name}.{part}": value for part, value in parts.items()}
        arrays |= {f"{PREFIX}{domain.name}.{part}": value for part, value in groups.items()}
    tuples, works = tuples_and_works(pools, config.pair, config.sizes, seed=config.prepare.seed)
    arrays |= tuples | works
    for name, value in arrays.items():
        job.log(f"{name}: {value.shape}")
    write_arrays(job.output[0], arrays)
