"""Token by token equals chunk by chunk: every split, past the window, across updates."""

from __future__ import annotations

import pytest
import torch

from mneme.core.seeds import torch_generator
from mneme.ttt import decoder
from mneme.ttt.config import InnerConfig, ModelConfig
from mneme.ttt.decoder import DecodeState, begin, extend, flush, generate, learning, prefill, step
from mneme.ttt.fast import FastWeights, FastWeightsError
from mneme.ttt.inner import InnerLossError, ReaderState, read
from mneme.ttt.model import build_model

V, B, T, WINDOW, CHUNK = 11, 2, 19, 5, 4
INNER = InnerConfig(chunk=CHUNK, learning_rate=1.5, clip=1.0)
CLOSE = {"atol": 1e-11, "rtol": 0}


def network(arm="second", **changed):
    sizes = {
        "blocks": 3,
        "width": 12,
        "heads": 2,
        "hidden": 20,
        "ttt_blocks": 2,
        "window": WINDOW,
        "rope_base": 1e4,
        "qk_norm": True,
        "tied": True,
    }
    config = ModelConfig(**(sizes | changed))
    return build_model(config, arm, vocabulary=V, generator=torch_generator(0, "net")).double()


def draw(*shape, seed=0):
    return torch.randint(V, shape, generator=torch_generator(seed, "tokens"))


def by_steps(model, tokens_BT, state):
    """Return the logits after every token (B, T, V), read one at a time, and the state."""
    logits = []
    for tokens_B in tokens_BT.unbind(1):
        logits_BV, state = step(model, tokens_B, state)
        logits.append(logits_BV)
    return torch.stack(logits, dim=1), state


def nll_of(logits_BTV, tokens_BT):
    """Return the loss of tokens 1 to T - 1, as `read` gives it."""
    told = logits_BTV[:, :-1].log_softmax(-1)
    return -told.gather(-1, tokens_BT[:, 1:, None])[..., 0]


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def stepped(model):
    return by_steps(model, draw(B, T), begin(model, B, INNER))


