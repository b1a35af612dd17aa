"""Attention of trained arms -> results/kernel.json: against lag, distance, formulas."""

from pathlib import Path

from mneme.core.artefacts import read_arrays, read_tensors, save_figure
from mneme.core.stage import stage
from mneme.report.kernel import kernel_figure
from mneme.zeta.kernel import attention_profile
from mneme.zeta.kernel_report import kernel_block
from mneme.zeta.material import reading_material
from mneme.zeta.paths import by_run
from mneme.zeta.published import PUBLISHED
from mneme.zeta.slot_stages import KERNEL_FOCUS, KernelRuleConfig, resampling, trained_networks
from mneme.zeta.windows import split_of

with stage(snakemake) as job:
    config = job.settings(KernelRuleConfig, where="zeta")
    device, window = job.use_torch(), config.model.window
    series = {Path(path).stem: read_arrays(path) for path in job.input.series}
    runs = {}
    for name, files in by_run(job.input.weights).items():
        run = config.runs[name]
        material = reading_material(series[run.system], run, window).to(device)
        test = split_of(series[run.system], run, window).test
        states, profiles = map(read_tensors, files), {}
        for seed, network in trained_networks(config, name, states, device, carry=None):
            profiles[seed] = attention_profile(network, material, test, config.kernel.pairs)
            job.log(f"{name} seed {seed}: attention read")
        runs[name] = kernel_block(
            profiles,
            symbolic=config.kernel.symbolic,
            resampling=resampling(config.bootstrap, "kernel", every=config.every(len(test))),
            control_of=run.control_of,
        )
    job.headline(job.output[0], phase="kernel", runs=runs, published=PUBLISHED["kernel"])
    save_figure(kernel_figure(runs, focus=KERNEL_FOCUS), svg=job.output.svg, png=job.output.png)
