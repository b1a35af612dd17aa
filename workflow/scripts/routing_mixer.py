"""Records of all calibrated mixers and losses of the mixed model -> results/mixer.json, figure."""

from mneme.core.artefacts import read_arrays, read_json, save_figure
from mneme.core.stage import stage
from mneme.report.training import mixer_figure
from mneme.routing.mixed_report import mixed_report
from mneme.routing.mixer_report import MixerReportConfig, mixer_report
from mneme.routing.published import PUBLISHED
from mneme.routing.sharing import chunk_works

with stage(snakemake) as job:
    config = job.settings(MixerReportConfig, where="routing")
    records = [read_json(path) for path in job.input.records]
    tokens = read_arrays(job.input.tokens)
    loss, test = (chunk_works(tokens, config.domains, part) for part in ("loss", "test"))
    runs = mixer_report(records, config, works=test)
    seconds = next(record["seconds"] for record in records if record["name"] == "original")
    runs["original"]["published_keys"] = {"timing": {"phase4_calibration_sec": seconds}}
    losses = [read_json(path) for path in job.input.losses]
    runs |= mixed_report(
        [seed["mixer"] for seed in losses],
        uniform=losses[0]["uniform"],
        known=read_json(job.input.known),
        domains=config.domains,
        works=loss,
        seeds=config.seeds,
        resamples=config.resamples,
    )
    job.headline(
        job.output[0],
        phase="mixer",
        runs=runs,
        published=PUBLISHED["mixer"],
        backbone=job.params.backbone,
        intervals=test.about(),
    )
    save_figure(mixer_figure(runs, config.domains), svg=job.output.svg, png=job.output.png)
