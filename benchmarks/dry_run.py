"""Time of `snakemake -n`: a whole process, default config, nothing made yet; every size beside it.

Equality first: every round of a size plans the same number of jobs, and no heavy library is loaded
by the process that parses. `start` is `snakemake --version`: what Snakemake takes by itself.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import harness

ROOT = Path(__file__).parents[1]
SIZES = ("smoke", "long", "gpu")
ROUNDS, LIMIT_S = 7, 3.0
HEAVY = ("torch", "transformers", "peft", "scipy", "matplotlib", "statsmodels")
TARGETS = [
    harness.Target(name="3 s / snakemake -n", ours="default", against="limit", at_least=1.0),
    harness.Target(name="start / snakemake -n", ours="default", against="start", at_least=0.6),
]
PROBE = """
import atexit, os, sys
def write():
    if "snakemake" in sys.modules:
        heavy = sorted(set(os.environ["PROBE_HEAVY"].split()) & set(sys.modules))
        with open(os.environ["PROBE_SEEN"], "a") as handle:
            print(*heavy, file=handle)
atexit.register(write)
"""


def main() -> None:
    options = harness.arguments(__doc__ or "")
    sizes = ("default", *(() if options.quick else SIZES))
    with tempfile.TemporaryDirectory() as folder:
        nowhere = Path(folder) / "results"
        jobs = {size: light_jobs(size, nowhere, Path(folder)) for size in sizes}
        print(f"jobs: {jobs}; none of {', '.join(HEAVY)} is loaded")

        def again(size: str) -> None:
            if planned(dry_run(size, nowhere)) != jobs[size]:
                raise SystemExit(f"{size}: another number of jobs than before")

        sides: dict[str, Callable[[], object]] = {"start": lambda: snakemake("--version")}
        sides |= {size: lambda size=size: again(size) for size in sizes}
        rounds = options.rounds or (2 if options.quick else ROUNDS)
        times = harness.take_turns(sides, rounds=rounds, warmup=0, processor=children_s)
    times["limit"] = [(LIMIT_S, LIMIT_S)] * rounds
    facts = {"jobs": jobs, "limit_s": LIMIT_S, "not_loaded": HEAVY}
    harness.report("dry_run", times=times, targets=TARGETS, facts=facts, quick=options.quick)


def light_jobs(size: str, nowhere: Path, folder: Path) -> int:
    """Return the number of jobs of a size; ends the benchmark if parsing loads a heavy library."""
    seen = folder / f"{size}.txt"
    (folder / "sitecustomize.py").write_text(PROBE, encoding="utf-8")
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    text = dry_run(
        size, nowhere, PYTHONPATH=path, PROBE_SEEN=str(seen), PROBE_HEAVY=" ".join(HEAVY)
    )
    loaded = seen.read_text(encoding="utf-8").split()
    if loaded:
        raise SystemExit(f"{size}: parsing loads {', '.join(loaded)}")
    return planned(text)


def dry_run(size: str, results: Path, **variables: str) -> str:
    """Plan a size whose results do not exist; returns what Snakemake prints."""
    overlay = [] if size == "default" else ["--configfile", f"config/{size}.yaml"]
    setting = ["--config", f"results={results}"]
    return snakemake("-n", "--cores", "1", "--nolock", *overlay, *setting, **variables)


def snakemake(*words: str, **variables: str) -> str:
    """Run Snakemake as a process of its own; raises CalledProcessError when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *words],
        cwd=ROOT,
        env={**os.environ, **variables},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def planned(text: str) -> int:
    """Return the number of jobs that a dry run names."""
    found = re.search(r"^total +(\d+)", text, re.M)
    assert found is not None, text
    return int(found[1])


def children_s() -> float:
    """Return the processor time of finished child processes, s."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    main()
