"""One undisturbed run of the smoke size, which every disturbed one is held against."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from disturbed import Run, finish
from workplace import RESULTS, Clone, with_wheels


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """A finished run."""

    clone: Clone
    reference: Path
    """A copy of its results that no test touches."""
    seconds: float
    """Wall time of the run."""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Return a clone in which the smoke size has run to its end without a fault."""
    clone = with_wheels(tmp_path_factory.mktemp("undisturbed"))
    started = time.monotonic()
    finish(clone)
    seconds = time.monotonic() - started
    reference = tmp_path_factory.mktemp("reference")
    shutil.copytree(clone.folder / RESULTS, reference / RESULTS)
    return Undisturbed(clone, reference, seconds)


@pytest.fixture
def start():
    """Return a function that starts Snakemake; what then still runs ends with the test."""
    runs = []

    def begin(clone, *arguments):
        runs.append(Run(clone, *arguments))
        return runs[-1]

    yield begin
    for run in runs:
        run.end()


@pytest.fixture
def small_disk(tmp_path):
    """Return a function that mounts a disk ("size=128k"), or mounts it anew with other options."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    mounted = []

    def mount(options, folder=tmp_path / "disk"):
        folder.mkdir(parents=True, exist_ok=True)
        again = ",remount" if folder in mounted else ""
        command = ["mount", "-t", "tmpfs", "-o", options + again, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in set(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
