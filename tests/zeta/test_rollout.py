"""Rollouts: cached against recomputed, sampling, gradients through the steps, features."""

from __future__ import annotations

import pytest
import torch
from zeta_models import ARMS, POSITIONS, F, cut, heights, model_of, spacings

from mneme.core.config import ConfigError
from mneme.core.seeds import torch_generator
from mneme.zeta import rollout as module
from mneme.zeta.rollout import (
    LEAST_SPACING,
    can_be_cut,
    differentiable_rollout,
    ensemble,
    rollout,
    rollout_within,
)

CONTEXT, HORIZON = 20, 13  # 20 + 12 fed positions fill the window of 32


class Sums:
    """Features for tests: how far the window has come, its square, and the last spacing."""

    def __init__(self, start_B):
        self.start_B = start_B

    def start(self, context_BT, rows):
        total_BT = self.start_B[rows, None] + context_BT.cumsum(1)
        return self._features(total_BT, context_BT), (total_BT[:, -1],)

    def step(self, spacing_B, state):
        total_B = state[0] + spacing_B
        return self._features(total_B, spacing_B), (total_B,)

    def _features(self, total, spacing):
        return torch.stack([total.sin(), total.cos(), spacing.square()], dim=-1)


def recomputed(model, context, horizon, *, feed=None, slots=None, extra=None, level_B=None):
    """Roll by running the whole sequence anew for every step."""
    x = context
    for h in range(horizon):
        features = None if extra is None else extra.start(x, slice(None))[0]
        mixture = model(x, extra_BTF=features, slots=slots, level_B=level_B).mixture
        last = type(mixture)(*(part[:, -1] for part in mixture))
        x = torch.cat([x, (last.mean() if feed is None else feed(last, h))[:, None]], dim=1)
    return x[:, context.shape[1] :]


def by_mean(model, context, horizon=HORIZON, **options):
    return rollout(model, context, horizon=horizon, mode="mean", generator=None, **options)


# --- oracle


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("arm", ARMS)
def test_cached_equals_recomputed(arm, position):
    model, context = model_of(arm, position=position).double(), spacings(steps=CONTEXT)
    slots = None if arm == "none" else cut(3, 1, value=0.3)
    given = {"slots": slots, "level_B": heights(position)}
    rolled = by_mean(model, context, **given)
    assert rolled.shape == (3, HORIZON)
    with torch.no_grad():
        expected = recomputed(model, context, HORIZON, **given)
    torch.testing.assert_close(rolled, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("arm", ["none", "prefix"])
def test_rolling_from_within_what_was_read_equals_reading_the_context_anew(arm):
    model, windows = model_of(arm).double(), spacings(steps=31)
    slots = None if arm == "none" else cut(3, 1, value=0.3)
    with torch.no_grad():
        read = model(windows, slots=slots, cache=model.empty_cache())
        told = {"context": CONTEXT, "horizon": 9, "slots": slots}
        rolled = rollout_within(model, read.mixture, read.cache, **told)
    anew = by_mean(model, windows[:, :CONTEXT], horizon=9, slots=slots)
    assert torch.allclose(rolled, anew, atol=1e-12)


def test_a_cache_with_running_sums_is_not_cut_back():
    for model in (model_of("readout"), model_of("none", position="distance")):
        assert not can_be_cut(model)
        with pytest.raises(ConfigError, match="running sums"):
            rollout_within(model, None, None, context=4, horizon=2)


def test_features_follow_the_predictions(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 2)  # three windows in two parts
    model, context = model_of("none", extra=F).double(), spacings(steps=CONTEXT)
    extra = Sums(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))
    with torch.no_grad():
        expected = recomputed(model, context, HORIZON, extra=extra)
    torch.testing.assert_close(by_mean(model, context, extra=extra), expected, atol=1e-10, rtol=0)
    moved = by_mean(model, context, extra=Sums(extra.start_B + 1))
    assert ((moved - expected).abs() > 1e-6).all()


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("arm", ["none", "prefix", "readout"])
def test_samples_equal_recomputed_ones_on_the_same_noise(arm, position):
    model = model_of(arm, position=position, extra=F).double()
    context, level = spacings(steps=CONTEXT), heights(position)
    extra = Sums(torch.arange(3, dtype=torch.float64))
    slots = None if arm == "none" else cut(3, 0)
    drawn = ensemble(
        model,
        context,
        horizon=HORIZON,
        samples=4,
        generator=torch_generator(0, "noise"),
        extra=extra,
        level_B=level,
        slots=slots,
    )
    assert drawn.shape == (4, 3, HORIZON)
    generator = torch_generator(0, "noise")
    uniform = torch.rand(3, 4, HORIZON, generator=generator)
    normal = torch.randn(3, 4, HORIZON, generator=generator)
    with torch.no_grad():
        for s in range(4):
            expected = recomputed(
                model,
                context,
                HORIZON,
                feed=lambda last, h, s=s: last.draw(uniform[:, s, h], normal[:, s, h]).clamp_min(
                    LEAST_SPACING
                ),
                extra=extra,
                level_B=level,
                slots=slots,
            )
            torch.testing.assert_close(drawn[s], expected, atol=1e-10, rtol=0)


