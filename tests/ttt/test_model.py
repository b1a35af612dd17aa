"""TTTTransformer: sizes, a slow reference, pieces, what a position can see, far positions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.core.seeds import torch_generator
from mneme.ttt.model import build_model

ARMS = ("full", "sliding", "second")
CLOSE = {"atol": 1e-12, "rtol": 0}


def count(model, part=""):
    return sum(p.numel() for name, p in model.named_parameters() if part in name)


# --- known answers


def test_tiny40_has_31_linear_layers_and_3_fast_matrices(model_of):
    model = model_of(blocks=4, width=40, heads=5, hidden=160, ttt_blocks=1, window=64, tied=True)
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) == 31
    assert {tuple(m.weight.shape) for m in linear} == {(40, 40), (128, 40), (40, 128)}
    assert all(m.bias is None for m in linear)
    assert model.fast_names() == tuple(f"blocks.3.mlp_ttt.{p}" for p in ("gate", "up", "down"))
    assert model_of("sliding").fast_names() == ()


@pytest.mark.parametrize(
    ("blocks", "ttt_blocks", "hidden"), [(4, 1, 160), (4, 2, 171), (12, 3, 64)]
)
def test_one_and_two_mlps_have_equal_parameters(model_of, blocks, ttt_blocks, hidden):
    sizes = {"blocks": blocks, "ttt_blocks": ttt_blocks, "hidden": hidden}
    one, two = (model_of(arm, **sizes) for arm in ("sliding", "two_mlp"))
    norms = 2 * ttt_blocks * 8
    mlps = blocks + ttt_blocks
    assert abs(count(two) - norms - count(one)) <= 3 * 8 * mlps / 2
    assert count(model_of("full", **sizes)) == count(one)
    assert count(model_of("first", **sizes)) == count(model_of("second", **sizes)) == count(two)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("blocks", [2, 16])
def test_a_fresh_model_is_near_even_odds_at_any_depth(model_of, tokens_of, tied, blocks):
    model = model_of(blocks=blocks, width=64, heads=4, hidden=64, vocabulary=50, tied=tied)
    tokens = tokens_of(4, 33, vocabulary=50)
    with torch.no_grad():
        logits = model(tokens[:, :-1])
        x, _ = model.prefix(tokens)
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(nll - math.log(50)) < 0.5
    assert 0.4 < x.square().mean().sqrt() < 1.5


def test_same_seed_same_model_and_the_global_generator_rests(config_of):
    before = torch.random.get_rng_state()
    first, again, other = (
        build_model(
            config_of(), "second", vocabulary=5, generator=torch_generator(seed, "w")
        ).state_dict()
        for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert all(w.dtype == torch.float32 for w in first.values())


# --- the slow reference


@pytest.mark.parametrize("length", [4, 23])  # one mask, and groups of one window
@pytest.mark.parametrize(
    "changes", [{}, {"rope_base": None}, {"qk_norm": False}, {"tied": True}, {"window": 1}], ids=str
)
@pytest.mark.parametrize("arm", ARMS)
def test_forward_is_attention_by_loops(
    model_of, tokens_of, inner_of, slow_read, arm, changes, length
):
    model, tokens = model_of(arm, **changes), tokens_of(2, length)
    inner = inner_of(chunk=length, learning_rate=0.0)
    with torch.no_grad():
        logits = model(tokens)
        for row, sample in zip(logits, tokens, strict=True):
            slow = slow_read(model, torch.cat([sample, sample[:1]]), inner)
            torch.testing.assert_close(row, slow.logits, **CLOSE)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_counted_positions_are_those_of_all(model_of, tokens_of, tied):
    model, tokens = model_of(tied=tied).double(), tokens_of(3, 20)
    counted = torch.rand(3, 20, generator=torch_generator(0, "counted")) < 0.4
    with torch.no_grad():
        assert torch.allclose(model(tokens, counted), model(tokens)[counted], **CLOSE)


def test_prefix_and_suffix_share_the_blocks(model_of, tokens_of):
    model, tokens = model_of(), tokens_of(2, 9)
    x, past = model.prefix(tokens)
    # The attention of the first block with fast weights comes before them.
    assert (len(past.keys), past.held, past.position) == (2, 3, 9)
    _, past = model.suffix(x, None, None)
    assert (len(past.keys), past.held, past.position) == (1, 3, 9)
    assert model_of("full").prefix(tokens)[1].held == 9
    alone = model_of(ttt_blocks=1)
    _, past = alone.suffix(alone.prefix(tokens)[0], None, None)
    assert (past.keys, past.values, past.held, past.position) == ((), (), 3, 9)


# --- properties


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("arm", ARMS)
@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(1, 17), min_size=2, max_size=4))
def test_pieces_are_the_whole(model_of, tokens_of, arm, twice, sizes):
    model, tokens = model_of(arm), tokens_of(2, sum(sizes))
    with torch.no_grad():
        whole = model(tokens)
        pasts, logits = (None, None), []
        for piece in tokens.split(sizes, dim=1):
            x, prefix = model.prefix(piece, pasts[0])
            made, suffix = model.suffix(x, None, pasts[1], twice=twice)
            pasts = prefix, suffix
            logits.append(made)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, **CLOSE)


def test_a_past_can_be_used_again(model_of, tokens_of):
    model, tokens = model_of(), tokens_of(2, 12)
    _, past = model.prefix(tokens[:, :5])
    kept = [t.clone() for part in past[:2] for t in part]
    first, _ = model.prefix(tokens[:, 5:], past)
    second, _ = model.prefix(tokens[:, 5:], past)
    assert torch.equal(first, second)
    assert all(map(torch.equal, kept, (t for part in past[:2] for t in part)))
    copy = past.detached()
    assert copy.keys[0].grad_fn is None
    assert copy.keys[0].untyped_storage().nbytes() == copy.keys[0].numel() * 8
    assert torch.equal(copy.keys[0], past.keys[0])


@pytest.mark.parametrize("arm", ARMS)
def test_a_change_moves_its_receptive_field_and_nothing_else(model_of, tokens_of, arm):
    model, tokens = model_of(arm), tokens_of(1, 30)
    other = tokens.clone()
    other[0, 5] = (tokens[0, 5] + 1) % 7
    with torch.no_grad():
        moved = (model(other) - model(tokens)).abs().amax((0, 2))
    reach = 30 if arm == "full" else 5 + model.config.receptive_field + 1
    assert (moved[:5] == 0).all()
    assert (moved[5:reach] > 0).all()
    assert (moved[reach:] == 0).all()


def test_rows_do_not_touch_each_other(model_of, tokens_of):
    model, tokens = model_of(), tokens_of(3, 20)
    alone = torch.cat([model(row[None]) for row in tokens])
    torch.testing.assert_close(model(tokens), alone, **CLOSE)


def test_position_100000_is_as_good_as_any(model_of, tokens_of):
    """In float32: the end of a long stream, at once and in steps, is that of a short one."""
    model, steps = model_of(blocks=3, ttt_blocks=1).float(), 9
    tokens = tokens_of(1, 100_000)
    near = 3 * 3 + steps + 1
    with torch.no_grad():
        x, past = model.prefix(tokens[:, :-steps])
        y, end = model.prefix(tokens[:, -steps:], past)
        whole, _ = model.prefix(tokens)
        short, _ = model.prefix(tokens[:, -near:])
    assert (past.position, end.position) == (100_000 - steps, 100_000)
    close = {"atol": 2e-6, "rtol": 0}
    torch.testing.assert_close(y, short[:, -steps:], **close)
    torch.testing.assert_close(whole[:, -steps:], short[:, -steps:], **close)
    assert x.shape == (1, 100_000 - steps, 8)


def test_second_derivatives_exist_on_cpu(model_of, tokens_of):
    model = model_of()
    x = model.prefix(tokens_of(1, 5))[0].detach().requires_grad_()
    direction = torch.randn(x.shape, generator=torch_generator(0, "d"), dtype=x.dtype)

    def slope(at):
        logits, _ = model.suffix(at, None, None, twice=True)
        return torch.autograd.grad(logits.square().sum(), at, create_graph=True)[0]

    curved = torch.autograd.grad((slope(x) * direction).sum(), x)[0]
    step = 1e-5
    slow = (slope(x + step * direction) - slope(x - step * direction)) / (2 * step)
    torch.testing.assert_close(curved, slow.detach(), atol=1e-4, rtol=1e-4)
