"""TinyLoRA: counts, PEFT's change and the source's against slow formulas, files, refusals."""

from __future__ import annotations

import json
import math
import warnings

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from mneme.core.config import ConfigError
from mneme.core.seeds import torch_generator
from mneme.ttt.adapter_config import AdapterConfig, AdapterRunConfig
from mneme.ttt.config import InnerConfig, ModelConfig
from mneme.ttt.inner import read
from mneme.ttt.model import build_model
from mneme.ttt.tinylora import (
    PEFT_FILES,
    SHARED_FILES,
    AdapterError,
    SharedTinyLora,
    adapt,
    deltas_of,
    linears,
    load_adapter,
    merged,
    save_adapter,
    trainable,
)

TINY40 = ModelConfig(
    blocks=4,
    width=40,
    heads=5,
    hidden=160,
    ttt_blocks=1,
    window=64,
    rope_base=None,
    qk_norm=True,
    tied=True,
)
SIZES = ModelConfig(
    blocks=3,
    width=16,
    heads=2,
    hidden=24,
    ttt_blocks=2,
    window=8,
    rope_base=100.0,
    qk_norm=True,
    tied=False,
)
TOKENS = torch.randint(19, (3, 25), generator=torch_generator(0, "tokens"))


def run(form="tinylora", **changes):
    size = {"rank": 2, "vector": 5} if form == "tinylora" else {"rank": None, "vector": None}
    told = {
        "base": "text",
        "form": form,
        **size,
        "learning_rate": 0.01,
        "control": "none",
        "control_of": None,
    }
    return AdapterRunConfig(**(told | changes))


def base_of(config=SIZES, *, arm="second", seed=0):
    model = build_model(config, arm, vocabulary=19, generator=torch_generator(seed, "model"))
    return model.double()


def moved(base, form, **changes):
    """An adapter with values that training could have left."""
    adapter = adapt(base, run(form, **changes), seed=3)
    generator = torch_generator(1, "moved")
    with torch.no_grad():
        for parameter in trainable(adapter).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return adapter


@pytest.fixture(scope="module")
def base():
    return base_of()


@pytest.fixture(scope="module", params=["tinylora", "shared"])
def adapter(request, base):
    return moved(base, request.param)


def trained(model):
    return sum(p.numel() for p in trainable(model).values())


def test_the_sources_form_has_447_numbers_on_tiny40():
    adapter = adapt(base_of(TINY40), run("shared"), seed=0)
    assert trained(adapter) == 447  # 2 x 40 + 2 x (128 + 40) + 31 layers


def test_pefts_form_has_a_vector_a_layer():
    base = base_of(TINY40)
    assert len(linears(base)) == 4 * 7 + 3
    assert trained(adapt(base, run(vector=13), seed=0)) == 31 * 13


def test_every_linear_layer_carries_an_adapter_but_the_head(base):
    names = {n for n, m in base.named_modules() if isinstance(m, torch.nn.Linear)}
    assert names - set(linears(base)) == {"head"}
    assert {n.split(".")[2] for n in linears(base)} == {
        "attention",
        "mlp",
        "mlp_ttt",
        "mlp_static",
    }


@pytest.mark.parametrize("form", ["tinylora", "shared"])
@pytest.mark.parametrize("arm", ["second", "sliding"])
def test_nothing_changes_before_training_and_the_base_is_never_touched(form, arm):
    base = base_of(arm=arm)
    weights = {name: p.clone() for name, p in base.named_parameters()}
    before = base(TOKENS)
    adapter = adapt(base, run(form), seed=0)
    assert torch.equal(adapter(TOKENS), before)
    assert set(deltas_of(adapter)) == set(linears(base))
    adapter(TOKENS).square().mean().backward()
    assert all(p.grad is None for p in base.parameters())
    assert all(p.requires_grad for p in base.parameters())
    assert all(torch.equal(weights[n], p) for n, p in base.named_parameters())
    assert any(p.grad.abs().max() > 0 for p in trainable(adapter).values())


def test_seed_decides_what_is_drawn(base):
    def drawn(form, seed):
        adapter = adapt(base, run(form), seed=seed)
        if form == "shared":
            return torch.cat([p.detach().flatten() for p in trainable(adapter).values()])
        return torch.cat([b.flatten() for n, b in adapter.named_buffers() if "tinylora_P" in n])

    for form in ("tinylora", "shared"):
        assert torch.equal(drawn(form, 0), drawn(form, 0))
        assert not torch.equal(drawn(form, 0), drawn(form, 1))


