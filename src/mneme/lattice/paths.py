"""Where the room's files lie: `<results>/lattice/<step>/<teacher>/<arm>/seed<n>/`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


def by_arm(paths: Iterable[str]) -> dict[str, list[str]]:
    """Sort files `.../<arm>/seed<n>/<name>` by arm, as their own addresses say, in given order."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(str(path).split("/")[-3], []).append(str(path))
    return found


def run_name(teacher: str, arm: str) -> str:
    """Return the name of an arm among the runs of all teachers.

    Examples
    --------
    >>> run_name("smollm2-135m", "on")
    'smollm2_135m_on'
    """
    return f"{teacher}_{arm}".replace("-", "_").replace(".", "_")


@dataclass(frozen=True, kw_only=True)
class LatticePaths:
    """Addresses below one results folder; sorted, so that the order of YAML moves no file."""

    results: str
    """Results folder."""
    runs: Mapping[str, Sequence[str]]
    """Teacher -> arms that are trained on its embeddings."""
    seeds: Sequence[int]
    """Training seeds."""

    def __post_init__(self) -> None:
        """Sort what is listed."""
        arms = {teacher: sorted(names) for teacher, names in sorted(self.runs.items())}
        object.__setattr__(self, "runs", arms)

    @property
    def teachers(self) -> list[str]:
        """Return the teachers that are used."""
        return list(self.runs)

    @property
    def arms(self) -> list[str]:
        """Return all arms that any teacher's embeddings train."""
        return sorted({arm for arms in self.runs.values() for arm in arms})

    def step(self, step: str, *path: str) -> str:
        """Return a path below the folder of a step."""
        return "/".join([self.results, "lattice", step, *path])

    def seeded(self, step: str, teacher: str, arm: str, name: str) -> list[str]:
        """Return a file of an arm's step for every seed."""
        return [self.step(step, teacher, arm, f"seed{seed}", name) for seed in self.seeds]

    def fits(self, teacher: str, name: str) -> list[str]:
        """Return a file of every arm and seed of a teacher, arm by arm."""
        return [p for arm in self.runs[teacher] for p in self.seeded("fit", teacher, arm, name)]
