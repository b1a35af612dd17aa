"""All settings of the room (no torch here)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mneme.core.config import require
from mneme.lattice.config import BASELINES, ArmConfig, RecipeConfig, require_trainable
from mneme.lattice.original_config import OriginalConfig
from mneme.lattice.paths import run_name
from mneme.lattice.planted_config import PlantedConfig
from mneme.lattice.prepare import PairsConfig
from mneme.lattice.stages_measure import PLANTED, MeasureConfig
from mneme.lattice.teacher_config import TeacherConfig


@dataclass(frozen=True, kw_only=True)
class LatticeConfig:
    """Room `lattice`."""

    seeds: tuple[int, ...]
    """Training seeds, at least one."""
    pairs: PairsConfig
    """Question-answer pairs."""
    teachers: dict[str, TeacherConfig]
    """Catalogue of teachers."""
    batch: int
    """Texts embedded at a time."""
    recipes: dict[str, RecipeConfig]
    """Teacher -> what its arms share."""
    arms: dict[str, ArmConfig]
    """All arms; controls are arms beside the real ones."""
    runs: dict[str, tuple[str, ...]]
    """Teacher -> arms that are trained on its embeddings."""
    tried: dict[str, int]
    """Teacher with a recipe -> configurations compared before it was fixed, itself among them, at
    least 1; docs/log.md tells which."""
    measure: MeasureConfig
    """How arms are read."""
    original: OriginalConfig
    """The source's run."""
    planted: PlantedConfig
    """Positive control: a rule that a lattice can find and nothing else here can."""

    def __post_init__(self) -> None:
        unique = len(set(self.seeds)) == len(self.seeds) > 0
        require(unique, "seeds", "different ones, at least one", self.seeds)
        require(self.batch >= 1, "batch", "at least 1", self.batch)
        self._require_names()
        for name, arm in self.arms.items():
            other = arm.control_of
            known = other is None or (other in self.arms and other != name)
            require(known, f"arms.{name}.control_of", "null or another arm", arm.control_of)
        rule = f"one count for each of {', '.join(sorted(self.recipes))}"
        require(set(self.tried) == set(self.recipes), "tried", rule, sorted(self.tried))
        for teacher, count in self.tried.items():
            require(count >= 1, f"tried.{teacher}", "at least 1", count)
        require(len(self.runs) >= 1, "runs", "at least one teacher", self.runs)
        for teacher, arms in self.runs.items():
            known = teacher in self.teachers
            require(known, "runs", f"teachers out of {sorted(self.teachers)}", teacher)
            there = teacher in self.recipes
            require(there, "recipes", f"with teacher {teacher} of runs", sorted(self.recipes))
            listed = set(arms) <= set(self.arms) and len(set(arms)) == len(arms) > 0
            rule = f"different ones out of {sorted(self.arms)}, at least one"
            require(listed, f"runs.{teacher}", rule, arms)
            for name in arms:
                self._require_arm(teacher, name)
        self._require_runs()

    def _require_names(self) -> None:
        named = {"teachers": self.teachers, "arms": self.arms, "planted.arms": self.planted.arms}
        for block, members in named.items():
            for name in members:
                fits = re.fullmatch(r"[a-z][a-z0-9_.-]*", name) is not None
                require(fits, block, "named in lower case, digits, _ . and -", name)
        free = PLANTED not in self.teachers
        require(free, f"teachers.{PLANTED}", "named otherwise: the control has that name", PLANTED)
        for name in (*self.arms, *self.planted.arms):
            rule = "named otherwise than the baselines, which every teacher has"
            require(name not in BASELINES, "arms", rule, name)

    def _require_arm(self, teacher: str, name: str) -> None:
        """Raise ConfigError unless an arm can be trained on a teacher's embeddings."""
        arm, recipe, train = self.arms[name], self.recipes[teacher], self.pairs.train
        require_trainable(
            arm,
            recipe.fit,
            train=train,
            arm_at=f"arms.{name}",
            fit_at=f"recipes.{teacher}.fit",
            train_at="pairs.train",
        )
        kept = recipe.cell.surface_size
        enough = arm.start == "random" or 2 * (arm.pairs or train) > kept
        rule = f"more than {kept // 2} for a start from {kept} principal components"
        require(
            enough, f"arms.{name}.pairs" if arm.pairs else "pairs.train", rule, arm.pairs or train
        )
        enough = 2 * train > kept
        rule = f"more than {kept // 2}, as principal components keep {kept} numbers"
        require(enough, "pairs.train", rule, train)

    def _require_runs(self) -> None:
        """Raise ConfigError where two runs of the headline would have one name."""
        owners: dict[str, str] = {}
        every = {**self.runs, PLANTED: tuple(self.planted.arms)}
        for teacher, arms in every.items():
            for name in (*BASELINES, *arms):
                owner = owners.setdefault(run_name(teacher, name), f"{teacher} {name}")
                free = owner == f"{teacher} {name}"
                rule = f"named so that no run is called {run_name(teacher, name)} like {owner}"
                require(free, "runs", rule, f"{teacher} {name}")
