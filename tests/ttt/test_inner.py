"""Reading: torch.func.grad for each sample as oracle, rows, pieces, causality, memory, errors.

Three blocks, two of them with fast weights, window and chunk 4, float64; 15 tokens are three full
chunks and two targets more.
"""

from __future__ import annotations

import weakref

import pytest
import torch

from mneme.core.config import ConfigError
from mneme.ttt.fast import FastWeights
from mneme.ttt.inner import InnerLossError, ReaderState, learn, read
from mneme.ttt.nll import nll_of

CLOSE = {"atol": 1e-10, "rtol": 0}
LENGTH = 15
CLIPS = pytest.mark.parametrize("clip", [1e9, 0.2], ids=["free", "clipped"])
ORDERS = pytest.mark.parametrize("order", ["first", "second"])


def same(first, second, **close):
    """Compare fast weights by name."""
    assert tuple(first) == tuple(second)
    for name in first:
        torch.testing.assert_close(first[name], second[name], **(close or CLOSE))


def gradients_of(model, loss):
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


# --- the slow reader: torch.func.grad, sample by sample


@CLIPS
@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize(
    "changes", [{}, {"ttt_blocks": 3, "tied": True, "rope_base": None}], ids=str
)
def test_batched_fast_weights_are_those_of_each_sample(
    model_of, tokens_of, inner_of, slow_read, clip, flush, changes
):
    model, tokens, inner = model_of(**changes), tokens_of(3, LENGTH), inner_of(clip=clip)
    made = read(model, tokens, inner, flush=flush)
    assert made.norms_BI.shape == (3, 4 if flush else 3)
    assert ((made.norms_BI > clip).all()) == (clip < 1)
    for i, sample in enumerate(tokens):
        slow = slow_read(model, sample, inner, flush=flush)
        torch.testing.assert_close(made.nll_BT[i], slow.nll.detach(), **CLOSE)
        torch.testing.assert_close(
            made.norms_BI[i], torch.stack(slow.norms), rtol=1e-10, atol=1e-10
        )
        same(made.state.fast.row(i), {n: w[None].detach() for n, w in slow.fast.items()})


@CLIPS
@ORDERS
def test_outer_gradients_are_those_of_each_sample(
    model_of, tokens_of, inner_of, slow_read, clip, order
):
    model, tokens, inner = model_of(), tokens_of(2, LENGTH), inner_of(clip=clip)
    made = gradients_of(model, read(model, tokens, inner, order=order).nll_BT.mean())
    slow = [slow_read(model, sample, inner, order=order).nll for sample in tokens]
    want = gradients_of(model, torch.stack(slow).mean())
    same(made, want)
    other = "second" if order == "first" else "first"
    off = gradients_of(model, read(model, tokens, inner, order=other).nll_BT.mean())
    for name in ("embedding.weight", "blocks.0.mlp.up.weight", "blocks.1.mlp_ttt.up.weight"):
        assert (off[name] - want[name]).norm() > 1e-3 * want[name].norm()
    assert all(g.abs().max() > 0 for g in made.values())


@ORDERS
def test_orders_agree_on_values(model_of, tokens_of, inner_of, order):
    model, tokens, inner = model_of(), tokens_of(2, LENGTH), inner_of(clip=0.2)
    plain, graph = (read(model, tokens, inner, order=o, flush=True) for o in ("none", order))
    torch.testing.assert_close(graph.nll_BT.detach(), plain.nll_BT, **CLOSE)
    same(graph.state.fast.detached(), plain.state.fast)
    assert graph.nll_BT.requires_grad
    assert not graph.norms_BI.requires_grad


# --- known answers


@pytest.mark.parametrize("arm", ["second", "two_mlp", "full", "sliding"])
def test_without_a_learning_rate_reading_is_the_plain_forward(model_of, tokens_of, inner_of, arm):
    model, tokens = model_of(arm), tokens_of(2, 22)
    made = read(model, tokens, inner_of(learning_rate=0.0), flush=True)
    with torch.no_grad():
        want = nll_of(model(tokens[:, :-1]), tokens[:, 1:])
    torch.testing.assert_close(made.nll_BT, want, **CLOSE)
    if arm == "second":
        same(made.state.fast, made.state.fast.reset(model), atol=0, rtol=0)
    else:
        assert made.state.fast is None
        assert made.norms_BI.shape == (2, 0)


