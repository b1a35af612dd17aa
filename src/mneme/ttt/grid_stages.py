"""Stage `ttt_grid`: every network that the memory grid reads, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mneme.core.checkpoints import Log
from mneme.core.config import require
from mneme.core.seeds import numpy_generator
from mneme.ttt.codec import Codec
from mneme.ttt.grid import measure_grid
from mneme.ttt.grid_config import GridRecipeConfig
from mneme.ttt.grid_report import MeasuredGrid, Net
from mneme.ttt.grid_sweep import sweep
from mneme.ttt.grid_texts import CONTROLS, contexts_of, grid_texts
from mneme.ttt.model import TTTTransformer
from mneme.ttt.stages import GridStageConfig, TrainedConfig
from mneme.ttt.statements import STATEMENTS
from mneme.ttt.tinylora import load_adapter
from mneme.ttt.trained import trained_model, untrained_model

PROMPTS = tuple(" ".join(sentences) for sentences in STATEMENTS)
"""The statements as one text each."""
States = Mapping[str, Sequence[Mapping[str, Tensor]]]


def measured_nets(
    config: GridStageConfig,
    codecs: Mapping[str, Codec],
    states: States,
    adapters: Mapping[str, Sequence[str]],
    *,
    device: torch.device,
    log: Log,
) -> dict[str, MeasuredGrid]:
    """Measure every run as trained, with its adapter, and as it was before training.

    Parameters
    ----------
    config : GridStageConfig
        Runs, adapters, cells.
    codecs : mapping
        Corpus -> its tokenizer.
    states : mapping
        Run -> weights under each seed.
    adapters : mapping
        Adapter -> its folder under each seed.
    device : torch.device
        Where networks compute.
    log : callable
        Takes a line a network.

    Returns
    -------
    dict
        `<run>`, `<run>_adapter` and `<run>_untrained` -> readings, runs in their order.

    Raises
    ------
    ConfigError
        A run has no adapter, or several.
    """
    measured = {}
    for name, base in config.bases.items():
        codec = codecs[base.recipe.corpus]
        folders = adapters[_adapter_of(config, name)]
        opened: dict[str, tuple[Net, Iterator[TTTTransformer]]] = {
            name: ("base", _trained(base, states[name], codec, device)),
            f"{name}_adapter": ("adapter", _adapted(base, states[name], folders, codec, device)),
            f"{name}_untrained": ("untrained", _untrained(base, codec, device)),
        }
        untrained = f"{name}_untrained"
        against = {name: (untrained,), f"{name}_adapter": (name,), untrained: (name,)}
        for net, (kind, models) in opened.items():
            assert net not in measured, f"two networks of the grid are named {net}"
            measured[net] = _measured(
                config, base, codec, models, kind=kind, against=against[net], name=name
            )
            log(f"{net}: memory grid read")
    return measured


def _adapter_of(config: GridStageConfig, base: str) -> str:
    """Return the one adapter of a run."""
    names = sorted(name for name, run in config.adapters.items() if run.base == base)
    require(len(names) == 1, f"adapters of {base}", "one that is no control", names)
    return names[0]


def _trained(
    base: TrainedConfig, states: Sequence[Mapping[str, Tensor]], codec: Codec, device: torch.device
) -> Iterator[TTTTransformer]:
    for state in states:
        yield trained_model(
            base.recipe.model, base.arm, state, vocabulary=codec.vocabulary, device=device
        )


def _adapted(
    base: TrainedConfig,
    states: Sequence[Mapping[str, Tensor]],
    folders: Sequence[str],
    codec: Codec,
    device: torch.device,
) -> Iterator[TTTTransformer]:
    for model, folder in zip(_trained(base, states, codec, device), folders, strict=True):
        yield load_adapter(model, folder)


def _untrained(base: TrainedConfig, codec: Codec, device: torch.device) -> Iterator[TTTTransformer]:
    for seed in base.seeds:
        yield untrained_model(
            base.recipe.model, base.arm, vocabulary=codec.vocabulary, seed=seed, device=device
        )


def _measured(
    config: GridStageConfig,
    base: TrainedConfig,
    codec: Codec,
    models: Iterator[TTTTransformer],
    *,
    kind: Net,
    against: tuple[str, ...],
    name: str,
) -> MeasuredGrid:
    """Read one network under every seed, on the same texts and contexts."""
    grid, recipe = config.grid, config.grid.recipes[base.recipe_name]
    texts = grid_texts(
        codec.encode,
        prompts=grid.prompts,
        adapt_ratios=grid.adapt_ratios,
        repeats=grid.repeats,
        max_tokens=recipe.max_tokens,
    )
    drawn = contexts_of(
        texts,
        CONTROLS,
        trials=grid.trials,
        vocabulary=codec.plain_ids,
        generator=numpy_generator(0, "ttt_grid", "contexts", base.recipe_name),
    )
    readings, sweeps = [], []
    for model in models:
        readings.append(
            measure_grid(
                model,
                texts,
                drawn,
                base.recipe.inner,
                batch=grid.batch,
                source_measure=recipe.source_measure,
            )
        )
        sweeps.append(_swept(model, base, codec, recipe, config) if kind == "base" else [])
    return MeasuredGrid(
        net=kind,
        recipe=base.recipe_name,
        seeds=config.seeds,
        readings=tuple(readings),
        sweeps=tuple(sweeps) if kind == "base" and recipe.sweep else (),
        against=against,
        tried=config.tried[base.recipe_name],
        control_of=name if kind == "untrained" else None,
    )


def _swept(
    model: TTTTransformer,
    base: TrainedConfig,
    codec: Codec,
    recipe: GridRecipeConfig,
    config: GridStageConfig,
) -> Sequence[Mapping[str, Any]]:
    if recipe.sweep is None:
        return []
    return sweep(
        model,
        codec.encode,
        base.recipe.inner,
        recipe.sweep,
        max_tokens=recipe.max_tokens,
        batch=config.grid.batch,
        vocabulary=codec.plain_ids,
        generator=numpy_generator(0, "ttt_grid", "sweep", base.recipe_name),
    )
