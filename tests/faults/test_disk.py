"""A disk that is full or cannot be written: one sentence, nothing half-written, then as ever."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest
from disturbed import FULL, TRACEBACK, Whole, files_of, fill, finish, refuse, same_bytes
from workplace import RESULTS, SMOKE, with_wheels

pytestmark = [pytest.mark.slow, pytest.mark.workflow]
HEIGHTS = "zeta/zeros/heights.npz"


@pytest.fixture
def clone(undisturbed):
    return undisturbed.clone


def computing_zeros(disk):
    """Return the arguments that compute the zeros into a results folder on a disk."""
    return (*SMOKE, "--config", f"results={disk}/results", "--", f"{disk}/results/zeros.json")


def test_a_disk_too_small_for_an_output(clone, undisturbed, small_disk):
    disk = small_disk("size=256k")
    arguments, path = computing_zeros(disk), f"{disk}/results/{HEIGHTS}"
    sentence = f"ERROR: no space left on the disk while writing {path}: free some space and run"
    refuse(clone, sentence, f"{disk}/results/logs/zeros.log", *arguments)
    assert [p.suffix for p in disk.rglob("*") if p.is_file()] == [".log"]
    small_disk("size=8m")
    finish(clone, *arguments)
    assert same_bytes(disk / "results" / HEIGHTS, undisturbed.reference / RESULTS / HEIGHTS)


def test_a_disk_without_a_single_byte_left(clone, undisturbed, small_disk):
    disk = small_disk("size=8m")
    (disk / "results" / "logs").mkdir(parents=True)
    (disk / "results" / "zeta" / "zeros").mkdir(parents=True)
    arguments = computing_zeros(disk)
    ballast = fill(disk)
    status, text = clone.snakemake(*arguments)
    assert status != 0
    assert FULL.search(text), text[-3000:]
    assert TRACEBACK not in text, text[-3000:]
    assert [p for p in disk.rglob("*") if p.is_file() and p.suffix != ".log"] == [ballast]
    ballast.unlink()
    finish(clone, *arguments)
    assert same_bytes(disk / "results" / HEIGHTS, undisturbed.reference / RESULTS / HEIGHTS)


def test_results_that_cannot_be_written_stop_before_the_first_job(clone, small_disk):
    disk = small_disk("size=1m")
    (disk / "results").mkdir()
    small_disk("ro")
    status, text = clone.snakemake(*computing_zeros(disk))
    assert status != 0
    assert f"config.results must be a folder that can be written ({disk}/results cannot:" in text
    assert TRACEBACK not in text
    assert "Job stats" not in text


@pytest.fixture
def read_only(tmp_path):
    """Return a function that makes a folder one that cannot be written until the test ends."""
    mounted = []

    def make(folder):
        options = ("bind", "remount,bind,ro")
        for option in options:
            command = ["mount", "-o", option, str(folder), str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"a folder cannot be made read-only here: {done.stderr.strip()}")
            mounted[:] = [folder]

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_resources_that_are_complete_need_not_be_writable(clone, undisturbed, read_only, tmp_path):
    read_only(clone.folder / "resources")
    embedded = "lattice/embed/minilm/vectors.npz"
    results = tmp_path / "results"
    targets = [str(results / name) for name in (embedded, "ttt/prepare/text/tokens.npz")]
    finish(clone, *SMOKE, "--config", f"results={results}", "--", *targets)
    assert same_bytes(results / embedded, undisturbed.reference / RESULTS / embedded)


def test_resources_that_lack_something_and_cannot_be_written(undisturbed, read_only, tmp_path):
    clone = with_wheels(tmp_path / "clone", undisturbed.clone)
    read_only(clone.folder / "resources")
    status, text = clone.snakemake(*SMOKE, "--", "resources/wheels.json")
    assert status != 0
    assert TRACEBACK not in text, text[-3000:]
    assert "config.resources must be a folder that can be written" in text


def test_embeddings_that_cannot_be_kept_are_named(clone, read_only, tmp_path):
    (clone.folder / "one.yaml").write_text("lattice: {pairs: {test: 18}}\n")
    read_only(clone.folder / "resources")
    results = tmp_path / "results"
    target = results / "lattice/embed/minilm/vectors.npz"
    arguments = (*SMOKE, "one.yaml", "--config", f"results={results}", "--", str(target))
    status, text = clone.snakemake(*arguments)
    assert status != 0
    reason = r"cannot be (used|written) \(Read-only file system\): (allow|make)"
    sentence = rf"ERROR: resources/embeddings/\w+\.(npy|json) {reason}"
    assert re.search(sentence, text), text[-3000:]
    assert re.search(sentence, (results / "logs/lattice_embed/minilm.log").read_text())
    assert TRACEBACK not in text, text[-3000:]
    assert not target.exists()


def test_a_disk_that_turns_read_only_while_a_job_runs(clone, undisturbed, small_disk, start):
    """Snakemake cannot do without writing its own notes of a failed job: it adds a traceback."""
    disk = small_disk("size=8m")
    run = start(clone, *computing_zeros(disk))
    job = run.job("zeros")
    job.send_signal(signal.SIGSTOP)
    small_disk("ro")
    job.send_signal(signal.SIGCONT)
    status, text = run.wait()
    assert status != 0
    assert re.search(r"ERROR: \S+ cannot be (used|written) \(Read-only file system\)", text), text
    assert ".snakemake/scripts/" not in text.split("Traceback", 1)[-1]
    small_disk("rw")
    finish(clone, *computing_zeros(disk))
    assert same_bytes(disk / "results" / HEIGHTS, undisturbed.reference / RESULTS / HEIGHTS)
    assert Whole(disk).broken() == {}
    assert files_of(disk)
