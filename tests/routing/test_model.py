"""Gates made during the pass, caches and generation, the backbone as host, saving."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mneme.core.config import build
from mneme.core.seeds import torch_generator
from mneme.routing.config import MixerConfig
from mneme.routing.mixer import build_mixer
from mneme.routing.model import TemporalLora

# PEFT 0.21 calls an alias that transformers 5.23 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SIZES = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


class Toy(nn.Module):
    """Stand-in mixer with a memory: the mean of a projection over all tokens so far."""

    def __init__(self, width, domains):
        super().__init__()
        generator = torch_generator(0, "toy")
        self.register_buffer("P_DK", 0.5 * torch.randn(width, domains, generator=generator))

    def forward(self, ids_BT, states_BTD, *, labels_BT=None, carry=None):
        total_B1K, count = carry or (0.0, 0)
        states_BTD = nn.functional.layer_norm(states_BTD.float(), states_BTD.shape[-1:])
        sums_BTK = (states_BTD @ self.P_DK).cumsum(1) + total_B1K
        n_T1 = torch.arange(1, ids_BT.shape[1] + 1)[:, None] + count
        return sums_BTK / n_T1, (sums_BTK[:, -1:], count + ids_BT.shape[1])


def tokens(batch=2, length=11, seed=0):
    return torch.randint(0, 128, (batch, length), generator=torch_generator(seed, "ids"))


def gates(batch, length, domains, seed=0):
    logits = 2 * torch.randn(batch, length, domains, generator=torch_generator(seed, "gates"))
    return logits.softmax(-1)


def mixed(model, adapters, *, gate_layer=2, domains=2):
    return TemporalLora(
        model, adapters, mixer=Toy(model.config.hidden_size, domains), gate_layer=gate_layer
    )


def close(a, b, atol=1e-4):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


# ---- gates made on the way


def test_gate_reads_the_output_of_layer_k(tiny_llama, pair):
    ids = tokens()
    model = mixed(tiny_llama, pair)
    states_BTD = tiny_llama(ids, output_hidden_states=True).hidden_states[2]
    expected = model.mixer(ids, states_BTD)[0].softmax(-1)
    output = model(ids)
    close(output.gates, expected, 1e-6)
    close(output.logits, model(ids, gates_BTK=expected).logits, 1e-5)
    assert output.gates.amin() < 0.3 < 0.7 < output.gates.amax()  # the toy really mixes


def test_last_gate_takes_the_final_states_of_the_bare_model(
    tiny_llama, tmp_path, make_adapter, xlora_logits
):
    pair = {n: make_adapter(tiny_llama, tmp_path / n, seed=i) for i, n in enumerate("ab")}
    model, ids = mixed(tiny_llama, pair, gate_layer="last"), tokens()
    states_BTD = tiny_llama(ids, output_hidden_states=True).hidden_states[-1]
    output = model(ids)
    close(output.gates, model.mixer(ids, states_BTD)[0].softmax(-1), 1e-6)
    close(output.logits, xlora_logits(tiny_llama, pair.values(), ids, output.gates))


@pytest.mark.parametrize("gate_layer", [2, "last"])
def test_later_tokens_change_nothing_before_them(tiny_llama, pair, gate_layer):
    model, ids = mixed(tiny_llama, pair, gate_layer=gate_layer), tokens(1, 12)
    other = ids.clone()
    other[:, 7:] = (other[:, 7:] + 1) % 128
    a, b = model(ids), model(other)
    close(a.gates[:, :7], b.gates[:, :7], 1e-6)
    close(a.logits[:, :7], b.logits[:, :7], 1e-5)
    assert (a.gates[:, 7:] - b.gates[:, 7:]).abs().max() > 1e-4
    shorter = model(ids[:, :7])
    close(a.logits[:, :7], shorter.logits, 1e-5)


def test_rows_of_a_batch_are_independent(tiny_llama, pair):
    model, ids = mixed(tiny_llama, pair), tokens(3, 9)
    together = model(ids)
    for row in range(3):
        alone = model(ids[row : row + 1])
        close(together.logits[row], alone.logits[0], 1e-5)
        close(together.gates[row], alone.gates[0], 1e-6)


# ---- cache and generation


@pytest.mark.parametrize("gate_layer", [2, "last"])
def test_pieces_with_cache_equal_one_call(tiny_llama, pair, gate_layer):
    model, ids = mixed(tiny_llama, pair, gate_layer=gate_layer), tokens(2, 12)
    whole, cache, carry, logits, weights = model(ids), None, None, [], []
    for piece in ids.split([5, 1, 4, 2], dim=1):
        output = model(piece, past_key_values=cache, carry=carry, use_cache=True)
        cache, carry = output.past_key_values, output.carry
        logits.append(output.logits)
        weights.append(output.gates)
    close(torch.cat(logits, 1), whole.logits, 1e-5)
    close(torch.cat(weights, 1), whole.gates, 1e-5)
    assert whole.past_key_values is None


@pytest.mark.parametrize("gate_layer", [2, "last"])
def test_generate_equals_the_full_forward_at_every_step(tiny_llama, pair, gate_layer):
    model, ids = mixed(tiny_llama, pair, gate_layer=gate_layer), tokens(2, 5)
    greedy = {"new_tokens": 8, "temperature": 0.0, "top_p": 1.0, "generator": None}
    cached = model.generate(ids, **greedy, return_gates=True)
    assert torch.equal(cached.ids[:, :5], ids)
    assert cached.ids.shape == (2, 13)
    full = model(cached.ids[:, :-1])  # teacher forced
    assert torch.equal(full.logits[:, 4:].argmax(-1), cached.ids[:, 5:])
    close(cached.gates, full.gates, 1e-5)
    slow = model.generate(ids, **greedy, use_cache=False, return_gates=True)
    assert torch.equal(slow.ids, cached.ids)
    close(slow.gates, cached.gates, 1e-5)
    assert model.generate(ids, **greedy).gates is None


def test_sampling_repeats_under_one_seed_and_differs_under_another(tiny_llama, pair):
    model, ids = mixed(tiny_llama, pair), tokens(1, 5)

    def run(seed, **more):
        generator = torch_generator(seed, "sample")
        return model.generate(
            ids, new_tokens=12, temperature=1.0, top_p=0.95, generator=generator, **more
        ).ids

    assert torch.equal(run(0), run(0))
    assert torch.equal(run(0), run(0, use_cache=False))
    assert not torch.equal(run(0), run(1))


# ---- families


def mistral():
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(**SIZES, intermediate_size=64, num_key_value_heads=2, sliding_window=6)
    return MistralForCausalLM(config)


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=128, n_embd=32, n_layer=4, n_head=4))


@pytest.mark.parametrize(
    ("build_model", "targets"), [(mistral, ALL), (gpt2, ("c_attn", "c_fc", "mlp.c_proj"))]
)
def test_other_families(build_model, targets, tmp_path, make_adapter, peft_logits):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build_model().eval().requires_grad_(False)
    fan = {"fan_in_fan_out": True} if build_model is gpt2 else {}
    pair = {
        name: make_adapter(
            model, tmp_path / name, seed=i, targets=targets, layers=[2, 3], rank=2 + i, **fan
        )
        for i, name in enumerate(("a", "b"))
    }
    ours, ids = mixed(model, pair), tokens(2, 9)
    for k, directory in enumerate(pair.values()):
        one_hot = nn.functional.one_hot(torch.full((2, 9), k), 2).float()
        close(ours(ids, gates_BTK=one_hot).logits, peft_logits(model, directory, ids), 1e-5)
    states_BTD = model(ids, output_hidden_states=True).hidden_states[2]
    close(ours(ids).gates, ours.mixer(ids, states_BTD)[0].softmax(-1), 1e-6)
    greedy = {"new_tokens": 6, "temperature": 0.0, "top_p": 1.0, "generator": None}
    cached = ours.generate(ids, **greedy, return_gates=True)
    full = ours(cached.ids[:, :-1])
    assert torch.equal(full.logits[:, 8:].argmax(-1), cached.ids[:, 9:])
    close(cached.gates, full.gates, 1e-5)


# ---- a clean guest


def test_the_backbone_is_bare_outside_and_after(tiny_llama, pair):
    ids = tokens()
    before, modules = tiny_llama(ids).logits, dict(tiny_llama.named_modules())
    state = {k: v.clone() for k, v in tiny_llama.state_dict().items()}
    model = mixed(tiny_llama, pair)
    model(ids)
    assert torch.equal(tiny_llama(ids).logits, before)
    assert model.unmix() is tiny_llama
    assert torch.equal(tiny_llama(ids).logits, before)
    assert all(torch.equal(v, state[k]) for k, v in tiny_llama.state_dict().items())
    assert dict(tiny_llama.named_modules()) == modules
    for module in tiny_llama.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    with pytest.raises(ValueError, match="unmixed"):
        model(ids)


def test_two_mixes_on_one_backbone_do_not_meet(tiny_llama, pair):
    ids = tokens()
    first = mixed(tiny_llama, pair)
    alone = first(ids).logits
    second = mixed(tiny_llama, dict(reversed(pair.items())))
    assert not torch.allclose(second(ids).logits, alone)
    assert torch.equal(first(ids).logits, alone)


def test_a_failing_pass_leaves_nothing_behind(tiny_llama, pair):
    ids, before = tokens(), tiny_llama(tokens()).logits
    model = mixed(tiny_llama, pair)
    expected = model(ids).logits

    def fail(*_):
        raise RuntimeError("in the middle of layer 3")

    with (
        tiny_llama.model.layers[2].self_attn.k_proj.register_forward_pre_hook(fail),
        pytest.raises(RuntimeError, match="in the middle"),
    ):
        model(ids)
    assert all(shared.memo is None for shared in model._mix.inputs)  # no activations kept
    assert torch.equal(tiny_llama(ids).logits, before)
    assert torch.equal(model(ids).logits, expected)


def test_bfloat16_weights_stay_near_float32(tiny_llama, pair):
    ids = tokens()
    expected, base = mixed(tiny_llama, pair)(ids), tiny_llama(ids).logits
    got = mixed(copy.deepcopy(tiny_llama).bfloat16(), pair)(ids)
    assert got.logits.dtype == torch.bfloat16
    assert got.gates.dtype == torch.float32
    effect = (expected.logits - base).abs().mean()
    assert (got.logits.float() - expected.logits).abs().mean() < 0.1 * effect


def test_offset_positions_and_right_padding(tiny_llama, pair):
    model, ids = mixed(tiny_llama, pair), tokens(1, 8)
    plain = model(ids)
    positions = torch.arange(8)[None]
    positions[:, 4:] += 20  # a gap places tokens, it never cuts attention
    moved = model(ids, position_ids=positions)
    mask = model(ids, position_ids=positions, attention_mask=torch.ones_like(ids))
    close(moved.logits, mask.logits, 1e-6)
    assert (moved.logits[:, 4:] - plain.logits[:, 4:]).abs().max() > 1e-5
    padded = torch.cat([ids, torch.zeros(1, 3, dtype=torch.long)], 1)
    attention = torch.ones_like(padded)
    attention[:, 8:] = 0
    close(model(padded, attention_mask=attention).logits[:, :8], plain.logits, 1e-5)


# ---- saving


def real_mixer(strategy="ema"):
    settings = {
        "strategy": strategy,
        "hidden": 8,
        "decay": 0.5,
        "oracle_logit": 4.0,
        "epochs": 0,
        "labels": "true",
        "init": "fresh",
    }
    config = build(MixerConfig, settings, where="mixer")
    generator = torch_generator(3, "mixer")
    return build_mixer(config, domains=2, width=32, vocab=128, generator=generator)


@pytest.mark.parametrize("strategy", ["gating", "attention", "ema", "token", "probe"])
def test_save_and_reload(tiny_llama, pair, tmp_path, strategy, peft_logits):
    named = {"verse": pair["0"], "code": pair["1"]}
    mixer = real_mixer(strategy)
    mixer.set_standardisation(torch.randn(4, 5, 32, generator=torch_generator(1, "x")))
    model = TemporalLora(tiny_llama, named, mixer=mixer, gate_layer=2)
    expected = model(tokens())
    model.save_pretrained(tmp_path / "saved")
    again = TemporalLora.from_pretrained(tmp_path / "saved", copy.deepcopy(model.unmix()))
    got = again(tokens())
    assert again.domains == ("verse", "code")
    assert torch.equal(got.gates, expected.gates)
    assert torch.equal(got.logits, expected.logits)
    greedy = {"new_tokens": 4, "temperature": 0.0, "top_p": 1.0, "generator": None}
    cached = again.generate(tokens(), **greedy, return_gates=True)
    close(cached.gates, again(cached.ids[:, :-1]).gates, 1e-5)
    for k, name in enumerate(again.domains):
        one_hot = nn.functional.one_hot(torch.full((2, 11), k), 2).float()
        expected = again(tokens(), gates_BTK=one_hot).logits
        close(peft_logits(tiny_llama, tmp_path / "saved/adapters" / name, tokens()), expected)
    files = {p.suffix for p in (tmp_path / "saved").rglob("*") if p.is_file()}
    assert files == {".json", ".safetensors"}


# ---- errors


def test_mistakes_get_one_clear_sentence(tiny_llama, pair, tmp_path):
    def construct(adapters, **more):
        return TemporalLora(tiny_llama, adapters, **({"mixer": Toy(32, 2), "gate_layer": 2} | more))

    with pytest.raises(ValueError, match="at least two adapters"):
        construct({"0": pair["0"]})
    with pytest.raises(ValueError, match=r"layer 3 but .* layer 3: train adapters above"):
        construct(pair, gate_layer=3)
    with pytest.raises(ValueError, match=r"gate_layer must be in 0\.\.3"):
        construct(pair, gate_layer=4)
    with pytest.raises(ValueError, match="is missing"):
        construct({"0": pair["0"], "1": tmp_path / "nowhere"})
    foreign = nn.Linear(1, 1)
    foreign.config = SimpleNamespace(model_type="opt")
    with pytest.raises(ValueError, match="'opt' cannot be mixed: choose one of the families"):
        TemporalLora(foreign, pair, mixer=None, gate_layer=0)
    model = construct(pair, mixer=None)
    with pytest.raises(ValueError, match="needs gates_BTK"):
        model(tokens())
    with pytest.raises(ValueError, match=r"= \(2, 11, 2\), got \(2, 11, 3\)"):
        model(tokens(), gates_BTK=gates(2, 11, 3))
    with pytest.raises(ValueError, match="only a model with a TimeMixer"):
        model.save_pretrained(tmp_path / "x")


def test_reload_refuses_another_backbone_and_bad_names(tiny_llama, pair, tmp_path):
    model = TemporalLora(tiny_llama, pair, mixer=real_mixer(), gate_layer=2)
    model.save_pretrained(tmp_path / "saved")
    other = copy.deepcopy(tiny_llama)
    other.config.vocab_size = 7
    with pytest.raises(ValueError, match="vocab_size 128, but this one has 7"):
        TemporalLora.from_pretrained(tmp_path / "saved", other)
    (tmp_path / "saved" / "mixer.safetensors").write_bytes(b"\x00" * 5)
    with pytest.raises(ValueError, match=r"mixer\.safetensors is damaged"):
        TemporalLora.from_pretrained(tmp_path / "saved", tiny_llama)
    bad = {"a/b": pair["0"], "c": pair["1"]}
    model = TemporalLora(tiny_llama, bad, mixer=real_mixer(), gate_layer=2)
    with pytest.raises(ValueError, match="'a/b' cannot be a folder name"):
        model.save_pretrained(tmp_path / "named")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"new_tokens": 0}, "new_tokens must be at least 1"),
        ({"temperature": -1.0}, "temperature must be 0 or positive"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"temperature": 1.0}, "needs a generator"),
    ],
)
def test_generate_checks_its_settings(tiny_llama, pair, change, match):
    good = {"new_tokens": 1, "temperature": 0.0, "top_p": 1.0, "generator": None}
    with pytest.raises(ValueError, match=match):
        mixed(tiny_llama, pair).generate(tokens(), **(good | change))
