import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from mneme.nn.split import FAMILIES, layer_count, lower, upper


def _gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=128, n_positions=64, n_embd=32, n_layer=4, n_head=4, attn_implementation="sdpa"
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = GPT2LMHeadModel(config)
        nn.init.normal_(model.transformer.wpe.weight)  # positions must matter
    return model.eval().requires_grad_(False)


def _mistral():
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        sliding_window=6,
    )
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = MistralForCausalLM(config)
    return model.eval().requires_grad_(False)


def _of_type(family, **changes):
    """A tiny random model of one of the families that are built as Llama is."""
    shape = {
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = AutoConfig.for_model(family, **(shape | changes))
        model = AutoModelForCausalLM.from_config(config)
    return model.eval().requires_grad_(False)


@pytest.fixture(params=FAMILIES)
def model(request, tiny_llama):
    made = {"llama": lambda: tiny_llama, "mistral": _mistral, "gpt2": _gpt2}
    return made.get(request.param, lambda: _of_type(request.param))()


@pytest.fixture(name="ids_BT")
def _ids():
    return torch.randint(0, 128, (3, 17), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("k", [0, 1, 2, 4])
def test_halves_make_the_full_model(model, ids_BT, k):
    h_BTD, cache = lower(model, k)(ids_BT)
    assert cache is None
    assert h_BTD.shape == (3, 17, 32)
    torch.testing.assert_close(upper(model, k)(h_BTD), model(ids_BT).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_lower_is_the_raw_output_of_layer_k(model, ids_BT, k):
    hidden = model(ids_BT, output_hidden_states=True).hidden_states  # [k] = input of layer k
    torch.testing.assert_close(lower(model, k)(ids_BT)[0], hidden[k], rtol=0, atol=1e-6)


def test_last_cut_comes_before_the_norm(model, ids_BT):
    decoder = model.transformer if hasattr(model, "transformer") else model.model
    norm = decoder.ln_f if hasattr(decoder, "ln_f") else decoder.norm
    with torch.no_grad():
        norm.weight.mul_(torch.linspace(0.5, 2, 32))
    h_BTD = lower(model, 4)(ids_BT)[0]
    last = model(ids_BT, output_hidden_states=True).hidden_states[4]
    torch.testing.assert_close(norm(h_BTD), last, rtol=0, atol=1e-6)
    assert (h_BTD - last).abs().max() > 0.1


def test_weights_are_shared_and_the_model_is_untouched(model, ids_BT):
    names, before = list(model.state_dict()), model(ids_BT).logits
    halves = [lower(model, 2), upper(model, 2)]
    own = {id(p) for p in model.parameters()}
    assert {id(p) for half in halves for p in half.parameters()} == own
    assert list(model.state_dict()) == names
    assert layer_count(model) == 4
    assert torch.equal(model(ids_BT).logits, before)
    assert model.generate(ids_BT[:1], max_new_tokens=2, do_sample=False).shape == (1, 19)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_pieces_through_the_cache_equal_one_pass(model, ids_BT, k):
    half = lower(model, k)
    whole = half(ids_BT)[0]
    cache, pieces = None, []
    for piece in ids_BT.split([5, 1, 8, 3], dim=1):
        h_BTD, cache = half(piece, past_key_values=cache, use_cache=True)
        pieces.append(h_BTD)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-5)


def test_explicit_positions(model, ids_BT):
    half, positions = lower(model, 2), torch.arange(17)[None]
    whole = half(ids_BT)[0]
    same = half(ids_BT, position_ids=positions)[0]
    torch.testing.assert_close(same, whole, rtol=0, atol=1e-6)
    moved = half(ids_BT, position_ids=positions + 9)[0]
    if half.learnt_positions:
        assert (moved - whole).abs().max() > 0.1
    else:  # rotary positions are relative
        torch.testing.assert_close(moved, whole, rtol=0, atol=1e-5)


def test_a_gap_in_positions_does_not_cut_attention(tiny_llama, ids_BT):
    positions = torch.cat([torch.arange(8), torch.arange(20, 29)])[None]
    other = ids_BT.clone()
    other[:, 0] = (other[:, 0] + 1) % 128
    half = lower(tiny_llama, 2)
    a, b = (half(x, position_ids=positions)[0] for x in (ids_BT, other))
    assert (a[:, 8:] - b[:, 8:]).abs().max() > 1e-5


def test_additive_mask_blocks_attention(model, ids_BT):
    half = lower(model, 3)
    causal = torch.full((17, 17), torch.finfo(torch.float32).min).triu(1)[None, None]
    if model.config.model_type != "mistral":  # its window is narrower than causal
        plain = half(ids_BT, attention_mask=causal)[0]
        torch.testing.assert_close(plain, half(ids_BT)[0], rtol=0, atol=1e-5)
    blocked = causal.clone()
    blocked[..., 10:, 5:10] = torch.finfo(torch.float32).min
    other = ids_BT.clone()
    other[:, 5:10] = (other[:, 5:10] + 1) % 128
    a, b = (half(x, attention_mask=blocked)[0] for x in (ids_BT, other))
    assert torch.equal(a[:, 10:], b[:, 10:])
    assert not torch.equal(half(ids_BT)[0][:, 10:], half(other)[0][:, 10:])


def test_causal(model, ids_BT):
    other = ids_BT.clone()
    other[:, 12:] = 3
    low, up = lower(model, 2), upper(model, 2)
    a, b = (up(low(x)[0]) for x in (ids_BT, other))
    torch.testing.assert_close(a[:, :12], b[:, :12], rtol=0, atol=1e-6)


# PEFT 0.21 reads an attribute that transformers 5.23 deprecates.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_injected_afterwards_are_seen(tiny_llama, ids_BT):
    from peft import LoraConfig, get_peft_model

    low, up = lower(tiny_llama, 2), upper(tiny_llama, 2)
    bare = up(low(ids_BT)[0])
    config = LoraConfig(
        r=2, target_modules=["q_proj"], layers_to_transform=[2, 3], init_lora_weights=False
    )
    peft_model = get_peft_model(tiny_llama, config)
    expected = peft_model(ids_BT).logits
    assert (expected - bare).abs().max() > 1e-3
    torch.testing.assert_close(up(low(ids_BT)[0]), expected, rtol=0, atol=1e-6)
    through_wrapper = upper(peft_model, 2)(lower(peft_model, 2)(ids_BT)[0])
    torch.testing.assert_close(through_wrapper, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [-1, 5])
def test_layer_out_of_range(tiny_llama, k):
    with pytest.raises(ValueError, match=r"gate_layer must be in 0\.\.4"):
        lower(tiny_llama, k)


def test_unknown_family_names_the_supported_ones():
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=32, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, word_embed_proj_dim=16,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"'opt'.*llama, mistral, .*, gpt2"):
        upper(OPTForCausalLM(config), 0)


def test_spread_model_is_refused(tiny_llama):
    tiny_llama.model.forward = tiny_llama.model.forward  # what accelerate's hooks do
    with pytest.raises(ValueError, match="one device"):
        lower(tiny_llama, 1)


def test_layers_that_attend_in_different_ways_are_refused():
    kinds = ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]
    model = _of_type("qwen2", layer_types=kinds, use_sliding_window=True, sliding_window=4)
    with pytest.raises(ValueError, match=r"full_attention, sliding_attention\) cannot be split"):
        upper(model, 2)
