"""Lock file -> verified wheels, and a manifest of where they lie."""

from pathlib import Path

from mneme.core.artefacts import write_json
from mneme.core.assets import fetch
from mneme.core.digests import sha256_of
from mneme.core.stage import stage

with stage(snakemake) as job:
    wheels = fetch(job.input.lock, Path(job.output.manifest).with_suffix(""), log=job.log)
    manifest = {name: {"file": str(p), "sha256": sha256_of(p)} for name, p in wheels.items()}
    write_json(job.output.manifest, manifest)