def slow_peft_delta(weight, p_UIJ, v_U, signs_OR):
    """sum over i, j, k of v_i P_i[j, k] sqrt(s_j s_k) u_j w_k^T, by eigenvectors, not the SVD.

    An eigenvector's sign is free: it is taken from PEFT's.
    """
    values, vectors = torch.linalg.eigh(weight @ weight.T)
    order = values.argsort(descending=True)[: signs_OR.shape[1]]
    signed = zip(order, signs_OR.T, strict=True)
    left = [vectors[:, i] * torch.sign(vectors[:, i] @ s) for i, s in signed]
    size = [math.sqrt(values[i]) for i in order]
    right = [weight.T @ u / s for u, s in zip(left, size, strict=True)]
    delta = torch.zeros_like(weight)
    for i, v in enumerate(v_U):
        for j in range(len(left)):
            for k in range(len(left)):
                strength = v * p_UIJ[i, j, k] * math.sqrt(size[j] * size[k])
                delta += strength * left[j][:, None] * right[k][None, :]
    return delta


def test_pefts_change_is_its_formula(base):
    adapter = moved(base, "tinylora")
    found, layers = deltas_of(adapter), dict(adapter.named_modules())
    for place, (name, linear) in enumerate(linears(base).items()):
        layer = layers[f"base_model.model.{name}"]
        v_U = adapter.base_model.tinylora_v["default"][str(place)].tolist()
        p_UIJ, signs_OR = layer.tinylora_P["default"], layer.tinylora_B["default"]
        slow = slow_peft_delta(linear.weight.detach(), p_UIJ, v_U, signs_OR)
        assert (found[name] - slow).abs().max() < 1e-4 * slow.abs().max()  # PEFT's SVD is float32


def test_pefts_change_lies_in_the_largest_singular_vectors(base):
    found = deltas_of(moved(base, "tinylora", rank=2))
    for name, linear in linears(base).items():
        left, _, right = torch.linalg.svd(linear.weight.detach())
        inside = left[:, :2] @ left[:, :2].T @ found[name] @ right[:2].T @ right[:2]
        assert (inside - found[name]).abs().max() < 1e-4 * found[name].abs().max()
        assert torch.linalg.matrix_rank(found[name], rtol=1e-6) == 2


def test_the_sources_change_is_its_formula(base):
    adapter = moved(base, "shared")
    tensors = {name: p.detach() for name, p in trainable(adapter).items()}
    for name, delta in deltas_of(adapter).items():
        rows, columns = delta.shape
        left, right = (tensors[f"{side}.{rows}x{columns}"] for side in ("left", "right"))
        scale = tensors[f"scale.{name.replace('.', '/')}"]
        for i in range(rows):
            for j in range(columns):
                assert abs(delta[i, j] - scale * left[i] * right[j]) < 1e-12


def test_the_wrapped_the_merged_and_the_fast_path_are_one_function(base, adapter):
    logits = adapter(TOKENS).detach()
    assert (logits - base(TOKENS)).abs().max() > 0.01
    model = merged(base, deltas_of(adapter))
    assert (model(TOKENS) - logits).abs().max() < 1e-9
    still = InnerConfig(chunk=5, learning_rate=0.0, clip=1.0)
    nll_BT = read(model, TOKENS, still).nll_BT  # five chunks through explicit fast weights
    slow = -logits[:, :-1].log_softmax(-1).gather(-1, TOKENS[:, 1:, None])[..., 0]
    assert (nll_BT - slow).abs().max() < 1e-9
    moving = InnerConfig(chunk=5, learning_rate=1.0, clip=1.0)
    assert (read(model, TOKENS, moving).nll_BT - slow)[:, 5:].abs().max() > 1e-3


def test_a_saved_adapter_comes_back(base, adapter, tmp_path):
    save_adapter(adapter, tmp_path, base_name="text")
    files = SHARED_FILES if isinstance(adapter, SharedTinyLora) else PEFT_FILES
    assert set(files) <= {path.name for path in tmp_path.iterdir()}
    before = base(TOKENS)
    assert (load_adapter(base, tmp_path)(TOKENS) - adapter(TOKENS)).abs().max() < 1e-9
    assert torch.equal(base(TOKENS), before)


