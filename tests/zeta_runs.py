"""Runs, series and settings in small, shared by the tests of the stages of the room zeta."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from mneme.core.workflow import merge
from mneme.zeta.carry_config import CarryConfig
from mneme.zeta.config import SLOT_ARMS, RunConfig
from mneme.zeta.unfold import heights_of

FOLDER = Path(__file__).parents[1] / "config"
PLAIN = {
    "system": "zeta",
    "position": "rope",
    "slot_id": False,
    "aux": "none",
    "aux_weight": 0.0,
    "regularise": False,
    "drift_weight": 0.0,
    "drift_every": 10,
    "drift_horizon": 4,
    "drift_batch": 4,
    "drift_schedule": "constant",
    "slot_dropout": 0.0,
    "without_slot": None,
    "split": "height",
    "share": 1.0,
    "control_of": None,
}
CARRY = CarryConfig(
    oscillators=6,
    highest=3.0,
    memory=25.0,
    shortest=20.0,
    mobility=1.0,
    channels=2,
    offsets=5,
    first_offset=-1.0,
    last_offset=3.0,
    recent=3,
    features=7,
    refresh=50,
)


def run_of(arm, **changes):
    return RunConfig(arm=arm, **(PLAIN | {"slot_id": arm in SLOT_ARMS} | changes))


def series_of(count, *, start=3000.0, seed=0):
    """Spacings at random, and their heights: levels move by some 1e-2 in a window."""
    spacings = np.random.default_rng(seed).gamma(5.0, 1 / 5, count)
    return {"spacings": spacings, "heights": heights_of(start, spacings)}


def room(size="config"):
    """Return the block `zeta` of the default configuration, or with an overlay laid over it."""
    read = lambda name: yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))  # noqa: E731
    block = read("config")["zeta"]
    return block if size == "config" else merge(block, read(size).get("zeta", {}))
