"""Snakemake in a session of its own, ways to end it and its jobs, and what is left afterwards."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import psutil
from safetensors import safe_open
from workplace import RESULTS, SMOKE, without_cost

JOB = re.compile(r"/\.snakemake/scripts/tmp\w+?\.(\w+)\.py$")
LOCKED = "Directory cannot be locked"
TRACEBACK = "Traceback (most recent call last)"
FULL = re.compile(r"ERROR: no space left on the disk.*: free some space and run again")
FOLDERS = ("results", "resources")
LIMIT_S = 900
"""Longest that anything here is waited for, s."""


class Run:
    """Snakemake started in a clone, as the leader of a session and of a process group."""

    def __init__(self, clone, *arguments, **environment):
        self.printed = clone.folder / f"printed_{time.monotonic_ns()}.txt"
        with open(self.printed, "w") as handle:
            self.process = clone.start(
                *arguments,
                environment=environment,
                stdin=subprocess.DEVNULL,
                stdout=handle,
                start_new_session=True,
                preexec_fn=hear_interrupts,
            )
        self.itself = psutil.Process(self.process.pid)

    def jobs(self):
        """Return the jobs that run now: process -> rule."""
        found = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in self.itself.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    match = JOB.search(" ".join(child.cmdline()))
                    if match:
                        found[child] = match[1]
        return found

    def ended(self):
        return self.process.poll() is not None

    def until(self, ready):
        """Wait until `ready()` or the end of Snakemake; returns what it said at last."""
        limit = time.monotonic() + LIMIT_S
        while not (said := ready()) and not self.ended():
            assert time.monotonic() < limit, self.printed.read_text()[-3000:]
            time.sleep(0.05)
        return said

    def job(self, rule):
        """Wait until a job of a rule runs; returns its process."""
        found = self.until(lambda: [p for p, name in self.jobs().items() if name == rule])
        assert found, self.printed.read_text()[-3000:]
        return found[0]

    def wait(self):
        """Wait for the end; returns exit status and everything that was printed."""
        return self.process.wait(LIMIT_S), self.printed.read_text()

    def kill_everything(self):
        """Kill Snakemake with all its jobs, as a machine that goes down does."""
        everyone = [self.itself]
        with contextlib.suppress(psutil.NoSuchProcess):
            everyone += self.itself.children(recursive=True)
        self.send_to_group(signal.SIGKILL)
        self.process.wait()
        left = psutil.wait_procs(everyone, timeout=60)[1]
        assert not left, left

    def send_to_group(self, number):
        """Send a signal to Snakemake and its jobs, as a terminal does for Ctrl-C."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self):
        """End what a failed test has left running."""
        if not self.ended():
            self.kill_everything()


def hear_interrupts():
    """Undo what background shells do: what they start ignores SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def flip(path, *, keep_time):
    """Turn one bit in the middle of a file, with or without its time of modification."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def fill(folder):
    """Fill a disk to its last byte; returns the file that does."""
    path = folder / "ballast"
    with open(path, "ab", buffering=0) as handle, contextlib.suppress(OSError):
        while handle.write(bytes(4096)):
            pass
    return path


