"""Model folders that ask for more than their weights: nothing is run, nothing else is fetched."""

from __future__ import annotations

import json
import pickle

import huggingface_hub
import pytest
import torch
import transformers
from malicious import saved_by_torch
from transformers import LlamaConfig, LlamaForCausalLM

from mneme.core.artefacts import ArtefactError
from mneme.core.backbones import BackboneConfig
from mneme.lattice.teacher_config import TeacherConfig
from mneme.lattice.teachers import load_teacher
from mneme.nn.backbone import load
from mneme.nn.hub import REVISIONS, BackboneError
from mneme.nn.tokenizer import byte_tokenizer, load_tokenizer

CPU = torch.device("cpu")
FIRST, SECOND = "a1" * 20, "b2" * 20
CODE = """
import os
os.mkdir({marker!r})
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class EvilConfig(LlamaConfig):
    model_type = "evil"
class EvilModel(LlamaForCausalLM):
    config_class = EvilConfig
class EvilTokenizer(PreTrainedTokenizerFast):
    pass
"""


def save_model(folder, *, seed=0):
    sizes = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def saved(tmp_path):
    return save_model(tmp_path / "saved")


@pytest.fixture
def marker(tmp_path):
    """A folder that exists as soon as something of the model's own was run."""
    return tmp_path / "it_ran"


def entry(name, *, source="local", revision=None):
    return BackboneConfig(
        source=source,
        name=str(name),
        revision=revision,
        init="pretrained",
        dtype="float32",
        gate_layer=1,
        target_modules=("q_proj",),
        license_url="",
    )


def backbone_of(name, *, resources="nowhere", **further):
    return load(entry(name, **further), device=CPU, resources=resources).model


def teacher_of(name, *, source="local", revision=None, resources="nowhere"):
    config = TeacherConfig(
        source=source,
        synthetic=None,
        name=str(name),
        revision=revision,
        dtype="float32",
        layers=(-1,),
        max_tokens=8,
        normalise=False,
        license_url="",
    )
    return load_teacher(config, device=CPU, resources=resources).model


LOADERS = [pytest.param(backbone_of, id="backbone"), pytest.param(teacher_of, id="teacher")]


def refused(loader, *arguments, **further):
    with pytest.raises(BackboneError) as error:
        loader(*arguments, **further)
    assert "\n" not in str(error.value)
    return str(error.value)


