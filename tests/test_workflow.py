"""The real workflow in a copy of the clone: what reruns, what does not, and the smoke DAG itself.

Most tests read dry runs over made-up outputs that Snakemake was told to take as finished
(`--touch` records params and times as a real run does); the last ones run everything.
"""

from __future__ import annotations

import json
import re
import shutil

import pytest
import yaml
from workplace import HEADLINES, RESULTS, SMOKE, Clone, with_wheels

from mneme.core.code import packages_of
from mneme.core.workflow import merge
from mneme.report.summary import validate
from mneme.routing.ema_lag import ema_lag
from mneme.settings import Settings, load_settings

pytestmark = pytest.mark.workflow
FITS = {
    "routing_adapter_fit",
    "routing_mixer_fit",
    "zeta_fit",
    "zeta_primes_fit",
    "ttt_fit",
    "ttt_adapter_fit",
    "lattice_fit",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Return a clone in which everything is up to date."""
    made = Clone(tmp_path_factory.mktemp("clone"))
    made.pretend_finished()
    return made


@pytest.fixture
def edit(clone):
    """Return a function that edits a file of the clone; the edit is undone afterwards."""
    before = {}

    def change(name, function):
        path = clone.folder / name
        before.setdefault(path, path.read_text())
        path.write_text(function(path.read_text()))

    yield change
    for path, text in before.items():
        path.write_text(text)


def append(text):
    return lambda content: content + text


def test_what_is_finished_is_not_run_again(clone):
    assert clone.jobs() == []


def assert_exactly(rules, jobs):
    """Check that `rules` run, and beside them only what reads what they make.

    Snakemake names one reason a job: a job below another that runs is not `direct`. `claims` and
    `summary` carry the hashes of all phases, to refuse stale ones.
    """
    direct = {job.rule for job in jobs if job.direct} - {"claims", "summary"}
    assert direct <= rules
    assert rules <= {job.rule for job in jobs}
    assert direct or rules <= {"claims", "summary", "report"}


UNUSED = {"ttt_daily_dialog"}
"""Rules that no size but one with a hub corpus runs."""
LIBRARY_FILES = [
    "core/stage.py",
    "report/summary.py",
    "routing/calibrate.py",
    "routing/hysteresis.py",
    "stats/intervals.py",
    "ttt/inner.py",
    "zeta/ablation.py",
    "zeta/primes.py",
]


@pytest.mark.parametrize("name", LIBRARY_FILES)
def test_a_library_edit_reruns_exactly_the_stages_that_use_it(clone, edit, name):
    users = clone.users("mneme." + name.removesuffix(".py").replace("/", ".")) - UNUSED
    assert users
    edit(f"src/mneme/{name}", append("\nEDITED = 1\n"))
    assert_exactly(users, clone.jobs())


def test_a_library_file_that_no_stage_uses_reruns_nothing(clone, edit):
    for name in ("cli.py", "cli_chat.py", "rooms.py", "settings.py"):
        edit(f"src/mneme/{name}", append("\nEDITED = 1\n"))
    assert clone.jobs() == []


def test_a_script_edit_reruns_that_rule(clone, edit):
    edit("workflow/scripts/hysteresis.py", append("\nEDITED = 1\n"))
    jobs = clone.jobs()
    assert_exactly({"hysteresis"}, jobs)
    assert {job.rule for job in jobs} == {"hysteresis", "claims", "summary", "report"}


def test_touching_commenting_formatting_and_documenting_rerun_nothing(clone, edit):
    files = [*(clone.folder / "src").rglob("*.py"), *(clone.folder / "workflow").rglob("*.py")]
    for path in files:
        name = str(path.relative_to(clone.folder))
        edit(name, append("\n\n\n# a comment\n'''a bare string'''\n"))
    formatted = "rules/routing.smk"
    edit(formatted, append("\n# a comment\n"))
    assert clone.jobs() == []


def test_an_edit_of_one_runs_settings_reruns_that_run_only(clone, edit):
    overlay = "routing: {adapters: {runs: {sleep: {epochs: 3}}}}\n"
    (clone.folder / "one.yaml").write_text(overlay)
    jobs = clone.jobs(*SMOKE, "one.yaml")
    fits = {(job.rule, job.wildcards) for job in jobs if job.rule in FITS and job.direct}
    assert fits == {("routing_adapter_fit", "run=sleep")}
    (clone.folder / "one.yaml").write_text("routing: {mixers: {token: {epochs: 5}}}\n")
    jobs = clone.jobs(*SMOKE, "one.yaml")
    fits = {(job.rule, job.wildcards) for job in jobs if job.rule in FITS}
    assert fits == {("routing_mixer_fit", "mixer=token")}
    (clone.folder / "one.yaml").write_text("zeta: {runs: {e2: {drift_weight: 0.2}}}\n")
    jobs = clone.jobs(*SMOKE, "one.yaml")
    fits = {(job.rule, job.wildcards) for job in jobs if job.rule in FITS}
    assert fits == {("zeta_fit", "run=e2")}
    (clone.folder / "one.yaml").write_text("ttt: {runs: {text_sliding: {arm: full}}}\n")
    jobs = clone.jobs(*SMOKE, "one.yaml")
    fits = {(job.rule, job.wildcards) for job in jobs if job.rule in FITS}
    assert fits == {("ttt_fit", "run=text_sliding")}
    (clone.folder / "one.yaml").write_text("lattice: {arms: {mlp: {start: random}}}\n")
    jobs = clone.jobs(*SMOKE, "one.yaml")
    fits = {(job.rule, job.wildcards) for job in jobs if job.rule in FITS}
    assert fits == {("lattice_fit", "backbone=smollm2-135m, run=mlp")}


def test_the_size_of_one_adapter_run_leaves_the_mixers_and_their_traces_alone(clone):
    run = smoke_settings(clone.folder).routing.adapters.runs["sleep"]
    more = {"routing": {"adapters": {"runs": {"sleep": {"samples": run.samples + 1}}}}}
    (clone.folder / "one.yaml").write_text(yaml.safe_dump(more))
    jobs = clone.jobs(*SMOKE, "one.yaml")
    assert ("routing_adapter_fit", "run=sleep") in {(job.rule, job.wildcards) for job in jobs}
    rules = {job.rule for job in jobs}
    assert (
        not {"routing_states", "routing_mixer_fit", "routing_trace", "routing_trace_fatigue"}
        & rules
    )


@pytest.mark.parametrize("setting", ["resamples: 201", "deep_weight: 0.9"])
def test_how_a_trace_is_read_does_not_trace_anew(clone, setting):
    (clone.folder / "one.yaml").write_text(f"routing: {{protocol: {{{setting}}}}}\n")
    rules = {job.rule for job in clone.jobs(*SMOKE, "one.yaml")}
    assert {"hysteresis", "fatigue"} <= rules
    assert (
        not {"routing_prepare", "routing_mixer_fit", "routing_trace", "routing_trace_fatigue"}
        & rules
    )


def test_neither_network_nor_published_figures_nor_backbone_make_the_zeros_anew(clone, edit):
    series = {"zeros", "zeta_prepare", "zeta_references", "zeta_floor"}
    for name in ("model", "published"):
        edit(f"src/mneme/zeta/{name}.py", append("\nEDITED = 1\n"))
    rules = {job.rule for job in clone.jobs()}
    assert {"zeta_fit", "mdn"} <= rules
    assert not series & rules
    for name in ("model", "published"):
        edit(f"src/mneme/zeta/{name}.py", lambda text: text.replace("\nEDITED = 1\n", ""))
    rules = {job.rule for job in clone.jobs(*SMOKE, "--config", "backbone=gpt2")}
    assert "model_load" in rules
    assert not {rule for rule in rules if rule.startswith(("zeta", "zeros", "mdn"))}


def test_reordering_and_commenting_the_settings_rerun_nothing(clone, edit):
    def turned(value):
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return value

    def reordered(content):
        return "# a comment\n" + yaml.safe_dump(turned(yaml.safe_load(content)), sort_keys=False)

    edit("config/config.yaml", reordered)
    assert clone.jobs() == []


def test_another_version_of_a_package_reruns_the_stages_that_import_it(clone, tmp_path):
    record = tmp_path / "scipy-99.0.dist-info" / "METADATA"
    record.parent.mkdir()
    record.write_text("Metadata-Version: 2.1\nName: scipy\nVersion: 99.0\n")
    scripts = (clone.folder / "workflow/scripts").glob("*.py")
    users = {script.stem for script in scripts if "scipy" in packages_of(script)}
    assert users
    assert_exactly(users, clone.jobs(path=[tmp_path]))


def smoke_settings(folder) -> Settings:
    """Return the settings that Snakemake merges for the smoke size in a clone."""
    config: dict = {}
    for name in ("assets", "claims", "config", "smoke"):
        config = merge(config, yaml.safe_load((folder / f"config/{name}.yaml").read_text()))
    return load_settings(config)


ASSET_JOBS = [("assets_fetch", ""), ("assets_corpora", ""), ("assets_convert", "")]


@pytest.mark.parametrize(
    ("resources", "assets"), [("resources", []), ("elsewhere", ASSET_JOBS)], ids=["there", "absent"]
)
def test_a_single_target_runs_exactly_what_it_needs(clone, resources, assets):
    folders = ("--config", "results=empty", f"resources={resources}")
    jobs = clone.jobs("empty/fatigue.json", *SMOKE, *folders)
    routing = smoke_settings(clone.folder).routing
    mixers = {run.mixer for run in routing.runs.values()} | {routing.original.mixer}
    assert sorted((job.rule, job.wildcards) for job in jobs) == sorted(
        [
            *assets,
            ("routing_prepare", ""),
            ("routing_adapter_fit", "run=original"),
            ("routing_states", ""),
            *(("routing_mixer_fit", f"mixer={mixer}") for mixer in mixers),
            ("routing_trace_fatigue", "phase=fatigue"),
            ("routing_original", ""),
            ("fatigue", ""),
        ]
    )


@pytest.mark.parametrize(
    ("size", "ceiling"), [("smoke", 120), ("fast", 160), (None, 160), ("long", 230), ("gpu", 250)]
)
def test_the_dag_stays_under_its_ceiling_of_jobs(clone, size, ceiling):
    overlay = ("--configfile", f"config/{size}.yaml") if size else ()
    count = len(clone.jobs("--forceall", *overlay))
    assert 10 < count <= ceiling


def test_parsing_imports_no_torch(clone, tmp_path):
    probe = tmp_path / "probe"
    probe.mkdir()
    (probe / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        "heavy = {'torch', 'transformers', 'peft', 'scipy', 'matplotlib', 'statsmodels'}\n"
        "def write():\n"
        "    with open(os.environ['PROBE'], 'a') as handle:\n"
        "        names = sorted(heavy & set(sys.modules))\n"
        "        handle.write(f\"{'snakemake' in sys.modules} {names}\\n\")\n"
        "atexit.register(write)\n"
    )
    seen = tmp_path / "seen"
    status, text = clone.snakemake("-n", "--forceall", *SMOKE, path=[probe], PROBE=str(seen))
    assert status == 0, text
    assert "True []" in seen.read_text().splitlines()
    assert not re.search("torch|transformers|peft", seen.read_text())


def test_lint_has_nothing_to_say(clone):
    status, text = clone.snakemake("--lint")
    assert status == 0, text
    assert "Congratulations" in text


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("routing={tuples: 3}", "config.routing.tuples is not a known key"),
        ("routing={domains: [{name: python, corpus: python}]}", "a list of at least two domains"),
    ],
)
def test_a_wrong_setting_stops_before_the_first_job(clone, setting, sentence):
    status, text = clone.snakemake("-n", *SMOKE, "--config", setting)
    assert status != 0
    assert sentence in text
    assert "Job stats" not in text


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a clone in which the smoke size has really run, and what the run printed."""
    made = with_wheels(tmp_path_factory.mktemp("smoke"))
    status, text = made.snakemake(*SMOKE)
    assert status == 0, text[-3000:]
    return made, text


PICTURES = set(HEADLINES) - {"env", "model", "zeros", "claims"}


@pytest.mark.parametrize("phase", HEADLINES)
def test_every_headline_file_has_the_frame(finished, phase):
    text = (finished[0].folder / RESULTS / f"{phase}.json").read_text()
    content = json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
    validate(content, "headline", name=f"{phase}.json")
    assert content["phase"] == phase


def test_the_summary_has_everything_and_the_sources_keys(finished):
    summary = json.loads((finished[0].folder / RESULTS / "summary.json").read_text())
    validate(summary, "summary", name="summary.json")
    assert set(summary["phases"]) == set(HEADLINES) | {"assets", "prepare"}
    assert {"routing", "ttt", "zeta", "lattice"} == {c["room"] for c in summary["claims"].values()}
    assert {"switch_lag_AB", "switch_lag_BA", "return_gap_cosine_distance"} <= set(
        summary["hysteresis"]["test_aba"]
    )
    assert {"deep_crystallization", "switch_lag"} <= set(summary["fatigue"]["correlations"])
    assert {"model_load_sec", "phase5_hysteresis_sec", "total_sec"} <= set(summary["timing"])
    assert all(phase["peak_memory_mb"] > 0 for phase in summary["phases"].values())


@pytest.mark.parametrize("phase", sorted(PICTURES))
def test_a_phase_with_pictures_has_both_forms(finished, phase):
    svg = (finished[0].folder / RESULTS / f"{phase}.svg").read_text()
    assert "<svg" in svg
    png = (finished[0].folder / RESULTS / f"{phase}.png").read_bytes()
    assert png.startswith(b"\x89PNG")


def headline(folder, phase):
    return json.loads((folder / RESULTS / f"{phase}.json").read_text())


def rows(content, run):
    """Return the rows over all seeds of one run, by metric."""
    return {row["metric"]: row for row in content["runs"][run]["rows"] if row["seed"] is None}


def ends(row):
    return (row["value"], row["low"], row["high"])


def token_gaps_are_exactly_0(folder):
    """Check on real text that the memoryless gate has no return gap at all."""
    protocol = smoke_settings(folder).routing.protocol
    content = headline(folder, "hysteresis")
    found = rows(content, "token")
    names = ["cosine", "euclidean", "dtw", "cosine_minus_aa"]
    names += ["cosine@whole", "mixed_cosine", "repeated_cosine"]
    for name in names:
        assert ends(found[f"return_gap_{name}"]) == (0, 0, 0), name
    # Not because nothing was measured: its weights vary, and a gate with context has a gap.
    assert len(set(content["runs"]["token"]["bands"]["mean"])) > protocol.segment_tokens
    assert rows(content, "ours")["return_gap_cosine"]["value"] > 0
    content = headline(folder, "fatigue")
    found = rows(content, "token")
    for n in protocol.dwell_tokens:
        here = [name for name in found if re.fullmatch(rf"return_gap_.*@{n}", name)]
        assert {f"return_gap_cosine@{n}", f"return_gap_euclidean@{n}"} <= set(here)
        for name in here:
            assert ends(found[name]) == (0, 0, 0), name
        assert rows(content, "ours")[f"return_gap_cosine@{n}"]["value"] > 0


def oracle_lags_are_the_closed_forms(folder):
    """Check every lag of run `ema_oracle` against `ema_lag` for the stays before the boundary."""
    routing = smoke_settings(folder).routing
    mixer, protocol = routing.mixers["ema_oracle"], routing.protocol
    size = protocol.segment_tokens
    headline_theta = [("", protocol.threshold)]
    curve = headline_theta + [(f"@{theta:g}", theta) for theta in protocol.thresholds]

    def expected(theta, *stays, tokens=size):
        found = ema_lag(
            decay=mixer.decay,
            oracle_logit=mixer.oracle_logit,
            threshold=theta,
            domains=len(routing.domains),
            stays=stays,
        )
        # Censored where the run of tokens no longer fits in: then the segment's length.
        reached = found is not None and found <= tokens - protocol.run_tokens
        return (found,) * 3 if reached else (tokens,) * 3

    found = rows(headline(folder, "hysteresis"), "ema_oracle")
    for suffix, theta in curve:
        back, into = expected(theta, size, size), expected(theta, size)
        assert ends(found[f"switch_lag_BA{suffix}"]) == back, suffix
        assert ends(found[f"switch_lag_AB{suffix}"]) == into, suffix
    assert ends(found["relax_time_0.99"]) == expected(0.99, size, size)
    found = rows(headline(folder, "fatigue"), "ema_oracle")
    for n in protocol.dwell_tokens:
        assert ends(found[f"switch_lag@{n}"]) == expected(protocol.threshold, size, n), n
        assert ends(found[f"relax_time_0.99@{n}"]) == expected(0.99, size, n), n
    # The closed form itself tells the dwell lengths apart, or the comparison says little.
    assert len({expected(protocol.threshold, size, n) for n in protocol.dwell_tokens}) > 1


def test_the_token_mixer_has_no_return_gap_on_real_text(finished):
    token_gaps_are_exactly_0(finished[0].folder)


def test_the_oracles_lag_is_its_closed_form_through_the_whole_pipeline(finished):
    oracle_lags_are_the_closed_forms(finished[0].folder)


def without_cost(content):
    """Return a headline file without what the clock and the machine put in."""
    provenance = {k: v for k, v in content["provenance"].items() if k != "peak_memory_mb"}
    return {k: v for k, v in content.items() if k != "seconds"} | {"provenance": provenance}


def test_the_same_trace_gives_the_same_file_again(finished):
    clone = finished[0]
    path = clone.folder / RESULTS / "hysteresis.json"
    before, made = without_cost(headline(clone.folder, "hysteresis")), path.stat().st_mtime_ns
    status, text = clone.snakemake(*SMOKE, "--forcerun", "hysteresis")
    assert status == 0, text[-3000:]
    assert set(re.findall(r"^(?:local)?rule (\w+):", text, re.M)) == {
        *("hysteresis", "claims", "summary", "report", "all"),
    }
    assert path.stat().st_mtime_ns > made
    assert without_cost(headline(clone.folder, "hysteresis")) == before


def test_a_second_run_does_nothing(finished):
    assert finished[0].jobs() == []
    status, text = finished[0].snakemake(*SMOKE)
    assert status == 0
    assert "Nothing to be done" in text


def test_snakemakes_own_report_holds_every_figure_with_its_caption(finished, tmp_path):
    clone, target = finished[0], tmp_path / "report.html"
    status, text = clone.snakemake("--report", str(target), *SMOKE)
    assert status == 0, text
    page = target.read_text(encoding="utf-8")
    shown = json.loads(re.search(r"var categories = (\{.*?\})\s*;?\s*$", page, re.M)[1])
    assert set(shown) == {"summary", "claims", "routing", "zeta", "ttt", "lattice"}
    paths = {path for room in shown.values() for part in room.values() for path in part}
    assert {f"{RESULTS}/{phase}.svg" for phase in PICTURES} <= paths
    for path in paths:
        entry = page[page.index(f'"{path}": {{') :]
        assert re.match(r'.{0,200}?"caption": "<p>[^"]{20}', entry, re.S), path


def test_no_half_written_file_is_left(finished):
    left = [path for path in finished[0].folder.rglob("*") if re.search(r"\.part(s)?$", path.name)]
    assert left == []


def test_results_copied_without_their_metadata_are_refused_when_stale(finished, tmp_path):
    clone = finished[0]
    copy = Clone(tmp_path)
    shutil.copytree(clone.folder / "results", copy.folder / "results")
    shutil.copytree(clone.folder / "resources", copy.folder / "resources", symlinks=True)
    status, text = copy.snakemake("--touch", *SMOKE)  # in the order of the DAG, as rsync would not
    assert status == 0, text
    shutil.rmtree(copy.folder / ".snakemake")
    path = copy.folder / "src/mneme/routing/hysteresis.py"
    path.write_text(path.read_text() + "\nEDITED = 1\n")
    (copy.folder / RESULTS / "summary.json").unlink()
    status, text = copy.snakemake(*SMOKE)
    assert status != 0
    assert "ERROR: hysteresis.json, claims.json: stale" in text
    assert not (copy.folder / RESULTS / "summary.json").exists()
