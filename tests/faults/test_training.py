"""A training that is killed, or whose checkpoint is damaged: nothing is lost, nothing differs."""

from __future__ import annotations

import shutil
import signal
import time
from typing import Any

import psutil
import pytest
import yaml
from disturbed import FULL, LOCKED, TRACEBACK, fill, finish, flip, leftovers, refuse, unlock
from leftover import left_by_a_dead_process
from workplace import RESULTS, SMOKE, Clone

pytestmark = [pytest.mark.slow, pytest.mark.workflow]
FIT = f"{RESULTS}/zeta/fit/e0/seed0"
LOG = f"{RESULTS}/logs/zeta_fit/e0.log"
LONG = {"zeta": {"seeds": [0], "training": {"steps": 2000, "warmup": 50, "eval_every": 1000}}}
TRAIN = (*SMOKE, "one.yaml", "--", f"{FIT}/model.safetensors")
MODELS = ("model.safetensors", "last.safetensors")


class Training:
    """A clone with a training that has been run once, undisturbed."""

    def __init__(self, clone):
        self.clone, self.folder = clone, clone.folder / FIT
        self.start: Any = None
        source = clone.folder / "src/mneme/core/checkpoints.py"
        often = source.read_text().replace("SAVE_EVERY_S = 30.0", "SAVE_EVERY_S = 0.5")
        often = often.replace("SAVE_SHARE = 0.05", "SAVE_SHARE = 1.0")
        assert "SAVE_EVERY_S = 0.5" in often
        assert "SAVE_SHARE = 1.0" in often
        source.write_text(often)
        (clone.folder / "one.yaml").write_text(yaml.safe_dump(LONG))
        finish(clone, *TRAIN)
        self.models = self.read()

    def read(self):
        return {name: (self.folder / name).read_bytes() for name in MODELS}

    def begin(self):
        """Start the training anew; returns the run once a checkpoint has been written."""
        run = self.start(self.clone, *TRAIN)
        assert run.until(self.checkpoint.exists), run.printed.read_text()[-3000:]
        return run

    @property
    def checkpoint(self):
        return self.folder / "checkpoint"

    def assert_continued(self):
        """Check that it went on from a checkpoint, to the same bytes, and left nothing."""
        assert "continuing after step" in (self.clone.folder / LOG).read_text()
        self.assert_identical()

    def assert_identical(self):
        assert self.read() == self.models
        assert leftovers(self.clone.folder) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Training(Clone(tmp_path_factory.mktemp("training")))


@pytest.fixture
def training(trained, start):
    """Return a training that is still to be done, its series at hand."""
    trained.start = start
    shutil.rmtree(trained.folder, ignore_errors=True)  # gone after a test on a small disk
    return trained


def test_a_killed_job_goes_on_from_its_checkpoint(training):
    run = training.begin()
    run.job("zeta_fit").kill()
    status, text = run.wait()
    assert status != 0
    assert "SIGKILL" in text
    assert f"log: {LOG}" in text
    assert not (training.folder / "model.safetensors").exists()
    finish(training.clone, *TRAIN)
    training.assert_continued()


def test_a_killed_snakemake_is_unlocked_and_goes_on(training):
    training.begin().kill_everything()
    unlock(training.clone)
    finish(training.clone, *TRAIN)
    training.assert_continued()


def test_jobs_that_outlive_snakemake_do_no_harm(training):
    run = training.begin()
    job = run.job("zeta_fit")
    run.itself.kill()
    run.process.wait()
    job.suspend()
    unlock(training.clone)
    job.resume()
    finish(training.clone, *TRAIN)
    psutil.wait_procs([job], timeout=300)
    training.assert_identical()
    finish(training.clone, *TRAIN)
    training.assert_identical()


def test_a_second_snakemake_is_refused_and_the_first_one_ends(training):
    run = training.begin()
    job = run.job("zeta_fit")
    job.suspend()
    status, text = training.clone.snakemake(*TRAIN)
    job.resume()
    assert status != 0
    assert LOCKED in text, text[-3000:]
    assert run.wait()[0] == 0
    training.assert_identical()


@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_a_damaged_checkpoint_is_named(training, damage):
    run = training.begin()
    run.send_to_group(signal.SIGINT)
    run.wait()
    if damage == "flipped":
        flip(training.checkpoint, keep_time=True)
    else:
        training.checkpoint.write_bytes(training.checkpoint.read_bytes()[:1000])
    sentence = f"ERROR: checkpoint {FIT}/checkpoint is damaged: delete it and run again"
    refuse(training.clone, sentence, LOG, *TRAIN)
    assert not (training.folder / "model.safetensors").exists()
    training.checkpoint.unlink()
    finish(training.clone, *TRAIN)
    training.assert_identical()


def test_what_was_half_written_at_a_kill_is_cleared_away(training):
    training.folder.mkdir(parents=True)
    for name in (*MODELS, "history.json", "checkpoint"):
        left_by_a_dead_process(training.folder / name).write_bytes(b"half")
    finish(training.clone, *TRAIN)
    training.assert_identical()


def test_a_disk_that_gets_full_in_training(training, small_disk):
    disk = small_disk("size=2m", training.folder.parents[1])
    run = training.begin()
    while not run.ended():  # a checkpoint that takes the place of an earlier one frees some
        fill(disk)
        time.sleep(0.1)
    status, text = run.wait()
    assert status != 0
    assert FULL.search(text), text[-3000:]
    assert FULL.search((training.clone.folder / LOG).read_text())
    assert TRACEBACK not in text, text[-3000:]
    assert not (training.folder / "model.safetensors").exists()
    (disk / "ballast").unlink()
    finish(training.clone, *TRAIN)
    training.assert_continued()


def test_ctrl_c_leaves_no_lock(training):
    run = training.begin()
    run.send_to_group(signal.SIGINT)
    status, _ = run.wait()
    assert status != 0
    finish(training.clone, *TRAIN)
    training.assert_continued()
