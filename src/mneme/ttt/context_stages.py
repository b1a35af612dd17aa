"""Between the scripts and the long-context experiment: what one run reads, what all runs left.

Legend: N documents, T targets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mneme.core.checkpoints import Log
from mneme.ttt.codec import Codec
from mneme.ttt.context import kinds_of, read_set, reader_of
from mneme.ttt.context_documents import Documents, markov_documents, text_documents
from mneme.ttt.material import MarkovMaterial, TextMaterial
from mneme.ttt.model import TTTTransformer
from mneme.ttt.stages import MeasureStageConfig


def read_sets(
    model: TTTTransformer,
    config: MeasureStageConfig,
    material: TextMaterial | MarkovMaterial,
    codec: Codec | None,
    *,
    device: torch.device,
    log: Log,
) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Read every set of test documents of a run's corpus.

    Parameters
    ----------
    model : TTTTransformer
        The trained network.
    config : MeasureStageConfig
        Arm, recipe and sets.
    material : Material
        Where test and validation documents come from.
    codec : Codec or None
        Tokenizer of a text.
    device : torch.device
        Where the network computes.
    log : callable
        Takes a line a set.

    Returns
    -------
    arrays : dict
        `<set>/<name>`, as in `mneme.ttt.context_metrics`.
    facts : dict
        What was chosen for the arm, JSON-ready.
    """
    context, recipe = config.context, config.recipe
    validation_NT = np.empty((0, 0), np.int64)
    if config.arm == "dynamic":  # the only one that chooses anything
        validation_NT = material.validation(context.dynamic.documents, context.dynamic.tokens)
    reader, facts = reader_of(model, config.arm, recipe.inner, context, validation_NT=validation_NT)
    field, arrays = recipe.model.receptive_field, {}
    for name, one in context.sets.items():
        documents: Documents
        if isinstance(material, MarkovMaterial):
            documents = markov_documents(material, one, receptive_field=field)
        else:
            assert codec is not None
            documents = text_documents(material, codec, one)
        found = read_set(
            reader,
            documents,
            one,
            arm=config.arm,
            kinds=kinds_of(config.arm, context),
            every_kind=context.kinds,
            receptive_field=field,
            device=device,
        )
        arrays |= {f"{name}/{key}": value for key, value in found.items()}
        loss = found["nll_NT"].sum() / found["targets_N"].sum()
        log(f"{config.name} on {name}: {len(documents.tokens_NT)} documents, nll {loss:.4f}")
    return arrays, facts
