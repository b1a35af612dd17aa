"""Mixed adapters against PEFT, and one linear against weights merged for every token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mneme.core.seeds import torch_generator
from mneme.routing.lowrank import Adapter, LowRankMix, factors, read_adapter, write_adapter
from mneme.routing.model import TemporalLora

# PEFT 0.21 calls an alias that transformers 5.23 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def tokens(batch=2, length=11, seed=0):
    return torch.randint(0, 128, (batch, length), generator=torch_generator(seed, "ids"))


def gates(batch, length, domains, seed=0):
    logits = 2 * torch.randn(batch, length, domains, generator=torch_generator(seed, "gates"))
    return logits.softmax(-1)


def given_gates(model, adapters):
    return TemporalLora(model, adapters, mixer=None, gate_layer=0)


def close(a, b, atol=1e-4):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


# ---- known answers


def test_equals_xlora_with_the_same_gates(tiny_llama, pair, xlora_logits):
    ids, gates_BTK = tokens(), gates(2, 11, 2)
    ours = given_gates(tiny_llama, pair)(ids, gates_BTK=gates_BTK).logits
    close(ours, xlora_logits(tiny_llama, pair.values(), ids, gates_BTK))
    assert (ours - tiny_llama(ids).logits).abs().max() > 1e-2  # the adapters do something


def test_equals_xlora_on_all_layers(tiny_llama, tmp_path, make_adapter, xlora_logits):
    pair = [make_adapter(tiny_llama, tmp_path / n, seed=i) for i, n in enumerate("ab")]
    ids, gates_BTK = tokens(), gates(2, 11, 2)
    model = given_gates(tiny_llama, dict(zip("ab", pair, strict=True)))
    close(model(ids, gates_BTK=gates_BTK).logits, xlora_logits(tiny_llama, pair, ids, gates_BTK))


@pytest.mark.parametrize("chosen", [0, 1])
def test_one_hot_gate_equals_plain_peft(tiny_llama, pair, chosen, peft_logits):
    ids = tokens()
    one_hot = nn.functional.one_hot(torch.full((2, 11), chosen), 2).float()
    ours = given_gates(tiny_llama, pair)(ids, gates_BTK=one_hot).logits
    close(ours, peft_logits(tiny_llama, pair[str(chosen)], ids), 1e-5)


def test_zero_b_is_the_base_exactly(tiny_llama, pair):
    empty = {}
    for name, directory in pair.items():
        adapter = read_adapter(directory)
        tensors = {k: 0 * v if "lora_B" in k else v for k, v in adapter.tensors.items()}
        empty[name] = Adapter(config=adapter.config, tensors=tensors)
    model, expected = given_gates(tiny_llama, empty), tiny_llama(tokens()).logits
    assert torch.equal(model(tokens(), gates_BTK=gates(2, 11, 2)).logits, expected)


def test_different_ranks_targets_alphas_and_three_domains(
    tiny_llama, tmp_path, make_adapter, peft_logits
):
    makers = {
        "iambic verse": {"rank": 2, "alpha": 3.0},
        "py.code": {"rank": 5, "alpha": 16.0, "targets": ("v_proj", "down_proj")},
        "chat": {"rank": 3, "alpha": 4.0, "targets": ("q_proj", "up_proj"), "use_rslora": True},
    }
    directories = {
        name: make_adapter(tiny_llama, tmp_path / str(i), seed=i, layers=[2, 3], **settings)
        for i, (name, settings) in enumerate(makers.items())
    }
    model, ids = given_gates(tiny_llama, directories), tokens()
    assert model.domains == tuple(makers)
    for k, directory in enumerate(directories.values()):
        one_hot = nn.functional.one_hot(torch.full((2, 11), k), 3).float()
        close(model(ids, gates_BTK=one_hot).logits, peft_logits(tiny_llama, directory, ids), 1e-5)


def test_rank_and_alpha_patterns_are_peft_s(tiny_llama, tmp_path, make_adapter, peft_logits):
    patterns = {"rank_pattern": {"q_proj": 2, "layers.3.mlp.up_proj": 6}}
    patterns["alpha_pattern"] = {"q_proj": 12, "layers.3.mlp.up_proj": 1}
    directory = make_adapter(tiny_llama, tmp_path / "a", seed=0, **patterns)
    adapter = read_adapter(directory)
    model = given_gates(tiny_llama, {"a": adapter, "b": adapter})
    one_hot = nn.functional.one_hot(torch.zeros(2, 11, dtype=torch.long), 2).float()
    ours = model(tokens(), gates_BTK=one_hot).logits
    close(ours, peft_logits(tiny_llama, directory, tokens()), 1e-5)


# ---- independent slow version


def slow_linear(weight_OD, parts, x_ND, gates_NK):
    """Merge an own weight matrix for every token."""
    rows = []
    for x_D, gates_K in zip(x_ND, gates_NK, strict=True):
        merged_OD = weight_OD.clone()
        for gate, part in zip(gates_K, parts, strict=True):
            if part is not None:
                merged_OD += gate * part.scale * (part.B_OR @ part.A_RD)
        rows.append(merged_OD @ x_D)
    return torch.stack(rows)


@settings(max_examples=15, deadline=None)
@given(
    ranks=st.lists(st.integers(0, 4), min_size=2, max_size=4).filter(any),
    length=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_one_linear_against_weights_merged_per_token(ranks, length, seed):
    generator = torch_generator(seed, "oracle")

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    block = nn.ModuleDict({"q_proj": nn.Linear(6, 5, bias=False), "k_proj": nn.Linear(6, 3)})
    updates = []
    for rank in ranks:  # rank 0: this adapter lacks the module
        tensors, alpha = {}, 1.0 + rank
        for name, linear in block.items():
            if rank:
                tensors[f"base_model.model.{name}.lora_A.weight"] = draw(rank, 6)
                tensors[f"base_model.model.{name}.lora_B.weight"] = draw(len(linear.weight), rank)
        config = {"peft_type": "LORA", "lora_alpha": alpha}
        updates.append(factors("x", Adapter(config=config, tensors=tensors)) if rank else {})
    x_BTD, gates_BTK = draw(2, length, 6), draw(2, length, len(ranks)).softmax(-1)
    mix = LowRankMix(block, updates)
    with mix.using(gates_BTK):
        got = {name: linear(x_BTD) for name, linear in block.items()}
    for name, linear in block.items():
        parts = [update.get(name) for update in updates]
        expected = slow_linear(linear.weight, parts, x_BTD.flatten(0, 1), gates_BTK.flatten(0, 1))
        expected = expected.unflatten(0, (2, length))
        close(got[name], expected if linear.bias is None else expected + linear.bias, 1e-4)


def test_linears_that_usually_share_may_read_different_inputs():
    generator = torch_generator(5, "inputs")
    block = nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in ("q_proj", "k_proj")})
    update = {
        f"{name}.lora_{half}.weight": torch.randn(shape, generator=generator)
        for name in block
        for half, shape in (("A", (2, 4)), ("B", (4, 2)))
    }
    config = {"peft_type": "LORA", "lora_alpha": 2.0}
    update = factors("x", Adapter(config=config, tensors=update))
    x_BTD, other_BTD = torch.randn(2, 1, 3, 4, generator=generator)
    gates_BTK = gates(1, 3, 2)
    with LowRankMix(block, [update, update]).using(gates_BTK):
        got = {"q_proj": block["q_proj"](x_BTD), "k_proj": block["k_proj"](other_BTD)}
    for name, read in (("q_proj", x_BTD), ("k_proj", other_BTD)):
        parts = [update[name]] * 2
        close(got[name][0], slow_linear(block[name].weight, parts, read[0], gates_BTK[0]), 1e-5)


def test_damaged_or_foreign_adapters_are_refused(tiny_llama, pair, tmp_path):
    good = read_adapter(pair["0"])

    def refuse(match, *, config=None, tensors=None):
        bad = Adapter(
            config=dict(good.config) | (config or {}),
            tensors=good.tensors if tensors is None else tensors,
        )
        with pytest.raises(ValueError, match=match):
            TemporalLora(tiny_llama, {"good": good, "bad": bad}, mixer=None, gate_layer=2)

    refuse("'bad' has use_dora", config={"use_dora": True})
    refuse("'bad' has bias", config={"bias": "all"})
    refuse("'bad' has peft_type 'IA3'", config={"peft_type": "IA3"})
    refuse("changes the base weights", config={"init_lora_weights": "pissa_niter_4"})
    refuse("holds no LoRA factors", tensors={})
    key = next(iter(good.tensors))
    refuse("no matching lora_A", tensors={key: good.tensors[key]})
    stem = "base_model.model.model.layers.2"
    refuse("which is no LoRA factor", tensors={f"{stem}.mlp.up_proj.bias": torch.ones(3)})

    def at(path, out=32, width=32):
        return {
            f"{path}.lora_A.weight": torch.ones(2, width),
            f"{path}.lora_B.weight": torch.ones(out, 2),
        }

    refuse("which the backbone lacks", tensors=at(f"{stem}.mlp.side_proj"))
    refuse("maps 31 -> 32 but .* 32 -> 32", tensors=at(f"{stem}.self_attn.q_proj", width=31))
    refuse("which is no linear", tensors=at(f"{stem}.input_layernorm"))
    refuse("only linears inside decoder layers", tensors=at("base_model.model.lm_head"))


def test_adapter_directories_round_trip(pair, tmp_path):
    adapter = read_adapter(pair["0"])
    write_adapter(tmp_path / "copy", adapter)
    again = read_adapter(tmp_path / "copy")
    assert again.config == adapter.config
    assert all(torch.equal(v, again.tensors[k]) for k, v in adapter.tensors.items())
