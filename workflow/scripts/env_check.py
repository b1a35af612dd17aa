"""This machine -> env.json; a run that cannot start ends here in one sentence."""

from mneme.core.environment import EnvironmentConfig, check_environment, refuse_failed
from mneme.core.headline import run_block
from mneme.core.stage import stage
from mneme.stats.rows import Row

with stage(snakemake) as job:
    config = job.settings(EnvironmentConfig, where="config")
    checks = check_environment(config, threads=job.threads)
    for check in checks:
        job.log(f"{check.status}: {check.name} {check.value} {check.advice}".rstrip())
    refuse_failed(checks)
    job.use_torch()
    counts = {status: sum(c.status == status for c in checks) for status in ("pass", "warn")}
    rows = [Row(metric=f"checks@{k}", value=v, unit="count") for k, v in counts.items()]
    block = run_block(rows, checks=[check.as_dict() for check in checks])
    job.headline(job.output[0], phase="env", runs={"env": block}, published={})
