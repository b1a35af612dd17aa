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
from numpy.typing import NDArray

from mneme.core.code import code_of
from mneme.core.config import plain
from mneme.lattice import teachers
from mneme.lattice.cache import read_cached, write_cached
from mneme.lattice.stages_prepare import EmbedStageConfig
from mneme.lattice.synthetic import drawn
from mneme.lattice.teacher_config import cache_key

FOLDER = "embeddings"
"""Folder of kept embeddings below the shared resources."""


def embed_columns(
    columns: Mapping[str, Sequence[str]], config: EmbedStageConfig, *, device: torch.device
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Return the embeddings of all texts and what is to be said of them.

    Parameters
    ----------
    columns : mapping
        Name -> texts (`prepare.columns_of`).
    config : EmbedStageConfig
        Teacher, texts a pass, folder of the shared resources.
    device : torch.device
        Where the teacher computes.

    Returns
    -------
    arrays : dict
        Same names -> (N, D), float32.
    facts : dict
        `key` of the kept embeddings (None beside a `reason` for drawn vectors), `dim`, `texts`,
        `bytes`, `cut` (texts longer than `max_tokens`), `kept` (whether they were made before) and
        `embed_s`, wall time of embedding or reading them, s.

    Raises
    ------
    BackboneError, VectorError, ConfigError, CacheError
        One sentence: a teacher that cannot be had, vectors that are not finite, damaged files.
    """
    texts = [text for column in columns.values() for text in column]
    started = time.perf_counter()
    if config.teacher.synthetic is not None:
        arrays = drawn(columns, config.teacher.synthetic)
        facts = {"key": None, "reason": "drawn, not embedded", "cut": 0, "kept": False}
    else:
        vectors_ND, facts = _embedded(texts, config, device)
        ends = np.cumsum([len(column) for column in columns.values()])
        arrays = dict(zip(columns, np.split(vectors_ND, ends[:-1]), strict=True))
    sizes = {
        "dim": next(iter(arrays.values())).shape[1],
        "texts": len(texts),
        "bytes": sum(array.nbytes for array in arrays.values()),
        "embed_s": round(time.perf_counter() - started, 3),
    }
    return arrays, {**facts, **sizes}


def _embedded(
    texts: Sequence[str], config: EmbedStageConfig, device: torch.device
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    teacher = teachers.load_teacher(config.teacher, device=device, resources=config.resources)
    weights = teachers.weights_hash(teacher.model)
    made_by = {
        "code": code_of(teachers.__file__),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "batch": config.batch,
    }
    key = cache_key(texts, config.teacher, weights=weights, made_by=made_by)
    folder = Path(config.resources) / FOLDER
    vectors_ND = read_cached(folder, key)
    kept = vectors_ND is not None
    if vectors_ND is None:
        vectors_ND = teachers.embed(teacher, texts, batch=config.batch)
        about = {"teacher": plain(config.teacher), "weights": weights, "made_by": made_by}
        write_cached(folder, key, vectors_ND, facts={"name": config.name, **about})
    cut = teachers.overlong(teacher, texts)
    return vectors_ND, {"key": key, "reason": None, "weights": weights, "cut": cut, "kept": kept}
