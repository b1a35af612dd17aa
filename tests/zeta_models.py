"""Tiny SpacingMDNs and their inputs, shared by the tests of the room zeta."""

from __future__ import annotations

import torch

from mneme.core.seeds import torch_generator
from mneme.zeta.config import SLOT_ARMS, ModelConfig
from mneme.zeta.memory import Slots
from mneme.zeta.model import SpacingMDN

ARMS = ("none", *SLOT_ARMS)
READING = tuple(arm for arm in SLOT_ARMS if arm != "prefix")
POSITIONS = ("rope", "learned", "distance")
F = 3


def config_of(**changes):
    values = {"layers": 2, "heads": 2, "width": 16, "components": 4, "window": 32, "slots": 4}
    return ModelConfig(**{**values, "scale_floor": 1e-3, **changes})


def model_of(arm, *, position="rope", slot_id=None, extra=0, seed=0, **changes):
    return SpacingMDN(
        config_of(**changes),
        arm=arm,
        position=position,
        slot_id=arm in SLOT_ARMS if slot_id is None else slot_id,
        extra=extra,
        generator=torch_generator(seed, "model"),
    )


def heights(position, batch=3):
    """Coarse heights for the position coding that reads them."""
    return torch.linspace(11, 13, batch).double() if position == "distance" else None


def spacings(batch=3, steps=31, seed=0, dtype=torch.float64):
    x = torch.rand(batch, steps, generator=torch_generator(seed, "x"), dtype=torch.float64)
    return (2 * x).to(dtype)


def features(batch=3, steps=31, seed=0):
    return torch.randn(batch, steps, F, generator=torch_generator(seed, "f"), dtype=torch.float64)


def cut(batch, slot=None, *, slots=4, width=16, value=0.0):
    keep = torch.ones(batch, slots, dtype=torch.bool)
    keep[:, slice(None) if slot is None else slot] = False
    return Slots(keep_BM=keep, values_BMD=torch.full((batch, slots, width), value))
