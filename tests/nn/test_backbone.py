"""Loading: tiny saved models, a hub that answers from memory, random and embedded weights."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import socket
import time
import traceback

import huggingface_hub
import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from mneme.core.backbones import BackboneConfig
from mneme.core.config import ConfigError
from mneme.nn.backbone import Backbone, load, next_token_nll, require_context, weights_mib
from mneme.nn.hub import BackboneError
from mneme.nn.tokenizer import BUILT_IN, byte_tokenizer, encoder, load_tokenizer
from mneme.routing.describe import about, describe, unpinned
from mneme.routing.sharing import Works

CPU = torch.device("cpu")
CODE = "def f(x1):\n        return x1 + 12345  # 3.14\n\tif a == 10:\n\n\n    pass\n"
SOLILOQUY = (
    "To be, or not to be, that is the question:\n"
    "Whether 'tis nobler in the mind to suffer\n"
    "The slings and arrows of outrageous fortune,\n"
    "Or to take arms against a sea of troubles,"
)


def settings(**changes):
    values = {
        "source": "local",
        "name": "none",
        "revision": None,
        "init": "pretrained",
        "dtype": "float32",
        "gate_layer": 1,
        "target_modules": ("q_proj",),
        "license_url": "",
    }
    return BackboneConfig(**(values | changes))


@pytest.fixture
def saved(tiny_llama, tmp_path):
    """A tiny model saved with a byte tokenizer (its 128 words hold ASCII only)."""
    config = LlamaConfig(**{**tiny_llama.config.to_dict(), "vocab_size": 300})
    model = type(tiny_llama)(config)
    model.save_pretrained(tmp_path / "saved")
    byte_tokenizer().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def hub(monkeypatch):
    """Let the hub's own client talk to an answer given by the test."""
    client = type(huggingface_hub.get_session())  # of httpx, or of its successor
    httpx = importlib.import_module(client.__module__.split(".")[0])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits between retries

    def answer(status, code=None):
        def reply(request):
            if status is None:
                raise httpx.ConnectError("unreachable", request=request)
            headers = {"X-Error-Code": code} if code else {}
            token = request.headers.get("authorization", "")
            return httpx.Response(status, headers=headers, text=f"refused {token}", request=request)

        huggingface_hub.set_client_factory(
            lambda: httpx.Client(transport=httpx.MockTransport(reply))
        )

    yield answer
    huggingface_hub.close_session()
    from huggingface_hub.utils._http import default_client_factory

    huggingface_hub.set_client_factory(default_client_factory)


def failure(config, resources="nowhere"):
    with pytest.raises(BackboneError) as error:
        load(config, device=CPU, resources=resources)
    everything = "".join(traceback.format_exception(error.value))
    assert "hf_planted" not in everything
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_saved_model_comes_back_frozen(saved, no_network):
    backbone = load(settings(name=str(saved)), device=CPU, resources="nowhere")
    assert not backbone.model.training
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert backbone.model.dtype == torch.float32
    assert backbone.load_seconds > 0
    assert backbone.tokenizer.decode(backbone.tokenizer(CODE)["input_ids"]) == CODE


def test_precision_is_as_asked(saved):
    backbone = load(settings(name=str(saved), dtype="bfloat16"), device=CPU, resources="x")
    assert {p.dtype for p in backbone.model.parameters()} == {torch.bfloat16}


def test_the_embedded_model_lies_below_resources(saved, tmp_path):
    (tmp_path / "models").mkdir()
    saved.rename(tmp_path / "models" / "tiny")
    config = settings(source="embedded", name="tiny")
    assert load(config, device=CPU, resources=tmp_path).model is not None
    assert "run snakemake" in failure(config, resources=tmp_path / "elsewhere")


def test_a_directory_without_a_model_is_one_sentence(tmp_path):
    assert "holds no saved model" in failure(settings(name=str(tmp_path)))


