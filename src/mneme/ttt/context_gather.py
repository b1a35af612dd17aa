"""Files of the long-context experiment -> what `context_report` reads (no torch here)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mneme.ttt.context_config import ContextConfig
from mneme.ttt.context_metrics import Arrays, MeasuredRun
from mneme.ttt.paths import MARKOV
from mneme.ttt.stages import ContextStageConfig

Json = Mapping[str, Any]
_COSTS = ("parameters", "tokens", "seconds", "tokens_per_s")


def measured_runs(
    config: ContextStageConfig,
    losses: Mapping[str, Sequence[Arrays]],
    told: Mapping[str, Sequence[Json]],
    histories: Mapping[str, Sequence[Json]],
) -> dict[str, MeasuredRun]:
    """Return every run's readings, in the order of `config.runs`.

    Parameters
    ----------
    config : ContextStageConfig
        Runs and recipes.
    losses, told : mapping
        Run -> what was read, and what was chosen for its arm, under each seed.
    histories : mapping
        Trained run -> its history under each seed; dynamic evaluation has those of the sliding
        window whose weights it reads with.
    """
    measured = {}
    for name, run in config.runs.items():
        recipe = config.recipes[run.recipe]
        trained = _sliding(config, run.recipe) if run.arm == "dynamic" else name
        costs = [{key: history[key] for key in _COSTS} for history in histories[trained]]
        chosen = [facts["dynamic"] for facts in told[name] if "dynamic" in facts]
        measured[name] = MeasuredRun(
            arm=run.arm,
            recipe=run.recipe,
            corpus=recipe.corpus,
            receptive_field=recipe.model.receptive_field,
            seeds=config.seeds,
            readings=tuple(losses[name]),
            control_of=run.control_of,
            further={"training": costs, "trained_as": trained}
            | ({"dynamic": chosen} if chosen else {}),
        )
    return measured


def _sliding(config: ContextStageConfig, recipe: str) -> str:
    (found,) = (n for n, r in config.runs.items() if (r.recipe, r.arm) == (recipe, "sliding"))
    return found


def bytes_per_token(config: ContextConfig, facts: Mapping[str, Json]) -> dict[str, float]:
    """Return the mean bytes of a token of each set of text, over the test split of its kind.

    Parameters
    ----------
    config : ContextConfig
        Sets.
    facts : mapping
        Corpus -> facts that `ttt_prepare` left.
    """
    scale = {}
    for name, one in config.sets.items():
        if one.corpus == MARKOV:
            continue
        parts = facts[one.corpus]["parts"]
        (part,) = (p for p in parts if (p["split"], p["kind"]) == ("test", one.kind))
        scale[name] = part["bytes_per_token"]
    return scale
