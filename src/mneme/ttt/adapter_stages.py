"""Stage `ttt_adapter_fit`: one adapter at one seed, from the base's weights to what is told of it.

Legend: C conversations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from mneme.core.checkpoints import Log
from mneme.ttt.adapter import FittedAdapter, fit_adapter, measure_adapter, sample_replies
from mneme.ttt.codec import Codec
from mneme.ttt.dialogue import dialogues_of
from mneme.ttt.stages import AdapterFitStageConfig
from mneme.ttt.trained import trained_model


def adapted(
    config: AdapterFitStageConfig,
    state: Mapping[str, Tensor],
    arrays: Mapping[str, NDArray],
    codec: Codec,
    *,
    seed: int,
    device: torch.device,
    log: Log,
    **kept: Any,
) -> tuple[FittedAdapter, dict[str, NDArray], dict[str, Any]]:
    """Train one adapter and read it.

    Parameters
    ----------
    state : mapping
        Weights of the base under this seed.
    arrays, codec
        Prepared tokens of its corpus, and its tokenizer.
    seed, device, log, **kept
        As for `adapter.fit_adapter`; `kept` is `checkpoint` and `fingerprint`.

    Returns
    -------
    losses : dict
        `before_C`, `after_C`, `before_ttt_C`, `after_ttt_C`, `tokens_C`.
    told : dict
        History and replies, JSON-ready.
    """
    recipe, arm = config.base.recipe, config.base.arm
    place = {"vocabulary": codec.vocabulary, "device": device}
    base = trained_model(recipe.model, arm, state, **place)
    dialogues = dialogues_of(arrays, codec.marks)
    fitted = fit_adapter(
        base,
        dialogues,
        config.run,
        config.training,
        seed=seed,
        device=device,
        log=log,
        label=config.name,
        **kept,
    )
    losses = measure_adapter(
        base,
        fitted.model,
        dialogues,
        config.training,
        conversations=config.measure.conversations,
        device=device,
        inner=recipe.inner if config.name in config.measure.updated else None,
    )
    replies = sample_replies(base, fitted.model, codec, config.measure, seed=seed)
    before, after = losses["before_C"].mean(), losses["after_C"].mean()
    log(f"{config.name} seed {seed}: dialogue loss {before:.4f} before, {after:.4f} after")
    return fitted, losses, {"history": fitted.history, "replies": replies}