@pytest.mark.parametrize("damage", ["truncated", "other", "config", "pickle", "tokenizer"])
def test_a_corrupt_directory_is_one_sentence(saved, damage):
    weights = saved / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "other":
        weights.write_bytes(b"not weights at all")
    elif damage == "config":
        (saved / "config.json").write_text("{")
    elif damage == "pickle":  # only safetensors are read
        torch.save({}, saved / "pytorch_model.bin")
        weights.unlink()
    else:
        (saved / "tokenizer.json").write_text("{")
    assert "damaged or incomplete" in failure(settings(name=str(saved)))


def test_missing_weights_are_never_filled_with_random_numbers(saved):
    from safetensors.torch import load_file, save_file

    weights = load_file(saved / "model.safetensors")
    weights.pop("model.layers.2.mlp.up_proj.weight")
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 weights" in failure(settings(name=str(saved)))


def test_a_gate_layer_beyond_the_model_is_refused(saved):
    with pytest.raises(ConfigError, match="below the 4 layers"):
        load(settings(name=str(saved), gate_layer=4), device=CPU, resources="x")


def test_an_unknown_family_is_refused_before_weights_are_read(saved):
    content = json.loads((saved / "config.json").read_text())
    content |= {"model_type": "opt", "architectures": ["OPTForCausalLM"]}
    (saved / "config.json").write_text(json.dumps(content))
    (saved / "model.safetensors").unlink()
    sentence = failure(settings(name=str(saved)))
    assert "'opt' cannot be split" in sentence
    assert "families llama, mistral, qwen2, qwen3, smollm3, gpt2" in sentence


def test_a_sequence_must_fit_the_context(tiny_llama):
    require_context(tiny_llama, 512, "routing.x")
    with pytest.raises(BackboneError, match=r"513 tokens .* the 512 that .* lower routing\.x, or"):
        require_context(tiny_llama, 513, "routing.x")


@pytest.mark.parametrize("revision", [None, "b" * 40])
def test_the_commit_that_was_read_is_recorded(saved, tmp_path, monkeypatch, no_network, revision):
    """A hub cache made by hand: the newest commit is a1a1..., another is there too."""
    newest, cache = "a1" * 20, tmp_path / "hub" / "models--org--name"
    for commit in (newest, "b" * 40):
        shutil.copytree(saved, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(newest)
    for name, value in (("HF_HUB_CACHE", str(cache.parent)), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    config = settings(source="hub", name="org/name", revision=revision)
    backbone = load(config, device=CPU, resources=tmp_path / "resources")
    facts, sentence = about(backbone), unpinned(backbone)
    assert facts["revision"] == (revision or newest)
    assert facts["pinned"] == (revision is not None)
    if revision is None:
        assert f"--config backbone=org/name@{newest} pins it" in sentence
    else:
        assert sentence is None


def test_a_local_model_is_pinned(saved):
    backbone = load(settings(name=str(saved)), device=CPU, resources="x")
    assert (about(backbone)["revision"], about(backbone)["pinned"]) == (None, True)
    assert unpinned(backbone) is None


GATED = settings(source="hub", name="org/gated", license_url="https://hub.example/org/gated")


def test_a_gated_model_names_token_licence_and_key(hub):
    hub(403, "GatedRepo")
    sentence = failure(GATED)
    for word in ("HF_TOKEN", "`hf auth login`", GATED.license_url, "config key backbone"):
        assert word in sentence
    assert "its token has no access" in sentence


def test_a_gated_model_without_token_says_so(hub, monkeypatch):
    hub(401, "GatedRepo")
    monkeypatch.setattr("mneme.nn.hub.get_token", lambda: None)
    assert "there is no token" in failure(GATED)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "RepoNotFound", "not on the hub"),
        (401, "RepoNotFound", "not on the hub"),
        (404, "RevisionNotFound", "has no revision"),
        (404, "EntryNotFound", "no configuration, safetensors weights or tokenizer"),
        (403, None, "gated"),
        (None, None, "no network"),
    ],
)
def test_every_answer_of_the_hub_is_one_sentence(hub, status, code, words):
    hub(status, code)
    assert words in failure(settings(source="hub", name="org/missing", revision="a" * 40))


