"""Which runs differ from a run by one part only, so that a difference has one cause (no numpy).

Parts are the memory itself (`arm`), identities of slots, a second task, regularisers, the drift
loss and slot dropout. A drift loss trains every parameter, so it is no part of the memory: what
memory is worth under a drift loss is read against a memoryless run with the same one. What only
slots can have (identities, their second task, regularisers, dropout) goes when they go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mneme.zeta.config import SLOT_ARMS, RunConfig

_NO_DRIFT: dict[str, Any] = {
    "drift_weight": 0.0,
    "drift_every": 1,
    "drift_horizon": 1,
    "drift_batch": 1,
    "drift_schedule": "constant",
}
_NO_TASK: dict[str, Any] = {"aux": "none", "aux_weight": 0.0}
_PARTS: dict[str, dict[str, Any]] = {
    "slot_id": {"slot_id": False},
    "aux": _NO_TASK,
    "regularise": {"regularise": False},
    "drift_weight": _NO_DRIFT,
    "slot_dropout": {"slot_dropout": 0.0},
}
"""Key that says whether a part is there -> what it is without."""
_NO_SLOTS: dict[str, Any] = {
    **_NO_TASK,
    "slot_id": False,
    "regularise": False,
    "slot_dropout": 0.0,
    "without_slot": None,
}


def plainly(run: RunConfig) -> RunConfig:
    """Return a run as it is trained: what is switched off has no settings, nor has it a control."""
    off = {"control_of": None}
    if run.drift_weight == 0:
        off |= _NO_DRIFT
    if run.aux == "none":
        off |= _NO_TASK
    return replace(run, **off)


def without_memory(run: RunConfig) -> RunConfig:
    """Return the run that lacks the memory and nothing that a memoryless network can have."""
    return plainly(replace(run, arm="none", **_NO_SLOTS))


def lacks_memory(run: RunConfig, other: RunConfig) -> bool:
    """Return whether `other` is `run` without its memory: same data, positions and drift loss."""
    return run.arm != "none" and plainly(other) == without_memory(run)


def partners(name: str, runs: Mapping[str, RunConfig]) -> list[str]:
    """Return the runs on the same windows that a run is set against, in the order of `runs`.

    Those are the memoryless run with the same drift loss, and the one without any (as the source
    compares); every run that lacks one part of this one; the prefix slots where only the place of
    the slots differs; and `carry_reset` for `carry`. The share of the training windows is left
    out of account: prime heads see every eighth.
    """
    run = replace(plainly(runs[name]), share=1.0)
    bare = without_memory(run)
    wanted = [bare, plainly(replace(bare, **_NO_DRIFT))]
    wanted += [
        plainly(replace(run, **without)) for part, without in _PARTS.items() if _has(run, part)
    ]
    if run.arm in SLOT_ARMS:
        wanted.append(replace(run, arm="prefix"))
    if run.arm == "carry":
        wanted.append(replace(run, arm="carry_reset"))
    return [
        other
        for other, theirs in runs.items()
        if other != name and replace(plainly(theirs), share=1.0) in wanted
    ]


def _has(run: RunConfig, part: str) -> bool:
    return getattr(run, part) not in (False, "none", 0.0)
