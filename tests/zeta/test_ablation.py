"""Slot ablation: planted slots are found, unread ones are exactly nothing, one batch is many."""

from __future__ import annotations

import copy
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mneme.core.seeds import numpy_generator, torch_generator
from mneme.stats.rows import Interval
from mneme.zeta.ablation import (
    WHOLE,
    ablate,
    attention_entropy,
    cut_slots,
    quantile99,
    variants_of,
)
from mneme.zeta.ablation_config import KINDS, AblationConfig
from mneme.zeta.ablation_report import (
    EFFECT_BANDS,
    ROLLOUT_BANDS,
    Resampling,
    Retrained,
    ablation_block,
    verdict,
)
from mneme.zeta.config import SLOT_ARMS, ModelConfig
from mneme.zeta.memory import Bank
from mneme.zeta.mixture import Mixture
from mneme.zeta.model import Output, SpacingMDN
from mneme.zeta.network import Material, Network
from mneme.zeta.rollout import rollout
from mneme.zeta.window_set import WindowSet

SIZES = ModelConfig(layers=2, heads=2, width=16, components=3, window=40, slots=4, scale_floor=0.01)
CONFIG = AblationConfig(
    kinds=KINDS,
    context=16,
    horizons=(4, 20),
    rollout_every=1,
    further_every=1,
    quantile_every=3,
    rows=64,
)


def model_of(arm="prefix", *, seed=0, sizes=SIZES, position="rope"):
    return SpacingMDN(
        sizes,
        arm=arm,
        position=position,
        slot_id=False,
        extra=0,
        generator=torch_generator(seed, "model"),
    ).double()  # a rollout feeds rounding back


def windows_of(count, *, seed=0):
    """Windows that alternate around 1: a rollout that knows the phase is right for ever."""
    noise = numpy_generator(seed, "windows").normal(size=(count, 40))
    return 1 + 0.4 * (-1.0) ** np.arange(40) + 0.1 * noise


def window_set(windows, level=None):
    return WindowSet(spacings_WN=torch.as_tensor(windows), level_W=level)


class Planted(nn.Module):
    """Predicts 1 + c (last spacing - 1), c held by slot 3 alone; the other slots are unread."""

    def __init__(self, coefficient: float) -> None:
        super().__init__()
        self.bank = Bank(4, 2, slot_id=False)
        with torch.no_grad():
            self.bank.slots_MD.copy_(torch.arange(8.0).reshape(4, 2))
            self.bank.slots_MD[3, 0] = coefficient
        self.arm, self.prefix = "film", 0
        self.config = SimpleNamespace(window=40, slots=4)

    def forward(self, spacings_BT, *, level_B=None, slots=None, cache=None, **unused):
        assert level_B is None
        if cache is not None:
            cache.length += spacings_BT.shape[1]
        coefficient_B1 = self.bank(len(spacings_BT), slots)[:, 3, :1]
        means = (1 + coefficient_B1 * (spacings_BT - 1))[..., None]
        mixture = Mixture(torch.zeros_like(means), means, torch.full_like(means, 0.2))
        return Output(mixture, None, None, cache)


def measured_on(model, windows, *, seed=0, level=None, **settings):
    """Read a model in one pass."""
    config = AblationConfig(**{**vars(CONFIG), **settings})
    generator = torch_generator(seed, "slots")
    (measured,) = ablate(model, window_set(windows, level), config=config, generator=generator)
    return measured


def lacking_of(whole, without, *, slot):
    return Retrained(run="e0", slot=slot, whole={0: whole}, without={0: without})


def block_of(measured, *, retrained=()):
    """Return the block of one seed (0) or of several."""
    seeds = measured if isinstance(measured, dict) else {0: measured}
    return ablation_block(
        {seed: cut if isinstance(cut, tuple) else (cut,) for seed, cut in seeds.items()},
        retrained=retrained,
        resampling=Resampling(block=4, resamples=400, generator=numpy_generator(0, "rows")),
    )


def values(block, seed=None):
    return {row["metric"]: row for row in block["rows"] if row["seed"] == seed}


