"""Prepared texts -> one vector a text of one teacher, kept between runs.

Legend: N texts of a column, D width.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from mneme.core.code import code_of
from mneme.core.config import plain
from mneme.lattice import teachers
from mneme.lattice.cache import read_cached, write_cached
from mneme.lattice.stages_prepare import EmbedStageConfig
from mneme.lattice.synthetic import drawn
from mneme.lattice.teacher_config import SyntheticConfig, cache_key

FOLDER = "embeddings"
"""Folder of kept embeddings below the shared resources."""
Columns = Mapping[str, Sequence[str]]
"""Name -> texts."""


def embed_columns(
    sets: Mapping[str, Columns], config: EmbedStageConfig, *, device: torch.device
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Return the embeddings of all texts and what is to be said of them.

    Parameters
    ----------
    sets : mapping
        Name of a set -> column -> texts (`prepare.columns_of`); no two sets share a column. Each is
        embedded and kept by itself, so that one leaves the vectors of another as they are.
    config : EmbedStageConfig
        Teacher, texts a pass, folder of the shared resources.
    device : torch.device
        Where the teacher computes.

    Returns
    -------
    arrays : dict
        Column -> (N, D), float32.
    facts : dict
        `sets`: of each, `key` of the kept embeddings (None beside a `reason` for drawn vectors),
        `texts`, `cut` (texts longer than `max_tokens`), `kept` (whether they were made before).
        Of all, `dim`, `texts`, `bytes` and `embed_s`, wall time of embedding or reading them, s.

    Raises
    ------
    BackboneError, VectorError, ConfigError, CacheError
        One sentence: a teacher that cannot be had, vectors that are not finite, damaged files.
    """
    started = time.perf_counter()
    if config.teacher.synthetic is not None:
        arrays, facts = _drawn(sets, config.teacher.synthetic)
    else:
        arrays, facts = _embedded(sets, config, device)
    told = {
        "sets": facts,
        "dim": next(iter(arrays.values())).shape[1],
        "texts": sum(one["texts"] for one in facts.values()),
        "bytes": sum(array.nbytes for array in arrays.values()),
        "embed_s": round(time.perf_counter() - started, 3),
    }
    return arrays, told


def _drawn(
    sets: Mapping[str, Columns], config: SyntheticConfig
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    arrays, facts = {}, {}
    for name, columns in sets.items():
        arrays |= drawn(columns, config)
        texts = sum(len(column) for column in columns.values())
        why = {"key": None, "reason": "drawn, not embedded"}
        facts[name] = {**why, "texts": texts, "cut": 0, "kept": False}
    return arrays, facts


def _embedded(
    sets: Mapping[str, Columns], config: EmbedStageConfig, device: torch.device
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    teacher = teachers.load_teacher(config.teacher, device=device, resources=config.resources)
    weights = teachers.weights_hash(teacher.model)
    arrays, facts = {}, {}
    for name, columns in sets.items():
        texts = [text for column in columns.values() for text in column]
        vectors_ND, facts[name] = _kept(texts, config, teacher, weights)
        ends = np.cumsum([len(column) for column in columns.values()])
        arrays |= dict(zip(columns, np.split(vectors_ND, ends[:-1]), strict=True))
    return arrays, facts


def _kept(
    texts: Sequence[str], config: EmbedStageConfig, teacher: teachers.Teacher, weights: str
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Return the vectors of texts, read where they were made before, and the facts of them."""
    made_by = {
        "code": code_of(teachers.__file__),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": teacher.model.device.type,
        "threads": torch.get_num_threads(),
        "batch": config.batch,
    }
    tokens = teachers.tokens_hash(teacher, texts)
    decided = {"weights": weights, "tokens": tokens, "pooling": teachers.POOLING}
    key = cache_key(texts, config.teacher, **decided, made_by=made_by)
    folder = Path(config.resources) / FOLDER
    vectors_ND = read_cached(folder, key)
    kept = vectors_ND is not None
    if vectors_ND is None:
        vectors_ND = teachers.embed(teacher, texts, batch=config.batch)
        about = {"teacher": plain(config.teacher), **decided, "made_by": made_by}
        write_cached(folder, key, vectors_ND, facts={"name": config.name, **about})
    cut = teachers.overlong(teacher, texts)
    facts = {"key": key, "reason": None, "weights": weights, "texts": len(texts), "cut": cut}
    return vectors_ND, {**facts, "kept": kept}
