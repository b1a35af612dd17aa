"""Slots: the bank, readers against slow loops, replacement row by row."""

from __future__ import annotations

import math

import pytest
import torch

from mneme.core.config import ConfigError
from mneme.core.seeds import torch_generator
from mneme.zeta.attention import KVCache
from mneme.zeta.memory import Bank, Cross, Reader, Slots

B, T, M, D = 2, 9, 3, 8


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch_generator(seed, "memory"), dtype=torch.float64)


def filled(module, seed=0):
    generator = torch_generator(seed, "weights")
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.normal_(std=0.5, generator=generator)
    return module


def read_by_loops(reader, x, vectors):
    """Softmax averages over the past, one slot and position at a time."""
    x = reader.norm(x)
    keys = x @ reader.key.weight.T
    values = (x @ reader.value.weight.T).reshape(B, T, M, reader.each)
    out = torch.empty_like(values)
    for b in range(B):
        for m in range(M):
            for i in range(T):
                score = keys[b, : i + 1] @ vectors[b, m] / math.sqrt(D)
                weight = (8 * torch.tanh(score / 8)).softmax(0)
                out[b, i, m] = weight @ values[b, : i + 1, m]
    return out


# --- the bank


@pytest.mark.parametrize("slot_id", [False, True])
def test_bank_holds_vectors_and_identities(slot_id):
    bank = filled(Bank(M, D, slot_id=slot_id))
    held = bank(B, None)
    expected = bank.slots_MD + bank.ids_MD if slot_id else bank.slots_MD
    assert torch.equal(held, expected.expand(B, M, D))
    assert len(list(bank.parameters())) == 1 + slot_id


def test_replacement_is_row_by_row():
    bank, keep = filled(Bank(M, D, slot_id=False)), torch.ones(B, M, dtype=torch.bool)
    keep[1, 2] = False
    values = draw(B, M, D)
    held = bank(B, Slots(keep_BM=keep, values_BMD=values))
    assert torch.equal(held[0], bank.slots_MD)
    assert torch.equal(held[1, :2], bank.slots_MD[:2])
    assert torch.equal(held[1, 2], values[1, 2])


@pytest.mark.parametrize(
    "shapes", [((B, M + 1), (B, M, D)), ((B, M), (B, M, D + 1)), ((1, M), (B, M, D))]
)
def test_replacements_of_other_shapes_are_refused(shapes):
    keep, values = torch.ones(shapes[0], dtype=torch.bool), torch.zeros(shapes[1])
    with pytest.raises(ConfigError, match="of shape"):
        Bank(M, D, slot_id=False)(B, Slots(keep_BM=keep, values_BMD=values))


# --- readers


def test_reader_equals_loops():
    reader = filled(Reader(M, D))
    x, vectors = draw(B, T, D), 3 * draw(B, M, D, seed=1)
    read = reader(x, vectors, None, None)
    assert read.shape == (B, T, M, reader.each)
    torch.testing.assert_close(read, read_by_loops(reader, x, vectors), atol=1e-12, rtol=0)


def test_reader_of_one_position_holds_its_value():
    reader = filled(Reader(M, D))
    x = draw(B, 1, D)
    values = (reader.norm(x) @ reader.value.weight.T).reshape(B, 1, M, reader.each)
    torch.testing.assert_close(reader(x, draw(B, M, D), None, None), values, atol=1e-12, rtol=0)


def test_reader_in_pieces_equals_at_once():
    reader, cache = filled(Reader(M, D)), KVCache(T)
    x, vectors = draw(B, T, D), draw(B, M, D, seed=1)
    pieces = [
        reader(x[:, s], vectors, None, cache) for s in (slice(0, 4), slice(4, 5), slice(5, T))
    ]
    whole = reader(x, vectors, None, None)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-12, rtol=0)


def test_scores_of_any_size_stay_finite_and_causal():
    reader = filled(Reader(M, D)).float()
    x = draw(B, T, D).float()
    huge = 1e6 * draw(B, M, D, seed=1).float()
    read = reader(x, huge, None, None)
    assert torch.isfinite(read).all()
    later = x.clone()
    later[:, 5:] = 100 * draw(B, T - 5, D, seed=3).float()
    assert torch.equal(reader(later, huge, None, None)[:, :5], read[:, :5])


def test_a_replaced_slot_reads_nothing_and_the_others_as_before():
    reader, keep = filled(Reader(M, D)), torch.ones(B, M, dtype=torch.bool)
    keep[0, 1] = False
    x, vectors = draw(B, T, D), draw(B, M, D, seed=1)
    full = reader(x, vectors, None, None)
    cut = reader(x, vectors, Slots(keep_BM=keep, values_BMD=torch.zeros(B, M, D)), None)
    assert cut[0, :, 1].abs().max() == 0
    full[0, :, 1] = 0
    assert torch.equal(cut, full)


def test_total_is_the_sum_of_states():
    reader = filled(Reader(M, D))
    vectors, read = draw(B, M, D), draw(B, T, M, reader.each, seed=1)
    total = reader.total(vectors, read)
    for i in range(T):
        states = reader.states(vectors, read[:, i])
        torch.testing.assert_close(total[:, i], states.sum(1), atol=1e-12, rtol=0)


def test_cross_equals_loops_over_slot_states():
    reader, cross = filled(Reader(M, D)), filled(Cross(D), seed=1)
    x, vectors, read = draw(B, T, D), draw(B, M, D, seed=2), draw(B, T, M, reader.each, seed=3)
    out = cross(x, reader, vectors, read)
    query, address = cross.query(cross.norm(x)), cross.address(vectors)
    for i in range(T):
        weight = (torch.einsum("bd,bmd->bm", query[:, i], address) / math.sqrt(D)).softmax(-1)
        taken = torch.einsum("bm,bmd->bd", weight, reader.states(vectors, read[:, i]))
        torch.testing.assert_close(out[:, i], cross.out(taken), atol=1e-12, rtol=0)
