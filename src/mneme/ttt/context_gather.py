"""Files of the long-context experiment -> what `context_report` reads (no torch here)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mneme.ttt.context_config import ContextConfig
from mneme.ttt.context_metrics import Arrays, MeasuredRun
from mneme.ttt.paths import MARKOV, lender
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
        Trained run -> its history under each seed; one that borrows weights has those of the
        run that trained them, an untrained network has none.
    """
    measured = {}
    for name, run in config.runs.items():
        recipe = config.recipes[run.recipe]
        trained = _trained_as(config, name)
        of_run = () if trained is None else histories[trained]
        costs = [{key: history[key] for key in _COSTS} for history in of_run]
        chosen = [facts["dynamic"] for facts in told[name] if "dynamic" in facts]
        rates = len(config.context.dynamic.learning_rates) if run.arm == "dynamic" else 0
        measured[name] = MeasuredRun(
            arm=run.arm,
            recipe=run.recipe,
            corpus=recipe.corpus,
            receptive_field=recipe.model.receptive_field,
            trained_tokens=recipe.training.tokens,
            seeds=config.seeds,
            readings=tuple(losses[name]),
            steps_factor=run.steps_factor,
            tried=config.tried[run.recipe] + rates,
            control_of=run.control_of,
            further={"training": costs, "trained_as": trained}
            | ({"dynamic": chosen} if chosen else {}),
        )
    return measured


def _trained_as(config: ContextStageConfig, name: str) -> str | None:
    """Return the run that trained the weights of a run; None where nothing did."""
    return None if config.runs[name].arm == "untrained" else lender(config.runs, name)


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