def test_offline_mode_is_told_as_no_network(monkeypatch, no_network):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "no network" in failure(settings(source="hub", name="org/missing"))


def test_lack_of_memory_passes_unchanged(saved, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr("mneme.nn.backbone._pretrained", full)
    with pytest.raises(torch.OutOfMemoryError):
        load(settings(name=str(saved)), device=CPU, resources="x")


def weights_of(backbone):
    return torch.cat([p.flatten() for p in backbone.model.parameters()])


def test_random_weights_differ_from_the_saved_and_follow_the_generator(saved, no_network):
    config = settings(name=str(saved), init="random")
    before = torch.get_rng_state()

    def draw(seed):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return weights_of(load(config, device=CPU, resources="x", generator=generator))

    assert torch.equal(draw(1), draw(1))
    assert torch.equal(draw(None), draw(None))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), before)
    trained = weights_of(load(settings(name=str(saved)), device=CPU, resources="x"))
    assert not torch.equal(draw(1), trained)
    assert 0.01 < draw(1).std() < 0.3  # initialised, not empty memory


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8_030_261_248),
        ("meta-llama/Meta-Llama-3-8B", 8_030_261_248),
        ("mistralai/Mistral-7B-Instruct-v0.2", 7_241_732_096),
        ("openai-community/gpt2", 124_439_808),
    ],
)
def test_built_in_shapes_have_the_published_number_of_parameters(name, parameters, no_network):
    from transformers import AutoModelForCausalLM

    from mneme.nn.backbone import _built_in

    assert name in BUILT_IN
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_built_in(name))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_a_built_in_shape_needs_no_network(monkeypatch, no_network):
    tiny = LlamaConfig(
        vocab_size=300, hidden_size=8, intermediate_size=8, num_hidden_layers=2,
        num_attention_heads=2,
    )  # fmt: skip
    monkeypatch.setattr("mneme.nn.backbone._built_in", lambda name: tiny)
    config = settings(source="hub", name=BUILT_IN[0], init="random")
    backbone = load(config, device=CPU, resources="nowhere")
    assert backbone.tokenizer.decode(backbone.tokenizer(CODE)["input_ids"]) == CODE
    assert about(backbone)["tokenizer"] == "bytes (stand-in)"
    assert "speed and memory only" in about(backbone)["note"]


def test_line_starts_are_the_tokens_that_begin_a_line():
    ids, lines = encoder(byte_tokenizer())("ab\ncd\n\ne")
    assert len(ids) == 8
    assert lines == [0, 3, 6, 7]
    assert encoder(byte_tokenizer())("") == ([], [])


def test_losses_equal_a_plain_loop(tiny_llama):
    ids_NT = torch.randint(0, 128, (5, 9), generator=torch.Generator().manual_seed(0))
    found = next_token_nll(tiny_llama, ids_NT, batch=2)
    for ids, loss in zip(ids_NT, found, strict=True):
        logp = tiny_llama(ids[None]).logits[0].log_softmax(-1)
        plain = [-logp[t, ids[t + 1]].item() for t in range(8)]
        assert loss.item() == pytest.approx(sum(plain) / 8, abs=1e-5)


def test_tied_weights_count_once(saved, tiny_llama):
    total = sum(t.numel() for t in [*tiny_llama.parameters(), *tiny_llama.buffers()])
    assert weights_mib(tiny_llama) == pytest.approx(4 * total / 2**20)


def described(backbone, ids_NT, works=None):
    names = works or [f"text {i}" for i in range(len(ids_NT))]
    rows = describe(
        backbone,
        {"planted": ids_NT},
        works=Works(names={"planted": np.array(names)}),
        batch=4,
        resamples=200,
        generator=np.random.default_rng(0),
    )
    return {row.metric: row for row in rows}


