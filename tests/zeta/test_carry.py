"""Carried memory: sums against brute force, windows against one long piece, planted memory."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.core.config import ConfigError
from mneme.core.seeds import numpy_generator, torch_generator
from mneme.zeta.carry import CarryConfig, CarryExtra, CarryMemory, CarryState, _forecast
from mneme.zeta.config import ModelConfig, RunConfig
from mneme.zeta.network import Material, Network, build_network
from mneme.zeta.rollout import rollout

CONFIG = CarryConfig(
    oscillators=6,
    highest=3.0,
    memory=25.0,
    shortest=8.0,
    mobility=3.0,
    channels=2,
    offsets=5,
    first_offset=-1.0,
    last_offset=3.0,
    recent=3,
    features=7,
    refresh=50,
)
WINDOW = 12
NOISE = 0.25


def _memory(seed: int = 0, config: CarryConfig = CONFIG) -> CarryMemory:
    """Build a memory in float64 whose exponents have left their start."""
    memory = CarryMemory(config, generator=torch_generator(seed, "memory")).double()
    generator = torch_generator(seed, "exponents")
    with torch.no_grad():
        for p in memory.memory_parameters():
            p.normal_(std=0.2, generator=generator)
    memory.anchor()
    return memory


def _series(windows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw spacings and slowly rising levels (W, T), float64."""
    draw = numpy_generator(seed, "series")
    spacings = draw.gamma(4.0, 0.25, size=(windows, WINDOW)) + 0.05
    level = 6.0 + 0.01 * np.arange(windows * WINDOW).reshape(windows, WINDOW)
    return torch.from_numpy(spacings), torch.from_numpy(level)


