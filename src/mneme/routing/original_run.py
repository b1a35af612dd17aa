"""Run `original`, generating part: joined prompts, sampled continuation, weights logged."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from mneme.core.seeds import torch_generator
from mneme.nn.backbone import require_context
from mneme.routing.config import OriginalConfig
from mneme.routing.model import TemporalLora
from mneme.routing.original import Generation, prompts_of


def generate_sequences(
    model: TemporalLora,
    tokenizer: Any,
    config: OriginalConfig,
    *,
    pair: tuple[str, str],
    seed: int,
    device: torch.device,
    log: Callable[[str], None],
) -> list[Generation]:
    """Generate every sequence of the source's protocol under one seed.

    Parameters
    ----------
    model, tokenizer
        Adapters of run `original` under the memoryless mixer; no special tokens are added.
    config, pair, seed, device, log
        Prompts and lengths; domains A and B; sampling seed; where; called a line a sequence.

    Returns
    -------
    list of Generation
        `aba`, `amixba`, then one `dwell` a length.
    """

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    made = []
    for index, (kind, prompts) in enumerate(
        prompts_of(config, pair, encode=encode, decode=tokenizer.decode)
    ):
        ids = torch.tensor([encode(" ".join(prompts))], device=device)
        keys = "routing.original.new_tokens or dwell_tokens"
        require_context(model.backbone, ids.shape[1] + config.new_tokens, keys)
        started = time.perf_counter()
        out = model.generate(
            ids,
            new_tokens=config.new_tokens,
            temperature=config.temperature,
            top_p=1.0,
            generator=torch_generator(seed, "original", kind, str(index)),
            return_gates=True,
        )
        assert out.gates is not None
        log(f"seed {seed}, {kind}: {ids.shape[1]} prompt tokens, {config.new_tokens} sampled")
        made.append(
            Generation(
                kind=kind,
                seed=seed,
                prompt_tokens=[len(encode(prompt)) for prompt in prompts],
                weights=out.gates[0].float().cpu().tolist(),
                text=tokenizer.decode(out.ids[0]),
                seconds=round(time.perf_counter() - started, 3),
            )
        )
    return made
