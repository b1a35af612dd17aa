"""Where the room's files lie: `<results>/zeta/<step>/<run>/seed<n>/`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mneme.zeta.config import PHASE_ARMS, SLOT_ARMS, WHOLE_ARMS, RunConfig
from mneme.zeta.partners import lacks_memory


def by_run(paths: Iterable[str]) -> dict[str, list[str]]:
    """Sort files `.../<run>/seed<n>/<name>` by run, as their own addresses say, in given order."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(str(path).split("/")[-3], []).append(str(path))
    return found


@dataclass(frozen=True, kw_only=True)
class ZetaPaths:
    """Addresses below one results folder."""

    results: str
    """Results folder."""
    runs: dict[str, RunConfig]
    """All runs by name."""
    seeds: Sequence[int]
    """Training seeds."""
    uncut: Sequence[str]
    """Runs whose slots are neither cut nor diagnosed."""

    def step(self, step: str, *path: str) -> str:
        """Return a path below the folder of a step."""
        return "/".join([self.results, "zeta", step, *path])

    def seeded(self, step: str, run: str, name: str) -> list[str]:
        """Return a file of a run's step for every seed."""
        return [self.step(step, run, f"seed{seed}", name) for seed in self.seeds]

    def series(self, run: str) -> str:
        """Return the series of spacings that a run is trained on."""
        return self.step("prepare", f"{self.runs[run].system}.npz")

    def __post_init__(self) -> None:
        """Sort the runs: a reordered YAML file must move no file in any list."""
        object.__setattr__(self, "runs", dict(sorted(self.runs.items())))

    def fitted(self, run: str) -> dict[str, list[str]]:
        """Return what a fit leaves for every seed: best and last weights, and how it went."""
        names = {"weights": "model", "last": "last"}
        files = {key: self.seeded("fit", run, f"{name}.safetensors") for key, name in names.items()}
        return {**files, "histories": self.seeded("fit", run, "history.json")}

    @property
    def zeros(self) -> dict[str, str]:
        """Return the heights: of the series, and of all blocks by name."""
        return {name: self.step("zeros", f"{name}.npz") for name in ("heights", "blocks")}

    @property
    def transfer(self) -> str:
        """Return the readings on the blocks."""
        return self.step("transfer", "windows.npz")

    def beside_runs(self) -> dict[str, Any]:
        """Return what `mdn` reads beside the runs: references of every system, and transfer."""
        names = {"references": "windows.npz", "facts": "facts.json"}
        told = {k: [self.step("references", s, n) for s in self.systems] for k, n in names.items()}
        return {**told, "transfer": self.transfer}

    @property
    def systems(self) -> list[str]:
        """Return the systems that the runs need, the zeros' own first."""
        return ["zeta", *sorted({run.system for run in self.runs.values()} - {"zeta"})]

    @property
    def phase_runs(self) -> list[str]:
        """Return the runs without a transformer."""
        return [name for name, run in self.runs.items() if run.arm in PHASE_ARMS]

    @property
    def transformer_runs(self) -> list[str]:
        """Return the runs of the transformer."""
        return [name for name in self.runs if name not in self.phase_runs]

    @property
    def slot_runs(self) -> list[str]:
        """Return the runs whose memory slots can be cut, on the zeros."""
        whole = [name for name in self._with_slots if self.runs[name].without_slot is None]
        return [name for name in whole if name not in self.uncut]

    @property
    def _with_slots(self) -> list[str]:
        runs = self.runs.items()
        return [name for name, r in runs if r.arm in SLOT_ARMS and r.system == "zeta"]

    @property
    def lacking_runs(self) -> list[str]:
        """Return the runs that slot runs are without memory, or without one of their slots."""
        single = [name for name in self._with_slots if self.runs[name].without_slot is not None]
        whole = [self.runs[name] for name in self.slot_runs]
        bare = [n for n, r in self.runs.items() if any(lacks_memory(run, r) for run in whole)]
        return [*bare, *single]

    @property
    def ablation_runs(self) -> list[str]:
        """Return the slot runs and those trained without one or any of the slots."""
        return [*self.lacking_runs, *self.slot_runs]

    @property
    def kernel_runs(self) -> list[str]:
        """Return the runs whose attention is read: without memory, and with slots in the stream."""
        arms = ("none", "prefix")
        return [n for n, r in self.runs.items() if r.arm in arms and r.without_slot is None]

    def of(self, step: str, runs: Sequence[str], name: str) -> list[str]:
        """Return a file of a step for every seed of every one of `runs`, run by run."""
        return [path for run in runs for path in self.seeded(step, run, name)]

    def rolled(self) -> list[str]:
        """Return the measured windows of every run that is rolled out, and seed."""
        runs = [name for name, run in self.runs.items() if run.arm not in WHOLE_ARMS]
        return self.of("measure", runs, "windows.npz")

    def measures(self) -> list[str]:
        """Return the measured windows of every run and seed."""
        return [path for run in self.runs for path in self.seeded("measure", run, "windows.npz")]

    def histories(self) -> list[str]:
        """Return the training history of every run and seed."""
        return [path for run in self.runs for path in self.seeded("fit", run, "history.json")]
