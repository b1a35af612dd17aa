"""Texts -> vectors: the masked mean of a transformers model's states at chosen layers, in float32.

Any model that `AutoModel` knows can teach: an encoder (MiniLM, DistilBERT, BERT) or the body of a
causal language model (SmolLM2, LLaMA). Nothing is trained and no remote code is run.

Legend: N texts, B batch, T position, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import AutoModel

from mneme.core.backbones import BackboneConfig
from mneme.core.config import require
from mneme.lattice.retrieval import VectorError
from mneme.lattice.teacher_config import TeacherConfig
from mneme.nn.hub import BackboneError, explained
from mneme.nn.onednn import OneDNNLinear
from mneme.nn.tokenizer import load_tokenizer
from mneme.nn.trust import open_shape

POOLING = "masked mean"
"""How `pooled` makes one vector of the states; part of the name that vectors are kept under."""


@dataclass(frozen=True)
class Teacher:
    """A frozen model with its tokenizer."""

    model: Any
    """transformers' model without a head, in evaluation mode."""
    tokenizer: Any
    """Its tokenizer; pads on the right."""
    config: TeacherConfig
    """What was asked for."""

    @property
    def width(self) -> int:
        """Return the numbers D of a vector."""
        return self.model.config.hidden_size * len(self.config.layers)


def load_teacher(config: TeacherConfig, *, device: torch.device, resources: str | Path) -> Teacher:
    """Load a teacher onto a device, frozen.

    Parameters
    ----------
    config : TeacherConfig
        Which model.
    device : torch.device
        Where the weights go.
    resources : path
        Folder of the shared resources; embedded models lie in its `models/<name>`.

    Raises
    ------
    BackboneError
        Gated, missing, unreachable, damaged or incomplete: one sentence with what to do.
    ConfigError
        A layer that the model does not have.
    """
    backbone = _as_backbone(config)
    tokenizer = load_tokenizer(backbone, folder=resources)
    tokenizer.padding_side = "right"
    # what a checkpoint lacks is drawn from the global generator
    with explained(backbone, resources), torch.random.fork_rng(devices=[]):
        name, options, shape = open_shape(backbone, resources)
        loaded: Any = AutoModel.from_pretrained(
            name,
            config=shape,
            dtype=getattr(torch, config.dtype),
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        model, report = loaded
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # never used, and random when the checkpoint has none
        absent = sorted(k for k in report["missing_keys"] if not k.startswith("pooler."))
        if absent:
            raise BackboneError(
                f"{name} lacks {len(absent)} weights of its architecture ({absent[0]}, ...): "
                "delete it and make it again, or choose another teacher"
            )
    depth = model.config.num_hidden_layers
    for layer in config.layers:
        inside = -depth - 1 <= layer <= depth
        require(inside, "layers", f"{-depth - 1} to {depth} for {config.name}", layer)
    model.config.use_cache = False  # keys are never read again
    return Teacher(model.eval().requires_grad_(False).to(device), tokenizer, config)


def weights_hash(model: torch.nn.Module) -> str:
    """Return 64 hex digits of SHA-256 over every weight: name, type, shape and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def tokens_hash(teacher: Teacher, texts: Sequence[str]) -> str:
    """Return 64 hex digits of SHA-256 over the tokens that are read of every text.

    It stands for the tokenizer: whatever changes in its files or its library and matters changes
    these numbers.
    """
    digest = hashlib.sha256()
    for ids in coded(teacher, texts):
        digest.update(f"{ids}\n".encode())
    return digest.hexdigest()


def coded(teacher: Teacher, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each text that are read, special ones included."""
    limit = teacher.config.max_tokens
    told = teacher.tokenizer(list(texts), truncation=True, max_length=limit, verbose=False)
    return [list(ids) for ids in told["input_ids"]]


@torch.inference_mode()
def embed(teacher: Teacher, texts: Sequence[str], *, batch: int) -> NDArray[np.float32]:
    """Return one vector a text.

    Parameters
    ----------
    teacher : Teacher
        Loaded model.
    texts : sequence of str
        Texts, none empty.
    batch : int
        Texts a pass; texts of like length go together, which changes a result by rounding at most.

    Returns
    -------
    array (N, D), float32
        Means of the chosen layers over each text's own tokens, in the texts' order.

    Raises
    ------
    VectorError
        A text without tokens, or a vector that is not finite.
    """
    for number, text in enumerate(texts):
        if not text.strip():
            raise VectorError(
                f"text {number} is empty: a teacher has nothing to read, leave it out"
            )
    device = teacher.model.device
    ids = coded(teacher, texts)
    order = sorted(range(len(texts)), key=lambda i: len(ids[i]))
    vectors_ND = np.empty((len(texts), teacher.width), np.float32)
    # oneDNN takes float32 only; other types pass through unchanged
    with OneDNNLinear() if device.type == "cpu" else nullcontext():
        for start in tqdm(range(0, len(order), batch), desc="embed", unit="batch", disable=None):
            rows = order[start : start + batch]
            padded = teacher.tokenizer.pad(
                {"input_ids": [ids[i] for i in rows]}, return_tensors="pt"
            ).to(device)
            output = teacher.model(
                input_ids=padded["input_ids"],
                attention_mask=padded["attention_mask"],
                output_hidden_states=True,
            )
            vectors_ND[rows] = pooled(
                output.hidden_states, padded["attention_mask"], teacher.config
            ).cpu()
    bad = ~np.isfinite(vectors_ND).all(1)
    if bad.any():
        raise VectorError(
            f"{teacher.config.name} in {teacher.config.dtype} gave NaN or infinity for "
            f"{int(bad.sum())} texts (first: {texts[int(np.argmax(bad))]!r:.60}): use bfloat16 or "
            "float32"
        )
    return vectors_ND


def overlong(teacher: Teacher, texts: Sequence[str]) -> int:
    """Return how many texts have more tokens than are read."""
    whole = teacher.tokenizer(list(texts), verbose=False)["input_ids"]
    return sum(len(ids) > teacher.config.max_tokens for ids in whole)


def pooled(states: Sequence[Tensor], mask_BT: Tensor, config: TeacherConfig) -> Tensor:
    """Return the vectors (B, D) of a batch, float32.

    Parameters
    ----------
    states : sequence of Tensor
        States (B, T, width) of the embeddings and of every layer.
    mask_BT : Tensor
        1 for tokens, 0 for padding.
    config : TeacherConfig
        Layers and normalisation.
    """
    weight_BT1 = mask_BT[..., None].float()
    parts = []
    for layer in config.layers:
        # padding may hold anything, infinity too: 0 times it would not be 0
        held = states[layer].float().masked_fill(weight_BT1 == 0, 0.0)
        mean_BD = held.sum(1) / weight_BT1.sum(1)
        parts.append(F.normalize(mean_BD, dim=1) if config.normalise else mean_BD)
    return torch.cat(parts, 1)


def _as_backbone(config: TeacherConfig) -> BackboneConfig:
    """Return the entry by which `nn.hub` finds files; what it says of adapters is not read."""
    assert config.source != "synthetic", "drawn vectors have no model"
    return BackboneConfig(
        source=config.source,
        name=config.name,
        revision=config.revision,
        init="pretrained",
        dtype="float32" if config.dtype == "float32" else "bfloat16",
        gate_layer=0,
        target_modules=("none",),
        license_url=config.license_url,
    )
