"""Trained slot arms -> results/diagnostics.json (A-F) and its figure."""

from mneme.core.artefacts import read_arrays, read_tensors, save_figure
from mneme.core.seeds import torch_generator
from mneme.core.stage import stage
from mneme.report.diagnostics import diagnostics_figure
from mneme.zeta.diagnostics import diagnose
from mneme.zeta.diagnostics_report import diagnostics_block
from mneme.zeta.material import reading_material
from mneme.zeta.paths import by_run
from mneme.zeta.published import PUBLISHED
from mneme.zeta.slot_stages import FOCUS, DiagnosticsStageConfig, resampling, trained_networks
from mneme.zeta.window_set import WindowSet
from mneme.zeta.windows import split_of

with stage(snakemake) as job:
    config = job.settings(DiagnosticsStageConfig, where="zeta")
    device, series = job.use_torch(), read_arrays(job.input.series)
    runs = {}
    for name, files in by_run(job.input.weights).items():
        run, window = config.runs[name], config.model.window
        material = reading_material(series, run, window).to(device)
        test = split_of(series, run, window).test
        found = {}
        states = map(read_tensors, files)
        for seed, network in trained_networks(config, name, states, device, carry=None):
            windows = WindowSet.of(network, material, test)
            generator = torch_generator(seed, "diagnostics")
            found[seed] = diagnose(
                network.model, windows, config=config.diagnostics, generator=generator
            )
            job.log(f"{name} seed {seed}: diagnosed")
        chance = resampling(config.bootstrap, "diagnostics", every=config.every(len(test)))
        control_of = config.runs[name].control_of
        runs[name] = diagnostics_block(found, resampling=chance, control_of=control_of)
    told = PUBLISHED["diagnostics"]
    job.headline(job.output[0], phase="diagnostics", runs=runs, published=told)
    figure = diagnostics_figure(runs, focus=FOCUS)
    save_figure(figure, svg=job.output.svg, png=job.output.png)
