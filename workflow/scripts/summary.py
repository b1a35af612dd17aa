"""Headline files of the phases that exist -> summary.json."""

from pathlib import Path

from mneme.core.artefacts import write_json
from mneme.core.headline import read_headline
from mneme.core.stage import read_record, stage
from mneme.core.workflow import commit_of
from mneme.report.summary import summarise
from mneme.routing.published import PUBLISHED

with stage(snakemake) as job:
    config = job.params.config
    summary = summarise(
        {Path(path).stem: read_headline(path) for path in job.input},
        code=job.params.code,
        expected=config["expected"],
        steps={
            phase: [read_record(log) for log in logs] for phase, logs in config["steps"].items()
        },
        published=PUBLISHED["summary"],
        backbone=config["backbone"],
        config_hash=config["config_hash"],
        commit=commit_of("."),
    )
    write_json(job.output[0], summary)
