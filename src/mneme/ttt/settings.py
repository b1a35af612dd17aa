"""All settings of the room (no torch here)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mneme.core.config import ConfigError, require
from mneme.ttt.adapter_config import AdapterConfig
from mneme.ttt.chat_config import ChatConfig
from mneme.ttt.config import (
    BORROWED_ARMS,
    TTT_ARMS,
    UNFITTED_ARMS,
    ModelConfig,
    RecipeConfig,
    RecipeSettings,
    RunConfig,
    TriedConfig,
)
from mneme.ttt.context_config import ContextConfig, require_sets
from mneme.ttt.corpus_config import CorpusConfig, DailyDialogConfig, MarkovConfig
from mneme.ttt.grid_config import GridConfig
from mneme.ttt.paths import MARKOV


@dataclass(frozen=True, kw_only=True)
class TTTConfig:
    """Room `ttt`."""

    seeds: tuple[int, ...]
    """Training seeds, at least one."""
    corpora: dict[str, CorpusConfig]
    """Corpora of text by name."""
    daily_dialog: DailyDialogConfig
    """Where the source `daily_dialog` of a corpus is fetched, if one is used."""
    markov: MarkovConfig
    """The corpus `markov`, whose ideal reader is known."""
    sizes: dict[str, ModelConfig]
    """Networks by name; recipes choose one of them."""
    recipes: dict[str, RecipeSettings]
    """What all arms of one comparison share."""
    runs: dict[str, RunConfig]
    """All runs; controls are runs beside the real ones."""
    tried: TriedConfig
    """Configurations tried before these; told in every headline file."""
    adapter: AdapterConfig
    """Dialogue adapters."""
    grid: GridConfig
    """Memory grid."""
    context: ContextConfig
    """Long-context experiment."""
    chat: ChatConfig
    """`mneme chat`."""

    def __post_init__(self) -> None:
        unique = len(set(self.seeds)) == len(self.seeds) > 0
        require(unique, "seeds", "different ones, at least one", self.seeds)
        free = MARKOV not in self.corpora
        require(free, "corpora", f"without {MARKOV}, which is drawn", sorted(self.corpora))
        known = {*self.corpora, MARKOV}
        for name, recipe in self.recipes.items():
            there = recipe.corpus in known
            rule = f"one of {', '.join(sorted(known))}"
            require(there, f"recipes.{name}.corpus", rule, recipe.corpus)
            try:
                recipe.sized(self.sizes)
            except ConfigError as error:
                raise ConfigError(f"recipes.{name}.{error}") from None
            if recipe.corpus == MARKOV and self.markov.begin.steps:
                least, whole = recipe.inner.chunk, recipe.training.tokens
                fits = self.markov.begin.tokens > least and whole % self.markov.begin.tokens == 0
                rule = f"above inner.chunk = {least} and a divisor of training.tokens = {whole}"
                require(fits, "markov.begin.tokens", rule, self.markov.begin.tokens)
        named = {"corpora": self.corpora, "recipes": self.recipes, "runs": self.runs}
        named |= {"adapter.runs": self.adapter.runs, "context.sets": self.context.sets}
        for block, names in named.items():
            for name in names:
                fits = re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None
                require(fits, block, "named in lower case, digits and _", name)
        for name, run in self.runs.items():
            self._require_run(name, run)
        self._require_talkers()
        self._require_grid()
        self._require_sets()
        self._require_updated()
        for key, named in {"recipes": self.recipes, "adapters": self.adapter.runs}.items():
            counted = getattr(self.tried, key)
            rule = f"one count for each of {', '.join(sorted(named))}"
            require(set(counted) == set(named), f"tried.{key}", rule, sorted(counted))

    def recipe(self, run: str) -> RecipeConfig:
        """Return the recipe of a run: network, inner loop, and training as long as the run's."""
        chosen = self.runs[run]
        return chosen.own(self.recipes[chosen.recipe].sized(self.sizes))

    def _require_run(self, name: str, run: RunConfig) -> None:
        there = run.recipe in self.recipes
        rule = f"one of {', '.join(sorted(self.recipes)) or '(none)'}"
        require(there, f"runs.{name}.recipe", rule, run.recipe)
        known = run.control_of is None or (run.control_of in self.runs and run.control_of != name)
        require(known, f"runs.{name}.control_of", "null or another run", run.control_of)
        other = self.runs.get(run.control_of or "", run)
        trained = other.recipe == run.recipe and other.arm not in UNFITTED_ARMS
        timed = run.steps_factor == 1 or (other is not run and trained)
        rule = "1, unless control_of is a trained run of its recipe, whose time it is given"
        require(timed, f"runs.{name}.steps_factor", rule, run.steps_factor)
        wanted = BORROWED_ARMS.get(run.arm)
        same = [r for r in self.runs.values() if r.recipe == run.recipe and r.steps_factor == 1]
        lent = wanted is None or [r.arm for r in same].count(wanted) == 1
        rule = f"another arm: its weights are those of the recipe's one {wanted} run"
        require(lent, f"runs.{name}.arm", rule, run.arm)

    def _require_talkers(self) -> None:
        """Check the runs that adapters, the grid and the chat open."""
        talkers = sorted(
            name
            for name, run in self.runs.items()
            if run.arm in TTT_ARMS
            and run.arm not in UNFITTED_ARMS
            and self.recipes[run.recipe].corpus != MARKOV
        )
        rule = f"a run with fast weights on text: {', '.join(talkers)}"
        require(self.chat.run in talkers, "chat.run", rule, self.chat.run)
        for name, adapter in self.adapter.runs.items():
            key = f"adapter.runs.{name}"
            require(adapter.base in talkers, f"{key}.base", rule, adapter.base)
            corpus = self.recipes[self.runs[adapter.base].recipe].corpus
            talks = "conversation" in self.corpora[corpus].source_of
            require(talks, f"{key}.base", "a run whose corpus has conversations", adapter.base)
        for name, adapter in self.adapter.runs.items():
            other = adapter.control_of
            paired = other is None or (
                other != name and self.adapter.runs[other].base == adapter.base
            )
            rule = "null or another adapter of its base"
            require(paired, f"adapter.runs.{name}.control_of", rule, other)

    def _require_updated(self) -> None:
        """Check the adapters that are read with updates: those whose controls are too."""
        updated = set(self.adapter.measure.updated)
        controls = {n for n, one in self.adapter.runs.items() if one.control_of in updated}
        known = updated <= set(self.adapter.runs) and controls <= updated
        rule = "names of adapter.runs, with the controls of each"
        require(known, "adapter.measure.updated", rule, self.adapter.measure.updated)

    def _require_grid(self) -> None:
        """Check that the grid reads one adapter a run, and knows the recipe of each."""
        read = {n: run.base for n, run in self.adapter.runs.items() if run.control_of is None}
        require(bool(read), "adapter.runs", "with one that is no control", [*self.adapter.runs])
        for name, base in sorted(read.items()):
            alone = [*read.values()].count(base) == 1
            rule = f"another adapter of {base}, as the grid reads one adapter a run"
            require(alone, f"adapter.runs.{name}.control_of", rule, None)
            recipe = self.runs[base].recipe
            rule = f"with {recipe}, the recipe of {base}, which the grid reads"
            require(recipe in self.grid.recipes, "grid.recipes", rule, [*self.grid.recipes])
            for taken in (f"{base}_adapter", f"{base}_untrained"):
                rule = f"without the name {taken}, which the grid gives"
                require(taken not in self.runs, "runs", rule, taken)
        for recipe in self.grid.recipes:
            rule = f"some of {', '.join(sorted(self.recipes))}"
            require(recipe in self.recipes, "grid.recipes", rule, recipe)

    def _require_sets(self) -> None:
        """Check that runs are trained on the corpus of every set, and that it has its kind."""
        try:
            require_sets(
                self.context, sorted({self.recipes[r.recipe].corpus for r in self.runs.values()})
            )
        except ConfigError as error:
            raise ConfigError(f"context.{error}") from None
        for name, one in self.context.sets.items():
            kinds = ["chain"]
            if one.corpus != MARKOV:
                kinds = [*self.corpora[one.corpus].source_of]
            rule = f"a kind that corpus {one.corpus} has: {', '.join(kinds)}"
            require(one.kind in kinds, f"context.sets.{name}.kind", rule, one.kind)
            reach = max(
                self.sizes[recipe.size].receptive_field
                for recipe in self.recipes.values()
                if recipe.corpus == one.corpus
            )
            needed = one.needed(reach)
            rule = (
                f"at least {needed - 1}: adapt_tokens, a receptive field ({reach}), counted_tokens"
            )
            require(one.tokens >= needed - 1, f"context.sets.{name}.tokens", rule, one.tokens)