@pytest.fixture(scope="module")
def planted():
    return measured_on(Planted(-1.0), windows_of(48))


# --- known answers


def test_the_slot_that_matters_is_found_and_the_others_are_exactly_nothing(planted):
    for kind in KINDS:
        for slot in ("0", "1", "2"):
            index = planted.variants.index((kind, slot))
            assert not planted.mean_abs_shift_VW[index].any()
            assert not planted.q99_shift_VW[index].any()
            assert not planted.nll_change_VW[index].any()
            for horizon in CONFIG.horizons:
                error = planted.err_step_VW[horizon]
                assert np.array_equal(error[index], planted.err_step_W[horizon])
        three, every = (planted.variants.index((kind, slot)) for slot in ("3", "all"))
        assert np.array_equal(planted.nll_change_VW[three], planted.nll_change_VW[every])
    block = block_of(planted)
    assert block["largest_slot"] == {kind: ["3"] for kind in KINDS}
    rows = values(block)
    assert block["verdicts"]["eff_percent@zero"] == "dominant"
    assert block["verdicts"]["rollout_effect@zero"] == "holds focus"
    assert block["verdicts"]["rollout_effect@zero@1"] == "marginal"
    assert block["verdicts"]["eff@zero@1"] == "ballast"
    assert rows["eff@zero@1"]["value"] == rows["eff@zero@1"]["high"] == 0.0
    assert rows["mem_entropy"]["value"] is None
    assert "arm" in rows["mem_entropy"]["reason"]


def test_the_effect_of_the_planted_slot_is_what_arithmetic_says(planted):
    windows = windows_of(48)
    last, target = windows[:, :-1], windows[:, 1:]
    zero = planted.variants.index(("zero", "3"))
    whole = 1 - (last - 1)
    assert planted.mean_shift_VW[zero] == pytest.approx((1 - whole).mean(axis=1), abs=1e-6)
    assert planted.mean_abs_shift_VW[zero] == pytest.approx(np.abs(1 - whole).mean(axis=1))
    assert planted.abs_error_W == pytest.approx(np.abs(whole - target).mean(axis=1), abs=1e-6)
    nll = ((1 - target) ** 2 - (whole - target) ** 2).mean(axis=1) / (2 * 0.2**2)
    assert planted.nll_change_VW[zero] == pytest.approx(nll, abs=1e-4)
    rolled = np.abs(1 - windows[:, 16:20]).mean(axis=1)
    assert planted.err_step_VW[4][zero] == pytest.approx(rolled, abs=1e-6)
    assert planted.q99_shift_VW[zero] == pytest.approx((1 - whole)[:, ::3].mean(axis=1), abs=1e-5)
    row = values(block_of(planted))["eff_percent@zero"]
    expected = 100 * np.abs(1 - whole).mean() / np.abs(whole - target).mean()
    assert row["value"] == pytest.approx(expected, rel=1e-5)
    assert row["low"] < row["value"] < row["high"]


def test_a_memory_that_misleads_is_harmful():
    block = block_of(measured_on(Planted(0.5), windows_of(48)))
    assert block["verdicts"]["rollout_effect@zero"] == "harmful"
    assert values(block)["rollout_effect@zero@3"]["high"] < 0


@pytest.mark.parametrize(
    ("low", "high", "bands", "name"),
    [
        (0.0, 0.0, EFFECT_BANDS, "ballast"),
        (0.2, 0.99, EFFECT_BANDS, "ballast"),
        (1.0, 2.9, EFFECT_BANDS, "marginal"),
        (3.0, 9.9, EFFECT_BANDS, "useful"),
        (10.0, 29.0, EFFECT_BANDS, "strong"),
        (30.0, 400.0, EFFECT_BANDS, "dominant"),
        (2.9, 3.1, EFFECT_BANDS, "undecided"),
        (-9.0, -0.1, ROLLOUT_BANDS, "harmful"),
        (-0.1, 0.1, ROLLOUT_BANDS, "undecided"),
        (0.0, 1.9, ROLLOUT_BANDS, "marginal"),
        (2.0, 4.9, ROLLOUT_BANDS, "useful"),
        (5.1, 80.0, ROLLOUT_BANDS, "holds focus"),
    ],
)
def test_bands_are_the_sources(low, high, bands, name):
    assert verdict(Interval((low + high) / 2, low, high), bands) == name


