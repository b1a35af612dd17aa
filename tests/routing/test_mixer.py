"""Time Mixer: known answers, slow oracles, causality, carry, errors."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.core.config import ConfigError
from mneme.core.seeds import torch_generator
from mneme.routing.config import MixerConfig
from mneme.routing.mixer import build_mixer, smooth

STRATEGIES = ("gating", "attention", "ema", "ema_oracle", "token", "probe")
WIDTH, VOCAB = 12, 31


def config_of(strategy, **changes):
    values = {
        "strategy": strategy,
        "hidden": 8,
        "decay": 0.9,
        "oracle_logit": 4.0,
        "epochs": 1,
        "labels": "true",
        "init": "fresh",
    }
    return MixerConfig(**{**values, **changes})


def mixer_of(strategy, *, domains=2, seed=0, **changes):
    generator = torch_generator(seed, "test")
    config = config_of(strategy, **changes)
    mixer = build_mixer(config, domains=domains, width=WIDTH, vocab=VOCAB, generator=generator)
    if strategy == "token":  # the table starts at zero: give it something to say
        with torch.no_grad():
            mixer.encoder.table.weight.normal_(generator=generator)
    return mixer


def batch(*, batch_size=3, length=40, domains=2, seed=1):
    generator = torch_generator(seed, "batch")
    ids = torch.randint(VOCAB, (batch_size, length), generator=generator)
    states = torch.randn(batch_size, length, WIDTH, generator=generator)
    labels = torch.randint(domains, (batch_size, length), generator=generator)
    return ids, states, labels


def smooth_by_loop(x, decay, start):
    z, out = start.double(), []
    for i in range(x.shape[1]):
        z = decay * z + (1 - decay) * x[:, i].double()
        out.append(z)
    return torch.stack(out, dim=1)


# --- known answers


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.99])
def test_oracle_switches_by_its_closed_form(decay):
    logit, settle, n = 3.0, 3000, 50
    mixer = mixer_of("ema_oracle", decay=decay, oracle_logit=logit)
    labels = torch.cat([torch.zeros(1, settle), torch.ones(1, n)], dim=1).long()
    logits, _ = mixer(labels, torch.zeros(1, settle + n, WIDTH), labels_BT=labels)
    i = torch.arange(n, dtype=torch.float64)
    expected = logit * (1 - 2 * decay ** (i + 1))
    torch.testing.assert_close(logits[0, settle:, 1].double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[0, settle:, 0].double(), -expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("decay", "lag"), [(0.5, 1), (0.9, 10), (0.95, 22)])
def test_oracle_lag_at_theta(decay, lag):
    # Two domains: weight = sigmoid(2 z), so theta is passed when a^(i+1) <= (1 - t / L) / 2 with
    # t = ln(9) / 2 = 1.0986: a^(i+1) <= .3169, i.e. i + 1 >= 1.66, 10.91, 22.41.
    logit, theta, settle = 3.0, 0.9, 2000
    mixer = mixer_of("ema_oracle", decay=decay, oracle_logit=logit)
    labels = torch.cat([torch.zeros(1, settle), torch.ones(1, 60)], dim=1).long()
    logits, _ = mixer(labels, torch.zeros(1, settle + 60, WIDTH), labels_BT=labels)
    weight = logits.softmax(-1)[0, settle:, 1]
    assert int((weight >= theta).nonzero()[0]) == lag


def test_oracle_logits_for_three_domains_without_smoothing():
    mixer = mixer_of("ema_oracle", domains=3, decay=0.0, oracle_logit=2.0)
    labels = torch.tensor([[2, 0]])
    logits, _ = mixer(labels, torch.zeros(1, 2, WIDTH), labels_BT=labels)
    assert logits.tolist() == [[[-2.0, -2.0, 2.0], [2.0, -2.0, -2.0]]]


def test_token_mixer_answers_equal_ids_exactly_equally():
    mixer = mixer_of("token")
    second_a = torch.tensor([[5, 9, 9, 30, 2]])
    after_b, after_a = torch.full((1, 30), 7), torch.full((1, 30), 3)
    logits = []
    for seed, before in ((1, after_b), (2, after_a)):
        ids = torch.cat([before, second_a], dim=1)
        states = torch.randn(1, ids.shape[1], WIDTH, generator=torch_generator(seed, "x"))
        logits.append(mixer(ids, states)[0][:, 30:])
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0][:, 0], logits[0][:, 1])


def test_token_mixer_is_neutral_on_ids_it_never_met():
    config = config_of("token")
    generator = torch_generator(0, "t")
    mixer = build_mixer(config, domains=2, width=WIDTH, vocab=VOCAB, generator=generator)
    ids, states, _ = batch()
    assert torch.count_nonzero(mixer(ids, states)[0]) == 0


def test_standardisation_has_zero_mean_unit_spread_and_spares_constant_dimensions():
    states = 100 + 7 * torch.randn(4, 50, WIDTH, generator=torch_generator(0, "s"))
    states[..., 3] = 12.0
    mixer = mixer_of("probe")
    mixer.set_standardisation(states)
    x = mixer._standardise(states).reshape(-1, WIDTH)
    expected = torch.ones(WIDTH)
    expected[3] = 0.0
    torch.testing.assert_close(x.mean(0), torch.zeros(WIDTH), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), expected, atol=1e-4, rtol=0)
    assert mixer.scale_D[3] == 1.0


# --- slow oracles


@settings(max_examples=20, deadline=None)
@given(
    length=st.sampled_from([1, 2, 64, 255, 256, 257, 700]),
    decay=st.sampled_from([0.0, 0.3, 0.9, 0.99]),
    seed=st.integers(0, 99),
)
def test_smoother_equals_a_loop(length, decay, seed):
    generator = torch_generator(seed, "smooth")
    x = 5 * torch.randn(2, length, 3, generator=generator)
    start = torch.randn(2, 3, generator=generator)
    fast = smooth(x, decay=decay, start_BK=start)
    assert fast.dtype == torch.float32
    expected = smooth_by_loop(x, decay, start)
    torch.testing.assert_close(fast.double(), expected, atol=1e-5, rtol=0)


def test_smoother_is_differentiable_as_the_loop_is():
    x = torch.randn(2, 300, 2, generator=torch_generator(0, "grad"))
    grads = []
    for run in (
        lambda v: smooth(v, decay=0.8),
        lambda v: smooth_by_loop(v, 0.8, torch.zeros(2, 2)),
    ):
        leaf = x.clone().requires_grad_(True)
        (run(leaf) ** 2).sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-5, rtol=0)


def test_attention_equals_a_slow_loop():
    mixer = mixer_of("attention")
    ids, states, _ = batch(batch_size=2, length=9)
    q, k, v = mixer.encoder.qkv(states).chunk(3, dim=-1)
    expected = torch.zeros(2, 9, 2)
    for b in range(2):
        for t in range(9):
            scores = torch.stack([q[b, t] @ k[b, s] for s in range(t + 1)]) / 8**0.5
            mixed = sum(w * v[b, s] for s, w in enumerate(scores.softmax(0)))
            expected[b, t] = mixer.head(torch.nn.functional.gelu(mixed))
    torch.testing.assert_close(mixer(ids, states)[0], expected, atol=1e-6, rtol=0)


# --- properties of every strategy


@pytest.mark.parametrize("domains", [2, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
@torch.no_grad()
def test_pieces_with_carry_equal_the_whole(strategy, domains):
    mixer = mixer_of(strategy, domains=domains)
    ids, states, labels = batch(domains=domains)
    whole, _ = mixer(ids, states, labels_BT=labels)
    assert whole.shape == (3, 40, domains)
    carry, pieces = None, []
    for piece in torch.arange(40).split([7, 1, 1, 20, 11]):
        logits, carry = mixer(
            ids[:, piece], states[:, piece], labels_BT=labels[:, piece], carry=carry
        )
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("strategy", ["attention", "ema", "ema_oracle"])
@torch.no_grad()
def test_dropping_the_carry_changes_strategies_with_memory(strategy):
    mixer = mixer_of(strategy)
    ids, states, labels = batch()
    whole, carry = mixer(ids, states, labels_BT=labels)
    assert carry
    alone, _ = mixer(ids[:, 20:], states[:, 20:], labels_BT=labels[:, 20:])
    assert (alone - whole[:, 20:]).abs().max() > 1e-3


@pytest.mark.parametrize("strategy", ["gating", "token", "probe"])
def test_memoryless_strategies_carry_nothing(strategy):
    ids, states, _ = batch()
    assert mixer_of(strategy)(ids, states)[1] == ()


@pytest.mark.parametrize("strategy", STRATEGIES)
@torch.no_grad()
def test_the_future_does_not_reach_the_past(strategy):
    mixer = mixer_of(strategy)
    ids, states, labels = batch()
    other_ids, other_states, other_labels = batch(seed=2)
    cut = 23
    ids2 = torch.cat([ids[:, :cut], other_ids[:, cut:]], dim=1)
    states2 = torch.cat([states[:, :cut], other_states[:, cut:]], dim=1)
    labels2 = torch.cat([labels[:, :cut], other_labels[:, cut:]], dim=1)
    one, _ = mixer(ids, states, labels_BT=labels)
    two, _ = mixer(ids2, states2, labels_BT=labels2)
    short, _ = mixer(ids[:, :cut], states[:, :cut], labels_BT=labels[:, :cut])
    torch.testing.assert_close(one[:, :cut], two[:, :cut], atol=1e-6, rtol=0)
    torch.testing.assert_close(one[:, :cut], short, atol=1e-6, rtol=0)
    assert (one[:, cut:] - two[:, cut:]).abs().max() > 1e-3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bfloat16_states_give_float32_logits(strategy):
    ids, states, labels = batch()
    logits, _ = mixer_of(strategy)(ids, states.bfloat16(), labels_BT=labels)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("strategy", ["gating", "attention", "ema", "token", "probe"])
def test_the_generator_decides_the_weights_and_the_global_one_is_left_alone(strategy):
    before = torch.get_rng_state()
    config = config_of(strategy)

    def weights(seed):
        generator = torch_generator(seed, "init")
        mixer = build_mixer(config, domains=2, width=WIDTH, vocab=VOCAB, generator=generator)
        return torch.cat([p.detach().flatten() for p in mixer.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
    assert torch.isfinite(weights(0)).all()
    assert torch.equal(torch.get_rng_state(), before)


def test_oracle_has_no_parameters_and_features_only_where_there_is_a_hidden_layer():
    ids, states, labels = batch()
    assert list(mixer_of("ema_oracle").parameters()) == []
    for strategy in STRATEGIES:
        features = mixer_of(strategy).forward_features(ids, states, labels_BT=labels)[1]
        if strategy in ("probe", "ema_oracle"):
            assert features is None
        else:
            assert features.shape == (3, 40, 8)


@pytest.mark.parametrize("strategy", STRATEGIES)
@torch.no_grad()
def test_a_state_dict_restores_the_mixer(strategy):
    mixer, fresh = mixer_of(strategy), mixer_of(strategy, seed=5)
    mixer.set_standardisation(5 + torch.randn(4, 9, WIDTH, generator=torch_generator(0, "s")))
    fresh.load_state_dict(mixer.state_dict())
    ids, states, labels = batch()
    one, two = (m(ids, states, labels_BT=labels)[0] for m in (mixer, fresh))
    assert torch.equal(one, two)


# --- errors


def test_oracle_without_labels_says_so():
    ids, states, _ = batch()
    with pytest.raises(ValueError, match="ema_oracle mixer needs labels_BT"):
        mixer_of("ema_oracle")(ids, states)


def test_one_domain_is_refused():
    with pytest.raises(ConfigError, match="domains must be at least 2"):
        mixer_of("gating", domains=1)


def test_states_of_another_backbone_are_refused():
    ids, states, _ = batch()
    with pytest.raises(ValueError, match="width 5 but the mixer reads width 12"):
        mixer_of("gating")(ids, states[..., :5])


def test_decay_of_one_is_refused():
    with pytest.raises(ConfigError, match=r"decay must be in \[0, 1\)"):
        dataclasses.replace(config_of("ema"), decay=1.0)
