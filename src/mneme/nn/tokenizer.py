"""A backbone's tokenizer, without torch; and text -> ids with the tokens that begin a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mneme.core.backbones import BackboneConfig
from mneme.nn.hub import BackboneError, address, explained

BUILT_IN = (
    "meta-llama/Meta-Llama-3-8B-Instruct",
    "meta-llama/Meta-Llama-3-8B",
    "mistralai/Mistral-7B-Instruct-v0.2",
    "openai-community/gpt2",
)
"""Hub models whose shape is built in (`nn.backbone`): with `init: random` they need no network."""


def stands_in(config: BackboneConfig) -> bool:
    """Tell whether bytes stand in for the backbone's own tokenizer (random weights, no files)."""
    return config.init == "random" and config.source == "hub" and config.name in BUILT_IN


def load_tokenizer(config: BackboneConfig, *, folder: str | Path) -> Any:
    """Load the tokenizer of a backbone.

    Parameters
    ----------
    config : BackboneConfig
        Which backbone.
    folder : path
        Folder of the shared resources.

    Returns
    -------
    PreTrainedTokenizerFast
        Pads with its end-of-text token if it has no padding token: mask labels by attention mask.

    Raises
    ------
    BackboneError
        As `nn.backbone.load`; or the tokenizer has no character offsets.
    """
    if stands_in(config):
        return byte_tokenizer()
    from transformers import AutoTokenizer

    with explained(config, folder):
        name, options = address(config, folder)
        tokenizer: Any = AutoTokenizer.from_pretrained(name, **options)
    if not tokenizer.is_fast:
        raise BackboneError(
            f"the tokenizer of {name} gives no character offsets (no tokenizer.json): choose "
            "another model with the config key backbone"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def byte_tokenizer() -> Any:
    """Make a tokenizer of the 256 bytes and one end-of-text token: ids 0..256."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|end|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)


def encoder(tokenizer: Any) -> Callable[[str], tuple[list[int], list[int]]]:
    """Return text -> (token ids, indices of tokens whose first character begins a line).

    No special token is added anywhere.
    """

    def encode(text: str) -> tuple[list[int], list[int]]:
        coded = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        begins = [start for start, _ in coded["offset_mapping"]]
        lines = [i for i, at in enumerate(begins) if at == 0 or text[at - 1] == "\n"]
        return coded["input_ids"], lines

    return encode
