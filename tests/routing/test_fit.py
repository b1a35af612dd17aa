import json
import re
import runpy
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from namelist import Namelist

from mneme.core import checkpoints
from mneme.core.artefacts import read_json, write_arrays, write_json
from mneme.core.config import ConfigError, build, plain
from mneme.core.seeds import torch_generator
from mneme.nn.head import head_weight
from mneme.nn.split import lower, upper
from mneme.routing.begun import read_begun
from mneme.routing.config import RoutingConfig
from mneme.routing.domains import domain_of
from mneme.routing.fit import Course, Parts, fitted_adapters
from mneme.routing.lora import activate, adapter_parameters, attached, save_adapters
from mneme.routing.lowrank import read_adapter
from mneme.routing.model import TemporalLora
from mneme.routing.paths import RoutingPaths
from mneme.routing.stages import AdapterFitConfig

CPU = torch.device("cpu")
SCRIPT = Path(__file__).parents[2] / "workflow" / "scripts" / "routing_adapter_fit.py"
PAIR, TRIPLE = ("one", "two"), ("one", "two", "six")
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def settings(domains=PAIR, gate_layer=1, adapters=None, targets=ALL, **run):
    return build(
        AdapterFitConfig,
        {
            "backbone": {
                "source": "local",
                "name": "tiny",
                "revision": None,
                "init": "random",
                "dtype": "float32",
                "gate_layer": gate_layer,
                "target_modules": targets,
                "license_url": "",
            },
            "resources": "unused",
            "adapters": {
                "rank": 4,
                "alpha": 8.0,
                "sleep_weight": 0.5,
                "sleep_temperature": 2.0,
                "seeds": [0],
            }
            | (adapters or {}),
            "name": "test",
            "run": {
                "protect": "none",
                "samples": 10,
                "tokens": 12,
                "epochs": 2,
                "batch": 4,
                "learning_rate": 1e-2,
                "above_gate": True,
            }
            | run,
            "domains": list(domains),
        },
        where="test",
    )


@pytest.fixture(name="tokens", scope="module")
def _tokens():
    return planted_tokens()


def planted_tokens():
    """Every domain draws its words from eight of its own, so that it shows in every word."""
    generator = np.random.default_rng(0)
    words = generator.permutation(128)
    return {
        f"{domain}.{part}": words[8 * i + generator.integers(0, 8, (n, 16))].astype(np.int32)
        for i, domain in enumerate(TRIPLE)
        for part, n in (("train", 12), ("loss", 6))
    }


class Fit:
    """Fits the tiny model, and keeps what is left after the context."""

    def __init__(self, base, tokens, folder, config, *, seed=0, log=lambda line: None, begun=None):
        options = {
            "seed": seed,
            "device": CPU,
            "checkpoint": folder / "checkpoint",
            "fingerprint": "f",
            "begun": begun,
        }
        with fitted_adapters(base, tokens, config, **options, log=log) as fitted:
            self.weights = {
                d: {k: p.clone() for k, p in adapter_parameters(fitted.model, d).items()}
                for d in config.domains
            }
            self.losses, self.history = fitted.losses, fitted.history
            ids = torch.arange(20)[None]
            self.logits = {}
            for d in config.domains:
                activate(fitted.model, d)
                self.logits[d] = fitted.model(ids).logits.detach()
            save_adapters(fitted.model, folder / "adapters", base_name="tiny")
        checkpoints.remove(folder / "checkpoint")

    def forgetting(self, old="one", new="two"):
        return np.mean(self.losses[new][old]) - np.mean(self.losses[old][old])


def same(first, second):
    """Whether all tensors of two fits are equal bit for bit."""
    assert first.weights.keys() == second.weights.keys()
    return all(
        torch.equal(tensor, second.weights[d][key])
        for d, part in first.weights.items()
        for key, tensor in part.items()
    )


def course_of(stack, base, tokens, config):
    k = config.backbone.gate_layer if config.run.above_gate else 0
    options = {"targets": ALL, "first_layer": k, "seed": 0}
    model = stack.enter_context(attached(base, config.adapters, config.domains, **options))
    for domain in config.domains:  # B = 0 would hide the gradient of A
        for parameter in adapter_parameters(model, domain).values():
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(3))
    parts = Parts(model, lower(base, k), upper(base, k), head_weight(base), 4, CPU)
    chunks = {d: torch.from_numpy(tokens[f"{d}.train"][:10, :12].astype(np.int64)) for d in PAIR}
    return Course(parts, chunks, config, seed=0), chunks


