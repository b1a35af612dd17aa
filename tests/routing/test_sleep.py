import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence

from mneme.routing.sleep import Rehearsal, join, rehearsal_loss


def _rehearsal(chunks, start=0, snapshot=True):
    generator = torch.Generator().manual_seed(start)
    return Rehearsal(
        states=torch.arange(start, start + chunks)[:, None, None].expand(chunks, 6, 8).float(),
        ids=torch.randint(0, 20, (chunks, 6), generator=generator),
        snapshot=torch.randn(chunks, 6, 8, generator=generator) if snapshot else None,
    )


@pytest.fixture(name="weight")
def _weight():
    return torch.randn(20, 8, generator=torch.Generator().manual_seed(9))


def test_draws_are_distinct_chunks_with_their_own_snapshot():
    pool = _rehearsal(12)
    drawn = pool.draw(5, generator=torch.Generator().manual_seed(0))
    rows = drawn.states[:, 0, 0].long()
    assert len(set(rows.tolist())) == 5
    assert torch.equal(drawn.ids, pool.ids[rows])
    assert torch.equal(drawn.snapshot, pool.snapshot[rows])
    again = pool.draw(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.states, drawn.states)
    seen = {
        int(row)
        for seed in range(40)
        for row in pool.draw(5, generator=torch.Generator().manual_seed(seed)).states[:, 0, 0]
    }
    assert seen == set(range(12))


def test_a_small_pool_is_drawn_whole():
    assert len(_rehearsal(3).draw(8, generator=torch.Generator()).ids) == 3


def test_join_keeps_each_chunk_beside_its_snapshot():
    first, second = _rehearsal(3), _rehearsal(4, start=3)
    pool = join([first, second])
    assert torch.equal(pool.states[:, 0, 0], torch.arange(7.0))
    assert torch.equal(pool.snapshot[3:], second.snapshot)
    assert join([_rehearsal(2, snapshot=False)] * 2).snapshot is None


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_sleep_is_the_softened_divergence_from_the_snapshot(weight, temperature):
    drawn = _rehearsal(4)
    states = torch.randn(4, 6, 8, requires_grad=True)
    p, q = (Categorical(logits=s @ weight.T / temperature) for s in (drawn.snapshot, states))
    got = rehearsal_loss(states, drawn, weight, protect="sleep", temperature=temperature)
    expected = temperature**2 * kl_divergence(p, q).mean()
    torch.testing.assert_close(got, expected)
    slopes = [torch.autograd.grad(loss, states)[0] for loss in (got, expected)]
    torch.testing.assert_close(*slopes)


def test_replay_is_the_next_token_loss(weight):
    drawn = _rehearsal(4, snapshot=False)
    states = torch.randn(4, 6, 8)
    got = rehearsal_loss(states, drawn, weight, protect="replay", temperature=2.0)
    logits = states[:, :-1] @ weight.T
    torch.testing.assert_close(
        got, F.cross_entropy(logits.flatten(0, 1), drawn.ids[:, 1:].flatten())
    )
