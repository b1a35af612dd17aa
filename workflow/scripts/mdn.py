"""Readings of every run, references, floor -> results/mdn.json and its figure."""

from pathlib import Path

from mneme.core.artefacts import read_arrays, read_json, save_figure
from mneme.core.stage import stage
from mneme.report.zeta import mdn_figure
from mneme.report.zeta_training import training_figure
from mneme.zeta.floor import from_json
from mneme.zeta.gather import measured_references, measured_run
from mneme.zeta.mdn import mdn_runs
from mneme.zeta.mdn_beside import with_beside
from mneme.zeta.paths import by_run
from mneme.zeta.published import MDN_MARKS, PUBLISHED
from mneme.zeta.stages import MdnStageConfig

with stage(snakemake) as job:
    config = job.settings(MdnStageConfig, where="zeta")
    measured = {}
    for readings, facts in zip(job.input.references, job.input.facts, strict=True):
        arrays, system = read_arrays(readings), Path(readings).parent.name
        measured |= measured_references(arrays, read_json(facts), config.mdn, system=system)
    references, histories = dict(measured), by_run(job.input.histories)
    for name, files in by_run(job.input.measures).items():
        measured[name] = measured_run(
            name,
            config.runs,
            map(read_arrays, files),
            map(read_json, histories[name]),
            config.mdn,
            seeds=config.seeds,
            references=references,
        )
        job.log(f"{name}: {len(measured[name].windows)} windows read")
    runs = mdn_runs(measured, config.mdn, floor=from_json(read_json(job.input.floor)))
    runs = with_beside(runs, read_arrays(job.input.transfer), config)
    job.headline(job.output[0], phase="mdn", runs=runs, published=PUBLISHED["mdn"])
    trained = {name: run["history"] for name, run in runs.items() if "history" in run}
    save_figure(training_figure(trained), svg=job.output[1], png=job.output[2])
    save_figure(mdn_figure(runs, MDN_MARKS), svg=job.output.svg, png=job.output.png)
