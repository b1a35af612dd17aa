"""PEFT LoRA adapters, one a domain, attached to a frozen backbone: make, save, take off."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from mneme.core.config import require
from mneme.core.seeds import torch_generator
from mneme.nn.split import layer_count
from mneme.routing.domains import domain_of, peft_name
from mneme.routing.stages import LoraSettings


@contextmanager
def attached(
    base: Any,
    settings: LoraSettings,
    domains: Sequence[str],
    *,
    targets: Sequence[str],
    first_layer: int,
    seed: int,
) -> Iterator[PeftModel]:
    """Attach one fresh adapter a domain to `base`, and take all off again on leaving.

    Parameters
    ----------
    base : transformers.PreTrainedModel
        Frozen causal language model; changed in place inside the context.
    settings : LoraSettings
        Rank and alpha.
    domains : sequence of str
        Adapter names; PEFT knows them as `peft_name`, so activate them with `activate`.
    targets : sequence of str
        Names of the linear layers that carry an adapter (`BackboneConfig.target_modules`).
    first_layer : int
        Adapters sit on layers first_layer..n-1.
    seed : int
        Seed of the initial weights: A Kaiming-uniform, B zero, so that the model does not change.

    Yields
    ------
    PeftModel
        The backbone with its adapters; the first is active.

    Raises
    ------
    ConfigError
        A target module is not in the backbone's layers.
    """
    config = _peft_config(base, settings, targets, first_layer)
    # PEFT 0.21 reads an attribute that transformers 5.23 deprecates.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        model: Any = get_peft_model(base, config, adapter_name=peft_name(domains[0]))
    try:
        for name in domains[1:]:
            model.add_adapter(peft_name(name), config)
        for name in domains:
            _draw(adapter_parameters(model, name), torch_generator(seed, "lora", name))
        yield model
    finally:
        model.unload()
        base.requires_grad_(False)


def adapter_parameters(model: nn.Module, name: str) -> dict[str, Tensor]:
    """Return the parameters of one adapter by their name in the model."""
    inside = f".{peft_name(name)}."
    return {key: p for key, p in model.named_parameters() if inside in key}


def activate(model: Any, name: str) -> None:
    """Make one adapter the active one of a `PeftModel`."""
    model.set_adapter(peft_name(name))


def save_adapters(model: PeftModel, directory: str | Path, *, base_name: str) -> None:
    """Save every adapter as an ordinary PEFT directory `<directory>/<domain>/`.

    Parameters
    ----------
    model : PeftModel
        The backbone with the adapters that `attached` gave it.
    directory : path
        Parent folder.
    base_name : str
        What the saved files call the backbone.
    """
    for config in model.peft_config.values():
        config.base_model_name_or_path = base_name
    # Without False PEFT would ask the hub whether the vocabulary was changed.
    model.save_pretrained(str(directory), save_embedding_layers=False)
    for name in model.peft_config:
        made, folder = Path(directory) / name, Path(directory) / domain_of(name)
        folder.mkdir(exist_ok=True)
        for file in made.iterdir():
            file.replace(folder / file.name)
        made.rmdir()


def _peft_config(
    base: Any, settings: LoraSettings, targets: Sequence[str], first_layer: int
) -> LoraConfig:
    layers = range(first_layer, layer_count(base))
    assert len(layers) > 0, "no layer is left for an adapter"
    known = _linear_names(base)
    for name in targets:
        rule = f"linear layers of this backbone ({', '.join(known)})"
        key = "target_modules (in other_backbone, or in the backbone's entry)"
        require(name in known, key, rule, name)
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        bias="none",
        target_modules=list(targets),
        layers_to_transform=list(layers),
        fan_in_fan_out=base.config.model_type == "gpt2",
    )


def _linear_names(base: Any) -> list[str]:
    """Return the last names of modules with a weight matrix inside the layers."""
    inside = [
        (path, module)
        for path, module in base.named_modules()
        if ".layers." in path or ".h." in path
    ]
    matrices = {p.rsplit(".", 1)[-1] for p, m in inside if getattr(m, "weight", _NONE).dim() == 2}
    return sorted(matrices)


_NONE = torch.empty(0)


def _draw(parameters: dict[str, Tensor], generator: torch.Generator) -> None:
    """Draw A as PEFT does, but from our generator; B is zero."""
    for key, parameter in parameters.items():
        fresh = torch.zeros(parameter.shape)
        if ".lora_A." in key:
            nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
        with torch.no_grad():
            parameter.copy_(fresh)
