"""GGUF file -> plain Hugging Face directory (safetensors), once; no network at any point."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

MAX_TOKENS = 8192
"""Context length of SmolLM2, which the GGUF file does not give to the tokenizer."""


def convert(gguf: str | Path, folder: str | Path) -> None:
    """Dequantise a GGUF checkpoint to float32 and save model and tokenizer.

    Parameters
    ----------
    gguf : path
        The `.gguf` file.
    folder : path
        Existing folder that receives config, weights and tokenizer.

    References
    ----------
    SmolLM2's published tokenizer splits digits one by one before the byte-level step; the GGUF
    file carries the vocabulary but not that pre-tokenizer, so it is set here.
    """
    gguf = Path(gguf)
    where = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **where)
    tokenizer.backend_tokenizer.pre_tokenizer = PreTokenizers(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = MAX_TOKENS
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        **where,
    )
    model.config.name_or_path = ""  # the temporary folder's name would differ from run to run
    tokenizer.save_pretrained(str(folder))
    model.save_pretrained(str(folder))
