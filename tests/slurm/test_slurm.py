"""The workflow on a real Slurm of one node, through `profiles/slurm`.

What is not tested, because it needs another cluster: several nodes, accounting, cgroups. Without
cgroups Slurm reads the memory of a job's processes once a second and kills it when it finds too
much (`OverMemoryKill`): the job then ends as FAILED, with the reason in Slurm's log of the job.
Snakemake looks after its jobs ever more rarely while nothing ends, so a failure may show a minute
late.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from workplace import (
    FIT,
    HEADLINES,
    LONG_FIT,
    RESULTS,
    ROOT,
    SMOKE,
    Clone,
    code_of,
    with_wheels,
    without_cost,
)

pytestmark = pytest.mark.slurm
PROFILE = ("--profile", "profiles/slurm")
NO_ACCOUNTING = ("--slurm-status-command", "squeue")
IMPATIENT = ("--slurm-init-seconds-before-status-checks", "1")
IMPATIENT += ("--seconds-between-status-checks", "1")
ORIGINAL = f"{RESULTS}/lattice/original.json"
"""A GPU job without inputs."""


@dataclasses.dataclass
class Workplace:
    """A clone whose jobs go to a Slurm."""

    clone: Clone
    slurm: object
    started: list = dataclasses.field(default_factory=list)

    def start(self, *arguments, seconds, overlay=None):
        """Start Snakemake with the profile; what it prints goes to `printed`."""
        (self.clone.folder / "one.yaml").write_text(yaml.safe_dump(overlay or {}))
        library = {"PYTHONPATH": str(self.clone.folder / "src"), "HF_HUB_OFFLINE": "1"}
        command = ["timeout", "-k", "5", str(seconds), sys.executable, "-m", "snakemake"]
        command += [*PROFILE, *NO_ACCOUNTING, *IMPATIENT, *SMOKE, "one.yaml", *arguments]
        with open(self.printed, "w") as handle:
            process = subprocess.Popen(
                command,
                cwd=self.clone.folder,
                env={**os.environ, **library, **self.slurm.environment},
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
            )
        self.started.append(process)
        return process

    def end(self):
        """End what a failed test has left running; Snakemake cancels its Slurm jobs."""
        for process in self.started:
            process.terminate()
            process.wait()

    def run(self, *arguments, seconds, overlay=None):
        """Run Snakemake with the profile; returns exit status, what it printed, its Slurm jobs."""
        before = len(self.slurm.jobs())
        status = self.start(*arguments, seconds=seconds, overlay=overlay).wait()
        return status, self.printed.read_text(), self.slurm.jobs()[before:]

    @property
    def printed(self):
        return self.clone.folder / "printed.txt"

    def step(self, name):
        """Return when a finished step began and ended (s), from the record beside its log."""
        record = self.clone.folder / RESULTS / "logs" / f"{name}.json"
        end = record.stat().st_mtime
        return end - json.loads(record.read_text())["seconds"], end


@pytest.fixture
def workplace(slurm, tmp_path):
    """Return a clone without any results."""
    made = Workplace(Clone(tmp_path), slurm)
    yield made
    made.end()


def span(job):
    """Return when a Slurm job ran, s (whole seconds)."""
    return tuple(datetime.fromisoformat(job[k]).timestamp() for k in ("StartTime", "EndTime"))


def together(one, other):
    """Say whether two spans overlap."""
    return max(one[0], other[0]) < min(one[1], other[1])


@pytest.fixture(scope="module")
def submitted(slurm, tmp_path_factory):
    """Return the smoke size run through Slurm: its clone, what was printed, its Slurm jobs."""
    place = Workplace(with_wheels(tmp_path_factory.mktemp("submitted")), slurm)
    status, text, jobs = place.run(seconds=1500)
    place.end()
    assert status == 0, text[-5000:]
    return place, text, jobs


@pytest.fixture(scope="module")
def local(submitted, tmp_path_factory):
    """Return the results of a local run of the same code and settings, made when not at hand."""
    made = submitted[0].clone.folder / RESULTS
    recent = tmp_path_factory.getbasetemp().parent  # test_workflow leaves its own there
    earlier = [p for w in ("", "popen-*/") for p in recent.glob(f"pytest-*/{w}smoke0/{RESULTS}")]
    for found in (ROOT / RESULTS, *earlier):
        if all(code_of(found, phase) == code_of(made, phase) for phase in HEADLINES):
            return found
    clone = with_wheels(tmp_path_factory.mktemp("local"))
    status, text = clone.snakemake(*SMOKE)
    assert status == 0, text[-3000:]
    return clone.folder / RESULTS


def test_the_smoke_size_takes_at_most_30_slurm_jobs(submitted):
    _, text, jobs = submitted
    print(f"{len(jobs)} Slurm jobs")
    assert 10 < len(jobs) <= 30, text
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}


def test_a_slurm_job_asks_for_one_gpu_at_most(submitted):
    jobs = submitted[2]
    asked = {re.sub(r"_.*", "", job["Comment"]): job.get("TresPerJob") for job in jobs}
    assert set(asked.values()) <= {"gres:gpu:1", None}
    assert sum(job.get("TresPerJob") == "gres:gpu:1" for job in jobs) >= 10


@pytest.mark.parametrize("phase", HEADLINES)
def test_slurm_and_local_runs_give_the_same_headline(submitted, local, phase):
    ours = without_cost(submitted[0].clone.folder / RESULTS, phase)
    assert ours == without_cost(local, phase)


@pytest.mark.parametrize("gpus", [1, 2])
def test_two_gpu_jobs_run_at_once_only_where_two_gpus_are_allowed(workplace, gpus):
    # The node has two GPUs and two processors: only Snakemake's limit keeps them apart.
    targets = (f"{RESULTS}/env.json", ORIGINAL)
    limits = ("--resources", f"gpu={gpus}", "in_turn=1")
    status, text, jobs = workplace.run(*limits, "--", *targets, seconds=300)
    assert status == 0, text[-3000:]
    assert [job["TresPerJob"] for job in jobs] == ["gres:gpu:1"] * 2
    assert together(*map(span, jobs)) == (gpus == 2)


def test_members_of_a_group_share_a_gpu_one_after_the_other(workplace):
    pair = ("--groups", "env_check=pair", "lattice_original=pair", "--group-components", "pair=2")
    status, text, jobs = workplace.run(*pair, "--", f"{RESULTS}/env.json", ORIGINAL, seconds=300)
    assert status == 0, text[-3000:]
    (job,) = jobs
    assert (job["TresPerJob"], job["NumCPUs"]) == ("gres:gpu:1", "1")
    assert job["TimeLimit"] == "01:00:00"  # the sum of both
    assert job["MinMemoryNode"] == "8000M"  # what the larger one needs
    assert not together(workplace.step("env_check"), workplace.step("lattice_original"))


def test_the_arms_of_a_rule_are_one_array_where_it_is_in_no_group(workplace):
    arms = [f"{RESULTS}/{FIT.replace('e2', run)}/model.safetensors" for run in ("e0", "v1", "e2")]
    ungrouped = ("--groups", "zeta_prepare=series", "--slurm-array-jobs", "zeta_fit")
    status, text, jobs = workplace.run(*ungrouped, "--", *arms, seconds=500)
    assert status == 0, text[-3000:]
    tasks = [job for job in jobs if "ArrayJobId" in job]
    assert len({job["ArrayJobId"] for job in tasks}) == 1, jobs
    assert sorted(job["ArrayTaskId"] for job in tasks) == ["1", "2", "3"]
    assert all((workplace.clone.folder / arm).is_file() for arm in arms)


def test_a_cancelled_training_continues_to_the_identical_result(workplace, tmp_path_factory):
    elsewhere = Clone(tmp_path_factory.mktemp("undisturbed"))
    (elsewhere.folder / "one.yaml").write_text(yaml.safe_dump(LONG_FIT))
    target = f"{RESULTS}/{FIT}/model.safetensors"
    snakemake = workplace.start("--", target, seconds=500, overlay=LONG_FIT)
    killed = cancel_in_training(workplace, snakemake)
    status, text = elsewhere.snakemake(*SMOKE, "one.yaml", "--", target)
    assert status == 0, text[-3000:]
    assert snakemake.wait() == 0, workplace.printed.read_text()[-5000:]
    log = (workplace.clone.folder / RESULTS / "logs/zeta_fit/e2.log").read_text()
    assert re.search(r"continuing after step [1-9]", log)
    states = {job["JobId"]: job["JobState"] for job in workplace.slurm.jobs()}
    assert states[killed] == "CANCELLED"
    assert not (workplace.clone.folder / RESULTS / FIT / "checkpoint").exists()
    for name in ("model", "last"):
        path = Path(RESULTS, FIT, f"{name}.safetensors")
        ours, theirs = (c.folder / path for c in (workplace.clone, elsewhere))
        assert ours.read_bytes() == theirs.read_bytes()


def cancel_in_training(workplace, snakemake):
    """Cancel the job that trains once there is a checkpoint; returns its number."""
    while not (workplace.clone.folder / RESULTS / FIT / "checkpoint").exists():
        assert snakemake.poll() is None, workplace.printed.read_text()[-5000:]
        time.sleep(0.5)
    running = [job for job in workplace.slurm.jobs() if job["JobState"] == "RUNNING"]
    (job,) = [job for job in running if "zeta_fit" in job["Comment"]]
    workplace.slurm.ask("scancel", job["JobId"])
    return job["JobId"]


@pytest.mark.parametrize(
    ("limit", "state", "reason"),
    [
        ("runtime=1", "TIMEOUT", "DUE TO TIME LIMIT"),
        ("mem_mb=200", "FAILED", "exceeded memory limit"),  # OUT_OF_MEMORY where there are cgroups
    ],
    ids=["time", "memory"],
)
def test_a_job_over_a_limit_fails_with_its_logs_named(workplace, limit, state, reason):
    endless = {"lattice": {"original": {"steps": 10**6}}}
    limits = ("--retries", "0", "--set-resources", f"lattice_original:{limit}")
    status, text, jobs = workplace.run(*limits, "--", ORIGINAL, seconds=400, overlay=endless)
    assert status == 1, text[-3000:]
    assert [job["JobState"] for job in jobs] == [state]
    assert f"log: {RESULTS}/logs/lattice_original.log" in text
    assert f"log: {jobs[0]['StdOut']}" in text
    assert reason in Path(jobs[0]["StdOut"]).read_text()
    assert not (workplace.clone.folder / ORIGINAL).exists()


def test_no_log_of_a_verbose_job_holds_a_token(workplace, monkeypatch):
    """The plugin writes every variable there: the job ends before that."""
    token = "hf_" + "plantedInTheEnvironment" * 2
    monkeypatch.setenv("HF_TOKEN", token)
    status, text, jobs = workplace.run("--retries", "0", "--verbose", "--", ORIGINAL, seconds=400)
    assert status == 1, text[-3000:]
    told = Path(jobs[0]["StdOut"]).read_text()
    assert "--verbose must be left out in a Slurm job whose environment holds a token" in told
    for log in (text, *(path.read_text() for path in workplace.clone.folder.rglob("*.log"))):
        assert token not in log