def test_without_an_interval_nothing_is_decided():
    assert verdict(Interval(1.5, None, None, "too few"), EFFECT_BANDS) == "undecided"


def test_quantile_of_one_gaussian_and_of_a_far_second():
    mixture = Mixture(
        torch.tensor([[0.0, -50.0], [math.log(0.98), math.log(0.02)]]).double(),
        torch.tensor([[1.0, 9.0], [0.0, 10.0]]).double(),
        torch.tensor([[0.5, 0.1], [1.0, 0.01]]).double(),
    )
    found = quantile99(mixture)
    assert found[0].item() == pytest.approx(1 + 0.5 * 2.3263478740408408, abs=1e-5)
    assert found[1].item() == pytest.approx(10.0, abs=1e-4)  # half of the second lies below
    assert mixture.cdf(found).tolist() == pytest.approx([0.99, 0.99], abs=1e-6)


def test_even_attention_has_the_largest_entropy_and_one_slot_has_none():
    model = model_of()
    with torch.no_grad():
        for layer in model.blocks:
            layer.attention.qkv.weight.zero_()
    windows = window_set(windows_of(5))
    entropy_W = attention_entropy(model, windows, rows=32)
    assert entropy_W == pytest.approx(np.full(5, math.log(4)), abs=1e-6)
    single = model_of(sizes=ModelConfig(**{**vars(SIZES), "slots": 1}))
    assert attention_entropy(single, windows, rows=32) == pytest.approx(np.zeros(5), abs=1e-9)
    assert attention_entropy(model_of("film"), windows, rows=32) is None


def test_a_run_that_needs_its_memory_is_worse_retrained_without(planted):
    whole = {f"err_step@{h}": error_W for h, error_W in planted.err_step_W.items()}
    whole |= {"nll": planted.nll_W, "crps": planted.nll_W}
    without = {**whole, "nll": planted.nll_W + 0.3, "err_step@4": whole["err_step@4"] * 1.03}
    block = block_of(planted, retrained=[lacking_of(whole, without, slot="all")])
    rows = values(block)
    assert rows["nll_change@retrained@all"]["value"] == pytest.approx(0.3)
    assert rows["rollout_effect@retrained@all"]["value"] == pytest.approx(3.0)
    assert rows["err_step_20_change@retrained@all"]["value"] == 0.0
    assert block["verdicts"]["rollout_effect@retrained@all"] == "useful"
    assert block["retrained_without"] == {"all": "e0"}
    single = block_of(planted, retrained=[lacking_of(whole, without, slot="2")])
    assert values(single)["nll_change@retrained@2"] == rows["nll_change@retrained@all"] | {
        "metric": "nll_change@retrained@2"
    }
    assert not any("retrained" in metric for metric in values(block_of(planted)))


# --- an independent slow way


@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_cutting_a_prefix_slot_is_a_model_with_that_slot_overwritten(kind):
    model, windows = model_of(), windows_of(3)
    measured = measured_on(model, windows)
    spacings = torch.as_tensor(windows)
    whole = model(spacings[:, :-1]).mixture
    for slot in (0, 2, "all"):
        other = copy.deepcopy(model)
        bank = other.bank.slots_MD
        with torch.no_grad():
            filling = 0.0 if kind == "zero" else bank.mean(0)
            bank[slice(None) if slot == "all" else slot] = filling
            cut = other(spacings[:, :-1]).mixture
        index = measured.variants.index((kind, str(slot)))
        shift = (cut.mean() - whole.mean()).detach()
        assert measured.mean_shift_VW[index] == pytest.approx(shift.mean(1).numpy(), abs=1e-9)
        nll = (whole.log_prob(spacings[:, 1:]) - cut.log_prob(spacings[:, 1:])).mean(1).detach()
        assert measured.nll_change_VW[index] == pytest.approx(nll.numpy(), abs=1e-9)
        seen = spacings[:, :16]
        for _ in range(20):
            seen = torch.cat([seen, other(seen).mixture.mean()[:, -1:].detach()], dim=1)
        error = (seen[:, 16:] - spacings[:, 16:36]).abs().mean(1)
        assert measured.err_step_VW[20][index] == pytest.approx(error.numpy(), abs=1e-9)