def test_description_of_random_weights_says_so(saved):
    config = settings(name=str(saved), init="random")
    ids_NT = np.random.default_rng(0).integers(0, 90, (6, 12)).astype(np.int32)
    rows = described(load(config, device=CPU, resources="x"), ids_NT)
    assert rows["uniform_loss"].value == pytest.approx(math.log(300))
    assert rows["loss@planted"].value == pytest.approx(math.log(300), rel=0.1)
    assert rows["loss@planted"].low < rows["loss@planted"].value < rows["loss@planted"].high
    assert "speed and memory only" in rows["loss@planted"].reason
    assert rows["tokenizer_round_trip"].value == 1
    assert rows["bits_per_weight"].value == 32


def test_losses_of_texts_of_one_work_have_a_wider_interval(saved):
    backbone = load(settings(name=str(saved), init="random"), device=CPU, resources="x")
    ids_NT = np.random.default_rng(0).integers(0, 90, (3, 12)).astype(np.int32).repeat(2, axis=0)
    alone = described(backbone, ids_NT)["loss@planted"]
    shared = described(backbone, ids_NT, list("aabbcc"))["loss@planted"]
    assert shared.value == alone.value
    assert shared.high - shared.low > alone.high - alone.low


def test_a_pretrained_model_that_guesses_is_refused(saved):
    ids_NT = np.random.default_rng(0).integers(0, 90, (6, 12)).astype(np.int32)
    with pytest.raises(BackboneError, match="do not belong together"):
        described(load(settings(name=str(saved)), device=CPU, resources="x"), ids_NT)


def test_a_tokenizer_that_loses_text_is_seen(saved):
    real = load(settings(name=str(saved), init="random"), device=CPU, resources="x")
    forgetful = byte_tokenizer()
    from tokenizers import normalizers

    forgetful.backend_tokenizer.normalizer = normalizers.Lowercase()
    broken = Backbone(real.model, forgetful, real.config, 1.0)
    ids = [forgetful.convert_tokens_to_ids(list(text)) for text in ("ABCD", "abcd")]
    assert described(broken, np.array(ids, dtype=np.int32))["tokenizer_round_trip"].value == 0.5


@pytest.fixture(scope="module")
def embedded(embedded_model_dir):
    config = settings(source="embedded", name=embedded_model_dir.name, gate_layer=10)
    return load(config, device=CPU, resources=embedded_model_dir.parents[1])


def test_embedded_perplexity_on_hamlet(embedded):
    ids = embedded.tokenizer(SOLILOQUY, return_tensors="pt").input_ids
    perplexity = next_token_nll(embedded.model, ids, batch=1).exp().item()
    assert perplexity == pytest.approx(22.4, abs=0.2)
    shuffled = ids[:, torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(0))]
    assert next_token_nll(embedded.model, shuffled, batch=1).exp().item() > 500


def test_embedded_tokenizer_splits_digits_and_keeps_code(embedded):
    tokenizer = embedded.tokenizer
    ids = tokenizer(CODE)["input_ids"]
    assert tokenizer.decode(ids) == CODE
    pieces = [tokenizer.decode([i]) for i in tokenizer("x = 12345")["input_ids"]]
    assert pieces == ["x", " =", " ", "1", "2", "3", "4", "5"]
    assert tokenizer.model_max_length == 8192
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"


def test_embedded_directory_is_plain_and_names_no_machine(embedded_model_dir, no_network):
    names = {path.name for path in embedded_model_dir.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    content = json.loads((embedded_model_dir / "config.json").read_text())
    assert content["architectures"] == ["LlamaForCausalLM"]
    assert content["dtype"] == "float32"
    assert "/" not in (embedded_model_dir / "config.json").read_text()
    config = settings(source="local", name=str(embedded_model_dir))
    assert load_tokenizer(config, folder="nowhere").eos_token_id == 2
