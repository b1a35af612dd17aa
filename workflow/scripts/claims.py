"""Headline files of all rooms -> a verdict on every claim of the sources."""

from dataclasses import dataclass
from pathlib import Path

from mneme.core.headline import read_headline
from mneme.core.stage import stage
from mneme.report.claims import decide
from mneme.report.claims_config import ClaimConfig


@dataclass(frozen=True, kw_only=True)
class LedgerConfig:
    claims: dict[str, ClaimConfig]
    order: tuple[str, ...]


with stage(snakemake) as job:
    config = job.settings(LedgerConfig, where="ledger")
    claims = {name: config.claims[name] for name in config.order}
    runs = decide(claims, {Path(path).stem: read_headline(path) for path in job.input})
    for name, run in runs.items():
        job.log(f"{name}: {run['verdict']}")
    published = {name: claim.published for name, claim in claims.items() if claim.published}
    job.headline(job.output[0], phase="claims", runs=runs, published={"document": published})
