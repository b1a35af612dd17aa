"""What was loaded: size, precision, memory, tokenizer round trip, held-out loss per domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mneme.core.backbones import BackboneConfig
from mneme.nn.backbone import (
    Backbone,
    log_vocabulary,
    next_token_nll,
    require_context,
    weights_mib,
)
from mneme.nn.hub import REVISIONS, BackboneError
from mneme.nn.tokenizer import stands_in
from mneme.routing.sharing import Works
from mneme.stats.clusters import clustered_interval
from mneme.stats.intervals import bootstrap_mean
from mneme.stats.rows import Row, row_of

RANDOM = "random weights: for speed and memory only"
_FAR_BELOW = 0.7
"""Largest loss of a pretrained model as a share of ln V; real ones stay below half of it."""


@dataclass(frozen=True, kw_only=True)
class ModelStageConfig:
    """Settings of rule `model_load`."""

    backbone: BackboneConfig
    """Which backbone."""
    resources: str
    """Folder of the shared resources."""
    name: str
    """Its name in the catalogue; the run's name in `model.json`."""
    domains: tuple[str, ...]
    """Domains whose held-out loss is measured."""
    batch: int
    """Texts a pass."""
    resamples: int
    """Bootstrap resamples of the losses' intervals."""


def describe(
    backbone: Backbone,
    held_out: Mapping[str, np.ndarray],
    *,
    works: Works,
    batch: int,
    resamples: int,
    generator: np.random.Generator,
) -> list[Row]:
    """Measure a loaded backbone.

    Parameters
    ----------
    backbone : Backbone
        The model.
    held_out : mapping
        Domain -> token ids (N, T), int32.
    works : Works
        Works of these texts, by domain.
    batch : int
        Texts a pass.
    resamples : int
        Bootstrap resamples.
    generator : numpy.random.Generator
        Source of the resamples.

    Returns
    -------
    list of Row
        `load_s`, `parameters`, `bits_per_weight`, `weights_memory`, `layers`, `width`,
        `vocabulary`, `uniform_loss` (ln V), `tokenizer_round_trip`, and `loss@<domain>` in nats
        with its interval over texts, which allows for the works that they share.

    Raises
    ------
    BackboneError
        A pretrained model's loss is not far below ln V: weights and tokenizer do not match; or
        the held-out chunks are longer than its context.
    """
    longest = max(ids_NT.shape[1] for ids_NT in held_out.values())
    require_context(backbone.model, longest, "routing.prepare.loss_tokens")
    rows, uniform = _facts(backbone), log_vocabulary(backbone.model)
    texts = [text for ids_NT in held_out.values() for text in _texts(backbone.tokenizer, ids_NT)]
    same = [_round_trip(backbone.tokenizer, text) == text for text in texts]
    share = float(np.mean(same))
    rows.append(
        Row(metric="tokenizer_round_trip", value=share, n=len(same), unit="fraction of texts")
    )
    for domain, ids_NT in held_out.items():
        ids = torch.as_tensor(ids_NT, dtype=torch.long)
        nll_N = next_token_nll(backbone.model, ids, batch=batch).numpy()
        _refuse_guessing(backbone, domain, float(nll_N.mean()), uniform)
        interval = bootstrap_mean(nll_N, resamples=resamples, generator=generator)
        interval = clustered_interval(interval, nll_N, works.ways(frozenset({domain})))
        reason = RANDOM if backbone.config.init == "random" else None
        rows.append(
            row_of(f"loss@{domain}", interval, n=len(nll_N), unit="nats per token", reason=reason)
        )
    return rows


def about(backbone: Backbone) -> dict[str, Any]:
    """Return what the run was: architecture, precision, place, and what is not real in it."""
    config, model = backbone.config, backbone.model
    return {
        "architecture": type(model).__name__,
        "source": config.source,
        "revision": backbone.commit,
        "pinned": config.source != "hub" or stands_in(config) or config.revision is not None,
        "init": config.init,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "tokenizer": "bytes (stand-in)" if stands_in(config) else "its own",
        "note": RANDOM if config.init == "random" else None,
    }


def unpinned(backbone: Backbone) -> str | None:
    """Return a warning, in a line, if the backbone's commit is not fixed by the settings."""
    facts, name = about(backbone), backbone.config.name
    if facts["pinned"]:
        return None
    commit = facts["revision"]
    return (
        f"{name} is not pinned: its newest commit when first asked for ({commit}) is kept in "
        f"{REVISIONS} below resources, and another place may get another; --config "
        f"backbone={name}@{commit} pins it"
    )


def _facts(backbone: Backbone) -> list[Row]:
    model = backbone.model
    facts = [
        ("load_s", backbone.load_seconds, "s"),
        ("parameters", sum(p.numel() for p in model.parameters()), "count"),
        ("bits_per_weight", torch.finfo(model.dtype).bits, "bit"),
        ("weights_memory", weights_mib(model), "MiB"),
        ("layers", model.config.num_hidden_layers, "count"),
        ("width", model.config.hidden_size, "count"),
        ("vocabulary", model.config.vocab_size, "count"),
        ("uniform_loss", log_vocabulary(model), "nats per token"),
    ]
    if model.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(model.device) / 2**20
        facts.append(("device_memory_after_loading", peak, "MiB"))
    return [Row(metric=metric, value=float(value), unit=unit) for metric, value, unit in facts]


def _texts(tokenizer: Any, ids_NT: np.ndarray) -> list[str]:
    return [_decode(tokenizer, ids.tolist()) for ids in ids_NT]


def _round_trip(tokenizer: Any, text: str) -> str:
    return _decode(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def _refuse_guessing(backbone: Backbone, domain: str, loss: float, uniform: float) -> None:
    if backbone.config.init == "pretrained" and loss > _FAR_BELOW * uniform:
        raise BackboneError(
            f"{backbone.config.name} has a held-out loss of {loss:.2f} nats on {domain}, not far "
            f"below ln V = {uniform:.2f}: its weights and its tokenizer do not belong together"
        )
