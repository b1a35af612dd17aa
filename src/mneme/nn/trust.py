"""What a saved model may ask for: numbers of a known architecture, and nothing that is run or had.

A model's own files can make transformers fetch more than its weights: code (`auto_map`, refused by
`trust_remote_code`), compiled kernels of the hub (`attn_implementation`), an adapter on a model of
another repository (`adapter_config.json`), quantised weights with a kernel of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils.peft_utils import find_adapter_config_file

from mneme.core.backbones import BackboneConfig
from mneme.nn.hub import BackboneError, address

_BUILT_IN = (None, "eager", "sdpa", "batched_mm", "grouped_mm")
_KERNELS = ("attn_implementation", "experts_implementation")


def open_shape(
    config: BackboneConfig, resources: str | Path
) -> tuple[str, dict[str, Any], PreTrainedConfig]:
    """Return hub id or directory, options of `from_pretrained` and architecture of a saved model.

    Parameters
    ----------
    config : BackboneConfig
        Which model.
    resources : path
        Folder of the shared resources.

    Raises
    ------
    BackboneError
        The directory holds no saved model, or the model asks for more than its own weights.
    """
    name, options = address(config, resources)
    _refuse_adapter(name, options)
    content, _ = PreTrainedConfig.get_config_dict(name, **options)
    for key, value in _nested(content):
        if key.removeprefix("_").removesuffix("_internal") in _KERNELS and value not in _BUILT_IN:
            raise BackboneError(
                f"config.json of {name} asks for the kernel {value!r} ({key}), which would be "
                "fetched and run: save the model without that key, or choose another"
            )
        if key == "quantization_config" and value is not None:
            raise BackboneError(
                f"the weights of {name} are quantised (quantization_config in its config.json): "
                "save it in float32 or bfloat16, or choose another"
            )
    return name, options, AutoConfig.from_pretrained(name, **options)


def _refuse_adapter(name: str, options: Mapping[str, Any]) -> None:
    where = {key: options[key] for key in ("revision", "local_files_only") if key in options}
    if find_adapter_config_file(name, **where) is not None:
        raise BackboneError(
            f"{name} holds an adapter (adapter_config.json), which names another model to be "
            "fetched: merge the two and save the model alone, or choose another"
        )


def _nested(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        yield key, value
        if isinstance(value, Mapping):
            yield from _nested(value)