class Whole:
    """Looks whether all files under final names are whole; each version of a file once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, {}

    def broken(self):
        """Return what is half-written or not what its digest says, one line a file."""
        found = {}
        for path in files_of(self.folder):
            if ".part" in (part := path.relative_to(self.folder)).name or "logs" in part.parts:
                continue
            status = path.stat()
            version = (status.st_mtime_ns, status.st_size, status.st_ino)
            if self.seen.get(path) != version and (reason := self._reason(path)):
                found[str(part)] = reason
            self.seen[path] = version
        return found

    def _reason(self, path):
        digest = path.with_name(f".{path.name}.sha256")
        if digest.is_file():
            with open(path, "rb") as handle:
                found = hashlib.file_digest(handle, "sha256").hexdigest()
            if found != digest.read_text().split(" ", 1)[0]:
                return "another content than its digest says"
        try:
            READERS.get(path.suffix, READERS.get(path.name, lambda path: None))(path)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None


def files_of(folder):
    """Return all files below the folders of results and resources; links are not followed."""
    tops = [folder / name for name in FOLDERS]
    return sorted(p for top in tops for p in top.rglob("*") if p.is_file() and not p.is_symlink())


def _read_json(path):
    json.loads(path.read_text(), parse_constant=lambda constant: 1 / 0)


def _read_lines(path):
    text = path.read_text()
    assert text.endswith("\n"), "the last line has no end"
    for line in text.splitlines():
        json.loads(line)


def _read_arrays(path):
    with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as archive:
        for name in archive.files:
            archive[name]


def _read_tensors(path):
    with safe_open(path, framework="np") as handle:
        assert len(list(handle.keys())) > 0, "no tensors"


def _read_png(path):
    assert path.read_bytes().endswith(b"IEND\xaeB`\x82"), "no end of the picture"


def _read_table(path):
    text = path.read_text()
    assert text.endswith("\n"), "the last row has no end"
    assert len({len(row) for row in csv.reader(text.splitlines())}) == 1, "rows of unequal length"


def _read_html(path):
    assert path.read_text().rstrip().endswith("</html>"), "no end of the page"


def _read_checkpoint(path):
    head, rest = path.read_bytes().split(b"\n", 1)
    assert head.startswith(b"mneme checkpoint"), "no checkpoint"
    assert hashlib.sha256(rest[32:]).digest() == rest[:32], "another content than its digest says"


READERS = {
    ".json": _read_json,
    ".jsonl": _read_lines,
    ".npz": _read_arrays,
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".safetensors": _read_tensors,
    ".svg": ElementTree.parse,
    ".png": _read_png,
    ".csv": _read_table,
    ".html": _read_html,
    "checkpoint": _read_checkpoint,
}


def leftovers(folder):
    """Return what a killed job needs to go on, or has left: nothing after a run to the end."""
    tops = [folder / name for name in FOLDERS]
    names = ("checkpoint", "*.parts", "*.part", ".fetch-*")
    return sorted(str(p.relative_to(folder)) for t in tops for n in names for p in t.rglob(n))


def different(folder, reference, phases):
    """Return the headline files, arrays and model files that differ from those of a reference.

    Headline files are compared without times and memory, the others byte by byte.
    """
    ours, theirs = folder / RESULTS, reference / RESULTS
    found = [f"{phase}.json" for phase in phases if differs(ours, theirs, phase)]
    for suffix in ("safetensors", "npz", "npy"):
        names = {
            str(p.relative_to(top)) for top in (ours, theirs) for p in top.rglob(f"*.{suffix}")
        }
        found += [name for name in sorted(names) if not same_bytes(ours / name, theirs / name)]
    return found


def differs(ours, theirs, phase):
    return without_cost(ours, phase) != without_cost(theirs, phase)


def same_bytes(one, other):
    """Say whether both files are there and equal."""
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def finish(clone, *arguments, **environment):
    """Run Snakemake to its end and check that it ends well; returns what it printed."""
    status, text = clone.snakemake(*(arguments or SMOKE), **environment)
    assert status == 0, text[-3000:]
    return text


def refuse(clone, sentence, log, *arguments, **environment):
    """Run Snakemake and check that it ends in one sentence, there and in a rule's log."""
    status, text = clone.snakemake(*arguments, **environment)
    assert status != 0
    assert sentence in text, text[-3000:]
    assert TRACEBACK not in text, text[-3000:]
    assert sentence in (clone.folder / log).read_text()  # an absolute path stays one
    return text


def unlock(clone):
    """Release the lock that a killed Snakemake has left; its sentence must have been seen."""
    status, text = clone.snakemake(*SMOKE)
    assert status != 0
    assert LOCKED in text, text[-3000:]
    assert "--unlock" in text
    finish(clone, *SMOKE, "--unlock")
