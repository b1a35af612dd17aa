"""Diagnostics A-F: each phenomenon is planted in a model of a few lines and found."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mneme.core.seeds import numpy_generator, torch_generator
from mneme.zeta.ablation_config import DiagnosticsConfig
from mneme.zeta.ablation_report import Resampling
from mneme.zeta.config import SLOT_ARMS, ModelConfig
from mneme.zeta.diagnostics import (
    attention_mass,
    derangement,
    diagnose,
    slot_gradients,
)
from mneme.zeta.diagnostics_report import cosines, diagnostics_block
from mneme.zeta.memory import Bank
from mneme.zeta.mixture import Mixture
from mneme.zeta.model import Output, SpacingMDN
from mneme.zeta.window_set import WindowSet

CONFIG = DiagnosticsConfig(
    windows=24, gradient_windows=8, permutations=3, context=16, horizon=10, rows=64
)
LETTERS = {
    "slot_mass",
    "permutation_effect",
    "interaction",
    "gradient_correlation",
    "teacher_forced_effect",
    "rollout_effect",
    "exposure_gap",
    "effect_norm",
    "slot_cosine",
    "slot_norm",
}


class Planted(nn.Module):
    """Predicts 1 + c (last spacing - 1); `read` makes c of the four slots' first coordinates."""

    def __init__(self, firsts, read) -> None:
        super().__init__()
        self.bank, self.read = Bank(4, 2, slot_id=False), read
        with torch.no_grad():
            self.bank.slots_MD.copy_(torch.tensor([firsts, [0.0, 1.0, 2.0, 3.0]]).T)
        self.double()
        self.arm, self.prefix = "film", 0
        self.config = SimpleNamespace(window=40, slots=4, width=2)

    def forward(self, spacings_BT, *, level_B=None, slots=None, cache=None, **unused):
        assert level_B is None
        if cache is not None:
            cache.length += spacings_BT.shape[1]
        coefficient_B = self.read(self.bank(len(spacings_BT), slots)[..., 0])
        means = (1 + coefficient_B[:, None] * (spacings_BT - 1))[..., None]
        mixture = Mixture(torch.zeros_like(means), means, torch.full_like(means, 0.2))
        return Output(mixture, None, None, cache)


def windows_of(count=24):
    noise = numpy_generator(0, "windows").normal(size=(count, 40))
    return 1 + 0.4 * (-1.0) ** np.arange(40) + 0.1 * noise


def window_set(windows):
    return WindowSet(spacings_WN=torch.as_tensor(windows), level_W=None)


def block_of(model, *, seeds=(0,)):
    generator = torch_generator(0, "orders")
    found = diagnose(model, window_set(windows_of()), config=CONFIG, generator=generator)
    resampling = Resampling(block=4, resamples=200, generator=numpy_generator(0, "rows"))
    return diagnostics_block(dict.fromkeys(seeds, found), resampling=resampling, control_of=None)


def values(block, seed=None):
    return {row["metric"]: row for row in block["rows"] if row["seed"] == seed}


def model_of(arm, *, slot_id=False):
    sizes = ModelConfig(
        layers=2, heads=2, width=16, components=3, window=40, slots=4, scale_floor=0.01
    )
    return SpacingMDN(
        sizes,
        arm=arm,
        position="rope",
        slot_id=slot_id,
        extra=0,
        generator=torch_generator(0, "model"),
    ).double()


# --- known answers


def test_slots_that_stand_in_for_each_other_cost_only_together():
    either = Planted([1.0, 1.0, 1.0, 1.0], lambda s: -torch.maximum(s[:, 0], s[:, 1]))
    block = block_of(either)
    rows = values(block)
    assert rows["interaction@0+1"]["low"] > 1
    for pair in ("0+2", "0+3", "1+2", "1+3", "2+3"):
        assert rows[f"interaction@{pair}"]["value"] == 0.0
    assert rows["interaction"]["value"] == pytest.approx(rows["interaction@0+1"]["value"] / 6)
    assert rows["interaction@all"]["value"] == pytest.approx(rows["interaction@0+1"]["value"])
    windows = windows_of()
    last, target = windows[:, :-1], windows[:, 1:]
    cost = ((1 - target) ** 2 - (2 - last - target) ** 2).mean() / (2 * 0.2**2)
    assert rows["interaction@0+1"]["value"] == pytest.approx(cost)
    assert np.diag(block["interaction"]) == pytest.approx(np.zeros(4))


def test_gradients_agree_oppose_or_have_nothing_in_common():
    model = Planted([0.3, 0.3, 0.2, 9.0], lambda s: -(s[:, 0] + s[:, 1] - s[:, 2]))
    block = block_of(model)
    rows = values(block)
    assert rows["gradient_correlation@0+1"]["value"] == pytest.approx(1)
    assert rows["gradient_correlation@0+2"]["value"] == pytest.approx(-1)
    assert rows["gradient_correlation@0+3"]["value"] == 0.0
    assert rows["gradient_correlation"]["value"] == pytest.approx(-1 / 6)
    assert np.diag(block["gradient_correlation"]) == pytest.approx([1, 1, 1, 0])
    assert rows["gradient_correlation"]["n"] == CONFIG.gradient_windows


