"""Attention blocks: rotary positions, causality, cached pieces, maps."""

from __future__ import annotations

import pytest
import torch

from mneme.core.seeds import torch_generator
from mneme.zeta.attention import CausalAttention, KVCache, Rotary, attend, attend_branched

B, N, T, E = 2, 3, 11, 8


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch_generator(seed, "attention"), dtype=torch.float64)


def by_loops(q, k, v, past):
    out = torch.empty_like(q)
    for t in range(q.shape[2]):
        seen = slice(0, past + t + 1)
        scores = torch.einsum("bne,bnpe->bnp", q[:, :, t], k[:, :, seen]) / q.shape[-1] ** 0.5
        out[:, :, t] = torch.einsum("bnp,bnpe->bne", scores.softmax(-1), v[:, :, seen])
    return out


def test_rotary_turns_by_position_times_frequency():
    rotary = Rotary(4, 10).double()
    x = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64).expand(1, 10, 1, 1, 4)
    turned = rotary(x, 0)[0, :, 0, 0]
    angle = torch.arange(10.0, dtype=torch.float64)
    expected = torch.stack(
        [angle.cos(), angle.sin(), (angle / 100).cos(), (angle / 100).sin()], dim=-1
    )
    torch.testing.assert_close(turned, expected, atol=1e-7, rtol=0)


def test_rotary_scores_depend_on_the_distance_only():
    rotary = Rotary(E, 100).double()
    q, k = draw(1, 1, 1, 1, E), draw(1, 1, 1, 1, E, seed=1)

    def score(at_q, at_k):
        return (rotary(q, at_q) * rotary(k, at_k)).sum().item()

    assert score(5, 2) == pytest.approx(score(93, 90), abs=1e-6)
    assert abs(score(5, 2) - score(5, 3)) > 1e-3


def test_rotary_in_low_precision_takes_the_other_formula():
    rotary, x = Rotary(E, 40), draw(B, 40, 2, N, E).float()
    low = rotary(x.bfloat16(), 0)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), rotary(x, 0), atol=0.05, rtol=0.05)


def filled(layer):
    generator = torch_generator(0, "weights")
    with torch.no_grad():
        for parameter in layer.double().parameters():
            parameter.normal_(std=0.5, generator=generator)
    return layer


def test_even_attention_over_equal_values_is_the_sum_over_past_zeros():
    """Values turned by distance give sum_j exp(i f (t_j - t_i)) / n: primes show in such sums."""
    layer = filled(CausalAttention(4, 1, layer=0, rotary=None, distances=True))
    frequencies = torch.tensor([0.693, 1.099], dtype=torch.float64)
    with torch.no_grad():
        layer.qkv.weight.zero_()
        layer.qkv.bias.copy_(torch.tensor([0.0] * 8 + [1.0, 0.0, 1.0, 0.0]))
        layer.out.weight.copy_(torch.eye(4))
        layer.out.bias.zero_()
        layer.distances.frequencies.copy_(frequencies)
    at = draw(2, T).abs().cumsum(1)
    y, _ = layer(draw(2, T, 4), at_BT=at, cache=None, maps=False)
    for i in range(T):
        angle = (at[:, : i + 1, None] - at[:, i, None, None]) * frequencies
        expected = torch.stack([angle.cos().mean(1), angle.sin().mean(1)], dim=-1).flatten(1)
        torch.testing.assert_close(y[:, i], expected, atol=1e-12, rtol=0)