# --- properties


@pytest.mark.parametrize("mode", ["mean", "sample"])
def test_rows_per_part_change_nothing(monkeypatch, mode):
    model, context = model_of("prefix").double(), spacings(batch=7, steps=CONTEXT)
    slots = cut(7, 2)
    slots.keep_BM[3:] = True

    def roll():
        generator = torch_generator(0, "noise") if mode == "sample" else None
        return rollout(model, context, horizon=5, mode=mode, generator=generator, slots=slots)

    whole = roll()
    monkeypatch.setattr(module, "ROWS", 2)
    torch.testing.assert_close(roll(), whole, atol=1e-12, rtol=0)


def test_first_step_is_the_model_s_own_prediction():
    model, context = model_of("none").double(), spacings(steps=CONTEXT)
    expected = model(context).mixture.mean()[:, -1]
    torch.testing.assert_close(by_mean(model, context)[:, 0], expected, atol=1e-12, rtol=0)


def test_longer_horizons_begin_alike_and_short_contexts_work():
    model, context = model_of("none").double(), spacings(steps=1)
    short, full = by_mean(model, context, horizon=4), by_mean(model, context, horizon=32)
    torch.testing.assert_close(short, full[:, :4], atol=1e-12, rtol=0)


def test_samples_come_from_the_generator_alone():
    model, context = model_of("none"), spacings(steps=CONTEXT, dtype=torch.float32)
    options = {"horizon": 3, "mode": "sample"}
    first, again, other = (
        rollout(model, context, generator=torch_generator(seed, "r"), **options)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not first.requires_grad


# --- gradients


@pytest.mark.parametrize("arm", ARMS)
def test_differentiable_rollout_is_the_same_rollout(arm):
    model, context = model_of(arm).double(), spacings(steps=CONTEXT)
    slots = None if arm == "none" else cut(3, 1)
    rolled = differentiable_rollout(model, context, horizon=HORIZON, slots=slots)
    expected = by_mean(model, context, slots=slots)
    torch.testing.assert_close(rolled, expected, atol=1e-12, rtol=0)
    rolled.sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters())
    for p in model.memory_parameters():
        assert p.grad.abs().max() > 0


@pytest.mark.parametrize("arm", ["none", "prefix", "readout"])
def test_gradients_flow_through_every_step(arm):
    """The derivative by one weight equals a difference quotient of whole rollouts."""
    model, context = model_of(arm).double(), spacings(steps=CONTEXT)
    weight, step = model.blocks[0].up.weight, 1e-5
    last = differentiable_rollout(model, context, horizon=HORIZON)[:, -1].sum()
    (gradient,) = torch.autograd.grad(last, weight)
    at = divmod(int(gradient.abs().argmax()), weight.shape[1])
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[at] += sign * step
        values.append(by_mean(model, context)[:, -1].sum().item())
        with torch.no_grad():
            weight[at] -= sign * step
    quotient = (values[0] - values[1]) / (2 * step)
    assert gradient[at].item() == pytest.approx(quotient, rel=1e-5)


def test_the_context_gets_no_gradient():
    context = spacings(steps=CONTEXT).requires_grad_()
    differentiable_rollout(model_of("none").double(), context, horizon=3).sum().backward()
    assert context.grad is None


# --- errors


def test_mistakes_are_named():
    model, context = model_of("none").double(), spacings(steps=CONTEXT)
    with pytest.raises(ConfigError, match="context_BT"):
        by_mean(model, context, horizon=HORIZON + 1)
    with pytest.raises(ConfigError, match="horizon"):
        by_mean(model, context, horizon=0)
    with pytest.raises(ConfigError, match="generator"):
        rollout(model, context, horizon=3, mode="sample", generator=None)
    with pytest.raises(ConfigError, match="mode"):
        rollout(model, context, horizon=3, mode="median", generator=None)
