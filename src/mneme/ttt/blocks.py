"""What each rule of the room is told: exactly the settings that its script uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from mneme.ttt.config import BASELINES, Arm, RecipeConfig
from mneme.ttt.context_config import ContextConfig, SetConfig
from mneme.ttt.paths import MARKOV, TTTPaths
from mneme.ttt.settings import TTTConfig

Block = Any | Callable[[Any], Mapping[str, Any]]


def ttt_blocks(config: TTTConfig, paths: TTTPaths) -> dict[str, Block]:
    """Return rule name -> its settings, or a function of the rule's wildcards returning them."""

    def trained(name: str) -> dict[str, Any]:
        run, recipe = config.runs[name], config.recipe(name)
        drawn = recipe.corpus == MARKOV
        return {
            "name": name,
            "arm": run.arm,
            "recipe_name": run.recipe,
            "recipe": recipe,
            "corpus": None if drawn else config.corpora[recipe.corpus],
            "markov": config.markov if drawn else None,
            "seeds": config.seeds,
        }

    def measured(wildcards: Any) -> dict[str, Any]:
        told = trained(wildcards.run)
        sets = config.context.sets_of(told["recipe"].corpus)
        return {**told, "context": _as_read(config.context, sets, told["arm"])}

    def adapted(wildcards: Any) -> dict[str, Any]:
        run = config.adapter.runs[wildcards.run]
        further = {"training": config.adapter.training, "measure": config.adapter.measure}
        return {"name": wildcards.run, "run": run, "base": trained(run.base), **further}

    def chosen(names: list[str]) -> dict[str, Any]:
        runs = {name: config.runs[name] for name in names}
        return {"runs": runs, "seeds": config.seeds, "tried": _tried(config, names)}

    return {
        "ttt_prepare": lambda wildcards: {
            "name": wildcards.corpus,
            "corpus": config.corpora[wildcards.corpus],
        },
        "ttt_fit": lambda wildcards: trained(wildcards.run),
        "ttt_measure": measured,
        "ttt_model": chosen(paths.fitted),
        "ttt_adapter_fit": adapted,
        "ttt_adapter": {
            "runs": config.adapter.runs,
            "tried": config.tried.adapters,
            "resamples": config.adapter.resamples,
            "seeds": config.seeds,
        },
        "ttt_grid": {
            "bases": {name: trained(name) for name in paths.grid_runs},
            "adapters": {name: config.adapter.runs[name] for name in paths.grid_adapters},
            "grid": config.grid,
            "seeds": config.seeds,
            "tried": _tried(config, paths.grid_runs),
        },
        "ttt_context": {
            **chosen(paths.measured),
            "recipes": _shared(config, paths.measured),
            "context": config.context,
        },
    }


def _tried(config: TTTConfig, runs: Iterable[str]) -> dict[str, int]:
    recipes = sorted({config.runs[run].recipe for run in runs})
    return {name: config.tried.recipes[name] for name in recipes}


def _shared(config: TTTConfig, runs: Iterable[str]) -> dict[str, RecipeConfig]:
    """Return what all arms of the recipes of some runs share."""
    recipes = sorted({config.runs[run].recipe for run in runs})
    return {name: config.recipes[name].sized(config.sizes) for name in recipes}


def _as_read(context: ContextConfig, sets: Mapping[str, SetConfig], arm: Arm) -> ContextConfig:
    """Fix what only the report or another arm uses: editing that measures nothing anew."""
    read = {name: replace(one, edges=(1, one.tokens + 1)) for name, one in sets.items()}
    unused = replace(
        context.dynamic, learning_rates=(1.0,), documents=1, tokens=1, batch=1, kinds=()
    )
    return replace(
        context,
        sets=read,
        resamples=100,
        dynamic=context.dynamic if arm == "dynamic" else unused,
        untrained_kinds=context.untrained_kinds if arm in BASELINES else (),
    )