def test_frozen_fast_weights_stay_and_are_used(model_of, tokens_of, inner_of):
    model, tokens, inner = model_of(), tokens_of(2, LENGTH), inner_of()
    learnt = read(model, tokens, inner).state.fast
    fresh = ReaderState(learnt, None, None)
    frozen = read(model, tokens, inner, state=fresh, update=False)
    assert frozen.state.fast is learnt
    for i in range(2):
        own = {f"{name}.weight": w[i] for name, w in learnt.items()}
        with torch.no_grad():
            logits = torch.func.functional_call(model, own, tokens[i : i + 1, :-1])
        want = nll_of(logits, tokens[i : i + 1, 1:])[0]
        torch.testing.assert_close(frozen.nll_BT[i], want, **CLOSE)
    plain = read(model, tokens, inner, update=False)
    assert plain.state.fast is None
    assert (plain.nll_BT - frozen.nll_BT).abs().max() > 1e-3


def test_learning_helps_on_what_repeats(model_of, tokens_of, inner_of):
    model = model_of()
    tokens = tokens_of(2, 4).repeat(1, 12)
    made = read(model, tokens, inner_of(clip=1.0))
    frozen = read(model, tokens, inner_of(), update=False)
    torch.testing.assert_close(made.nll_BT[:, :4], frozen.nll_BT[:, :4], **CLOSE)
    assert (made.nll_BT[:, 36:].mean() - frozen.nll_BT[:, 36:].mean()) < -0.5


# --- rows and pieces


@CLIPS
@pytest.mark.parametrize("flush", [False, True])
def test_a_sample_is_the_same_alone_and_in_a_ragged_batch(
    model_of, tokens_of, inner_of, clip, flush
):
    model, inner = model_of(), inner_of(clip=clip)
    tokens, lengths = tokens_of(5, LENGTH), torch.tensor([LENGTH, 9, 8, 2, 1])
    made = read(model, tokens, inner, lengths_B=lengths, flush=flush)
    assert made.state.prefix_past is None
    assert made.state.suffix_past is None
    for i, length in enumerate(lengths.tolist()):
        assert (made.nll_BT[i, max(length - 1, 0) :] == 0).all()
        if length < 2:
            same(made.state.fast.row(i), FastWeights.init(model, 1), atol=0, rtol=0)
            continue
        alone = read(model, tokens[i : i + 1, :length], inner, flush=flush)
        torch.testing.assert_close(made.nll_BT[i, : length - 1], alone.nll_BT[0], **CLOSE)
        same(made.state.fast.row(i), alone.state.fast)
        updates = alone.norms_BI.shape[1]
        torch.testing.assert_close(made.norms_BI[i, :updates], alone.norms_BI[0], **CLOSE)
        assert (made.norms_BI[i, updates:] == 0).all()


def test_outer_gradients_ignore_padding(model_of, tokens_of, inner_of):
    model, inner = model_of(), inner_of(clip=0.2)
    tokens, lengths = tokens_of(2, LENGTH), torch.tensor([LENGTH, 10])
    ragged = read(model, tokens, inner, lengths_B=lengths, order="second", flush=True)
    alone = [
        read(model, tokens[i : i + 1, :n], inner, order="second", flush=True).nll_BT.sum()
        for i, n in enumerate(lengths.tolist())
    ]
    same(gradients_of(model, ragged.nll_BT.sum()), gradients_of(model, sum(alone)))


def test_full_lengths_are_no_lengths(model_of, tokens_of, inner_of):
    model, tokens, inner = model_of(), tokens_of(2, LENGTH), inner_of()
    lengths = torch.tensor([LENGTH, LENGTH])
    made, plain = (read(model, tokens, inner, lengths_B=n) for n in (lengths, None))
    assert torch.equal(made.nll_BT, plain.nll_BT)
    assert made.state.suffix_past.position == LENGTH - 1


