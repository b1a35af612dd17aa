"""Catalogue entry of a teacher: which model, which layers, how its states become one vector."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mneme.core.config import plain, require


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Vectors that are drawn and stand for no text: a known relation of question and answer."""

    width: int
    """Numbers D of a vector, at least 1."""
    rho: float
    """Correlation of a question's numbers with its answer's, -1 to 1."""
    seed: int
    """Seed of the vectors."""

    def __post_init__(self) -> None:
        require(self.width >= 1, "width", "at least 1", self.width)
        require(-1 <= self.rho <= 1, "rho", "between -1 and 1", self.rho)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """A model of transformers that turns a text into a vector: masked mean of its states."""

    source: Literal["embedded", "hub", "local", "synthetic"]
    """embedded: made from the locked assets; hub: model hub; local: a directory; synthetic: drawn
    vectors, and of the other keys only `synthetic` is used."""
    synthetic: SyntheticConfig | None
    """What is drawn; null unless source is synthetic."""
    name: str
    """Name below `models`, hub id (org/name), or directory of a saved model."""
    revision: str | None
    """Hub commit (40 hex digits), null for the newest when first asked for, which is kept below
    `resources/revisions/`; must be null unless source is hub."""
    dtype: Literal["float32", "bfloat16", "float16"]
    """Precision of the weights and states; the mean over tokens is taken in float32."""
    layers: tuple[int, ...]
    """Layers whose states are taken, 0 for the embeddings, negative ones from the end (-1: the
    output); several are put one after the other, which makes a vector that much wider."""
    max_tokens: int
    """Tokens of a text that are read, special ones included."""
    normalise: bool
    """Whether each layer's mean is scaled to length 1."""
    license_url: str
    """Page where the licence is read and, for gated models, accepted."""

    def __post_init__(self) -> None:
        drawn = (self.synthetic is not None) == (self.source == "synthetic")
        rule = "a block if source is synthetic and null if it is not"
        require(drawn, "synthetic", rule, self.synthetic)
        require(len(self.layers) >= 1, "layers", "a list of at least one layer", self.layers)
        require(self.max_tokens >= 1, "max_tokens", "at least 1", self.max_tokens)
        if self.revision is not None:
            known = len(self.revision) == 40 and set(self.revision) <= set("0123456789abcdef")
            require(known, "revision", "null or a commit of 40 hex digits", self.revision)
            require(self.source == "hub", "revision", "null unless source is hub", self.revision)


def cache_key(
    texts: Sequence[str],
    teacher: TeacherConfig,
    *,
    weights: str,
    tokens: str,
    pooling: str,
    made_by: Mapping[str, str | int],
) -> str:
    """Return the name under which embeddings are kept.

    Parameters
    ----------
    texts : sequence of str
        All texts, in order.
    teacher : TeacherConfig
        Every setting of it counts (source, name, revision, layers, dtype, length, normalisation).
    weights : str
        Hash of the weights that were loaded (`teachers.weights_hash`): a teacher's directory may
        change under its name.
    tokens : str
        Hash of the tokens that are read (`teachers.tokens_hash`): so may its tokenizer's files.
    pooling : str
        How states become one vector (`teachers.POOLING`).
    made_by : mapping
        What else decides the last bits: code, versions of torch and transformers, device, threads,
        texts a pass.

    Returns
    -------
    str
        64 hex digits of SHA-256.
    """
    content = {
        "texts": list(texts),
        "teacher": plain(teacher),
        "pooling": pooling,
        "weights": weights,
        "tokens": tokens,
        "made_by": dict(made_by),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
