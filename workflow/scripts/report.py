"""Headline files, figures and their captions -> one HTML file that opens offline."""

from pathlib import Path

from mneme.core.artefacts import read_json, read_text, write_text
from mneme.core.headline import read_headline
from mneme.core.stage import stage
from mneme.report.html import page

with stage(snakemake) as job:
    report = page(
        read_json(job.input.summary),
        {Path(path).stem: read_headline(path) for path in job.input.headlines},
        {Path(path).stem: read_text(path) for path in job.input.figures},
        {Path(path).stem: read_text(path) for path in job.input.captions},
    )
    write_text(job.output[0], report)
