"""Histories of all trainings -> the blocks of `results/ttt_model.json`.

Metrics: `val_nll` (last reading of the validation documents, nats a token, read as at test time, of
the tokens that the objective counts), `train_nll` (training loss before it), `val_nll_equal_time`
(validation loss when the fastest run of the recipe was done, between two readings), `parameters`,
`train_tokens`, `train_s`, `tokens_per_s`, `time_per_token` and `parameters_share` (against the
recipe's sliding window), `train_s_share` (of a run that trains longer: against the run whose time
it is given), and, for arms with an inner loop, `val_nll_frozen` (as `val_nll`, without updates),
`inner_norm` (mean norm of the inner gradients, before the clip) and `clipped` (share of inner steps
that the clip shortens), both between the last two readings. `configurations_tried` is the count of
the run's recipe, the one in use among them.

A value is the mean over seeds and has no interval: nothing here is a claim, and validation
documents chose the settings. `val_nll_equal_time` is a little hard on the slower arms, whose
learning rate has not come down yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mneme.core.headline import run_block
from mneme.stats.rows import Row
from mneme.stats.tried import tried_row
from mneme.ttt.config import RunConfig

History = Mapping[str, Any]
_UNITS = {
    "val_nll": "nats",
    "val_nll_frozen": "nats",
    "train_nll": "nats",
    "val_nll_equal_time": "nats",
    "parameters": "count",
    "parameters_share": "fraction",
    "train_tokens": "tokens",
    "train_s": "s",
    "train_s_share": "fraction",
    "tokens_per_s": "tokens/s",
    "time_per_token": "fraction",
    "inner_norm": "nats",
    "clipped": "fraction",
}
_KEPT = ("points", "seconds", "tokens", "tokens_per_s", "parameters", "seed")


def model_runs(
    runs: Mapping[str, RunConfig],
    histories: Mapping[str, Sequence[History]],
    *,
    tried: Mapping[str, int],
    seeds: Sequence[int],
) -> dict[str, dict[str, Any]]:
    """Report the training of every run.

    Parameters
    ----------
    runs : mapping
        Run name -> its settings; those that are not trained are left out.
    histories : mapping
        Run name -> history of each seed: `points` of `step`, `train_loss`, `val_nll` (and
        `inner_norm`, `clipped`, `val_nll_frozen`), `seconds`, `tokens`, `tokens_per_s`,
        `parameters`.
    tried : mapping
        Recipe -> configurations tried.
    seeds : sequence of int
        Training seeds, in the order of the histories.

    Returns
    -------
    dict
        Run name -> block of the headline file: `rows`, `arm`, `recipe`, `steps_factor`, `seeds`,
        `history`.
    """
    blocks = {}
    for name, told in histories.items():
        assert len(told) == len(seeds), name
        same = {
            other: runs[other] for other in histories if runs[other].recipe == runs[name].recipe
        }
        shortest = min(history["seconds"] for other in same for history in histories[other])
        plain = [other for other, run in same.items() if run.plain]
        values = [_values(history, shortest=shortest) for history in told]
        if plain:
            base = [_values(history, shortest=shortest) for history in histories[plain[0]]]
            _compare(values, base)
        if runs[name].steps_factor > 1:
            _compare_time(values, histories[str(runs[name].control_of)])
        control = runs[name].control_of
        rows = _rows(values, seeds, control)
        blocks[name] = run_block(
            [*rows, tried_row(tried[runs[name].recipe], control_of=control)],
            arm=runs[name].arm,
            recipe=runs[name].recipe,
            steps_factor=runs[name].steps_factor,
            seeds=list(seeds),
            history=[{k: v for k, v in history.items() if k in _KEPT} for history in told],
        )
    return blocks


def _values(history: History, *, shortest: float) -> dict[str, float]:
    points = history["points"]
    last = points[-1]
    found = {
        "val_nll": last["val_nll"],
        "train_nll": last["train_loss"],
        "val_nll_equal_time": loss_at(history, shortest),
        "parameters": history["parameters"],
        "train_tokens": history["tokens"],
        "train_s": history["seconds"],
        "tokens_per_s": history["tokens_per_s"],
    }
    further = ("val_nll_frozen", "inner_norm", "clipped")
    return found | {key: last[key] for key in further if key in last}


def loss_at(history: History, seconds: float) -> float:
    """Return the validation loss after so many seconds of training, nats.

    Parameters
    ----------
    history : mapping
        Of one training; its steps are taken to last equally long.
    seconds : float
        At most those of the whole training; before the first reading that reading's loss.
    """
    points = history["points"]
    steps = np.array([point["step"] for point in points], float)
    when = history["seconds"] * steps / steps[-1]
    return float(np.interp(seconds, when, [point["val_nll"] for point in points]))


def _compare(values: Sequence[dict[str, float]], base: Sequence[Mapping[str, float]]) -> None:
    """Add what a run costs against the sliding window, seeds of which are averaged."""
    parameters, speed = (
        float(np.mean([one[key] for one in base])) for key in ("parameters", "tokens_per_s")
    )
    for one in values:
        one["parameters_share"] = one["parameters"] / parameters
        one["time_per_token"] = speed / one["tokens_per_s"]


def _compare_time(values: Sequence[dict[str, float]], other: Sequence[History]) -> None:
    """Add how much of another run's training time a run took, seeds of which are averaged."""
    seconds = float(np.mean([history["seconds"] for history in other]))
    for one in values:
        one["train_s_share"] = one["train_s"] / seconds


def _rows(
    values: Sequence[Mapping[str, float]], seeds: Sequence[int], control_of: str | None
) -> list[Row]:
    rows = []
    for metric, unit in _UNITS.items():
        if metric not in values[0]:
            continue
        told = {"metric": metric, "unit": unit, "control_of": control_of}
        every = [float(one[metric]) for one in values]
        rows.append(Row(value=float(np.mean(every)), n=len(every), **told))
        pairs = zip(seeds, every, strict=True)
        rows += [Row(value=value, seed=seed, **told) for seed, value in pairs]
    return rows