@pytest.mark.parametrize("above_gate", [True, False])
def test_loss_and_gradients_equal_the_full_model_with_the_same_adapters(
    tiny_llama, tokens, above_gate
):
    config = settings(above_gate=above_gate)
    with ExitStack() as stack:
        course, chunks = course_of(stack, tiny_llama, tokens, config)
        model = course.parts.model
        course.begin("one")
        rows = course.rows_of("one", 0)
        loss = course.learn(course.h["one"][rows], course.ids["one"][rows])
        parameters = adapter_parameters(model, "one")
        ours = {key: p.grad.clone() for key, p in parameters.items()}
        model.zero_grad()
        ids = chunks["one"][rows]
        expected = model(ids, labels=ids).loss
        expected.backward()
        assert loss == pytest.approx(expected.item(), abs=1e-5)
        layers = 3 if above_gate else 4
        assert len(ours) == layers * len(ALL) * 2
        for key, parameter in parameters.items():
            assert parameter.grad.abs().max() > 0
            torch.testing.assert_close(ours[key], parameter.grad, rtol=1e-4, atol=1e-6)


def test_adapters_load_in_peft_and_the_backbone_is_as_before(tiny_llama, tokens, tmp_path):
    from peft import PeftModel

    ids = torch.arange(20)[None]
    before, names = tiny_llama(ids).logits, list(tiny_llama.state_dict())
    fit = Fit(tiny_llama, tokens, tmp_path, settings())
    assert torch.equal(tiny_llama(ids).logits, before)
    assert list(tiny_llama.state_dict()) == names
    assert not any(p.requires_grad for p in tiny_llama.parameters())
    assert (fit.logits["one"] - before).abs().max() > 1e-2
    for domain in PAIR:
        folder = tmp_path / "adapters" / domain
        saved = json.loads((folder / "adapter_config.json").read_text())
        assert saved["layers_to_transform"] == [1, 2, 3]
        assert saved["base_model_name_or_path"] == "tiny"
        with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
            loaded = PeftModel.from_pretrained(tiny_llama, folder)
        torch.testing.assert_close(loaded(ids).logits, fit.logits[domain], rtol=0, atol=1e-5)
        loaded.unload()


AWKWARD = [
    ("layers", "two"),
    ("one", "mlp"),
    ("one", "default"),
    ("model", "self_attn"),
    ("one", "one_b"),
    ("lora", "l"),
    ("lora_A", "weight"),
    ("keys", "type"),
    ("Plays", "stage-plays"),
    ("1", "2nd"),
    ("A", "a-"),
    ("q_proj", "base_model"),
]
"""Names that PEFT's keys, classes or folders use, and others than lower case."""


