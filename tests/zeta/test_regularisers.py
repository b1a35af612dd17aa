import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.zeta import regularisers as reg

STEPS = 20_000


@pytest.mark.parametrize(
    ("ramp", "step", "weight"),
    [
        (reg.ORTHOGONALITY, 0, 1e-4),
        (reg.ORTHOGONALITY, 2_500, 5.05e-3),
        (reg.ORTHOGONALITY, 5_000, 1e-2),
        (reg.ORTHOGONALITY, 19_999, 1e-2),
        (reg.ATTENTION_ENTROPY, 0, 0.0),
        (reg.ATTENTION_ENTROPY, 1_000, 0.0025),
        (reg.ATTENTION_ENTROPY, 2_000, 0.005),
        (reg.MASS, 999, 0.0),
        (reg.MASS, 1_000, 0.01),
    ],
)
def test_ramps_are_the_published_ones(ramp, step, weight):
    assert ramp(step, STEPS) == pytest.approx(weight)


def test_a_short_training_passes_through_the_same_ramps():
    for ramp in (reg.ORTHOGONALITY, reg.ATTENTION_ENTROPY, reg.MASS):
        long = [ramp(step, STEPS) for step in range(0, STEPS, 100)]
        short = [ramp(step, 200) for step in range(200)]
        assert short == pytest.approx(long)


def test_orthogonal_slots_overlap_nothing_and_equal_ones_wholly():
    assert reg.overlap(torch.eye(8, 16) * 3).item() == 0.0
    assert reg.overlap(torch.ones(8, 16)).item() == pytest.approx(1.0)
    pair = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert reg.overlap(pair).item() == pytest.approx(0.5)
    assert reg.overlap(torch.ones(1, 4)).item() == 0.0


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_overlap_equals_a_loop_over_pairs_and_ignores_length(seed):
    slots = np.random.default_rng(seed).normal(size=(5, 7))
    cosines = [
        np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
        for i, a in enumerate(slots)
        for j, b in enumerate(slots)
        if i != j
    ]
    wanted = np.mean(np.square(cosines))
    assert reg.overlap(torch.from_numpy(slots)).item() == pytest.approx(wanted)
    assert reg.overlap(torch.from_numpy(slots * 9)).item() == pytest.approx(wanted)


def test_gradient_parts_equal_slots_that_differ_slightly():
    slots = (torch.ones(4, 8) + 0.1 * torch.eye(4, 8)).requires_grad_()
    first = reg.overlap(slots)
    first.backward()
    with torch.no_grad():
        assert reg.overlap(slots - 0.5 * slots.grad) < first


def test_shares_entropy_and_cap_of_known_attention():
    even = torch.full((2, 3, 5, 8), 0.01)
    assert reg.slot_shares(even).tolist() == pytest.approx([1 / 8] * 8)
    assert reg.lacking_entropy(reg.slot_shares(even)).item() == pytest.approx(0.0, abs=1e-6)
    assert reg.excess_mass(reg.slot_shares(even)).item() == 0.0
    one = torch.zeros(4, 8)
    one[:, 2] = 0.2
    assert reg.lacking_entropy(reg.slot_shares(one)).item() == pytest.approx(math.log(8))
    assert reg.excess_mass(reg.slot_shares(one)).item() == pytest.approx(0.7)
    assert reg.slot_shares(torch.zeros(4, 8)).tolist() == [0.0] * 8  # no attention on slots at all


def test_attention_penalty_is_weighted_by_both_ramps():
    attention = torch.zeros(4, 8)
    attention[:, 2] = 0.2
    assert reg.attention_penalty(attention, step=0, steps=STEPS).item() == 0.0
    late = reg.attention_penalty(attention, step=5_000, steps=STEPS).item()
    assert late == pytest.approx(0.005 * math.log(8) + 0.01 * 0.7)


def test_descending_the_penalty_spreads_the_mixture():
    logits = torch.tensor([[3.0, 0.0, 0.0, -1.0]], requires_grad=True)
    slots = torch.eye(4)
    before = torch.special.entr(logits.softmax(-1)).sum().item()
    reg.penalty(slots, logits.log_softmax(-1), step=0, steps=STEPS).backward()
    with torch.no_grad():
        after = torch.special.entr((logits - 100 * logits.grad).softmax(-1)).sum().item()
    assert after > before
    even = torch.full((3, 4), math.log(0.25))
    assert reg.penalty(slots, even, step=0, steps=STEPS).item() == pytest.approx(0.0, abs=1e-7)


def test_penalty_adds_the_overlap():
    even = torch.full((3, 4), math.log(0.25))
    late = reg.penalty(torch.ones(4, 4), even, step=5_000, steps=STEPS).item()
    assert late == pytest.approx(1e-2, abs=1e-6)


def test_projection_shortens_long_slots_only():
    slots = torch.tensor([[30.0, 40.0], [3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    reg.cap_norms(slots)
    assert slots.norm(dim=1).tolist() == pytest.approx([5.0, 5.0, 0.5, 0.0])
    assert slots[0].tolist() == pytest.approx([3.0, 4.0])
    vectors, identities = torch.tensor([[30.0, 0.0]]), torch.tensor([[0.0, 40.0]])
    reg.cap_norms(vectors, identities)
    assert (vectors + identities)[0].tolist() == pytest.approx([3.0, 4.0])
    assert vectors[0].tolist() == pytest.approx([3.0, 0.0])
