"""One smoke DAG, killed at random and resumed again and again, ends in the identical result.

MNEME_KILLS sets how often (50), MNEME_KILL_SEED which kills are drawn (0).
"""

from __future__ import annotations

import collections
import os
import random
import shutil
import signal
import time

import psutil
import pytest
from disturbed import Run, Whole, different, finish, leftovers, unlock
from workplace import HEADLINES, SMOKE, with_wheels

pytestmark = [pytest.mark.slow, pytest.mark.workflow]
KILLS = int(os.environ.get("MNEME_KILLS", "50"))
SEED = int(os.environ.get("MNEME_KILL_SEED", "0"))
ROUNDS = 2
"""About how many undisturbed runs the waiting times add up to; what is killed is done again."""
HEARD_S = 60
"""A run that goes on for longer than this after a kill was not killed, s."""
KINDS = ("kill -9 of a job", "kill -9 of everything", "SIGINT to Snakemake", "Ctrl-C")


class Campaign:
    """Kills one clone's Snakemake and jobs, and starts it again, and counts."""

    def __init__(self, clone, undisturbed):
        self.clone, self.reference = clone, undisturbed.reference
        self.wait_s = ROUNDS * undisturbed.seconds / KILLS
        self.draws, self.whole = random.Random(SEED), Whole(clone.folder)
        self.kinds, self.rules = collections.Counter(), collections.Counter()
        self.runs, self.finished, self.locked = [], 0, False
        self.scratch = clone.folder / "tmp"
        self.scratch.mkdir()

    def kill(self, count):
        """Start Snakemake and kill, `count` times in all; what finishes before begins anew."""
        while self.kinds.total() < count:
            run = self._start()
            run.until(run.jobs)
            until = time.monotonic() + self.draws.expovariate(1 / self.wait_s)
            while time.monotonic() < until and not run.ended():
                time.sleep(0.05)
            kind = self.draws.choice(KINDS)
            hit, struck = self._strike(run, kind), time.monotonic()
            status, text = run.wait()
            assert self.whole.broken() == {}
            if status == 0:  # at its end before it could be killed
                assert not hit or time.monotonic() - struck < HEARD_S, f"{kind} went unheard"
                self.check()
                self._begin_anew()
            else:
                assert hit, text[-3000:]
                assert (kind != KINDS[0]) or "SIGKILL" in text, text[-3000:]
                self.kinds[kind] += 1
                self.rules.update(hit)
                self.locked = kind == KINDS[1]

    def _start(self):
        if self.locked:
            unlock(self.clone)
            self.locked = False
        self.runs.append(Run(self.clone, *SMOKE, TMPDIR=str(self.scratch)))
        return self.runs[-1]

    def _strike(self, run, kind):
        """Kill; returns the rules whose jobs ran, none when Snakemake was at its end already."""
        jobs = run.until(run.jobs)
        if not jobs:
            return []
        if kind == KINDS[0]:
            victim = self.draws.choice(sorted(jobs, key=lambda process: process.pid))
            jobs = {victim: jobs[victim]}
            send(victim, signal.SIGKILL)
        elif kind == KINDS[1]:
            run.kill_everything()
        elif kind == KINDS[2]:
            send(run.itself, signal.SIGINT)
        else:
            run.send_to_group(signal.SIGINT)
        return sorted(jobs.values())

    def check(self):
        """Check a finished run against the undisturbed one."""
        self.finished += 1
        assert different(self.clone.folder, self.reference, HEADLINES) == []
        assert leftovers(self.clone.folder) == []
        assert self.clone.jobs(*SMOKE) == []

    def _begin_anew(self):
        shutil.rmtree(self.clone.folder / "results")
        for path in (self.clone.folder / "resources").iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()

    def end(self):
        """Go on undisturbed to the end."""
        if self.locked:
            unlock(self.clone)
        finish(self.clone, TMPDIR=str(self.scratch))
        self.check()


def send(process, number):
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


@pytest.fixture
def campaign(undisturbed, tmp_path):
    made = Campaign(with_wheels(tmp_path, undisturbed.clone), undisturbed)
    yield made
    for run in made.runs:
        run.end()


def test_nothing_is_lost_when_killed_at_random(campaign):
    print(f"\n{KILLS} kills, seed {SEED}, on average {campaign.wait_s:.1f} s after a first job")
    started = time.monotonic()
    try:
        campaign.kill(KILLS)
        campaign.end()
    finally:
        print(
            f"{time.monotonic() - started:.0f} s; Snakemake started {len(campaign.runs) + 1} times"
        )
        print(f"{campaign.finished} runs came to their end, each with the undisturbed result")
        for name, count in (campaign.kinds + campaign.rules).most_common():
            print(f"{count:4d} {name}")
        left = [path for path in campaign.scratch.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in left)
        print(f"{len(left)} files left in TMPDIR, {size} bytes")
