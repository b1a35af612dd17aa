"""Gaussian mixtures: closed forms, scipy and scoringrules, integration, sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scoringrules
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from mneme.core.seeds import torch_generator
from mneme.zeta.mixture import Mixture

FLOOR = 1e-3


def mixture_of(*shape, components=8, seed=0):
    generator = torch_generator(seed, "mixture")
    raw = torch.randn(*shape, 3 * components, generator=generator, dtype=torch.float64)
    return Mixture.of(raw, scale_floor=FLOOR)


def one(mean, scale):
    values = ([[0.0]], [[mean]], [[scale]])
    return Mixture(*(torch.tensor(v, dtype=torch.float64) for v in values))


def arrays(mixture):
    return mixture.log_weights.exp().numpy(), mixture.means.numpy(), mixture.scales.numpy()


# --- known answers


def test_one_gaussian():
    mixture, x = one(0.0, 1.0), torch.zeros(1, dtype=torch.float64)
    assert mixture.log_prob(x).item() == pytest.approx(-0.5 * math.log(2 * math.pi), abs=1e-15)
    assert mixture.cdf(x).item() == pytest.approx(0.5, abs=1e-15)
    expected = (math.sqrt(2) - 1) / math.sqrt(math.pi)  # Gneiting & Raftery (2007), eq. (21)
    assert mixture.crps(x).item() == pytest.approx(expected, abs=1e-15)
    assert mixture.entropy().item() == 0


def test_equal_weights_have_entropy_ln_k_and_a_certain_one_none():
    raw = torch.zeros(2, 24, dtype=torch.float64)
    raw[1, 3] = 2000.0
    entropy = Mixture.of(raw, scale_floor=FLOOR).entropy()
    assert entropy[0].item() == pytest.approx(math.log(8), abs=1e-14)
    assert entropy[1].item() == 0


def test_moments_of_two_components():
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    mixture = Mixture(weights.log(), torch.tensor([0.0, 2.0]).double(), torch.tensor([1.0, 0.5]))
    assert mixture.mean().item() == pytest.approx(1.5)
    assert mixture.variance().item() == pytest.approx(
        0.25 + 0.75 * 0.25 + 0.25 * 2.25 + 0.75 * 0.25
    )


def test_a_head_far_off_stays_finite():
    raw = torch.tensor([[0.0, -300.0, 0.0, 0.0, -300.0, -300.0]])
    mixture = Mixture.of(raw, scale_floor=FLOOR)
    assert mixture.scales.min().item() == pytest.approx(FLOOR)
    assert torch.isfinite(mixture.log_prob(torch.tensor([50.0]))).all()


def test_half_precision_heads_give_float32_mixtures():
    mixture = Mixture.of(torch.zeros(3, 6, dtype=torch.bfloat16), scale_floor=FLOOR)
    assert {part.dtype for part in mixture} == {torch.float32}


# --- oracles


def test_density_and_distribution_equal_scipy():
    mixture = mixture_of(5, 7)
    x = torch.linspace(-1, 3, 35, dtype=torch.float64).reshape(5, 7)
    weights, means, scales = arrays(mixture)
    at = x.numpy()[..., None]
    density = (weights * stats.norm.pdf(at, means, scales)).sum(-1)
    np.testing.assert_allclose(mixture.log_prob(x).numpy(), np.log(density), atol=1e-12)
    below = (weights * stats.norm.cdf(at, means, scales)).sum(-1)
    np.testing.assert_allclose(mixture.cdf(x).numpy(), below, atol=1e-13)


def test_crps_equals_scoringrules():
    mixture = mixture_of(5, 7)
    x = torch.linspace(-1, 3, 35, dtype=torch.float64).reshape(5, 7)
    weights, means, scales = arrays(mixture)
    expected = scoringrules.crps_mixnorm(x.numpy(), means, scales, weights)
    np.testing.assert_allclose(mixture.crps(x).numpy(), expected, atol=1e-12)


def test_crps_equals_its_definition_by_integration():
    mixture, x = mixture_of(1), 0.7
    w, m, s = (part[0] for part in arrays(mixture))

    def below(y):
        return float((w * stats.norm.cdf(y, m, s)).sum())

    left, _ = integrate.quad(lambda y: below(y) ** 2, -15, x, limit=300)
    right, _ = integrate.quad(lambda y: (1 - below(y)) ** 2, x, 15, limit=300)
    crps = mixture.crps(torch.tensor([x], dtype=torch.float64)).item()
    assert crps == pytest.approx(left + right, abs=1e-6)


def test_samples_follow_the_mixture():
    n = 40_000
    mixture = Mixture(*(part.expand(n, -1) for part in mixture_of(1, components=3)))
    x = mixture.sample(torch_generator(0, "samples"))
    assert x.shape == (n,)
    pit = mixture.cdf(x).numpy()
    assert stats.kstest(pit, "uniform").pvalue > 1e-3
    error = (x.mean() - mixture.mean()[0]).abs().item()
    assert error < 4 * math.sqrt(mixture.variance()[0].item() / n)


def test_samples_come_from_the_generator_alone():
    mixture = mixture_of(50)
    first, again = (mixture.sample(torch_generator(1, "a")) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, mixture.sample(torch_generator(2, "a")))


@pytest.mark.parametrize(
    ("uniform", "k"), [(0.0, 0), (0.2499, 0), (0.25, 1), (0.9999999, 1), (1.0, 1)]
)
def test_noise_picks_the_component(uniform, k):
    weights = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    mixture = Mixture(weights.log(), torch.tensor([[1.0, 2.0]]).double(), torch.ones(1, 2).double())
    drawn = mixture.draw(torch.tensor([uniform]), torch.tensor([0.5]))
    assert drawn.item() == pytest.approx(k + 1.5)


# --- properties


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), x=st.floats(-2, 4), shift=st.floats(-3, 3))
def test_scores_move_with_the_distribution(seed, x, shift):
    mixture, at = mixture_of(1, seed=seed), torch.tensor([x], dtype=torch.float64)
    moved = mixture._replace(means=mixture.means + shift)
    for name in ("log_prob", "cdf", "crps"):
        here, there = getattr(mixture, name)(at), getattr(moved, name)(at + shift)
        torch.testing.assert_close(here, there, atol=1e-10, rtol=1e-10)
    assert mixture.crps(at).item() >= -1e-12


def test_gradients_are_right():
    raw = torch.randn(4, 9, generator=torch_generator(0, "raw"), dtype=torch.float64)
    x = torch.rand(4, generator=torch_generator(0, "x"), dtype=torch.float64)

    def scores(raw):
        mixture = Mixture.of(raw, scale_floor=FLOOR)
        return mixture.log_prob(x), mixture.crps(x), mixture.mean(), mixture.entropy()

    assert torch.autograd.gradcheck(scores, raw.requires_grad_())