def test_token_by_token_is_the_chunked_reading(model, stepped):
    tokens_BT = draw(B, T)
    reading = read(model, tokens_BT, INNER)
    logits_BTV, state = stepped
    assert reading.norms_BI.shape == (B, (T - 1) // CHUNK)
    assert (reading.norms_BI > INNER.clip).any(), "the clip was never active"
    torch.testing.assert_close(nll_of(logits_BTV, tokens_BT), reading.nll_BT, **CLOSE)
    for name, w in reading.state.fast.items():
        torch.testing.assert_close(state.fast[name], w, **CLOSE)
    # Without what was learned the losses are others: the equality above is about updates too.
    frozen = read(model, tokens_BT, INNER, update=False)
    assert (frozen.nll_BT - reading.nll_BT)[:, CHUNK:].abs().max() > 1e-2
    torch.testing.assert_close(frozen.nll_BT[:, :CHUNK], reading.nll_BT[:, :CHUNK], **CLOSE)


@pytest.mark.parametrize("cut", range(1, T))
def test_every_split_of_prefill_and_decode_is_the_same(model, stepped, cut):
    tokens_BT, (expected_BTV, last) = draw(B, T), stepped
    logits_BV, state = prefill(model, tokens_BT[:, :cut], INNER)
    torch.testing.assert_close(logits_BV, expected_BTV[:, cut - 1], **CLOSE)
    logits_BTV, state = by_steps(model, tokens_BT[:, cut:], state)
    torch.testing.assert_close(logits_BTV, expected_BTV[:, cut:], **CLOSE)
    for name, w in last.fast.items():
        torch.testing.assert_close(state.fast[name], w, **CLOSE)


@pytest.mark.parametrize("pieces", [(1, 2, 3, 6, 7), (9, 1, 9), (5, 5, 5, 4), (8, 11), (4, 4, 11)])
def test_pieces_of_any_length_are_the_same(model, stepped, pieces):
    state = begin(model, B, INNER)
    for piece in draw(B, T).split(pieces, dim=1):
        logits_BV, state = extend(model, piece, state)
    torch.testing.assert_close(logits_BV, stepped[0][:, -1], **CLOSE)


@pytest.mark.parametrize("arm", ["full", "sliding", "two_mlp", "dynamic", "first", "second"])
@pytest.mark.parametrize("cut", [1, CHUNK, WINDOW + 2, T - 1])
def test_every_arm_is_the_chunked_reading(arm, cut):
    model, tokens_BT = network(arm, tied=False, qk_norm=False), draw(B, T, seed=1)
    logits_BV, state = prefill(model, tokens_BT[:, :cut], INNER)
    rest_BTV, state = by_steps(model, tokens_BT[:, cut:], state)
    nll_BT = nll_of(torch.cat([logits_BV[:, None], rest_BTV], 1), tokens_BT[:, cut - 1 :])
    reading = read(model, tokens_BT, INNER)
    torch.testing.assert_close(nll_BT, reading.nll_BT[:, cut - 1 :], **CLOSE)
    if arm in ("first", "second"):
        assert state.tokens_BC.shape[1] == (T - 1) % CHUNK + 1
    else:
        assert (state.fast, state.inner, state.tokens_BC.shape[1]) == (None, None, 0)
        torch.testing.assert_close(rest_BTV, model(tokens_BT)[:, cut:], **CLOSE)


@pytest.mark.parametrize(("window", "chunk"), [(1, 1), (3, 1), (4, 4), (T + 5, T + 2)])
def test_chunks_as_long_as_the_window_and_networks_without_positions(window, chunk):
    model, tokens_BT = network(window=window, rope_base=None), draw(B, T)
    inner = InnerConfig(chunk=chunk, learning_rate=1.0, clip=1.0)
    logits_BTV, state = by_steps(model, tokens_BT, begin(model, B, inner))
    reading = read(model, tokens_BT, inner, flush=True)
    torch.testing.assert_close(nll_of(logits_BTV, tokens_BT), reading.nll_BT, **CLOSE)
    for name, w in flush(state, model).fast.items():
        torch.testing.assert_close(w, reading.state.fast[name], **CLOSE)


def test_a_row_alone_is_the_row_in_a_batch(model, stepped):
    for row in range(B):
        alone_1TV, _ = by_steps(model, draw(B, T)[row : row + 1], begin(model, 1, INNER))
        torch.testing.assert_close(alone_1TV[0], stepped[0][row], **CLOSE)


def test_without_learning_it_is_the_plain_network(model):
    tokens_BT = draw(B, T)
    for inner in (None, InnerConfig(chunk=CHUNK, learning_rate=0.0, clip=1.0)):
        logits_BTV, _ = by_steps(model, tokens_BT, begin(model, B, inner))
        torch.testing.assert_close(logits_BTV, model(tokens_BT), **CLOSE)


def test_learning_may_begin_later_from_other_fast_weights(model):
    """As a chat reads: history with fast weights as they are, then a turn learned from."""
    past_BT, new_BT = draw(B, 7, seed=2), draw(B, 10, seed=3)
    fast = read(model, draw(B, 9, seed=4), INNER, flush=True).state.fast
    _, state = prefill(model, past_BT, None, fast=fast)
    logits_BTV, state = by_steps(model, new_BT, learning(state, INNER))
    opened = read(model, past_BT, INNER, update=False, state=ReaderState(fast, None, None)).state
    joined_BT = torch.cat([past_BT[:, -1:], new_BT[:, :1]], 1)
    opened = read(model, joined_BT, INNER, update=False, state=opened).state
    expected = read(model, new_BT, INNER, state=opened, flush=True)
    torch.testing.assert_close(nll_of(logits_BTV, new_BT), expected.nll_BT, **CLOSE)
    ended = flush(state, model)
    for name, w in expected.state.fast.items():
        torch.testing.assert_close(ended.fast[name], w, **CLOSE)
        assert not torch.equal(ended.fast[name], state.fast[name])
    assert ended.tokens_BC.shape[1] == 0


def test_a_chunk_without_a_known_target_has_nothing_to_flush(model):
    _, state = prefill(model, draw(B, CHUNK + 1), INNER)
    for name, w in flush(state, model).fast.items():
        assert torch.equal(w, state.fast[name])


@pytest.mark.parametrize("arm", ["second", "full"])
@pytest.mark.parametrize("cut", [1, CHUNK, 2 * CHUNK + 2])
def test_a_state_saved_mid_chunk_goes_on_bit_for_bit(arm, cut):
    model, tokens_BT = network(arm), draw(B, T)
    _, state = prefill(model, tokens_BT[:, :cut], INNER)
    again = DecodeState.load(state.save(), model, INNER)
    one_BTV, _ = by_steps(model, tokens_BT[:, cut:], state)
    two_BTV, _ = by_steps(model, tokens_BT[:, cut:], again)
    assert torch.equal(one_BTV, two_BTV)


def test_a_state_of_another_model_is_refused(model):
    saved = prefill(model, draw(B, T), INNER)[1].save()
    with pytest.raises(FastWeightsError, match=r"mlp_ttt.*needs \(B, "):
        DecodeState.load(saved, network(width=16), INNER)


def test_states_are_never_changed_in_place(model):
    _, state = prefill(model, draw(B, 6), INNER)
    before = state.save()
    by_steps(model, draw(B, 9, seed=5), state)
    flush(state, model)
    for name, tensor in state.save().items():
        assert torch.equal(tensor, before[name])


def held_bytes(state):
    """Return the memory that a state keeps alive, hidden parts of views included."""
    pasts = (state.prefix_past, state.suffix_past, state.chunk_past)
    tensors = [t for past in pasts if past for part in (past.keys, past.values) for t in part]
    tensors += [state.x_BCD, state.tokens_BC, *(state.fast or {}).values()]
    assert not any(t.requires_grad for t in tensors), "a graph was kept"
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def test_the_cost_of_a_token_does_not_grow_with_its_position():
    """Keys that attention looks at, and memory held, repeat with the period of a chunk."""
    costs = {arm: _costs(network(arm), steps=15 * CHUNK) for arm in ("second", "full")}
    keys, memory = costs["second"]
    for period in range(3, 15):
        now = slice(period * CHUNK, (period + 1) * CHUNK)
        assert keys[now] == keys[2 * CHUNK : 3 * CHUNK]
        assert memory[now] == memory[2 * CHUNK : 3 * CHUNK]
    # Three calls of a new token, and one of the chunk's second run: of the two blocks with fast
    # weights, the first one's attention comes before them.
    assert max(map(sum, keys)) == 3 * WINDOW + (WINDOW - 1 + CHUNK)
    grown, more = costs["full"]
    assert sum(grown[-1]) == 3 * len(grown)
    assert more[-1] > 2 * more[len(more) // 4]


def _costs(model, *, steps):
    """Return, for every token, keys at each attention call, and bytes held after it."""
    calls: list[int] = []

    def count(_, args):
        x_BTD, view = args[:2]
        calls.append(view.past + x_BTD.shape[1])

    handles = [block.attention.register_forward_pre_hook(count) for block in model.blocks]
    keys, memory, state = [], [], begin(model, 1, INNER)
    for token in draw(1, steps).unbind(1):
        calls.clear()
        _, state = step(model, token, state)
        keys.append(list(calls))
        memory.append(held_bytes(state))
    for handle in handles:
        handle.remove()
    return keys, memory


def test_generate_yields_what_it_draws_and_the_state_before_it(model):
    tokens_BT = draw(B, 6)
    logits_BV, state = prefill(model, tokens_BT, INNER)
    greedy = list(generate(model, logits_BV, state, draw=lambda one: one.argmax(-1), limit=9))
    assert len(greedy) == 9
    assert greedy[0][1] is state
    text_BT = torch.cat([tokens_BT, torch.stack([t for t, _ in greedy], 1)], 1)
    logits_BTV, _ = by_steps(model, text_BT, begin(model, B, INNER))
    assert torch.equal(logits_BTV[:, 5:-1].argmax(-1), text_BT[:, 6:])
    last, before = greedy[-1]
    torch.testing.assert_close(step(model, last, before)[0], logits_BTV[:, -1], **CLOSE)
    assert list(generate(model, logits_BV, state, draw=lambda one: one, limit=0)) == []


@pytest.mark.parametrize("place", [0, 3, 4, 9, 11])
def test_what_is_not_finite_names_the_chunk_however_it_is_read(monkeypatch, place):
    """Predictions are no numbers from some place of the stream on."""
    broken, tokens_BT = network(), draw(B, T)
    suffix = broken.suffix

    def spoiled(x_BCD, fast, past, **options):
        logits_BCV, after = suffix(x_BCD, fast, past, **options)
        begun = 0 if past is None else past.position
        late_C = torch.arange(begun, begun + x_BCD.shape[1]) >= place
        return logits_BCV.masked_fill(late_C[:, None], torch.nan), after

    monkeypatch.setattr(broken, "suffix", spoiled)
    told = rf"of chunk {place // CHUNK} is not finite"
    with pytest.raises(InnerLossError, match=told + " while decoding"):
        by_steps(broken, tokens_BT, begin(broken, B, INNER))
    with pytest.raises(InnerLossError, match=told):
        prefill(broken, tokens_BT, INNER)
    _, state = prefill(broken, tokens_BT[:, :place], INNER) if place else (None, None)
    state = begin(broken, B, INNER) if state is None else state
    with pytest.raises(InnerLossError, match=told):
        extend(broken, tokens_BT[:, place:], state)


def test_fast_weights_that_diverge_stop_the_decoding_and_name_the_chunk(model):
    """The first chunk's update is too large: the second one's predictions are no numbers."""
    wild = InnerConfig(chunk=CHUNK, learning_rate=1e200, clip=1.0)
    told = "^the prediction of chunk 1 is not finite while decoding: lower inner.learning_rate, or"
    with pytest.raises(InnerLossError, match=told):
        by_steps(model, draw(1, 5 * CHUNK), begin(model, 1, wild))


def test_an_update_that_is_not_finite_names_its_chunk(model, monkeypatch):
    """Predictions may be finite and the gradient not."""
    made = decoder.learn

    def learn(*args, **kwargs):
        step = made(*args, **kwargs)
        return step._replace(norm_B=step.norm_B * (torch.inf if args[4] is not None else 1))

    monkeypatch.setattr(decoder, "learn", learn)
    with pytest.raises(InnerLossError, match=r"^the inner loss of chunk 1 is not finite while d"):
        by_steps(model, draw(1, 5 * CHUNK), begin(model, 1, INNER))


def test_a_network_that_learns_nothing_is_left_to_the_sampler():
    broken = network()
    with torch.no_grad():
        broken.norm.weight.fill_(torch.nan)
    logits_BTV, _ = by_steps(broken, draw(1, 2), begin(broken, 1, None))
    assert logits_BTV.isnan().all()


def test_the_trained_weights_stay_as_they_are(model):
    before = {name: p.clone() for name, p in model.named_parameters()}
    start = FastWeights.init(model, B)
    _, state = by_steps(model, draw(B, T), begin(model, B, INNER))
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None
    for name, w in start.items():
        assert not torch.equal(state.fast[name], w)