@pytest.mark.parametrize("names", AWKWARD, ids="+".join)
def test_adapters_of_any_name_are_saved_whole_and_reload(tiny_llama, tokens, tmp_path, names):
    from peft import PeftModel

    renamed = {
        f"{new}.{part}": tokens[f"{old}.{part}"]
        for new, old in zip(names, PAIR, strict=True)
        for part in ("train", "loss")
    }
    ids = torch.arange(20)[None]
    fit = Fit(tiny_llama, renamed, tmp_path, settings(domains=names, epochs=1))
    made = tmp_path / "adapters"
    assert {path.name for path in made.iterdir()} == {*names, "README.md"}
    for name in names:
        assert {path.name for path in (made / name).iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
        adapter = read_adapter(made / name)
        assert len(adapter.tensors) == len(fit.weights[name]) == 3 * len(ALL) * 2
        held = {key.replace(f".@{name}@", ""): p for key, p in fit.weights[name].items()}
        assert all(torch.equal(adapter.tensors[key], p) for key, p in held.items())
        with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
            loaded = PeftModel.from_pretrained(tiny_llama, made / name)
        torch.testing.assert_close(loaded(ids).logits, fit.logits[name], rtol=0, atol=1e-5)
        loaded.unload()
    assert fit.losses.keys() == {"base", *names}
    mixed = TemporalLora(tiny_llama, {n: made / n for n in names}, mixer=None, gate_layer=1)
    one_hot = torch.tensor([0.0, 1.0]).expand(*ids.shape, 2)
    logits = mixed(ids, gates_BTK=one_hot).logits
    mixed.unmix()
    torch.testing.assert_close(logits, fit.logits[names[1]], rtol=0, atol=1e-5)


def test_a_name_decides_on_its_stream_of_random_numbers_only(tiny_llama):
    """What PEFT calls an adapter is not in the draw: results of named runs stay as they were."""
    config = settings()
    options = {"targets": ALL, "first_layer": 1, "seed": 0}
    with attached(tiny_llama, config.adapters, config.domains, **options) as model:
        parameters = adapter_parameters(model, "two")
        generator = torch_generator(0, "lora", "two")
        for key, parameter in parameters.items():
            if "lora_A" in key:
                drawn = torch.empty(parameter.shape)
                torch.nn.init.kaiming_uniform_(drawn, a=5**0.5, generator=generator)
                assert torch.equal(parameter, drawn)


@given(
    names=st.lists(
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True),
        min_size=2,
        max_size=3,
        unique_by=str.lower,
    )
)
@hypothesis_settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_all_names_that_settings_take_keep_their_adapters_apart(tiny_llama, names):
    """Property: every parameter belongs to one adapter, and a saved folder holds all of its own."""
    assume("base" not in {name.lower() for name in names})
    config = settings(domains=names)
    options = {"targets": ["q_proj", "down_proj"], "first_layer": 1, "seed": 0}
    with (
        tempfile.TemporaryDirectory() as folder,
        attached(tiny_llama, config.adapters, config.domains, **options) as model,
    ):
        parts = {name: adapter_parameters(model, name) for name in names}
        assert {len(part) for part in parts.values()} == {2 * 3 * 2}
        every = {key for key, _ in model.named_parameters() if ".lora_" in key}
        assert sorted(key for part in parts.values() for key in part) == sorted(every)
        save_adapters(model, folder, base_name="tiny")
        for name in names:
            saved = read_adapter(Path(folder) / name).tensors
            expected = {key.replace(f".@{name}@", ""): p for key, p in parts[name].items()}
            assert saved.keys() == expected.keys()
            assert all(torch.equal(saved[key], p) for key, p in expected.items())


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("one", "base"), "domains must be another name than 'base'"),
        (("one", "Base"), "domains must be another name than 'base'"),
        (("plays", "Plays"), "domains must be distinct also in lower case"),
        (("one", "one"), "domains must be distinct names"),
        (("one", "a_minus_b"), "domains must be without '_minus_'"),
        (("one", "a.b"), "domains must be 1..64 letters, digits, - or _"),
        (("one", "../b"), "domains must be 1..64 letters, digits, - or _"),
        (("one", "-b"), "domains must be 1..64 letters, digits, - or _"),
        (("one", "b@"), "domains must be 1..64 letters, digits, - or _"),
        (("one", ""), "domains must be 1..64 letters, digits, - or _"),
        (("one", "x" * 65), "domains must be 1..64 letters, digits, - or _"),
    ],
)
def test_names_that_cannot_stand_are_refused_in_one_sentence(names, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        settings(domains=names)


def test_seeds(tiny_llama, tokens, tmp_path):
    first, again, other = (
        Fit(tiny_llama, tokens, tmp_path, settings(protect="sleep"), seed=seed)
        for seed in (0, 0, 1)
    )
    assert same(first, again)
    assert first.losses == again.losses
    for domain, part in first.weights.items():
        for key, tensor in part.items():
            assert not torch.equal(tensor, other.weights[domain][key])


def test_order_of_chunks_differs_by_seed_and_epoch_and_covers_all(tiny_llama, tokens):
    config = settings(samples=10, batch=4, epochs=2)
    with ExitStack() as stack:
        course, _ = course_of(stack, tiny_llama, tokens, config)
        assert (course.epoch_steps, course.steps) == (3, 12)
        epochs = [[course.rows_of("one", 3 * e + i) for i in range(3)] for e in range(2)]
        orders = [torch.cat(epoch).tolist() for epoch in epochs]
        course.seed = 1
        orders.append(torch.cat([course.rows_of("one", i) for i in range(3)]).tolist())
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("protect", ["sleep", "replay"])
def test_weight_zero_equals_no_protection_bit_for_bit(tiny_llama, tokens, tmp_path, protect):
    none = Fit(tiny_llama, tokens, tmp_path, settings())
    zero = settings(protect=protect, adapters={"sleep_weight": 0.0})
    off = Fit(tiny_llama, tokens, tmp_path, zero)
    assert same(none, off)
    assert none.losses == off.losses
    assert off.history["domains"]["two"]["protect"][0] > 0  # it was computed
    assert not same(none, Fit(tiny_llama, tokens, tmp_path, settings(protect=protect)))


def test_first_domain_does_not_depend_on_protection(tiny_llama, tokens, tmp_path):
    fits = [Fit(tiny_llama, tokens, tmp_path, settings(protect=p)) for p in ("none", "sleep")]
    for key, tensor in fits[0].weights["one"].items():
        assert torch.equal(tensor, fits[1].weights["one"][key])


@pytest.mark.parametrize("domains", [PAIR, TRIPLE])
@pytest.mark.parametrize("protect", ["sleep", "replay"])
def test_a_first_domain_taken_over_changes_nothing(
    tiny_llama, tokens, tmp_path, monkeypatch, protect, domains
):
    none = Fit(tiny_llama, tokens, tmp_path, settings(domains, protect="none"))
    write_json(tmp_path / "losses.json", none.losses)
    write_json(tmp_path / "history.json", none.history)
    config = settings(domains, protect=protect)
    whole = Fit(tiny_llama, tokens, tmp_path / "whole", config)
    begun = read_begun([str(tmp_path / "losses.json"), "else"], [0], "one")[0]
    trained = []
    step = Course.step
    monkeypatch.setattr(Course, "step", lambda self, i: trained.append(i) or step(self, i))
    taken = Fit(tiny_llama, tokens, tmp_path / "taken", config, begun=begun)
    assert trained == list(range(6, 6 * len(domains)))
    assert same(whole, taken)
    assert whole.losses == taken.losses
    assert list(whole.losses) == list(taken.losses)
    for domain in domains:
        ours, theirs = (fit.history["domains"][domain] for fit in (taken, whole))
        assert (ours["loss"], ours["protect"]) == (theirs["loss"], theirs["protect"])


def test_only_runs_alike_are_begun_by_none():
    text = (SCRIPT.parents[2] / "config/config.yaml").read_text(encoding="utf-8")
    room = build(RoutingConfig, yaml.safe_load(text)["routing"], where="routing")
    paths = RoutingPaths(results="results", backbone="b", config=room)
    files = paths.begun("sleep")
    assert files == paths.begun("replay")
    base = "results/routing/adapter_fit/b/none/seed0"
    first = f"{base}/adapters/shakespeare/adapter_model.safetensors"
    assert files == [f"{base}/losses.json", f"{base}/history.json", first]
    assert paths.begun("none") == paths.begun("original") == []
    assert read_begun([], [0], "shakespeare") == {}


def test_planted_domains_are_learnt_and_protection_reduces_forgetting(tiny_llama, tokens, tmp_path):
    tiny_llama.lm_head.weight.mul_(10)  # a random head is too flat to say anything
    shape = {"samples": 12, "tokens": 16, "epochs": 20, "batch": 12}
    none, sleep, replay = (
        Fit(tiny_llama, tokens, tmp_path, settings(protect=protect, **shape))
        for protect in ("none", "sleep", "replay")
    )
    for domain in PAIR:
        assert np.mean(none.losses["base"][domain]) - np.mean(none.losses[domain][domain]) > 1
    assert none.forgetting() > 1
    for protected in (sleep, replay):
        assert protected.forgetting() < 0.3 * none.forgetting()
        assert np.mean(protected.losses["two"]["two"]) < np.mean(none.losses["base"]["two"]) - 1


def test_three_domains_rehearse_all_earlier_ones(tiny_llama, tokens, tmp_path):
    config = settings(domains=TRIPLE, protect="sleep", epochs=1)
    fit = Fit(tiny_llama, tokens, tmp_path, config)
    assert fit.losses.keys() == {"base", "one", "two", "six"}
    assert all(part.keys() == set(TRIPLE) for part in fit.losses.values())
    domains = fit.history["domains"]
    assert domains["one"]["protect"] == [None] * 3
    assert all(value > 0 for value in domains["six"]["protect"])


def test_rehearsal_of_a_third_domain_pools_both_snapshots(tiny_llama, tokens):
    config = settings(domains=TRIPLE, protect="sleep")
    with ExitStack() as stack:
        options = {"targets": ALL, "first_layer": 1, "seed": 0}
        model = stack.enter_context(
            attached(tiny_llama, config.adapters, config.domains, **options)
        )
        for domain in PAIR:
            for key, parameter in adapter_parameters(model, domain).items():
                if "lora_B" in key:
                    torch.nn.init.normal_(parameter)
        halves = lower(tiny_llama, 1), upper(tiny_llama, 1)
        parts = Parts(model, *halves, head_weight(tiny_llama), 4, CPU)
        chunks = {
            d: torch.from_numpy(tokens[f"{d}.train"][:10, :12].astype(np.int64)) for d in TRIPLE
        }
        course = Course(parts, chunks, config, seed=0)
        course.begin("six")
        pool = course.rehearsal
        assert domain_of(model.active_adapter) == "six"
        for i, domain in enumerate(PAIR):
            activate(model, domain)
            with torch.no_grad():
                expected = model.get_base_model().model(chunks[domain]).last_hidden_state
            got = pool.snapshot[10 * i : 10 * i + 10]
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
            assert torch.equal(pool.ids[10 * i : 10 * i + 10], chunks[domain])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", [2, 6, 9])
def test_killed_and_continued_equals_uninterrupted(tiny_llama, tokens, tmp_path, monkeypatch, at):
    config = settings(protect="sleep")
    whole = Fit(tiny_llama, tokens, tmp_path, config)
    step = Course.step

    def dies(course, index):
        if index == at:
            raise Killed
        return step(course, index)

    with monkeypatch.context() as patch:
        patch.setattr(Course, "step", dies)
        patch.setattr(checkpoints, "SAVE_EVERY_S", 0.0)
        patch.setitem(checkpoints.run_steps.__kwdefaults__, "save_every_s", 0.0)
        with pytest.raises(Killed):
            Fit(tiny_llama, tokens, tmp_path, config)
    lines = []
    continued = Fit(tiny_llama, tokens, tmp_path, config, log=lines.append)
    assert f"continuing after step {at}/12" in lines[0]
    assert same(whole, continued)
    assert whole.losses == continued.losses


def test_held_out_losses_equal_a_slow_computation(tiny_llama, tokens, tmp_path):
    fit = Fit(tiny_llama, tokens, tmp_path, settings())
    for domain in PAIR:
        for i, row in enumerate(tokens[f"{domain}.loss"].astype(np.int64)):
            ids = torch.from_numpy(row)
            logits = tiny_llama(ids[None]).logits[0].double()
            expected = F.cross_entropy(logits[:-1], ids[1:]).item()
            assert fit.losses["base"][domain][i] == pytest.approx(expected, abs=1e-5)
    assert len(fit.losses["two"]["one"]) == 6


def test_history(tiny_llama, tokens, tmp_path):
    history = Fit(tiny_llama, tokens, tmp_path, settings()).history
    one = history["domains"]["one"]
    assert (len(one["loss"]), one["tokens"]) == (6, 240)
    assert one["tokens_per_s"] == pytest.approx(240 / one["seconds"], rel=0.05)
    widths = {"q": 32 + 32, "k": 32 + 16, "v": 32 + 16, "o": 32 + 32, "mlp": 3 * (32 + 64)}
    assert history["parameters"] == 4 * sum(widths.values()) * 3
    assert history["peak_memory_mib"] > 50
    json.dumps(history, allow_nan=False)


def test_gpt2_family(tokens, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"n_positions": 32, "n_embd": 32, "n_layer": 3, "n_head": 4}
    base = GPT2LMHeadModel(GPT2Config(vocab_size=128, **shape)).eval().requires_grad_(False)
    targets = ["c_attn", "c_proj", "c_fc"]
    fit = Fit(base, tokens, tmp_path, settings(targets=targets, learning_rate=5e-3))
    assert np.mean(fit.losses["one"]["one"]) < np.mean(fit.losses["base"]["one"])
    assert_mixes(base, fit, tmp_path)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "smollm3"])
