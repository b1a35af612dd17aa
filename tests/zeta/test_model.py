"""SpacingMDN: causality, what each arm's memory can see, maps, replaced slots, errors."""

from __future__ import annotations

import pytest
import torch
from zeta_models import ARMS, POSITIONS, READING, F, cut, features, heights, model_of, spacings

from mneme.core.config import ConfigError
from mneme.core.seeds import torch_generator
from mneme.zeta.config import SLOT_ARMS
from mneme.zeta.memory import Slots


def flat(mixture):
    return torch.cat(list(mixture), dim=-1)


# --- known answers


@pytest.mark.parametrize("arm", ["none", "prefix"])
def test_full_scale_has_the_published_size(arm):
    model = model_of(
        arm, position="learned", layers=6, heads=8, width=256, components=8, window=256, slots=8
    )
    assert 4.5e6 <= sum(p.numel() for p in model.parameters()) <= 4.85e6
    assert (model.config.slots, model.config.components) == (8, 8)


def test_fresh_densities_cover_the_spacings():
    mixture = model_of("none", components=8, width=64)(spacings(dtype=torch.float32)).mixture
    assert mixture.means.shape == (3, 31, 8)
    assert 0.5 < mixture.mean().mean() < 1.8
    assert -mixture.log_prob(torch.ones(3, 31)).mean() < 1.5


