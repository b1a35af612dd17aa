"""Embeddings kept between runs: `<key>.npy` beside `<key>.json`, which says what is in it.

The key covers everything that decides a number (`teacher_config.cache_key`), so that a file is
never out of date. It may be damaged: the JSON file is written last and holds the array's hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.core.artefacts import ArtefactError, read_array, read_json, write_array, write_json

Vectors = NDArray[np.float32]


class CacheError(ValueError):
    """Kept embeddings that cannot be used: which file, why, what to do."""


def write_cached(
    folder: str | Path, key: str, vectors_ND: Vectors, *, facts: Mapping[str, Any]
) -> None:
    """Keep embeddings under their key.

    Parameters
    ----------
    folder : path
        Folder of all kept embeddings.
    key : str
        `teacher_config.cache_key`.
    vectors_ND : array (N, D), float32
        Embeddings.
    facts : mapping
        What a reader of the folder may want to know (teacher, weights); never read back.
    """
    array_path, facts_path = _paths(folder, key)
    facts_path.unlink(missing_ok=True)  # of a pair that was damaged; never beside another array
    write_array(array_path, vectors_ND)
    record = {"key": key, "shape": list(vectors_ND.shape), "sha256": _digest(vectors_ND)}
    write_json(facts_path, {**facts, **record})


def read_cached(folder: str | Path, key: str) -> Vectors | None:
    """Return the embeddings kept under a key, or None if there are none.

    Parameters
    ----------
    folder, key
        As in `write_cached`.

    Raises
    ------
    CacheError
        A file is damaged, or holds something else than when it was written.
    """
    array_path, facts_path = _paths(folder, key)
    if not (array_path.is_file() and facts_path.is_file()):
        return None
    try:
        record, vectors_ND = read_json(facts_path), read_array(array_path)
    except ArtefactError as error:
        raise CacheError(str(error)) from None
    known = record if isinstance(record, dict) else {}
    if known.get("key") != key or not isinstance(known.get("sha256"), str):
        raise CacheError(
            f"{facts_path} does not describe {array_path.name}: delete it and run snakemake again"
        )
    fits = vectors_ND.dtype == np.float32 and known.get("shape") == list(vectors_ND.shape)
    if not fits or known["sha256"] != _digest(vectors_ND):
        raise CacheError(
            f"{array_path} is damaged (it is not what {facts_path.name} says): delete it and run "
            "snakemake again"
        )
    return vectors_ND


def _paths(folder: str | Path, key: str) -> tuple[Path, Path]:
    return Path(folder) / f"{key}.npy", Path(folder) / f"{key}.json"


def _digest(vectors_ND: Vectors) -> str:
    return hashlib.sha256(np.ascontiguousarray(vectors_ND).data).hexdigest()