def change(folder, name="config.json", **keys):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_the_planted_file_is_live(tmp_path, marker):
    """Who unpickles it runs the command."""
    (tmp_path / "x.bin").write_bytes(saved_by_torch(marker))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.bin", weights_only=True)
    assert not marker.exists()
    torch.load(tmp_path / "x.bin", weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("loader", LOADERS)
def test_pickled_weights_are_not_read(loader, saved, marker):
    (saved / "model.safetensors").unlink()
    (saved / "pytorch_model.bin").write_bytes(saved_by_torch(marker))
    assert "is damaged or incomplete" in refused(loader, saved)
    assert not marker.exists()


@pytest.mark.parametrize("loader", LOADERS)
def test_an_index_that_names_pickled_weights_is_refused(loader, saved, marker):
    (saved / "model.safetensors").unlink()
    (saved / "part.bin").write_bytes(saved_by_torch(marker))
    index = {"metadata": {"total_size": 1}, "weight_map": {"model.norm.weight": "part.bin"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "is damaged or incomplete" in refused(loader, saved)
    assert not marker.exists()


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("file", ["adapter_model.bin", "adapter_model.safetensors"])
def test_an_adapter_beside_the_weights_is_refused(loader, saved, marker, file):
    """transformers would put it into the model, from a pickle too."""
    settings = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
    settings["base_model_name_or_path"] = "org/another"
    (saved / "adapter_config.json").write_text(json.dumps(settings))
    (saved / file).write_bytes(saved_by_torch(marker))
    assert "holds an adapter (adapter_config.json)" in refused(loader, saved)
    assert not marker.exists()


@pytest.mark.parametrize("loader", LOADERS)
def test_an_adapter_alone_does_not_lead_to_another_model(loader, tmp_path, saved):
    folder = tmp_path / "adapter"
    folder.mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(saved)}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    assert "holds no saved model" in refused(loader, folder)


@pytest.mark.parametrize("loader", LOADERS)
def test_code_beside_a_known_architecture_is_never_run(loader, saved, marker):
    (saved / "evil.py").write_text(CODE.format(marker=str(marker)))
    names = {"AutoConfig": "EvilConfig", "AutoTokenizer": ["EvilTokenizer", "EvilTokenizer"]}
    names |= dict.fromkeys(("AutoModelForCausalLM", "AutoModel"), "EvilModel")
    code = {
        name: [f"evil.{c}" for c in of] if isinstance(of, list) else f"evil.{of}"
        for name, of in names.items()
    }
    plain = loader(saved).state_dict()
    change(saved, auto_map=code)
    change(saved, "tokenizer_config.json", auto_map=code)
    for name, weight in loader(saved).state_dict().items():
        assert torch.equal(weight, plain[name])
    assert not marker.exists()


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_an_architecture_that_needs_its_own_code_is_refused(loader, saved, marker, part):
    (saved / "evil.py").write_text(CODE.format(marker=str(marker)))
    if part == "model":
        names = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
        change(saved, model_type="evil", auto_map={**names, "AutoModel": "evil.EvilModel"})
    else:
        change(saved, model_type="evil", auto_map={"AutoConfig": "evil.EvilConfig"})
        names = {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]}
        change(saved, "tokenizer_config.json", tokenizer_class="EvilTokenizer", auto_map=names)
    assert "brings code of its own, which is never run" in refused(loader, saved)
    assert not marker.exists()


KERNELS = [
    {"attn_implementation": "org/kernel"},
    {"_attn_implementation": "kernels-community/flash-attn2"},
    {"_attn_implementation_internal": "org/kernel"},
    {"attn_implementation": "flash_attention_2"},
    {"attn_implementation": {"": "org/kernel"}},
    {"experts_implementation": "sonicmoe"},
    {"text_config": {"attn_implementation": "org/kernel"}},
]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("keys", KERNELS, ids=str)
def test_a_kernel_of_the_hub_is_never_fetched(loader, saved, monkeypatch, keys):
    asked = []
    for module in ("integrations.hub_kernels", "modeling_utils"):
        place = f"transformers.{module}.is_kernels_available"
        monkeypatch.setattr(place, lambda *_, **__: True, raising=False)
    place = "transformers.integrations.hub_kernels.get_kernel"
    monkeypatch.setattr(place, lambda *names, **_: asked.append(names))
    change(saved, **keys)
    assert "config.json of" in (sentence := refused(loader, saved))
    assert "asks for the kernel" in sentence
    assert asked == []


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("value", [None, "eager", "sdpa"])
def test_attention_that_torch_computes_is_no_kernel(loader, saved, value):
    change(saved, attn_implementation=value)
    assert loader(saved).config._attn_implementation == (value or "sdpa")


@pytest.mark.parametrize("loader", LOADERS)
def test_quantised_weights_are_refused(loader, saved):
    change(saved, quantization_config={"quant_method": "mxfp4"})
    assert "are quantised (quantization_config" in refused(loader, saved)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub without network: two commits of one model; `main` is what `push` says."""
    folder = tmp_path / "hub" / "models--org--name"
    for seed, commit in enumerate((FIRST, SECOND)):
        save_model(folder / "snapshots" / commit, seed=seed)
    (folder / "refs").mkdir()
    for name, value in (("HF_HUB_CACHE", str(folder.parent)), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(huggingface_hub.constants, name, value)

    def push(commit):
        (folder / "refs" / "main").write_text(commit)

    push(FIRST)
    return push


def weights_of(model):
    return model.get_input_embeddings().weight.detach()


@pytest.fixture
def calls(monkeypatch):
    """Every call by which transformers is told to read a model: (class, options)."""
    seen = []
    for name in ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM", "AutoModel"):
        kind = getattr(transformers, name)
        real = kind.from_pretrained

        def watched(*arguments, _name=name, _real=real, **options):
            seen.append((_name, options))
            return _real(*arguments, **options)

        monkeypatch.setattr(kind, "from_pretrained", watched)
    return seen


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("given", [None, SECOND])
def test_every_read_of_a_hub_model_is_pinned_and_safe(
    loader, cache, calls, monkeypatch, tmp_path, given
):
    fetched = []
    real = huggingface_hub.hf_hub_download

    def watched(name, *arguments, **options):
        fetched.append(options.get("revision"))
        return real(name, *arguments, **options)

    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", watched)
    loader("org/name", source="hub", revision=given, resources=tmp_path)
    assert {"AutoConfig", "AutoTokenizer"} < {name for name, _ in calls}
    for name, options in calls:
        assert options["trust_remote_code"] is False
        assert options["revision"] == (given or FIRST)
        if name.startswith("AutoModel"):
            assert options["use_safetensors"] is True
    assert set(fetched) == {given or FIRST}


@pytest.mark.parametrize("loader", LOADERS)
def test_a_local_model_is_never_asked_of_the_hub(loader, saved, calls):
    loader(saved)
    for name, options in calls:
        assert (options["local_files_only"], options["trust_remote_code"]) == (True, False)
        assert options.get("use_safetensors") == (True if name.startswith("AutoModel") else None)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_push_between_two_jobs_changes_nothing(loader, cache, tmp_path):
    first = weights_of(loader("org/name", source="hub", resources=tmp_path))
    cache(SECOND)
    again = weights_of(loader("org/name", source="hub", resources=tmp_path))
    pinned = weights_of(loader("org/name", source="hub", revision=SECOND, resources=tmp_path))
    elsewhere = weights_of(loader("org/name", source="hub", resources=tmp_path / "elsewhere"))
    assert torch.equal(first, again)
    assert torch.equal(pinned, elsewhere)
    assert not torch.equal(first, pinned)


def test_the_first_reader_decides_for_the_tokenizer_too(cache, tmp_path, calls):
    backbone_of("org/name", source="hub", resources=tmp_path)
    cache(SECOND)
    calls.clear()
    load_tokenizer(entry("org/name", source="hub"), folder=tmp_path)
    assert {options["revision"] for _, options in calls} == {FIRST}


def test_a_model_that_is_not_there_keeps_no_commit(tmp_path, cache):
    assert "no network" in refused(backbone_of, "org/other", source="hub", resources=tmp_path)
    assert not (tmp_path / REVISIONS).exists()


def test_a_damaged_kept_commit_is_one_sentence(tmp_path, cache):
    (tmp_path / REVISIONS).mkdir()
    (tmp_path / REVISIONS / "org--name.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"org--name\.json is damaged"):
        backbone_of("org/name", source="hub", resources=tmp_path)


def test_a_hub_model_that_names_another_is_not_followed(tmp_path, cache):
    folder = tmp_path / "hub" / "models--org--name" / "snapshots" / FIRST
    settings = {"peft_type": "LORA", "base_model_name_or_path": "org/another"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    sentence = refused(backbone_of, "org/name", source="hub", resources=tmp_path)
    assert "org/name holds an adapter" in sentence


@pytest.mark.parametrize("loader", LOADERS)
def test_no_converter_is_asked_for_safetensors_that_are_not_there(
    loader, tmp_path, cache, marker, monkeypatch
):
    """For `main`, transformers would read the pull request of a converter."""
    asked = []

    def convert(*names, **_):
        asked.append(names)
        raise OSError("asked")

    monkeypatch.setattr("transformers.modeling_utils.auto_conversion", convert)
    monkeypatch.setattr("transformers.modeling_utils.is_offline_mode", lambda: False)
    monkeypatch.delenv("DISABLE_SAFETENSORS_CONVERSION", raising=False)
    folder = tmp_path / "hub" / "models--org--name"
    known = folder / ".no_exist" / FIRST
    known.mkdir(parents=True)
    for name in ("model.safetensors", "model.safetensors.index.json"):
        (known / name).touch()
    (folder / "snapshots" / FIRST / "model.safetensors").unlink()
    (folder / "snapshots" / FIRST / "pytorch_model.bin").write_bytes(saved_by_torch(marker))
    sentence = refused(loader, "org/name", source="hub", resources=tmp_path)
    assert "no configuration, safetensors weights or tokenizer" in sentence
    assert asked == []
    assert not marker.exists()
