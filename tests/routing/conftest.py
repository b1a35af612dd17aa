"""Adapters written by PEFT, and what PEFT itself computes with them."""

from __future__ import annotations

import copy
import warnings

import pytest

from mneme.core.seeds import torch_generator

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture
def make_adapter():
    return _make_adapter


def _make_adapter(model, directory, *, seed, rank=4, alpha=8.0, targets=ALL, layers=None, **more):
    """Let PEFT write an adapter with random A and B on a copy of `model`."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(targets),
        layers_to_transform=layers,
        task_type="CAUSAL_LM",
        **more,
    )
    peft_model = get_peft_model(copy.deepcopy(model), config)
    generator = torch_generator(seed, "adapter")
    for name, parameter in peft_model.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    peft_model.save_pretrained(directory)
    return directory


@pytest.fixture
def pair(tiny_llama, tmp_path):
    """Two adapters above layer 2 of the tiny Llama, of equal shape."""
    above = [2, 3]
    return {
        name: _make_adapter(tiny_llama, tmp_path / name, seed=i, layers=above)
        for i, name in enumerate(("0", "1"))
    }


@pytest.fixture
def peft_logits():
    return _peft_logits


def _peft_logits(model, directory, ids):
    from peft import PeftModel

    return PeftModel.from_pretrained(copy.deepcopy(model), directory).eval()(ids).logits


@pytest.fixture
def xlora_logits():
    return _xlora_logits


def _xlora_logits(model, directories, ids, gates_BTK):
    """Run PEFT's X-LoRA with its classifier replaced by given gates."""
    import torch
    from peft import XLoraConfig, get_peft_model

    model = copy.deepcopy(model)
    model.config.use_cache = False
    config = XLoraConfig(
        task_type="CAUSAL_LM",
        hidden_size=model.config.hidden_size,
        adapters={str(i): str(directory) for i, directory in enumerate(directories)},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft_model = get_peft_model(model, config)
    xlora = peft_model.base_model
    count = xlora.internal_xlora_classifier.n_layers

    class Forced(torch.nn.Module):
        def make_dummy_scalings(self, *args, **kwargs):
            return torch.zeros(*gates_BTK.shape[:2], count, gates_BTK.shape[2])

        def forward(self, *args, **kwargs):
            return gates_BTK[:, :, None].expand(-1, -1, count, -1)

    xlora.internal_xlora_classifier = Forced()
    return peft_model.eval()(input_ids=ids).logits