def test_peft_takes_the_folder(base, tmp_path):
    adapter = moved(base, "tinylora")
    save_adapter(adapter, tmp_path, base_name="text")
    logits = adapter(TOKENS)
    theirs = PeftModel.from_pretrained(base_of(), str(tmp_path))
    assert torch.equal(theirs(TOKENS), logits)
    config = json.loads((tmp_path / PEFT_FILES[0]).read_text())
    assert config["base_model_name_or_path"] == "text"


@pytest.mark.parametrize("tying", [0.3, 0.5, 1.0])
def test_a_folder_that_peft_made_otherwise_is_read_as_peft_reads_it(base, tmp_path, tying):
    from peft import TinyLoraConfig, get_peft_model

    size = {"r": 3, "u": 2, "weight_tying": tying, "target_modules": ["q", "down"]}
    config = TinyLoraConfig(**size, init_weights="uniform", init_v_bound=1.0)
    theirs = get_peft_model(base_of(), config)
    theirs.save_pretrained(str(tmp_path), save_embedding_layers=False)
    assert (load_adapter(base, tmp_path)(TOKENS) - theirs(TOKENS)).abs().max() < 1e-9


def test_two_saves_are_the_same_bytes(base, adapter, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        save_adapter(adapter, folder, base_name="text")
    for file in folders[0].iterdir():
        assert file.read_bytes() == (folders[1] / file.name).read_bytes()


def test_an_adapter_for_another_shape_is_refused(base, adapter, tmp_path):
    save_adapter(adapter, tmp_path, base_name="text")
    wide = base_of(ModelConfig(**{**vars(SIZES), "hidden": 48}))
    with pytest.raises(AdapterError, match="down is 16 x 14, this model's is 16 x 29: use the"):
        load_adapter(wide, tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        base_of(ModelConfig(**{**vars(SIZES), "hidden": 14}), arm="sliding"),
        base_of(ModelConfig(**{**vars(SIZES), "blocks": 5, "hidden": 20})),
    ],
    ids=["one MLP a block", "more blocks"],
)
def test_an_adapter_for_other_layers_is_refused(adapter, other, tmp_path):
    save_adapter(adapter, tmp_path, base_name="text")
    gone = "is 16 x 14, this model's is not there: use|is not there, this model's is 16 x 14: use"
    with pytest.raises(AdapterError, match=gone):
        load_adapter(other, tmp_path)


def test_pefts_form_knows_the_weights_it_was_trained_on(base, tmp_path):
    save_adapter(moved(base, "tinylora"), tmp_path, base_name="text")
    with pytest.raises(AdapterError, match="other weights"):
        load_adapter(base_of(seed=1), tmp_path)


def test_what_is_no_adapter_is_refused(base, tmp_path):
    with pytest.raises(AdapterError, match="is no adapter"):
        load_adapter(base, tmp_path)
    (tmp_path / PEFT_FILES[0]).write_text('{"peft_type": "LORA"}')
    with pytest.raises(AdapterError, match="of type LORA"):
        load_adapter(base, tmp_path)
    save_adapter(moved(base, "tinylora"), tmp_path, base_name="text")
    tensors = load_file(tmp_path / PEFT_FILES[1])
    save_file({k: v for k, v in tensors.items() if "_P" not in k}, tmp_path / PEFT_FILES[1])
    with pytest.raises(AdapterError, match="save_projection=True"):
        load_adapter(base, tmp_path)
    (tmp_path / PEFT_FILES[1]).write_bytes(b"no")
    with pytest.raises(ValueError, match="is damaged"):
        load_adapter(base, tmp_path)


def test_peft_warns_of_nothing(base):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapt(base, run(), seed=0)


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ConfigError, match="rank must be at least 1 for form tinylora"):
        run(rank=None)
    with pytest.raises(ConfigError, match="vector must be null for form shared"):
        run("shared", vector=3)
    with pytest.raises(ConfigError, match="control_of must be a run's name"):
        run(control="permuted")
    with pytest.raises(ConfigError, match=r"runs\.a\.control_of must be null or one of a"):
        AdapterConfig(runs={"a": run(control_of="b")}, training=None, measure=None, resamples=1)