@pytest.mark.parametrize(
    ("arm", "position"), [*((arm, "rope") for arm in SLOT_ARMS), ("prefix", "distance")]
)
def test_one_batch_is_the_variants_one_by_one(arm, position):
    model, windows = model_of(arm, position=position), windows_of(3)
    level = torch.tensor([9.0, 10.0, 12.0]).double() if position == "distance" else None
    measured = measured_on(model, windows, seed=5, level=level)
    noise = torch.randn(3, 4, 16, generator=torch_generator(5, "slots")).double()
    spacings = torch.as_tensor(windows)
    vectors = model.bank.vectors().detach()
    whole = model(spacings[:, :-1], level_B=level).mixture.mean().detach()
    assert measured.variants == variants_of(KINDS, 4)
    for index, variant in enumerate(measured.variants):
        for w in range(3):
            slots = cut_slots(vectors, [variant], noise[w : w + 1])
            one, at = spacings[w : w + 1], None if level is None else level[w : w + 1]
            with torch.no_grad():
                mean = model(one[:, :-1], level_B=at, slots=slots).mixture.mean()
            shift = (mean - whole[w]).abs().mean().item()
            assert measured.mean_abs_shift_VW[index, w] == pytest.approx(shift, abs=1e-9)
            told = {"mode": "mean", "generator": None, "level_B": at, "slots": slots}
            rolled = rollout(model, one[:, :16], horizon=20, **told)
            error = (rolled - one[:, 16:36]).abs().mean().item()
            assert measured.err_step_VW[20][index, w] == pytest.approx(error, abs=1e-9)
            assert shift > 1e-6, "every slot of a random model does something"


# --- properties


@pytest.mark.parametrize("arm", ["prefix", "cross"])
def test_the_chunk_size_changes_nothing(arm):
    model, windows = model_of(arm), windows_of(7)
    one, other = (measured_on(model, windows, rows=rows) for rows in (1, 1000))
    for field in ("mean_shift_VW", "q99_shift_VW", "nll_change_VW", "abs_error_W"):
        assert getattr(one, field) == pytest.approx(getattr(other, field), abs=1e-6), field


def test_further_kinds_and_horizons_are_read_on_fewer_windows_and_never_replace_the_rest():
    model, windows = model_of(), windows_of(24)
    whole = measured_on(model, windows)
    config = AblationConfig(**{**vars(CONFIG), "further_every": 3})
    generator = torch_generator(0, "slots")
    first, rolled, second = ablate(model, window_set(windows), config=config, generator=generator)
    assert (rolled.variants, list(rolled.err_step_W)) == (
        variants_of(["mean", "resampled"], 4),
        [4],
    )
    assert rolled.err_step_VW[4] == pytest.approx(whole.err_step_VW[4][5:], abs=1e-9)
    assert (first.variants, list(first.err_step_W)) == (variants_of(["zero"], 4), [4])
    assert first.nll_change_VW == pytest.approx(whole.nll_change_VW[:5], abs=1e-9)
    assert second.nll_change_VW == pytest.approx(whole.nll_change_VW[:, ::3], abs=1e-9)
    assert second.err_step_VW[20] == pytest.approx(whole.err_step_VW[20][:, ::3], abs=1e-9)
    rows, full = values(block_of((first, rolled, second))), values(block_of(whole))
    assert set(rows) == set(full)
    counts = {metric: row["n"] for metric, row in rows.items()}
    assert counts["nll_change@zero@1"] == counts["rollout_effect@zero"] == 24
    assert counts["nll_change@mean@1"] == counts["err_step_20_change@zero@1"] == 8
    for kind in ("mean", "resampled"):  # the source's figure is one of all windows
        for metric in ("rollout_effect@{}", "rollout_effect@{}@all", "err_step_4_change@{}@2"):
            assert counts[metric.format(kind)] == 24
        assert counts[f"eff_percent@{kind}"] == 8
    for metric, count in counts.items():
        if count == 24:
            assert rows[metric]["value"] == pytest.approx(full[metric]["value"], abs=1e-9)