def test_same_seed_same_model_and_the_global_generator_rests():
    before = torch.random.get_rng_state()
    first, again, other = (model_of("readout", seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert all(torch.isfinite(p).all() for p in first.values())


def test_memory_parameters_are_the_bank():
    for arm in ARMS:
        names = {name for name, _ in model_of(arm).named_parameters() if name.startswith("bank.")}
        assert names == (set() if arm == "none" else {"bank.slots_MD", "bank.ids_MD"})
        assert len(model_of(arm).memory_parameters()) == len(names)


# --- causality


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("what", ["spacing", "feature"])
def test_a_change_at_t_moves_nothing_before(arm, position, what):
    model, t = model_of(arm, position=position, extra=F).double(), 17
    x, f = spacings(), features()
    level = heights(position)
    before = flat(model(x, extra_BTF=f, level_B=level).mixture)
    if what == "spacing":
        x[:, t] += 0.5
    else:
        f[:, t] += 0.5
    after = flat(model(x, extra_BTF=f, level_B=level).mixture)
    torch.testing.assert_close(after[:, :t], before[:, :t], atol=1e-13, rtol=0)
    moved = (after[:, t:] - before[:, t:]).abs().amax((0, 2))
    assert (moved > 1e-9).all()


@pytest.mark.parametrize("arm", ARMS)
def test_rows_do_not_touch_each_other(arm):
    model, x = model_of(arm).double(), spacings()
    alone = torch.cat([flat(model(row[None]).mixture) for row in x])
    torch.testing.assert_close(flat(model(x).mixture), alone, atol=1e-12, rtol=0)


# --- what memory can see


@pytest.mark.parametrize("position", POSITIONS)
def test_prefix_memory_cannot_see_the_data(position):
    model = model_of("prefix", position=position).double()
    first = model(spacings(seed=1), level_B=heights(position)).memory_BMD
    others = 100 * spacings(batch=5, steps=8, seed=2)
    second = model(others, level_B=heights(position, batch=5)).memory_BMD
    torch.testing.assert_close(first[:1].expand(5, -1, -1), second, atol=1e-13, rtol=0)
    torch.testing.assert_close(first[0], first[2], atol=1e-13, rtol=0)


@pytest.mark.parametrize("arm", READING)
def test_reading_memory_sees_the_data(arm):
    model, x = model_of(arm).double(), spacings()
    first = model(x).memory_BMD
    x[0, 3] += 0.5
    moved = (model(x).memory_BMD - first).abs().amax(-1)
    assert (moved[0] > 1e-6).all()
    assert moved[1:].max() < 1e-12


@pytest.mark.parametrize("arm", SLOT_ARMS)
def test_every_slot_reaches_the_prediction(arm):
    model, x = model_of(arm).double(), spacings()
    base = flat(model(x).mixture)
    for slot in range(4):
        moved = (flat(model(x, slots=cut(3, slot)).mixture) - base).abs().amax((0, 2))
        assert (moved > 1e-7).all(), f"slot {slot}"


def test_without_memory_no_signal_passes_the_gate():
    model = model_of("gating").double()
    x, y = (spacings(seed=seed) for seed in (1, 2))
    assert (flat(model(x).mixture) - flat(model(y).mixture)).abs().max() > 1e-3
    shut = [flat(model(data, slots=cut(3)).mixture) for data in (x, y)]
    assert torch.equal(shut[0], shut[1])


def test_without_memory_a_film_leaves_the_stream_alone():
    film, none = model_of("film").double(), model_of("none").double()
    none.load_state_dict(film.state_dict(), strict=False)
    x = spacings()
    shut, bare = film(x, slots=cut(3)).mixture, none(x).mixture
    torch.testing.assert_close(flat(shut), flat(bare), atol=1e-12, rtol=0)


# --- replaced slots


@pytest.mark.parametrize("arm", SLOT_ARMS)
def test_an_ablation_batch_equals_one_by_one(arm):
    model, x = model_of(arm).double(), spacings(batch=2)
    values = torch.randn(4, 16, generator=torch_generator(0, "values"), dtype=torch.float64)
    keep = torch.cat([torch.ones(1, 4), 1 - torch.eye(4), torch.zeros(1, 4)]).bool()
    many = Slots(
        keep_BM=keep.repeat_interleave(2, dim=0), values_BMD=values.expand(2 * len(keep), -1, -1)
    )
    batch = flat(model(x.repeat(len(keep), 1), slots=many).mixture).unflatten(0, (len(keep), 2))
    torch.testing.assert_close(batch[0], flat(model(x).mixture), atol=1e-12, rtol=0)
    for row, kept in enumerate(keep):
        copy = model_of(arm).double()
        if arm == "prefix":  # what is replaced is the vector itself: put it into the weights
            with torch.no_grad():
                copy.bank.ids_MD.zero_()
                copy.bank.slots_MD.copy_(torch.where(kept[:, None], model.bank.vectors(), values))
            expected = copy(x)
        else:
            one = Slots(keep_BM=kept.expand(2, -1), values_BMD=values.expand(2, -1, -1))
            expected = model(x, slots=one)
        torch.testing.assert_close(batch[row], flat(expected.mixture), atol=1e-12, rtol=0)


@pytest.mark.parametrize("arm", READING)
def test_a_replaced_state_is_what_the_memory_holds(arm):
    out = model_of(arm).double()(spacings(), slots=cut(3, 1, value=0.25)).memory_BMD
    assert torch.equal(out[:, 1], torch.full((3, 16), 0.25).double())


# --- maps, cache, precision


@pytest.mark.parametrize("arm", ARMS)
def test_maps_come_from_the_same_computation(arm):
    model = model_of(arm)
    x = spacings(dtype=torch.float32)
    fast, slow = model(x), model(x, attention=True)
    torch.testing.assert_close(flat(slow.mixture), flat(fast.mixture), atol=1e-5, rtol=0)
    positions = 31 + (4 if arm == "prefix" else 0)
    assert fast.attention is None
    assert slow.attention.shape == (3, 2, 2, positions, positions)
    assert slow.attention.triu(1).abs().max() == 0
    torch.testing.assert_close(slow.attention.sum(-1), torch.ones(3, 2, 2, positions))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("graph", [False, True])
def test_pieces_with_a_cache_equal_the_whole(arm, position, graph):
    model = model_of(arm, position=position, extra=F).double()
    x, f, slots, cache = spacings(), features(), None, model.empty_cache()
    if arm != "none":
        slots = cut(3, 2)
    fixed = {"slots": slots, "level_B": heights(position)}
    with torch.set_grad_enabled(graph):
        pieces = [
            flat(model(x[:, s], extra_BTF=f[:, s], cache=cache, **fixed).mixture)
            for s in (slice(0, 10), slice(10, 15), slice(15, 16), slice(16, 31))
        ]
    whole = flat(model(x, extra_BTF=f, **fixed).mixture)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("arm", ARMS)
def test_gradients_reach_every_parameter(arm, position):
    model = model_of(arm, position=position, extra=F).double()
    level = heights(position)
    out = model(spacings()[:, :-1], extra_BTF=features()[:, :-1], level_B=level)
    (-out.mixture.log_prob(spacings()[:, 1:])).mean().backward()
    for name, p in model.named_parameters():
        used = p.grad[:-1] if name == "place" else p.grad  # the last place of a window is unused
        assert used is not None
        assert used.abs().max() > 0, name


@pytest.mark.parametrize("arm", ARMS)
def test_bfloat16_autocast_keeps_the_mixture_in_float32(arm):
    model, x = model_of(arm), spacings(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(x)
        loss = -low.mixture.log_prob(x).mean()
    loss.backward()
    assert {part.dtype for part in low.mixture} == {torch.float32}
    torch.testing.assert_close(flat(low.mixture), flat(model(x).mixture), atol=0.05, rtol=0.05)


def test_outside_arms_are_a_plain_stream_with_features():
    carry, none = model_of("carry", extra=F).double(), model_of("none", extra=F).double()
    x, f = spacings(), features()
    assert torch.equal(flat(carry(x, extra_BTF=f).mixture), flat(none(x, extra_BTF=f).mixture))
    assert carry(x, extra_BTF=f).memory_BMD is None


# --- distances


def test_only_differences_of_height_enter():
    """Counting t from elsewhere changes nothing: the first zero's place is nobody's business."""
    model, x, level = (
        model_of("none", position="distance").double(),
        spacings(),
        heights("distance"),
    )
    plain = flat(model(x, level_B=level).mixture)
    cache = model.empty_cache()
    cache.at_B = torch.tensor([1e3, -7.0, 123.4]).double()
    moved = flat(model(x, level_B=level, cache=cache).mixture)
    torch.testing.assert_close(moved, plain, atol=1e-10, rtol=0)
    elsewhere = flat(model(x, level_B=level + 0.1).mixture)
    assert (elsewhere - plain).abs().max() > 1e-6


def test_autocast_turns_values_in_float32():
    model, x = model_of("none", position="distance"), spacings(dtype=torch.float32)
    level = heights("distance").float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = flat(model(x, level_B=level).mixture)
    expected = flat(model(x, level_B=level).mixture)
    torch.testing.assert_close(low, expected, atol=0.05, rtol=0.05)


# --- errors


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="slot_id must be false"):
        model_of("none", slot_id=True)
    with pytest.raises(ConfigError, match="extra"):
        model_of("carry")
    with pytest.raises(ConfigError, match="position"):
        model_of("none", position="alibi")
    with pytest.raises(ConfigError, match="spacings_BT"):
        model_of("none")(spacings(steps=33, dtype=torch.float32))
    with pytest.raises(ConfigError, match="extra_BTF"):
        model_of("none")(spacings(dtype=torch.float32), extra_BTF=features())
    with pytest.raises(ConfigError, match="extra_BTF"):
        model_of("none", extra=F)(spacings(dtype=torch.float32))
    with pytest.raises(ConfigError, match="level_B"):
        model_of("none", position="distance")(spacings(dtype=torch.float32))
    with pytest.raises(ConfigError, match="level_B"):
        model_of("none")(spacings(dtype=torch.float32), level_B=torch.full((3,), 12.0))
    with pytest.raises(ConfigError, match="slots"):
        model_of("none")(spacings(dtype=torch.float32), slots=cut(3))


def test_the_density_is_exact_under_bfloat16():
    model = model_of("none")
    x = spacings(steps=20)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        means = model(x.float()).mixture.means
    assert means.dtype == torch.float32
    # A head in bfloat16 would leave only multiples of 2^-8 of the leading power of two.
    assert (means != means.bfloat16().float()).float().mean() > 0.9