@pytest.mark.parametrize("arm", ["second", "two_mlp", "full"])
@pytest.mark.parametrize("cut", [4, 8, 16])
def test_two_pieces_are_the_whole(model_of, tokens_of, inner_of, arm, cut):
    model, tokens, inner = model_of(arm), tokens_of(2, 24), inner_of(clip=0.2)
    whole = read(model, tokens, inner, flush=True)
    first = read(model, tokens[:, : cut + 1], inner)
    second = read(model, tokens[:, cut:], inner, state=first.state, flush=True)
    nll = torch.cat([first.nll_BT, second.nll_BT], dim=1)
    torch.testing.assert_close(nll, whole.nll_BT, **CLOSE)
    if arm == "second":
        same(second.state.fast, whole.state.fast)
    for a, b in zip(second.state.suffix_past[0], whole.state.suffix_past[0], strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    assert second.state.suffix_past.position == 23


def test_a_chunk_by_hand_is_a_chunk_read(model_of, tokens_of, inner_of):
    """The step that a decoder takes, after it read the chunk's tokens one by one."""
    model, tokens, inner = model_of(), tokens_of(2, 9), inner_of(clip=0.2)
    want = read(model, tokens, inner)
    first = read(model, tokens[:, :5], inner).state
    with torch.no_grad():
        x, _ = model.prefix(tokens[:, 4:8], first.prefix_past)
        past, losses = first.suffix_past, []
        for c in range(4):
            logits, past = model.suffix(x[:, c : c + 1], first.fast, past)
            losses.append(nll_of(logits, tokens[:, 5 + c : 6 + c]))
    share = torch.full((2, 4), 0.25, dtype=x.dtype)
    start = first.suffix_past
    made = learn(model, x, tokens[:, 5:], first.fast, start, inner, share, order="none")
    torch.testing.assert_close(torch.cat(losses, dim=1), want.nll_BT[:, 4:], **CLOSE)
    torch.testing.assert_close(made.nll_BC, want.nll_BT[:, 4:], **CLOSE)
    same(made.fast, want.state.fast)
    for a, b in zip(made.past.keys, past.keys, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


# --- causality through updates


def test_beyond_the_window_only_fast_weights_carry_a_change(model_of, tokens_of, inner_of):
    model, tokens = model_of(), tokens_of(1, 33)
    other, t = tokens.clone(), 5
    other[0, t] = (tokens[0, t] + 1) % 7
    field = model.config.receptive_field

    def moved(**changes):
        first, second = (read(model, x, inner_of(**changes)).nll_BT[0] for x in (tokens, other))
        return (first - second).abs()

    learnt, still = moved(), moved(learning_rate=0.0)
    for change in (learnt, still):
        assert (change[: t - 1] == 0).all(), "losses of tokens before t"
        assert (change[t - 1 : t + field] > 0).all()
    assert (still[t + field + 1 :] < 1e-14).all()
    assert (learnt[t + field + 1 :] > 1e-9).all()


# --- checkpoints, memory


@CLIPS
@ORDERS
def test_checkpointed_is_plain(model_of, tokens_of, inner_of, clip, order):
    model, tokens, inner = model_of(tied=True), tokens_of(2, LENGTH), inner_of(clip=clip)
    before = tokens_of(2, 9, seed=1)
    begin = [read(model, before, inner, order=order, checkpointed=c).state for c in (False, True)]
    plain, again = (
        read(model, tokens, inner, state=state, order=order, flush=True, checkpointed=c)
        for c, state in enumerate(begin)
    )
    torch.testing.assert_close(again.nll_BT, plain.nll_BT, **CLOSE)
    torch.testing.assert_close(again.norms_BI, plain.norms_BI, **CLOSE)
    same(again.state.fast, plain.state.fast)

    def loss(made):
        frozen = read(model, tokens, inner, state=made.state, order=order, update=False)
        return made.nll_BT.square().mean() + frozen.nll_BT.mean()

    want = gradients_of(model, loss(plain))
    assert all(g.abs().max() > 0 for g in want.values())
    same(gradients_of(model, loss(again)), want)


@ORDERS
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("name", ["blocks.1.attention.q.weight", "blocks.2.mlp_ttt.up.weight"])
def test_a_part_of_the_model_can_be_trained_alone(
    model_of, tokens_of, inner_of, order, checkpointed, name
):
    model, tokens, inner = model_of(), tokens_of(2, LENGTH), inner_of(clip=0.2)
    how = {"order": order, "checkpointed": checkpointed}
    want = gradients_of(model, read(model, tokens, inner, **how).nll_BT.mean())
    model.requires_grad_(False)
    alone = model.get_parameter(name).requires_grad_()
    found = torch.autograd.grad(read(model, tokens, inner, **how).nll_BT.mean(), alone)[0]
    torch.testing.assert_close(found, want[name], **CLOSE)
    model.requires_grad_(False)
    assert torch.isfinite(read(model, tokens, inner).nll_BT).all()


class Held:
    """One tensor that a graph keeps for its backward pass."""

    def __init__(self, tensor):
        self.tensor = tensor


def kept(monkeypatch, model, tokens, inner, **how):
    """Return the tensors that graphs hold at the start of each chunk, and the reading."""
    alive, counts, suffix = weakref.WeakSet(), [], model.suffix

    def pack(tensor):
        held = Held(tensor.detach())  # with its history, an output would hold its own graph
        alive.add(held)
        return held

    def counted(*args, **kwargs):
        counts.append(len(alive))
        return suffix(*args, **kwargs)

    monkeypatch.setattr(model, "suffix", counted)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        made = read(model, tokens, inner, **how)
    return counts, made


def test_memory_is_bounded_at_test_time(monkeypatch, model_of, tokens_of, inner_of):
    model, tokens, inner = model_of(), tokens_of(2, 41), inner_of()
    counts, made = kept(monkeypatch, model, tokens, inner)
    assert counts == [0] * 10, "nothing of a chunk outlives it"
    state = made.state
    tensors = [*state.fast.values(), *state.prefix_past.keys, *state.suffix_past.values]
    for tensor in [*tensors, made.nll_BT, made.norms_BI]:
        assert tensor.grad_fn is None
        assert not tensor.requires_grad
    for tensor in tensors:
        assert tensor.untyped_storage().nbytes() == 8 * tensor.numel()
    monkeypatch.undo()
    growing, _ = kept(monkeypatch, model, tokens, inner, order="second")
    assert growing[-1] > 5 * growing[1] > 0, "the count can grow"
    monkeypatch.undo()
    less, _ = kept(monkeypatch, model, tokens, inner, order="second", checkpointed=True)
    assert 0 < less[-1] < growing[-1] / 5
    assert all(p.grad is None for p in model.parameters())


# --- errors


def test_a_chunk_longer_than_the_window_is_refused(model_of, tokens_of, inner_of):
    with pytest.raises(ConfigError, match=r"inner.chunk must be at most the window \(k = 4\)"):
        read(model_of(), tokens_of(1, 9), inner_of(chunk=5))
    read(model_of("sliding"), tokens_of(1, 9), inner_of(chunk=5))


@pytest.mark.parametrize("order", ["none", "second"])
def test_a_loss_that_is_not_finite_names_step_and_chunk(model_of, tokens_of, inner_of, order):
    model, exploding = model_of(), inner_of(learning_rate=1e200)
    tokens = torch.zeros(1, LENGTH, dtype=torch.int64)
    with torch.no_grad():
        model.embedding.weight[6] = torch.nan
    tokens[0, 9] = 6
    told = r"^the inner loss of chunk 2 at step 17 is not finite: lower inner.learning_rate"
    with pytest.raises(InnerLossError, match=told):
        read(model, tokens, inner_of(), order=order, step=17)
    with pytest.raises(InnerLossError, match="of chunk 2 is not finite"):
        read(model, tokens, inner_of(), order=order)
    with pytest.raises(InnerLossError, match="of chunk 1 at step 3 is not finite"):
        read(model, tokens[:, :9], exploding, order=order, step=3)
    # Read on, and read at once without learning: chunks are counted from the stream's start.
    state = read(model, tokens[:, :5], inner_of(), order=order).state
    with pytest.raises(InnerLossError, match="of chunk 2 is not finite"):
        read(model, tokens[:, 4:], inner_of(), state=state, order=order)
    with pytest.raises(InnerLossError, match="of chunk 2 is not finite"):
        read(model, tokens, inner_of(), update=False, order=order)
