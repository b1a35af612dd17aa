"""The memory grid's sweep: one cell of few prompts under other settings of the inner loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mneme.ttt.config import InnerConfig
from mneme.ttt.grid import measure_grid
from mneme.ttt.grid_config import SweepConfig
from mneme.ttt.grid_texts import Context, GridTexts, contexts_of, grid_texts
from mneme.ttt.inner import InnerLossError
from mneme.ttt.model import TTTTransformer

Ints = NDArray[np.int64]


def sweep(
    model: TTTTransformer,
    encode: Callable[[str], ArrayLike],
    inner: InnerConfig,
    config: SweepConfig,
    *,
    max_tokens: int,
    batch: int,
    vocabulary: Ints,
    generator: np.random.Generator,
) -> list[dict[str, Any]]:
    """Measure one cell of few prompts under other inner learning rates and chunk sizes.

    Parameters
    ----------
    model : TTTTransformer
        Arm with fast weights, as trained.
    encode : callable
        Text -> token ids, without special tokens.
    inner : InnerConfig
        Whose clip is kept.
    config : SweepConfig
        Settings, prompts and cell.
    max_tokens, batch
        As for the grid.
    vocabulary : int array (V,)
        Ids that random tokens are drawn from.
    generator : numpy.random.Generator
        Source of which other prompt stands in.

    Returns
    -------
    list of dict
        For every setting `learning_rate`, `chunk`, and `none`, `own`, `other`: mean loss of the
        counted tokens of each prompt, nats; or None beside the `reason`.
    """
    texts = grid_texts(
        encode,
        prompts=config.prompts,
        adapt_ratios=(config.adapt_ratio,),
        repeats=(config.repeats,),
        max_tokens=max_tokens,
    )
    contexts = contexts_of(texts, ("other",), trials=1, vocabulary=vocabulary, generator=generator)
    points = []
    for chunk, rate in product(config.chunks, config.learning_rates):
        setting = replace(inner, learning_rate=rate, chunk=chunk)
        losses = _swept(model, texts, contexts, setting, batch=batch)
        points.append({"learning_rate": rate, "chunk": chunk, **losses})
    return points


def _swept(
    model: TTTTransformer,
    texts: GridTexts,
    contexts: Sequence[Context],
    inner: InnerConfig,
    *,
    batch: int,
) -> dict[str, Any]:
    """Return the losses of one setting, or None beside the reason."""
    losses: dict[str, Any] = {"none": None, "own": None, "other": None}
    window = model.config.window
    if inner.chunk > window:
        return {**losses, "reason": f"the chunk is longer than the window of {window} tokens"}
    try:
        made = measure_grid(model, texts, contexts, inner, batch=batch, source_measure=False)
    except InnerLossError as error:
        return {**losses, "reason": str(error)}
    names = {"none": "none_CN", "own": "own_CN", "other": "other_RCN"}
    return {**{k: made[name].reshape(-1).tolist() for k, name in names.items()}, "reason": None}
