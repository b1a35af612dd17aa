import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.core.config import ConfigError
from mneme.zeta.invariants import HISTOGRAM, AuxHeads, q3_invariants, targets, window_stats

LINE = torch.full((1, 64), 1.0)


def windows(seed, count=3, length=255):
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.gamma(5.5, 1 / 5.5, (count, length)).astype(np.float32))


def test_a_constant_window_has_no_structure():
    stats = window_stats(2 * LINE)[0].tolist()
    assert stats == [2.0, 0.0, 0.0, 0.0]
    m = q3_invariants(2 * LINE)[0].tolist()
    assert m == pytest.approx([1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0], abs=1e-4)


def test_an_alternating_window_is_rough_rigid_and_all_high_frequency():
    x = torch.tensor([[0.5, 1.5] * 32])
    mean, std, one, five = window_stats(x)[0].tolist()
    assert (mean, std) == (1.0, 0.5)
    assert one == pytest.approx(-63 / 64)
    assert five == pytest.approx(-59 / 64)
    m = q3_invariants(x)[0]
    assert m[1] == pytest.approx(math.log(2))
    assert m[2] == 1.0
    assert m[3] == pytest.approx(0.5)
    assert m[4] == pytest.approx(2.0)
    assert m[5] == 0.0
    assert m[6] > 0.95
    assert m[7] == pytest.approx(0.25, abs=0.01)


def test_a_slow_wave_is_smooth_and_a_step_divides_the_halves():
    wave = 1 + 0.3 * torch.sin(torch.arange(256) * 2 * math.pi / 64)[None]
    m = q3_invariants(wave)[0]
    assert m[6] < 1e-3
    assert m[7] > 1.0
    step = torch.cat([torch.full((1, 32), 0.8), torch.full((1, 32), 1.2)], dim=1)
    assert q3_invariants(step)[0, 5] == pytest.approx(0.4)


def test_values_beyond_the_histogram_fill_its_last_bin():
    x = torch.tensor([[0.1] * 8 + [5.0] * 4 + [99.0] * 4])
    assert q3_invariants(x)[0, 1] == pytest.approx(math.log(2))


def slow_window_stats(x):
    mean = sum(x) / len(x)
    squares = sum((v - mean) ** 2 for v in x)
    lags = [
        sum((x[i] - mean) * (x[i + k] - mean) for i in range(len(x) - k)) / squares for k in (1, 5)
    ]
    return [mean, math.sqrt(squares / len(x)), *lags]


def slow_q3(x):
    low, high, bins = HISTOGRAM
    dx = np.diff(x)
    counts, _ = np.histogram(np.clip(x, low, high - 1e-9), bins=bins, range=(low, high))
    shares = counts[counts > 0] / len(x)
    half = len(x) // 2
    one, two = x[:half], x[len(x) - half :]
    times = np.arange(len(dx))
    power = []  # a plain Fourier sum at the frequencies j / n, 0 < j / n <= 1/2
    for j in range(1, len(dx) // 2 + 1):
        power.append(abs(np.sum(dx * np.exp(-2j * math.pi * j * times / len(dx)))) ** 2)
    top = sum(p for j, p in enumerate(power, 1) if j / len(dx) >= 0.375)
    path = np.cumsum([0, *x])
    line = np.polynomial.Polynomial.fit(np.arange(len(path)), path, 1)
    return [
        np.mean(x) - 1,
        -np.sum(shares * np.log(shares)),
        max(abs(v) for v in dx),
        np.quantile(x, 0.01),
        np.mean([abs(x[i + 1] - 2 * x[i] + x[i - 1]) for i in range(1, len(x) - 1)]),
        abs(np.mean(one) - np.mean(two)) + abs(np.std(one) - np.std(two)),
        top / sum(power),
        math.sqrt(np.mean((path - line(np.arange(len(path)))) ** 2)),
    ]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(8, 300))
def test_both_sets_equal_a_slow_computation(seed, length):
    x_BT = windows(seed, length=length)
    for x_T, stats, m in zip(x_BT, window_stats(x_BT), q3_invariants(x_BT), strict=True):
        exact = x_T.double().numpy()
        np.testing.assert_allclose(stats, slow_window_stats(exact), atol=2e-5)
        np.testing.assert_allclose(m, slow_q3(exact), atol=2e-4, rtol=2e-4)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_reversal_keeps_what_has_no_direction(seed):
    x = windows(seed)
    np.testing.assert_allclose(targets(x, "q3"), targets(x.flip(1), "q3"), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(window_stats(x), window_stats(x.flip(1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "count"), [("window_stats", 4), ("q3", 8)])
def test_heads_that_know_nothing_lose_one(kind, count):
    x = windows(0, count=200)
    heads = AuxHeads(x, kind, slots=8, width=6)
    assert heads.weight.shape == (count, 6)
    assert heads(torch.randn(200, 8, 6), x).item() == pytest.approx(1.0, abs=1e-4)


def test_a_head_reads_its_own_slot_only_and_can_tell_its_target():
    x = windows(1, count=50)
    heads = AuxHeads(x, "window_stats", slots=8, width=2)
    memory = torch.randn(50, 8, 2)
    memory[:, :4, 0] = (window_stats(x) - heads.mean) / heads.scale
    with torch.no_grad():
        heads.weight[:, 0] = 1.0
    assert heads(memory, x).item() == pytest.approx(0.0, abs=1e-9)
    memory.requires_grad_()
    heads(memory, x + 0.1).backward()
    assert memory.grad[:, :4].abs().sum() > 0
    assert memory.grad[:, 4:].abs().sum() == 0


def test_constant_memory_can_do_no_better_than_the_mean():
    x = windows(2, count=100)
    heads = AuxHeads(x, "q3", slots=8, width=3)
    memory = torch.randn(1, 8, 3).expand(100, 8, 3)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = heads(memory, x)
        loss.backward()
        optimizer.step()
    assert 0.999 <= loss.item() < 1.01


def test_too_few_slots_are_named():
    with pytest.raises(ConfigError, match="at least 8, one a target of aux q3, got 4"):
        AuxHeads(windows(0), "q3", slots=4, width=2)
