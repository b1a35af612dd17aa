"""Tokenise the corpora and cut the room's material -> tokens.npz."""

from pathlib import Path

from mneme.core.artefacts import write_arrays
from mneme.core.corpora import read_documents
from mneme.core.stage import stage
from mneme.nn.tokenizer import encoder, load_tokenizer
from mneme.routing.prepare import PrepareStageConfig, domain_material, tuples_and_works

with stage(snakemake) as job:
    config = job.settings(PrepareStageConfig, where="routing")
    encode = encoder(load_tokenizer(config.backbone, folder=config.resources))
    arrays, pools = {}, {}
    for domain, path in zip(config.domains, job.input.corpora, strict=True):
        documents = read_documents(path)
        job.log(f"{domain.name}: {len(documents)} documents from {Path(path).name}")
        parts, pools[domain.name] = domain_material(
            documents, encode, config.prepare, name=domain.name
        )
        arrays |= {f"{domain.name}.{part}": value for part, value in parts.items()}
    tuples, works = tuples_and_works(pools, config.pair, config.sizes, seed=config.prepare.seed)
    arrays |= tuples | works
    for name, value in arrays.items():
        job.log(f"{name}: {value.shape}")
    write_arrays(job.output[0], arrays)
