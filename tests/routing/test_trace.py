"""The shared-prefix trace against one sequence at a time, and what controls cannot see."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mneme.core.seeds import torch_generator
from mneme.nn.split import lower
from mneme.routing.config import MixerConfig
from mneme.routing.mixer import build_mixer
from mneme.routing.sequences import (
    SequenceConfig,
    fatigue_families,
    hysteresis_families,
    mixed_pattern,
)
from mneme.routing.trace import trace_batch

CPU = torch.device("cpu")
PROTOCOL = SequenceConfig(
    tuples=3, segment_tokens=10, mix_piece_tokens=4, dwell_tokens=(4, 10, 24), batch=2
)


def mixer_config(strategy: str) -> MixerConfig:
    return MixerConfig(
        strategy=strategy,  # type: ignore[arg-type]
        hidden=8,
        decay=0.7,
        oracle_logit=4.0,
        epochs=0,
        labels="true",
        init="fresh",
    )


def mixers(*strategies: str) -> dict[str, list[torch.nn.Module]]:
    return {
        name: [
            build_mixer(
                mixer_config(name),
                domains=2,
                width=32,
                vocab=128,
                generator=torch_generator(seed, "mixer"),
            )
            for seed in (0, 1)
        ]
        for name in strategies
    }


@pytest.fixture
def tuples() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    middles = ("a_long", "a_other_long", "b_long")
    long = {name: rng.integers(0, 128, (3, 24)) for name in middles}
    short = {name: rng.integers(0, 128, (3, 10)) for name in ("a1", "a2", "b1", "b2")}
    return {key: value.astype(np.int32) for key, value in (long | short).items()}


def one_sequence(model, k, mixer, ids, *, labels, mask=None, positions=None) -> np.ndarray:
    """Gate one whole sequence in one plain forward pass of the full model."""
    ids = torch.as_tensor(ids, dtype=torch.long)[None]
    out = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, output_hidden_states=True
    )
    states = out.hidden_states[k]
    logits, _ = mixer(ids, states, labels_BT=torch.as_tensor(labels)[None])
    return torch.softmax(logits, -1)[0].numpy()


@torch.inference_mode()
def test_every_context_equals_one_plain_pass_per_sequence(tiny_llama, tuples):
    made = mixers("gating", "ema", "attention", "token", "ema_oracle")
    wanted = {name: {"real", "same_domain", "other", "swapped", "shuffled"} for name in made}
    families = fatigue_families(tuples, PROTOCOL, domains=(0, 1), seed=0)
    found = trace_batch(lower(tiny_llama, 2), families, made, wanted, slice(0, 3), device=CPU)
    for key, weights in found.items():
        name, context, length = key.split("/")
        family, n = families[context], int(length)
        first, last = family.domains
        labels = np.concatenate([[first] * 10, family.middle_domains[:n], [last] * 10])
        for seed, mixer in enumerate(made[name]):
            for text in range(3):
                parts = (family.first[text], family.middle[text, :n], family.last[text])
                ids = np.concatenate(parts)
                slow = one_sequence(tiny_llama, 2, mixer, ids, labels=labels)
                np.testing.assert_allclose(weights[seed, text], slow, atol=2e-6)


@torch.inference_mode()
def test_blocked_equals_an_explicit_mask_and_reset_a_lone_segment(tiny_llama, tuples):
    made, n, size = mixers("gating"), 10, 10
    families = fatigue_families(tuples, PROTOCOL, domains=(0, 1), seed=0)
    families = {"real": dataclasses.replace(families["real"], lengths=(4, n))}
    wanted = {"gating": {"real", "blocked", "reset"}}
    found = trace_batch(lower(tiny_llama, 2), families, made, wanted, slice(0, 3), device=CPU)
    length = size + n + size
    allowed = torch.ones(length, length, dtype=torch.bool).tril()
    allowed[size + n :, size : size + n] = False
    mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[None, None]
    positions = torch.arange(size + n, length)[None]
    labels = np.repeat((0, 1, 0), [size, n, size])
    for text in range(3):
        ids = np.concatenate([tuples["a1"][text], tuples["b_long"][text, :n], tuples["a2"][text]])
        mixer = made["gating"][0]
        slow = one_sequence(tiny_llama, 2, mixer, ids, labels=labels, mask=mask)
        np.testing.assert_allclose(found[f"gating/blocked/{n}"][0, text], slow, atol=2e-6)
        alone = one_sequence(
            tiny_llama, 2, mixer, tuples["a2"][text], labels=labels[-size:], positions=positions
        )
        np.testing.assert_allclose(found[f"gating/reset/{n}"][0, text], alone, atol=2e-6)
    real = found[f"gating/real/{n}"]
    assert np.abs(real - found[f"gating/blocked/{n}"])[:, :, -size:].max() > 1e-4


@pytest.mark.parametrize("learnt_positions", [False, True])
@torch.inference_mode()
def test_reset_reads_the_last_segment_where_it_lies(tiny_llama, tuples, learnt_positions):
    model = tiny_gpt2() if learnt_positions else tiny_llama
    families = fatigue_families(tuples, PROTOCOL, domains=(0, 1), seed=0)
    families = {"real": families["real"]}
    made = mixers("gating")
    found = trace_batch(
        lower(model, 2), families, made, {"gating": {"reset"}}, slice(0, 3), device=CPU
    )
    for n in PROTOCOL.dwell_tokens:
        positions = torch.arange(10 + n, 20 + n)[None]
        for text, ids in enumerate(tuples["a2"]):
            slow = one_sequence(
                model, 2, made["gating"][0], ids, labels=np.zeros(10), positions=positions
            )
            np.testing.assert_allclose(found[f"gating/reset/{n}"][0, text], slow, atol=2e-6)
    moved = np.abs(found["gating/reset/4"] - found["gating/reset/24"]).max()
    assert (moved > 1e-4) if learnt_positions else (moved == 0)


def tiny_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = GPT2Config(vocab_size=128, n_embd=32, n_layer=4, n_head=4, initializer_range=0.2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(sizes).eval().requires_grad_(False)


@torch.inference_mode()
def test_token_router_returns_to_exactly_the_same_weights(tiny_llama, tuples):
    families = hysteresis_families(tuples, PROTOCOL, domains=(0, 1), seed=0)
    wanted = {"token": {"real", "same_domain", "other", "mixed"}}
    found = trace_batch(
        lower(tiny_llama, 2), families, mixers("token"), wanted, slice(0, 3), device=CPU
    )
    last = [weights[:, :, -10:] for weights in found.values()]
    assert len(last) == 4
    for other in last[1:]:
        np.testing.assert_array_equal(last[0], other)


def test_shuffled_prefixes_hold_the_same_tokens(tuples):
    families = fatigue_families(tuples, PROTOCOL, domains=(0, 1), seed=0)
    shuffled, real = families["shuffled"].middle, families["real"].middle
    assert (shuffled != real).any()
    for n in PROTOCOL.dwell_tokens:
        np.testing.assert_array_equal(np.sort(shuffled[:, :n]), np.sort(real[:, :n]))


def test_mixed_segment_alternates_pieces_ending_with_b_and_is_labelled_so(tuples):
    assert mixed_pattern(10, piece=4).tolist() == [True] * 2 + [False] * 4 + [True] * 4
    mixed = hysteresis_families(tuples, PROTOCOL, domains=(0, 1), seed=0)["mixed"]
    from_b = mixed.middle == tuples["b_long"][:, :10]
    assert from_b[:, mixed.middle_domains == 1].all()
    assert (mixed.middle == tuples["a_other_long"][:, :10])[:, mixed.middle_domains == 0].all()


@torch.inference_mode()
def test_the_oracle_follows_the_true_labels_of_a_mixed_segment(tiny_llama, tuples):
    families = hysteresis_families(tuples, PROTOCOL, domains=(0, 1), seed=0)
    made = mixers("ema_oracle")
    found = trace_batch(
        lower(tiny_llama, 2), families, made, {"ema_oracle": {"mixed"}}, slice(0, 3), device=CPU
    )
    z, slow = 0.0, []
    for domain in [0] * 10 + families["mixed"].middle_domains.tolist() + [0] * 10:
        z = 0.7 * z + 0.3 * (4.0 if domain == 0 else -4.0)
        slow.append(1 / (1 + np.exp(-2 * z)))
    for text in range(3):
        np.testing.assert_allclose(found["ema_oracle/mixed/10"][0, text, :, 0], slow, atol=1e-5)