def test_families_built_as_llama_is(family, tokens, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "head_dim": 8}
    heads = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    shape = AutoConfig.for_model(family, **sizes, **heads, **ends)
    base = AutoModelForCausalLM.from_config(shape).eval().requires_grad_(False)
    fit = Fit(base, tokens, tmp_path, settings(learning_rate=5e-3))
    assert np.mean(fit.losses["one"]["one"]) < np.mean(fit.losses["base"]["one"])
    assert_mixes(base, fit, tmp_path)


@torch.no_grad()
def assert_mixes(base, fit, folder):
    """Check that the one-pass model under one adapter's gate equals PEFT with that adapter."""
    places = {name: folder / "adapters" / name for name in PAIR}
    mixed = TemporalLora(base, places, mixer=None, gate_layer=1)
    for column, name in enumerate(PAIR):
        gates_BTK = torch.eye(2)[column].expand(1, 20, 2)
        logits = mixed(torch.arange(20)[None], gates_BTK=gates_BTK).logits
        torch.testing.assert_close(logits, fit.logits[name], rtol=0, atol=1e-5)
    assert (fit.logits["one"] - fit.logits["two"]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 13}, "samples must be at most 12 samples of 16 tokens for domain one"),
        ({"tokens": 17}, "samples must be at most 12 samples of 16 tokens for domain one"),
        (
            {"targets": ["q_proj", "c_attn"]},
            r"target_modules .* must be linear layers of this backbone \(down_proj, .*'c_attn'",
        ),
    ],
)
def test_mistakes_are_one_sentence(tiny_llama, tokens, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        Fit(tiny_llama, tokens, tmp_path, settings(**changes))
    assert not hasattr(tiny_llama, "peft_config")


def test_chunks_longer_than_the_context_are_refused_before_training(tiny_llama, tokens, tmp_path):
    tiny_llama.config.max_position_embeddings = 15
    with pytest.raises(ValueError, match=r"16 tokens is longer than the 15 .* lower .*loss_tokens"):
        Fit(tiny_llama, tokens, tmp_path, settings())


def test_one_domain_is_refused():
    with pytest.raises(ConfigError, match="domains must be a list of at least two domains"):
        settings(domains=("one",))


@pytest.fixture(name="job")
def _job(tiny_llama, tokens, tmp_path, monkeypatch):
    """What Snakemake hands to the script, with the tiny model in place of a backbone."""
    config = settings(adapters={"seeds": [0, 3]}, protect="sleep", epochs=1)
    backbone = SimpleNamespace(model=tiny_llama)
    monkeypatch.setattr("mneme.nn.backbone.load", lambda *_, **__: backbone)
    write_arrays(tmp_path / "tokens.npz", tokens)
    folders = [tmp_path / f"seed{seed}" for seed in (0, 3)]

    return SimpleNamespace(
        input=Namelist(tokens=str(tmp_path / "tokens.npz"), begun=[]),
        output=Namelist(losses=[str(f / "losses.json") for f in folders]),
        params=SimpleNamespace(config=plain(config), device="cpu", code="c0de", packages=["torch"]),
        wildcards=SimpleNamespace(run="test"),
        threads=1,
        log=[str(tmp_path / "log")],
    )


def test_script_writes_every_seed_and_removes_its_checkpoints(job, tmp_path):
    runpy.run_path(str(SCRIPT), init_globals={"snakemake": job})
    for seed in (0, 3):
        folder = tmp_path / f"seed{seed}"
        assert {p.name for p in folder.glob("[!.]*")} == {"adapters", "losses.json", "history.json"}
        assert (folder / "adapters" / "two" / "adapter_model.safetensors").exists()
        assert read_json(folder / "losses.json").keys() == {"base", "one", "two"}
        history = read_json(folder / "history.json")
        assert (history["seed"], history["code"], history["name"]) == (seed, "c0de", "test")
    assert read_json(tmp_path / "seed0/losses.json") != read_json(tmp_path / "seed3/losses.json")


def test_cuda_out_of_memory_names_the_keys_to_lower(job, tmp_path, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(Course, "step", exhausted)
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), init_globals={"snakemake": job})
    errors = [line for line in Path(job.log[0]).read_text().splitlines() if "ERROR" in line]
    assert len(errors) == 1
    assert "CUDA is out of memory: in room routing lower routing.protocol.batch" in errors[0]