def test_what_fills_a_cut_slot():
    vectors = torch.tensor([[1.0, 10.0], [3.0, 10.0]])
    noise = torch.randn(4000, 2, 2, generator=torch_generator(0, "noise"))
    variants = (WHOLE, *variants_of(KINDS, 2))
    slots = cut_slots(vectors, variants, noise)
    keep = slots.keep_BM.reshape(10, 4000, 2)[:, 0]
    one_each = [[False, True], [True, False], [False, False]]
    assert keep.tolist() == [[True, True], *one_each, *one_each, *one_each]
    filled = slots.values_BMD.reshape(10, 4000, 2, 2)
    assert not filled[1:4].any()
    assert (filled[4:7] == torch.tensor([2.0, 10.0])).all()
    drawn = filled[7:]
    assert drawn.mean((0, 1, 2)).tolist() == pytest.approx([2.0, 10.0], abs=0.05)
    assert drawn.std((0, 1, 2)).tolist() == pytest.approx([1.0, 0.0], abs=0.05)
    assert torch.equal(drawn[0], drawn[2]), "one draw a window, whatever is cut"


def test_seeds_are_averaged_and_told_apart(planted):
    json.dumps(block_of(planted), allow_nan=False)
    other = measured_on(Planted(-0.5), windows_of(48))
    block = block_of({3: planted, 7: other})
    over, first, second = (
        values(block, seed)["eff_percent@zero"]["value"] for seed in (None, 3, 7)
    )
    assert first > second
    assert over == pytest.approx((first + second) / 2)
    assert block["largest_slot"]["zero"] == ["3", "3"]


def test_a_window_set_brings_the_height_where_the_model_asks_for_it():
    spacings = torch.as_tensor(windows_of(6))
    material = Material(
        spacings_WT=spacings,
        level_WT=spacings + 9,
        train=torch.arange(2),
        val=torch.arange(2, 3),
    )
    rows = np.array([3, 5])
    plain = WindowSet.of(Network(model_of(), None, reset=False), material, rows)
    assert plain.level_W is None
    assert torch.equal(plain.spacings_WN, spacings[3::2])
    distant = WindowSet.of(
        Network(model_of(position="distance"), None, reset=False), material, rows
    )
    assert torch.equal(distant.level_W, spacings[3::2, 0] + 9)
    twice = distant.repeat(2)
    assert torch.equal(twice.level_W, torch.cat([distant.level_W] * 2))
    assert [len(part) for part in twice.split(3)] == [3, 1]
    assert torch.equal(twice.spread(2).level_W, twice.level_W[[0, 3]])


# --- errors


def test_mistakes_are_named(planted):
    generator = torch_generator(0, "slots")
    with pytest.raises(ValueError, match="memory slots"):
        ablate(model_of("none"), window_set(windows_of(3)), config=CONFIG, generator=generator)
    with pytest.raises(ValueError, match="context \\+ horizon"):
        ablate(model_of(), window_set(windows_of(3)[:, :30]), config=CONFIG, generator=generator)
    with pytest.raises(ValueError, match="rollout_every must be at most further_every = 1, got 2"):
        AblationConfig(**{**vars(CONFIG), "rollout_every": 2})
    with pytest.raises(ValueError, match="kinds"):
        AblationConfig(**{**vars(CONFIG), "kinds": ("nothing",)})
    lacking = Retrained(run="e0", slot="all", whole={0: {}}, without={1: {}})
    with pytest.raises(ValueError, match="no seed 0"):
        block_of(planted, retrained=[lacking])
    shorter = measured_on(Planted(-1.0), windows_of(8))
    with pytest.raises(ValueError, match="other windows"):
        block_of({0: planted, 1: shorter})