def test_permuting_slots_that_are_summed_changes_nothing_and_of_one_that_is_read_all():
    summed = Planted([-0.1, -0.2, -0.3, -0.4], lambda s: s.sum(1))
    assert values(block_of(summed))["permutation_effect"]["value"] == pytest.approx(0, abs=1e-12)
    special = Planted([0.0, 0.0, 0.0, -1.0], lambda s: s[:, 3])
    windows = windows_of()
    last, target = windows[:, :-1], windows[:, 1:]
    moved, error = np.abs(last - 1).mean(), np.abs(2 - last - target).mean()
    row = values(block_of(special))["permutation_effect"]
    assert row["value"] == pytest.approx(100 * moved / error)
    assert special.bank.slots_MD[3, 0].item() == -1.0, "the model is left as it was"


def test_one_step_and_rollout_tell_a_slot_that_matters_and_one_that_does_not():
    block = block_of(Planted([5.0, 5.0, 5.0, -1.0], lambda s: s[:, 3]))
    rows = values(block)
    windows = windows_of()
    last, target = windows[:, :-1], windows[:, 1:]
    whole, cut = np.abs(2 - last - target).mean(), np.abs(1 - target).mean()
    assert rows["teacher_forced_effect@3"]["value"] == pytest.approx(100 * (cut - whole) / whole)
    assert rows["effect_norm@3"]["value"] == pytest.approx(np.sqrt(((last - 1) ** 2).mean()))
    future, seen = windows[:, 16:26], windows[:, 15:16]
    rolled = np.abs(1 - (seen - 1) * (-1.0) ** np.arange(10) - future).mean()
    expected = 100 * (np.abs(1 - future).mean() - rolled) / rolled
    assert rows["rollout_effect@3"]["value"] == pytest.approx(expected)
    assert rows["exposure_gap"]["value"] == pytest.approx(100 * (rolled - whole) / whole)
    for slot in range(3):
        for metric in ("teacher_forced_effect", "rollout_effect", "effect_norm"):
            assert rows[f"{metric}@{slot}"]["value"] == rows[f"{metric}@{slot}"]["high"] == 0.0
    assert rows["slot_norm@3"]["value"] == pytest.approx(np.sqrt(10))
    assert rows["slot_mass"]["value"] is None
    assert "arm" in rows["slot_mass"]["reason"]


def test_even_attention_gives_each_slot_one_share():
    model = model_of("prefix")
    with torch.no_grad():
        for layer in model.blocks:
            layer.attention.qkv.weight.zero_()
    mass = attention_mass(model, window_set(windows_of(5)), rows=32)
    share = (1 / (4 + 1 + np.arange(39))).mean()
    assert mass == pytest.approx(np.full((5, 2, 4), share))
    rows = values(block_of(model))
    assert rows["slot_mass@layer1@2"]["value"] == pytest.approx(share)
    assert (
        rows["slot_mass@layer0"]["value"] == rows["slot_mass"]["value"] == pytest.approx(4 * share)
    )


def test_cosines_of_known_vectors():
    found = cosines(np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [0.0, 0.0]]))
    half = np.sqrt(0.5)
    expected = [[1, 0, half, 0], [0, 1, half, 0], [half, half, 1, 0], [0, 0, 0, 0]]
    assert found == pytest.approx(np.array(expected))


# --- an independent slow way


@pytest.mark.parametrize("arm", SLOT_ARMS)
def test_gradients_are_differences_of_the_loss(arm):
    model, window = model_of(arm), torch.as_tensor(windows_of(2))
    gradients = slot_gradients(model, window_set(window))
    assert gradients.shape == (2, 4, 16)
    for slot, coordinate in ((0, 0), (2, 5), (3, 15)):
        losses = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                model.bank.slots_MD[slot, coordinate] += step
                mixture = model(window[:, :-1]).mixture
                losses.append(-mixture.log_prob(window[:, 1:]).mean(1).numpy())
                model.bank.slots_MD[slot, coordinate] -= step
        slope = (losses[0] - losses[1]) / 2e-5
        assert gradients[:, slot, coordinate] == pytest.approx(slope, rel=1e-4, abs=1e-9)


# --- properties


@pytest.mark.parametrize("arm", ["prefix", "cross"])
def test_every_phenomenon_is_told_for_every_seed(arm):
    block = block_of(model_of(arm, slot_id=True), seeds=(1, 4))
    json.dumps(block, allow_nan=False)
    over, first = values(block), values(block, 1)
    assert {metric.split("@")[0] for metric in over} >= LETTERS
    for metric, row in first.items():
        assert row["value"] == pytest.approx(over[metric]["value"])
    assert np.array(block["similarity"]).shape == (4, 4)
    away = ~np.eye(4, dtype=bool)
    assert np.array(block["similarity"])[away].mean() == pytest.approx(over["slot_cosine"]["value"])


def test_derangements_leave_nothing_in_place_and_differ():
    generator = torch_generator(0, "orders")
    orders = [tuple(derangement(4, generator).tolist()) for _ in range(200)]
    assert all(order[i] != i for order in orders for i in range(4))
    assert len(set(orders)) == 9


# --- errors


def test_mistakes_are_named():
    generator = torch_generator(0, "orders")
    with pytest.raises(ValueError, match="two slots"):
        diagnose(model_of("none"), window_set(windows_of()), config=CONFIG, generator=generator)
    with pytest.raises(ValueError, match=r"context \+ horizon"):
        diagnose(
            model_of("film"), window_set(windows_of()[:, :20]), config=CONFIG, generator=generator
        )
    with pytest.raises(ValueError, match="permutations"):
        DiagnosticsConfig(**{**vars(CONFIG), "permutations": 0})