def test_turned_values_equal_loops_over_pairs():
    layer = filled(CausalAttention(12, 3, layer=0, rotary=None, distances=True))
    x, at = draw(B, T, 12), draw(B, T, seed=4).abs().cumsum(1)
    y, a = layer(x, at_BT=at, cache=None, maps=True)
    v = layer.qkv(x)[..., 24:].reshape(B, T, 3, 2, 2)
    f = layer.distances.frequencies.reshape(2, 3).T
    mixed = torch.zeros(B, T, 3, 2, 2, dtype=torch.float64)
    for i in range(T):
        for j in range(i + 1):
            angle = (at[:, j] - at[:, i])[:, None, None] * f
            cos, sin, (even, odd) = angle.cos(), angle.sin(), v[:, j].unbind(-1)
            turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
            mixed[:, i] += a[:, :, i, j][..., None, None] * turned
    expected = layer.out(mixed.reshape(B, T, 12))
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("steps", "past"), [(T, 0), (1, T - 1), (4, T - 4), (1, 0)])
@pytest.mark.parametrize("maps", [False, True])
def test_attention_equals_loops(steps, past, maps):
    q, k, v = draw(B, N, steps, E), draw(B, N, T, E, seed=1), draw(B, N, T, E, seed=2)
    k, v = k[:, :, : past + steps], v[:, :, : past + steps]
    y, probabilities = attend(q, k, v, past=past, maps=maps)
    torch.testing.assert_close(y, by_loops(q, k, v, past), atol=1e-12, rtol=0)
    if maps:
        assert probabilities.shape == (B, N, steps, past + steps)
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(B, N, steps).double())
        assert probabilities.triu(past + 1).abs().max() == 0
    else:
        assert probabilities is None


@pytest.mark.parametrize(
    "modes", [(False,) * 3, (True,) * 3, (True, False, False), (False, True, False)]
)
def test_cache_holds_what_was_appended(modes):
    k, v = draw(B, N, T, E), draw(B, N, T, E, seed=1)
    cache = KVCache(capacity=T)
    for graph, piece in zip(modes, (slice(0, 5), slice(5, 6), slice(6, T)), strict=True):
        with torch.set_grad_enabled(graph):
            keys, values = cache.extend(0, k[:, :, piece], v[:, :, piece])
        cache.length = piece.stop
        assert torch.equal(keys, k[:, :, : piece.stop])
        assert torch.equal(values, v[:, :, : piece.stop])


def test_a_repeated_cache_shares_what_was_read():
    k, v = draw(B, N, T, E), draw(B, N, T, E, seed=1)
    cache = KVCache(capacity=T + 2)
    with torch.no_grad():
        cache.extend(0, k, v)
        cache.length = T
        cache.reading = (k[:, :1], v[:, :1])
        wide = cache.repeat(3)
        for step in range(2):
            own = draw(3 * B, N, 1, E, seed=2 + step)
            keys, values = wide.extend(0, own, own + 1)
            wide.length += 1
    assert keys.shape == values.shape == (3 * B, N, 2, E)
    assert torch.equal(keys[:, :, 1:], own)
    assert torch.equal(values[:, :, 1:], own + 1)
    assert torch.equal(wide.shared[0][0], k)
    assert wide.shared[0][0].untyped_storage().data_ptr() == cache.layers[0][0].data_ptr()
    assert torch.equal(wide.reading[0], k[:, :1].repeat_interleave(3, dim=0))


def test_attending_to_shared_keys_is_attending_to_copies_of_them():
    far_k, far_v = draw(B, N, T, E), draw(B, N, T, E, seed=1)
    q, k, v = (draw(3 * B, N, t, E, seed=s) for t, s in ((1, 2), (4, 3), (4, 4)))
    y = attend_branched(q, (far_k, far_v), k, v)
    keys, values = (
        torch.cat([far.repeat_interleave(3, dim=0), own], dim=2)
        for far, own in ((far_k, k), (far_v, v))
    )
    expected, _ = attend(q, keys, values, past=T + 3, maps=True)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)


def test_positions_turn_exactly_in_bfloat16():
    rotary = Rotary(16, 256)
    x = torch.randn(2, 256, 1, 2, 16, generator=torch_generator(0, "x")).bfloat16()
    exact = rotary(x.double(), 0)
    turned = rotary(x, 0)
    assert turned.dtype == torch.bfloat16
    # One rounding of the result and none of the angle: half a unit in the last of 8 bits.
    assert ((turned.double() - exact).abs() <= 2.0**-8 * exact.abs().clamp_min(1e-6)).all()
