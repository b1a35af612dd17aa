"""Load a frozen causal language model: embedded, from the hub, from a directory, or random.

Legend: N texts, T position, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
)

from mneme.core.backbones import BackboneConfig
from mneme.core.config import require
from mneme.core.seeds import torch_generator
from mneme.nn.hub import BackboneError, explained
from mneme.nn.split import require_family
from mneme.nn.tokenizer import load_tokenizer, stands_in
from mneme.nn.trust import open_shape


@dataclass(frozen=True)
class Backbone:
    """A frozen language model with its tokenizer."""

    model: Any
    """transformers' causal language model, in evaluation mode, no parameter needs a gradient."""
    tokenizer: Any
    """Its tokenizer."""
    config: BackboneConfig
    """What was asked for."""
    load_seconds: float
    """Wall time of loading, s."""
    commit: str | None = None
    """Hub commit that it was read from, 40 hex digits; None if not one file came from the hub."""


def load(
    config: BackboneConfig,
    *,
    device: torch.device,
    resources: str | Path,
    generator: torch.Generator | None = None,
) -> Backbone:
    """Load a backbone onto a device, frozen.

    Parameters
    ----------
    config : BackboneConfig
        Which model, in which precision. Only safetensors are read, no remote code is run.
    device : torch.device
        Where the weights go.
    resources : path
        Folder of the shared resources; the embedded model lies in its `models/<name>`.
    generator : torch.Generator, optional
        Source of random weights (`init: random`). Without one, the weights depend on the
        backbone's name only, so that every stage of a run sees the same model.

    Raises
    ------
    BackboneError
        Gated, missing, unreachable, damaged, incomplete, or of a family that cannot be cut at a
        layer: one sentence with what to do.
    ConfigError
        `gate_layer` is not below the number of layers.
    """
    started = time.perf_counter()
    tokenizer = load_tokenizer(config, folder=resources)
    with explained(config, resources):
        if stands_in(config):
            name, options, shape = config.name, {}, _built_in(config.name)
        else:
            name, options, shape = open_shape(config, resources)
        _refuse_family(shape, config)
        if config.init == "pretrained":
            model = _pretrained(name, options, shape, config, device)
        else:
            model = _random(shape, config, device, generator)
    depth = model.config.num_hidden_layers
    rule = f"below the {depth} layers of {config.name}"
    require(config.gate_layer < depth, "gate_layer", rule, config.gate_layer)
    model.eval().requires_grad_(False)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # or the clock stops before the copies do
    seconds = round(time.perf_counter() - started, 3)
    return Backbone(model, tokenizer, config, seconds, options.get("revision"))


def require_context(model: Any, tokens: int, keys: str) -> None:
    """Refuse sequences that are longer than a model can read.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    tokens : int
        Length of the longest sequence, sampled tokens included.
    keys : str
        The settings to lower, as the sentence names them.

    Raises
    ------
    BackboneError
        The sequence does not fit.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and tokens > limit:
        raise BackboneError(
            f"a sequence of {tokens} tokens is longer than the {limit} that this backbone can "
            f"read: lower {keys}, or choose another in the config key backbone"
        )


def _refuse_family(shape: Any, config: BackboneConfig) -> None:
    """Check the architecture before any weights are fetched."""
    try:
        require_family(shape)
    except ValueError as error:
        raise BackboneError(f"{config.name}: {error}") from None


def _pretrained(
    name: str,
    options: Mapping[str, Any],
    shape: Any,
    config: BackboneConfig,
    device: torch.device,
) -> Any:
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        name,
        config=shape,
        dtype=getattr(torch, config.dtype),
        use_safetensors=True,
        output_loading_info=True,
        device_map={"": device} if device.type == "cuda" else None,
        **options,
    )
    model, report = loaded
    absent = sorted({*report["missing_keys"], *map(str, report["mismatched_keys"])})
    if absent:  # transformers would fill them with random numbers
        raise BackboneError(
            f"{name} lacks {len(absent)} weights of its architecture ({absent[0]}, ...): delete it "
            "and make it again, or choose another in the config key backbone"
        )
    return model.to(device)


def _random(
    shape: Any, config: BackboneConfig, device: torch.device, generator: torch.Generator | None
) -> Any:
    """Draw weights from the architecture's own initialiser, directly on the device."""
    source = generator or torch_generator(0, "backbone", config.name)
    with _drawing_from(source, device), device:
        return AutoModelForCausalLM.from_config(shape, dtype=getattr(torch, config.dtype))


@contextmanager
def _drawing_from(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Let initialisers, which know only the global generators, draw from `generator`."""
    seed = int(torch.randint(2**62, (), generator=generator))
    gpus = []
    if device.type == "cuda":
        gpus = [torch.cuda.current_device() if device.index is None else device.index]
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield


def _built_in(name: str) -> PreTrainedConfig:
    """Return the published shape of a model of `nn.tokenizer.BUILT_IN`.

    References
    ----------
    LLaMA-3-8B: Grattafiori et al. (2024), The Llama 3 herd of models, table 3. Mistral-7B: Jiang
    et al. (2023), Mistral 7B, table 1 (v0.2: no sliding window, base 1e6). GPT-2: Radford et al.
    (2019), table 2, smallest size.
    """
    if name == "openai-community/gpt2":
        return GPT2Config()
    eight_heads: dict[str, Any] = {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    if name.startswith("meta-llama/"):
        return LlamaConfig(
            vocab_size=128256,
            max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
            bos_token_id=128000,
            eos_token_id=128001,
            **eight_heads,
        )
    return MistralConfig(
        vocab_size=32000,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        sliding_window=None,
        bos_token_id=1,
        eos_token_id=2,
        **eight_heads,
    )


@torch.inference_mode()
def next_token_nll(model: Any, ids_NT: Tensor, *, batch: int) -> Tensor:
    """Mean next-token loss of each text.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    ids_NT : Tensor
        Token ids, int64, at least two a text.
    batch : int
        Texts a pass.

    Returns
    -------
    Tensor, shape (N,), float64, on the CPU
        Mean over tokens 2..T of -log p(token | tokens before it), nats, >= 0.
    """
    losses = []
    for ids in ids_NT.split(batch):
        ids = ids.to(model.device)
        logits_NVT = model(ids).logits[:, :-1].float().transpose(1, 2)
        losses.append(F.cross_entropy(logits_NVT, ids[:, 1:], reduction="none").double().mean(1))
    return torch.cat(losses).cpu()


def log_vocabulary(model: Any) -> float:
    """Return ln V, the loss of guessing uniformly, nats."""
    return math.log(model.config.vocab_size)


def weights_mib(model: Any) -> float:
    """Return the memory of parameters and buffers, MiB (tied ones once)."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20
