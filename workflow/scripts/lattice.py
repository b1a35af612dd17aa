"""Readings of every teacher, and run original -> results/lattice.json and its figure."""

from mneme.core.artefacts import read_arrays, read_json, save_figure
from mneme.core.stage import stage
from mneme.lattice.gather import by_teacher, unpacked
from mneme.lattice.original_report import PUBLISHED, original_runs
from mneme.lattice.report import lattice_runs
from mneme.lattice.stages_measure import LatticeStageConfig
from mneme.report.lattice import lattice_figure

with stage(snakemake) as job:
    config = job.settings(LatticeStageConfig, where="lattice")
    facts = {teacher: read_json(path) for teacher, path in by_teacher(job.input.facts).items()}
    measured = {
        teacher: unpacked(read_arrays(path), facts[teacher]["runs"])
        for teacher, path in by_teacher(job.input.readings).items()
    }
    runs = lattice_runs(measured, facts, config)
    runs |= original_runs(read_json(job.input.original)["runs"])
    job.headline(job.output[0], phase="lattice", runs=runs, published=PUBLISHED)
    figure = lattice_figure(runs, PUBLISHED["document"])
    save_figure(figure, svg=job.output.svg, png=job.output.png)
