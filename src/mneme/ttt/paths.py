"""Where the room's files lie: `<results>/ttt/<step>/<run>/seed<n>/`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mneme.ttt.adapter_config import AdapterRunConfig
from mneme.ttt.config import BORROWED_ARMS, UNFITTED_ARMS, RecipeSettings, RunConfig

MARKOV = "markov"
"""The corpus that is drawn, not read."""


def by_run(paths: Iterable[str]) -> dict[str, list[str]]:
    """Sort files `.../<run>/seed<n>/<name>` by run, as their own addresses say, in given order."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(str(path).split("/")[-3], []).append(str(path))
    return found


def lender(runs: Mapping[str, RunConfig], run: str) -> str:
    """Return the run that trains the weights of a run: itself, or the one it borrows them from."""
    wanted = BORROWED_ARMS.get(runs[run].arm)
    if wanted is None:
        return run
    equal = [n for n, r in runs.items() if r.arm == wanted and r.steps_factor == 1]
    return next(n for n in equal if runs[n].recipe == runs[run].recipe)


@dataclass(frozen=True, kw_only=True)
class TTTPaths:
    """Addresses below one results folder; runs sorted, so that the order of YAML moves no file."""

    results: str
    """Results folder."""
    recipes: Mapping[str, RecipeSettings]
    """All recipes by name."""
    runs: Mapping[str, RunConfig]
    """All runs by name."""
    adapters: Mapping[str, AdapterRunConfig]
    """All adapters by name."""
    context_corpora: Sequence[str]
    """Corpora whose test documents the long-context experiment reads."""
    borrowed: Sequence[str]
    """Corpora in the embedded model's tokens."""
    seeds: Sequence[int]
    """Training seeds."""

    def __post_init__(self) -> None:
        """Sort what is listed."""
        object.__setattr__(self, "runs", dict(sorted(self.runs.items())))
        object.__setattr__(self, "adapters", dict(sorted(self.adapters.items())))

    def step(self, step: str, *path: str) -> str:
        """Return a path below the folder of a step."""
        return "/".join([self.results, "ttt", step, *path])

    def seeded(self, step: str, run: str, name: str) -> list[str]:
        """Return a file of a run's step for every seed."""
        return [self.step(step, run, f"seed{seed}", name) for seed in self.seeds]

    def of(self, step: str, runs: Iterable[str], name: str) -> list[str]:
        """Return a file of a step for every seed of every one of `runs`, run by run."""
        return [path for run in runs for path in self.seeded(step, run, name)]

    def corpus(self, run: str) -> str:
        """Return the corpus of a run."""
        return self.recipes[self.runs[run].recipe].corpus

    def prepared(self, corpus: str) -> dict[str, str]:
        """Return what preparing a corpus leaves; nothing for the one that is drawn."""
        if corpus == MARKOV:
            return {}
        names = {"tokens": "tokens.npz", "tokenizer": "tokenizer.json", "facts": "facts.json"}
        return {key: self.step("prepare", corpus, name) for key, name in names.items()}

    def weights_of(self, run: str) -> str:
        """Return the run whose weights a run is measured with: another's for `dynamic`, `naive`."""
        return lender(self.runs, run)

    def weights(self, run: str) -> list[str]:
        """Return the weights that a run is measured with, seed by seed; none if untrained."""
        if self.runs[run].arm == "untrained":
            return []
        return self.seeded("fit", self.weights_of(run), "model.safetensors")

    @property
    def corpora(self) -> list[str]:
        """Return the corpora that are prepared."""
        return sorted({self.corpus(run) for run in self.runs} - {MARKOV})

    @property
    def fitted(self) -> list[str]:
        """Return the runs that are trained."""
        return [name for name, run in self.runs.items() if run.arm not in UNFITTED_ARMS]

    @property
    def measured(self) -> list[str]:
        """Return the runs of the long-context experiment."""
        return [name for name in self.runs if self.corpus(name) in self.context_corpora]

    @property
    def compared(self) -> list[str]:
        """Return the trained ones among them."""
        return [name for name in self.measured if name in self.fitted]

    @property
    def read_corpora(self) -> list[str]:
        """Return the prepared corpora of the long-context experiment."""
        return sorted(set(self.context_corpora) - {MARKOV})

    def base_corpus(self, adapter: str) -> str:
        """Return the corpus of the run that an adapter is trained on."""
        return self.corpus(self.adapters[adapter].base)

    @property
    def grid_adapters(self) -> list[str]:
        """Return the adapters that the memory grid reads: all but the controls."""
        return [name for name, run in self.adapters.items() if run.control_of is None]

    @property
    def grid_runs(self) -> list[str]:
        """Return the runs that those adapters stand on."""
        return sorted({self.adapters[name].base for name in self.grid_adapters})

    @property
    def grid_corpora(self) -> list[str]:
        """Return the corpora of those runs."""
        return sorted({self.corpus(name) for name in self.grid_runs})