def _brute(memory: CarryMemory, elapsed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over all zeros at or before the last, one by one: h and dh/dz (M,)."""
    decay, frequency = memory.exponents()
    z = torch.complex(decay, frequency).detach()
    heights = torch.cat([elapsed.new_zeros(1), elapsed.cumsum(0)])
    ages = heights[-1] - heights
    waves = torch.stack([torch.exp(-z * age) for age in ages])
    return waves.sum(0), -(ages[:, None] * waves).sum(0)


def test_the_first_spacing_turns_the_first_zero_and_adds_the_second() -> None:
    memory = _memory()
    decay, frequency = memory.exponents()
    spacing, level = torch.tensor([[[1.3]], [[7.0]]], dtype=torch.float64)
    _, state = memory.features(spacing, level, memory.initial_state(1))
    dt = 2 * math.pi * 1.3 / 7.0
    real = 1 + torch.exp(-decay * dt) * torch.cos(frequency * dt)
    imaginary = -torch.exp(-decay * dt) * torch.sin(frequency * dt)
    torch.testing.assert_close(state.value_BM[0].real, real.detach())
    torch.testing.assert_close(state.value_BM[0].imag, imaginary.detach())
    assert state.recent_BR[0].tolist() == [1.0, 1.0, 1.3]


def test_frequencies_start_as_an_even_grid_and_decays_equal() -> None:
    decay, frequency = CarryMemory(CONFIG, generator=torch_generator(0, "m")).exponents()
    torch.testing.assert_close(frequency, torch.tensor([0.25, 0.75, 1.25, 1.75, 2.25, 2.75]))
    torch.testing.assert_close(decay, torch.full((6,), 1 / 25))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), length=st.integers(1, 40))
def test_state_equals_the_sum_over_past_zeros(seed: int, length: int) -> None:
    memory = _memory(seed)
    spacings, level = _series(4, seed)
    spacings, level = spacings.reshape(1, -1)[:, :length], level.reshape(1, -1)[:, :length]
    _, state = memory.features(spacings, level, memory.initial_state(1))
    value, slope = _brute(memory, (2 * math.pi * spacings / level)[0])
    torch.testing.assert_close(state.value_BM[0], value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state.slope_BM[0], slope, rtol=1e-9, atol=1e-9)


def test_windows_in_sequence_equal_one_long_piece_and_the_scan() -> None:
    memory = _memory()
    spacings, level = _series(5)
    level = level[:1, :1].expand_as(level)  # the readout takes a piece's first level
    whole, end = memory.features(
        spacings.reshape(1, -1), level.reshape(1, -1), memory.initial_state(1)
    )
    table = memory.scan(spacings, level)
    state = memory.initial_state(1)
    for w in range(5):
        for scanned, walked in zip(table.rows(torch.tensor([w])), state, strict=True):
            torch.testing.assert_close(scanned, walked, rtol=1e-9, atol=1e-9)
        piece, state = memory.features(spacings[w : w + 1], level[w : w + 1], state)
        expected = whole[:, w * WINDOW : (w + 1) * WINDOW]
        torch.testing.assert_close(piece, expected, rtol=1e-9, atol=1e-9)
    for last, walked in zip(end, state, strict=True):
        torch.testing.assert_close(last, walked, rtol=1e-9, atol=1e-9)


def test_scan_does_not_depend_on_where_windows_are_cut() -> None:
    memory = _memory()
    spacings, level = _series(150)  # more than one chunk of the scan
    fine = memory.scan(spacings.reshape(-1, 4), level.reshape(-1, 4))
    coarse = memory.scan(spacings, level)
    for many, few in zip(fine.rows(slice(None, None, 3)), coarse, strict=True):
        torch.testing.assert_close(many, few, rtol=1e-9, atol=1e-9)


def test_steps_equal_a_whole_window() -> None:
    memory = _memory()
    spacings, level = _series(3)
    level = level[:, :1].expand_as(level)
    start = memory.scan(spacings, level)
    whole, _ = memory.features(spacings, level, start)
    state = start
    for k in range(WINDOW):
        one, state = memory.step(spacings[:, k], level[:, k], state)
        torch.testing.assert_close(one, whole[:, k], rtol=1e-9, atol=1e-9)


def test_nothing_later_is_used_and_everything_earlier_is() -> None:
    memory = _memory()
    spacings, level = _series(4)
    changed = spacings.clone()
    changed[1, 5] += 0.3
    before, after = memory.scan(spacings, level), memory.scan(changed, level)
    one, _ = memory.features(spacings, level, before)
    two, _ = memory.features(changed, level, after)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1, :5], two[1, :5])
    assert (one[1, 5:] != two[1, 5:]).any(-1).all()
    assert (one[2:] != two[2:]).any(-1).all()  # what two windows later have lost is held
    for early, same in zip(before.rows(slice(2)), after.rows(slice(2)), strict=True):
        assert torch.equal(early, same)


def test_shifting_all_heights_at_fixed_level_changes_nothing() -> None:
    memory = _memory()
    heights = 5000 + np.cumsum(numpy_generator(0, "heights").gamma(4.0, 0.2, size=49))
    features = []
    for shift in (0.0, 1234.5):
        spacings = torch.from_numpy(np.diff(heights + shift) * 6.7 / (2 * np.pi))
        spacings = spacings.reshape(4, WINDOW)
        level = torch.full_like(spacings, 6.7)
        features.append(memory.features(spacings, level, memory.scan(spacings, level))[0])
    torch.testing.assert_close(features[0], features[1], rtol=1e-8, atol=1e-8)


def test_oscillators_turn_by_elapsed_height_not_by_spacings() -> None:
    memory = _memory()
    elapsed = _series(3)[0]
    values = []
    for level in (6.0, 12.0):
        level_WT = torch.full_like(elapsed, level)
        spacings = elapsed * level_WT / (2 * math.pi)
        _, state = memory.features(spacings, level_WT, memory.initial_state(3))
        values.append(state.value_BM)
    torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=1e-9)


def test_curves_continue_the_even_beat_that_was_heard() -> None:
    # zeros at even steps of the height make frequency 2 pi / step ring: its forecast must
    # peak at the next zero (offset 1) and at the present one, and dip half-way
    beat = dataclasses.replace(
        CONFIG, oscillators=2, highest=4.0, channels=1, first_offset=0.0, last_offset=1.0, offsets=3
    )
    memory = CarryMemory(beat, generator=torch_generator(0, "m")).double()
    level = torch.full((1, 60), 3.0).double()  # frequency 3 per unit of height: one turn a spacing
    with torch.no_grad():
        memory.mix_CM2.zero_()
        memory.mix_CM2[0, 1, 0] = 1.0
        heard = memory._listen(
            torch.full((1, 60), 2 * math.pi / 3).double(), memory.initial_state(1)
        )
        curve = _forecast(heard, memory.readout(level[:, 0]))[0, -1]
    assert curve[0] > 5
    assert float(curve[2]) == pytest.approx(float(curve[0]), rel=0.2)
    assert curve[1] < -5


def test_gradients_reach_exponents_through_windows_before() -> None:
    memory = _memory()
    spacings, level = _series(6)
    table = memory.scan(spacings, level)
    rows = torch.tensor([5])

    def loss(state: CarryState) -> torch.Tensor:
        features, _ = memory.features(spacings[rows, :3], level[rows, :3], state)
        return features.square().sum()

    loss(table.rows(rows)).backward()
    for p in memory.memory_parameters():
        assert p.grad is not None
        for m in range(CONFIG.oscillators):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    p[m] += sign * 1e-6
                    memory.anchor()
                    values.append(loss(memory.scan(spacings, level).rows(rows)).item())
                    p[m] -= sign * 1e-6
            slope = (values[0] - values[1]) / 2e-6
            assert float(p.grad[m]) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_states_follow_small_moves_of_the_exponents_to_first_order() -> None:
    memory = _memory()
    spacings, level = _series(6)
    old = memory.scan(spacings, level)
    errors = []
    for move in (1e-3, 1e-3):  # 1e-3, then 2e-3 from the anchor
        with torch.no_grad():
            memory.tune_M += move
        followed, _ = memory.features(spacings[5:], level[5:], old.rows(slice(5, 6)))
        kept = memory.anchor_2M.clone()
        memory.anchor()
        exact, _ = memory.features(
            spacings[5:], level[5:], memory.scan(spacings, level).rows(slice(5, 6))
        )
        memory.anchor_2M.copy_(kept)
        errors.append((followed - exact).abs().max().item())
    assert 0 < errors[0] < 1e-3
    assert 3.0 < errors[1] / errors[0] < 5.0  # second order: twice the move, four times the error


def test_a_resumed_training_finds_the_same_states() -> None:
    memory = _memory().float()
    spacings, level = (x.float() for x in _series(6))
    table = memory.scan(spacings, level)
    with torch.no_grad():
        memory.tune_M += 0.1  # steps since the last anchor
    resumed = CarryMemory(CONFIG, generator=torch_generator(9, "m"))
    resumed.load_state_dict(memory.state_dict())
    for one, two in zip(table, resumed.scan(spacings, level), strict=True):
        assert torch.equal(one, two)


def test_initial_weights_come_from_the_generator_alone() -> None:
    one, two, other = (CarryMemory(CONFIG, generator=torch_generator(s, "m")) for s in (0, 0, 1))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name
    assert not torch.equal(one.mix_CM2, other.mix_CM2)


def test_rollout_with_carried_memory_equals_recomputing() -> None:
    network = _network(carried=True)
    memory = network.memory
    assert memory is not None
    spacings, level = _series(4)
    level = level[:, :1].expand_as(level)
    states = memory.scan(spacings, level)
    context, horizon = spacings[:, :6], 4
    told = rollout(
        network.model,
        context,
        horizon=horizon,
        mode="mean",
        generator=None,
        extra=CarryExtra(memory, states, level[:, 0]),
    )
    for _ in range(horizon):
        features, _ = memory.features(context, level[:, : context.shape[1]], states)
        next_B = network.model(context, extra_BTF=features).mixture.mean()[:, -1]
        context = torch.cat([context, next_B[:, None]], dim=1)
    torch.testing.assert_close(told, context[:, 6:], rtol=1e-8, atol=1e-8)


def test_a_hidden_oscillator_slower_than_the_window_is_learnt_only_with_memory() -> None:
    spacings = _driven(amplitude=0.35)
    known = math.log(NOISE * math.sqrt(2 * math.pi * math.e))  # NLL if the phase were given
    held, lost = _trained_nll(spacings, carried=True), _trained_nll(spacings, carried=False)
    assert held < known + 0.06
    assert lost > known + 0.11


def test_noise_without_memory_is_not_predicted_better() -> None:
    spacings = _driven(amplitude=0.0)
    gain = _trained_nll(spacings, carried=False) - _trained_nll(spacings, carried=True)
    assert abs(gain) < 0.03


def test_errors_name_the_key_or_the_cure() -> None:
    for change, text in (
        ({"oscillators": 1}, "oscillators must be at least 2"),
        ({"shortest": 30.0}, "below memory"),
        ({"last_offset": -2.0}, "last_offset must be above -1.0"),
        ({"mobility": -1.0}, "mobility must be at least 0"),
        ({"highest": 0.0}, "highest must be above 0"),
    ):
        with pytest.raises(ConfigError, match=text):
            dataclasses.replace(CONFIG, **change)
    memory = _memory()
    long = torch.full((1, 3000), 2.0).double()
    with pytest.raises(ValueError, match="read it in shorter pieces"):
        memory.features(long, torch.full_like(long, 2.0), memory.initial_state(1))


def _driven(*, amplitude: float) -> torch.Tensor:
    """Spacings (W, T) that a hidden oscillator drives, 40 spacings a turn: over three windows."""
    draw = numpy_generator(3, "driven")
    place, spacings = 0.0, []
    for noise in draw.normal(scale=NOISE, size=300 * WINDOW):
        spacing = max(0.02, 1 + amplitude * math.cos(2 * math.pi * place / 40) + noise)
        spacings.append(spacing)
        place += spacing
    return torch.tensor(spacings, dtype=torch.float32).reshape(-1, WINDOW)


def _network(*, carried: bool) -> Network:
    run = RunConfig(
        arm="carry" if carried else "none",
        system="zeta",
        position="rope",
        slot_id=False,
        aux="none",
        aux_weight=0.0,
        regularise=False,
        drift_weight=0.0,
        drift_every=1,
        drift_horizon=1,
        drift_batch=1,
        drift_schedule="constant",
        slot_dropout=0.0,
        without_slot=None,
        split="height",
        share=1.0,
        control_of=None,
    )
    sizes = ModelConfig(
        layers=1, heads=1, width=16, components=2, window=WINDOW, slots=1, scale_floor=1e-3
    )
    network = build_network(run, sizes, carry=CONFIG if carried else None, seed=0)
    return network.double()


def _trained_nll(spacings: torch.Tensor, *, carried: bool) -> float:
    """Train on the first 200 windows and return the NLL of the last 100."""
    network = _network(carried=carried).float()
    level = torch.full_like(spacings, 2 * math.pi)  # an elapsed height of 1 a spacing
    rows = torch.arange(len(spacings))
    material = Material(spacings_WT=spacings, level_WT=level, train=rows[:200], val=rows[200:])
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    generator = torch_generator(0, "batches")
    for step in range(200):
        network.follow(material, step=step)
        chosen = torch.randint(200, (32,), generator=generator)
        mixture = network(material, chosen, slots=None).mixture
        loss = -mixture.log_prob(spacings[chosen, 1:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.refresh(material, anchor=True)
    with torch.no_grad():
        mixture = network(material, material.val, slots=None).mixture
        return float(-mixture.log_prob(spacings[material.val, 1:]).mean())
