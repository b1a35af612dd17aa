"""What the routing benchmarks compare: a 135M Llama, random adapters, and PEFT's X-LoRA."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mneme.core.config import build
from mneme.core.seeds import torch_generator
from mneme.routing.config import MixerConfig
from mneme.routing.lowrank import Adapter, write_adapter
from mneme.routing.mixer import TimeMixer, build_mixer

LINEARS = {
    "self_attn.q_proj": (576, 576),
    "self_attn.k_proj": (576, 192),
    "self_attn.v_proj": (576, 192),
    "self_attn.o_proj": (576, 576),
    "mlp.gate_proj": (576, 1536),
    "mlp.up_proj": (576, 1536),
    "mlp.down_proj": (1536, 576),
}
"""Adapted linears of a layer: (input, output) widths."""
LAYERS, GATE_LAYER, VOCAB, RANK = 30, 10, 49152, 8


def backbone() -> nn.Module:
    """Build a Llama of SmolLM2-135M's shape with random weights, frozen."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=LAYERS,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        initializer_range=576**-0.5,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        use_cache=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval().requires_grad_(False)


def write_adapters(directory: Path, *, first_layer: int) -> dict[str, Path]:
    """Write two random rank-8 adapters on all linears from `first_layer` up."""
    layers = list(range(first_layer, LAYERS))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 16,
        "target_modules": [path.split(".")[1] for path in LINEARS],
        "layers_to_transform": layers,
    }
    paths = {}
    for name in ("0", "1"):  # X-LoRA wants these names
        generator = torch_generator(int(name), "adapter")
        tensors = {}
        for layer in layers:
            for path, (width, out) in LINEARS.items():
                key = f"base_model.model.model.layers.{layer}.{path}"
                down = torch.randn(RANK, width, generator=generator)
                up = torch.randn(out, RANK, generator=generator)
                tensors[f"{key}.lora_A.weight"] = width**-0.5 * down
                tensors[f"{key}.lora_B.weight"] = 0.05 * up
        paths[name] = directory / name
        write_adapter(paths[name], Adapter(config=config, tensors=tensors))
    return paths


def mixer() -> TimeMixer:
    """Build the default mixer, untrained: the two-layer gate on the states of layer 10."""
    settings = {
        "strategy": "gating",
        "hidden": 64,
        "decay": 0.9,
        "oracle_logit": 4.0,
        "epochs": 0,
        "labels": "true",
        "init": "fresh",
    }
    config = build(MixerConfig, settings, where="mixer")
    generator = torch_generator(0, "mixer")
    built = build_mixer(config, domains=2, width=576, vocab=VOCAB, generator=generator)
    return built.eval().requires_grad_(False)


Gate = Callable[[Tensor, Any], Tensor]
"""(ids (B, T), hidden states of all layers) -> gates (B, T, K)."""


def xlora(model: nn.Module, adapters: dict[str, Path], gate: Gate) -> Any:
    """Wrap a copy of `model` in PEFT's X-LoRA, its classifier replaced by `gate`.

    `gate` reads the states of X-LoRA's own first pass.
    """
    from peft import XLoraConfig, get_peft_model

    config = XLoraConfig(
        task_type="CAUSAL_LM",
        hidden_size=576,
        adapters={name: str(path) for name, path in adapters.items()},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        peft_model = get_peft_model(copy.deepcopy(model), config)
    inner: Any = peft_model.base_model
    inner.internal_xlora_classifier = _Classifier(inner.internal_xlora_classifier.n_layers, gate)
    return peft_model.eval()


class _Classifier(nn.Module):
    """Stands where X-LoRA computes its scalings (B, T, linears, K)."""

    def __init__(self, linears: int, gate: Gate) -> None:
        super().__init__()
        self.linears, self.gate = linears, gate

    def make_dummy_scalings(self, input_ids: Tensor, **_: Any) -> Tensor:
        return torch.zeros(*input_ids.shape, self.linears, 2)

    def forward(self, input_ids: Tensor, result: Any, **_: Any) -> Tensor:
        gates_BTK = self.gate(input_ids, result.hidden_states)
        return gates_BTK[:, :, None].expand(-1, -1, self.linears, -1)
