"""Records of all calibrated mixers and losses of the mixed model -> results/mixer.json, figure."""

from mneme.core.artefacts import read_json, save_figure
from mneme.core.stage import stage
from mneme.report.routing import mixer_figure
from mneme.routing.mixed_report import mixed_report
from mneme.routing.mixer_report import PUBLISHED, MixerReportConfig, mixer_report

with stage(snakemake) as job:
    config = job.settings(MixerReportConfig, where="routing")
    records = [read_json(path) for path in job.input.records]
    runs = mixer_report(records, config)
    svg, png = job.output.figures
    save_figure(mixer_figure(runs, config.domains), svg=svg, png=png)
    # The source's router sees token ids only: its run is `token`.
    seconds = next(record["seconds"] for record in records if record["name"] == "token")
    timing = {"timing": {"phase4_calibration_sec": seconds}}
    runs["original"] = {**runs["token"], "published_keys": timing}
    runs |= mixed_report(
        [read_json(path) for path in job.input.losses],
        domains=config.domains,
        seeds=config.seeds,
        resamples=config.resamples,
    )
    job.headline(job.output[0], phase="mixer", runs=runs, published=PUBLISHED)
