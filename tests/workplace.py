"""A copy of the clone in which Snakemake runs, and how its results are compared."""

from __future__ import annotations

import dataclasses
import json
import modulefinder
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMOKE = ("--configfile", "config/smoke.yaml")
RESULTS = "results/smoke"
HEADLINES = (
    "env",
    "model",
    "adapters",
    "mixer",
    "hysteresis",
    "fatigue",
    "zeros",
    "mdn",
    "slot_ablation",
    "diagnostics",
    "kernel",
    "statistics",
    "ttt_model",
    "ttt_adapter",
    "ttt_grid",
    "ttt_context",
    "lattice",
    "claims",
)
"""Phases of the smoke size, each a headline file."""
COST = re.compile("(^|_)(seconds|sec|s|per_second|peak_memory_mi?b)$|^kept$")
"""Keys of times and memory, and of whether embeddings were at hand from a run before."""
COST_UNITS = {"s", "MiB", "tokens/s", "zeros/s"}
COST_METRICS = {"time_per_token", "val_nll_equal_time"}
"""The second is the loss after as many seconds as the fastest run took."""
FIT = "zeta/fit/e2/seed0"
LONG_FIT = {"zeta": {"seeds": [0], "training": {"steps": 4000, "warmup": 50, "eval_every": 1000}}}
"""About a minute of training; a checkpoint is written every half."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One job of a dry run."""

    rule: str
    wildcards: str
    direct: bool
    """Whether it runs for a reason of its own, not because another job makes its input anew."""


class Clone:
    """A copy of the working tree in which Snakemake runs with that tree's library."""

    def __init__(self, folder: Path, origin: Clone | None = None) -> None:
        """Copy the working tree, or the code of another clone as it was copied before."""
        self.folder = folder
        self._reached = None
        self.files = origin.files if origin else _listed()
        for name in self.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile((origin.folder if origin else ROOT) / name, folder / name)

    def start(self, *arguments, path=(), environment=None, **options):
        """Start Snakemake; `options` are those of `subprocess.Popen`."""
        library = os.pathsep.join([*map(str, path), str(self.folder / "src")])
        given = {"PYTHONPATH": library, "HF_HUB_OFFLINE": "1", **(environment or {})}
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
            cwd=self.folder,
            env={**os.environ, **given},
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def snakemake(self, *arguments, path=(), **environment):
        """Run Snakemake; returns exit status and everything it printed."""
        process = self.start(*arguments, path=path, environment=environment, stdout=subprocess.PIPE)
        text = process.communicate()[0]
        return process.returncode, text

    def jobs(self, *arguments, path=()):
        """Return the jobs of a dry run."""
        status, text = self.snakemake("-n", *(arguments or SMOKE), path=path)
        assert status == 0, text
        found = []
        for block in re.split(r"\n(?=\[\w{3} \w{3} +\d+ [\d:]+ \d{4}\]\n)", text)[1:]:
            rule = re.search(r"^(?:local)?rule (\w+):", block, re.M)
            wildcards = re.search(r"^    wildcards: (.*)$", block, re.M)
            reason = re.search(r"^    reason: (.*)$", block, re.M)
            assert rule, block
            if rule[1] != "all":
                direct = reason is not None and not reason[1].startswith("Input files updated by")
                found.append(Job(rule[1], wildcards[1] if wildcards else "", direct))
        assert found or "Nothing to be done" in text, text
        return found

    def pretend_finished(self):
        """Make up every output of the smoke size and let Snakemake take it as finished."""
        _, text = self.snakemake("--summary", *SMOKE)
        rows = [line.split("\t") for line in text.splitlines() if "\t" in line]
        for row in rows:
            if row[0] != "output_file":
                (self.folder / row[0]).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / row[0]).write_text("made up")
        status, text = self.snakemake("--touch", "--forceall", *SMOKE)
        assert status == 0, text

    def users(self, module):
        """Return the rules whose scripts reach a library module, as the clone was when first asked.

        Found by the standard library, which takes seconds.
        """
        if self._reached is None:
            self._reached = {}
            for script in sorted((self.folder / "workflow/scripts").glob("*.py")):
                finder = modulefinder.ModuleFinder(path=[str(self.folder / "src")])
                finder.run_script(str(script))
                self._reached[script.stem] = set(finder.modules)
        return {rule for rule, modules in self._reached.items() if module in modules}


def _listed():
    """Return the files of the working tree that git knows or would know."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def with_wheels(folder, origin=None):
    """Return a clone that takes the downloaded wheels of the working tree."""
    made = Clone(folder, origin)
    (ROOT / "resources" / "wheels").mkdir(parents=True, exist_ok=True)
    (folder / "resources").mkdir()
    (folder / "resources" / "wheels").symlink_to(ROOT / "resources" / "wheels")
    return made


def code_of(results, phase):
    """Return what a headline file was made by, None when there is none."""
    path = results / f"{phase}.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    return content["code"], content["config"], content["provenance"]["versions"]


def without_cost(results, phase):
    """Return a headline file without times, memory, host, and hashes of files that carry them."""
    content = json.loads((results / f"{phase}.json").read_text())
    inputs = content["provenance"].pop("inputs", {})
    return stripped(content), sorted(inputs)


def stripped(value):
    """Return nested mappings and lists without keys, rows and checks of cost."""
    if isinstance(value, dict):
        return {k: stripped(v) for k, v in value.items() if not COST.search(k)}
    if isinstance(value, list):
        return [stripped(v) for v in value if not (isinstance(v, dict) and is_cost(v))]
    return value


def is_cost(entry):
    """Say whether a row, or a check of the machine, is about time or room."""
    named = entry.get("metric") in COST_METRICS or entry.get("name") == "disk_free_gib"
    return named or entry.get("unit") in COST_UNITS
