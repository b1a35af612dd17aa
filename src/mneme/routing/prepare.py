"""Documents -> disjoint token material: chunks for adapters, calibration and losses, text tuples.

Documents are split by group (play, file, conversation), so that nothing a router or an adapter
was fitted on shares a play or a file with what it is tested on. Pieces are token spans that begin
at a line start; no beginning-of-sequence token is inserted anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mneme.core.backbones import BackboneConfig
from mneme.core.config import ConfigError
from mneme.core.corpora import Document
from mneme.core.seeds import numpy_generator
from mneme.routing.config import DomainConfig, PrepareConfig, RoutingConfig

Encode = Callable[[str], tuple[list[int], list[int]]]
"""Text -> token ids and the indices of tokens that begin a line."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of each kind of material is cut."""

    train_chunks: int
    """Adapter chunks a domain."""
    train_tokens: int
    """Their length, tokens."""
    tuples: int
    """Text tuples."""
    segment_tokens: int
    """Length of a segment, tokens."""
    long_tokens: int
    """Length of the longest middle segment, tokens."""


@dataclass(frozen=True, kw_only=True)
class PrepareStageConfig:
    """Settings of rule `routing_prepare`."""

    backbone: BackboneConfig
    """Whose tokenizer."""
    resources: str
    """Folder of the shared resources."""
    domains: tuple[DomainConfig, ...]
    """Domains."""
    pair: tuple[str, str]
    """Domains A and B."""
    prepare: PrepareConfig
    """Splits and lengths."""
    sizes: Sizes
    """What the adapter runs and the protocol need."""


def sizes_of(config: RoutingConfig) -> Sizes:
    """Return what the adapter runs and the protocol need."""
    runs = config.adapters.runs.values()
    protocol = config.protocol
    return Sizes(
        train_chunks=max(run.samples for run in runs),
        train_tokens=max(run.tokens for run in runs),
        tuples=protocol.tuples,
        segment_tokens=protocol.segment_tokens,
        long_tokens=max(*protocol.dwell_tokens, protocol.segment_tokens),
    )


def split_groups(
    documents: Sequence[Document], config: PrepareConfig, *, generator: np.random.Generator
) -> dict[str, list[str]]:
    """Split documents by group into train, calibration and test texts, disjoint in groups.

    Raises
    ------
    ConfigError
        The corpus is empty or has fewer than three groups.
    """
    groups = sorted({document.group for document in documents})
    if len(groups) < 3:
        raise ConfigError(
            f"the corpus holds {len(groups)} groups of documents, at least 3 are needed to split "
            "it into train, calibration and test: add documents"
        )
    order = [groups[i] for i in generator.permutation(len(groups))]
    first = max(1, round(len(order) * config.train_share))
    second = max(first + 1, round(len(order) * (config.train_share + config.calibration_share)))
    second = min(second, len(order) - 1)
    first = min(first, second - 1)
    names = {group: "train" for group in order[:first]}
    names |= {group: "calibration" for group in order[first:second]}
    texts: dict[str, list[str]] = {"train": [], "calibration": [], "test": []}
    for document in documents:
        texts[names.get(document.group, "test")].append(document.text)
    return texts


class Pool:
    """Texts of one split from which disjoint token spans are drawn, encoded only when needed."""

    def __init__(
        self, texts: Sequence[str], encode: Encode, *, generator: np.random.Generator, name: str
    ) -> None:
        self._texts = [texts[int(i)] for i in generator.permutation(len(texts))]
        self._encode, self._generator, self._name = encode, generator, name
        self._pieces: list[tuple[np.ndarray, np.ndarray]] = []

    def take(self, length: int, count: int) -> np.ndarray:
        """Draw `count` disjoint spans of `length` tokens.

        Parameters
        ----------
        length : int
            Tokens a span.
        count : int
            Spans.

        Returns
        -------
        ndarray, shape (count, length), int32
            Token ids; spans begin at a line start where the text has one.

        Raises
        ------
        ConfigError
            The corpus is too small for what is asked.
        """
        spans: list[np.ndarray] = []
        joined = False
        while len(spans) < count:
            before = len(spans)
            for index in range(len(self._pieces)):
                if len(spans) < count and len(self._pieces[index][0]) >= length:
                    spans.append(self._cut(index, length))
            if len(spans) < count and not self._more():
                if len(spans) == before and not joined:
                    self._join()
                    joined = True
                elif len(spans) == before:
                    raise ConfigError(
                        f"corpus {self._name} is too small: {count} spans of {length} tokens were "
                        "asked, lower routing.protocol.tuples, the dwell or the chunk numbers"
                    )
        # Spans are cut document by document: permuted, so that the pieces of one tuple are of
        # different documents.
        order = self._generator.permutation(count)
        return np.stack(spans)[order].astype(np.int32)

    def _more(self, documents: int = 16) -> bool:
        """Encode some further documents; False when none are left."""
        fresh = [self._texts.pop() for _ in range(min(documents, len(self._texts)))]
        for text in fresh:
            ids, starts = self._encode(text)
            if ids:
                self._pieces.append((np.asarray(ids), np.asarray(starts or [0])))
        return bool(fresh)

    def _cut(self, index: int, length: int) -> np.ndarray:
        """Cut one span out of piece `index`; what is left on either side stays in the pool."""
        ids, starts = self._pieces[index]
        usable = starts[starts <= len(ids) - length]
        start = int(self._generator.choice(usable)) if len(usable) else 0
        end = start + length
        self._pieces[index] = (ids[:start], starts[starts < start])
        self._pieces.append((ids[end:], starts[starts >= end] - end))
        return ids[start:end]

    def _join(self) -> None:
        """Join what is left into one stream, for corpora of short documents."""
        if not self._pieces:
            return
        offsets = np.cumsum([0, *(len(ids) for ids, _ in self._pieces)])
        starts = [s + offset for (_, s), offset in zip(self._pieces, offsets, strict=False)]
        ids = np.concatenate([ids for ids, _ in self._pieces])
        self._pieces = [(ids, np.concatenate(starts))]


def domain_material(
    documents: Sequence[Document], encode: Encode, config: PrepareConfig, sizes: Sizes, *, name: str
) -> tuple[dict[str, np.ndarray], Pool]:
    """Cut one domain's chunks; return them and the pool of what is left of its test texts.

    Returns
    -------
    dict of ndarray, int32
        `train` (n, tokens), `calibration`, `validation`, `test` (n, chunk_tokens), `loss`
        (loss_chunks, loss_tokens).
    Pool
        Test texts, for `tuple_material`.
    """
    generator = numpy_generator(config.seed, "prepare", name)
    texts = split_groups(documents, config, generator=generator)
    pools = {k: Pool(v, encode, generator=generator, name=name) for k, v in texts.items()}
    held_out = max(2, config.calibration_chunks // 3)
    length = config.chunk_tokens
    arrays = {"train": pools["train"].take(sizes.train_tokens, sizes.train_chunks)}
    both = pools["calibration"].take(length, config.calibration_chunks + held_out)
    arrays["calibration"] = both[: config.calibration_chunks]
    arrays["validation"] = both[config.calibration_chunks :]
    arrays["test"] = pools["test"].take(length, held_out)
    arrays["loss"] = pools["test"].take(config.loss_tokens, config.loss_chunks)
    return arrays, pools["test"]


def tuple_material(
    pools: Mapping[str, Pool], pair: tuple[str, str], sizes: Sizes
) -> dict[str, np.ndarray]:
    """Cut the text tuples of the protocol from the test texts of domains A and B.

    Returns
    -------
    dict of ndarray, int32, one row a tuple
        `a_long`, `b_long` (N, long_tokens): middle segments A' and B; `a1`, `a2`, `a_other`, `b1`,
        `b2` (N, segment_tokens). All are different passages.
    """
    arrays = {}
    for letter, name in zip("ab", pair, strict=True):
        arrays[f"{letter}_long"] = pools[name].take(sizes.long_tokens, sizes.tuples)
        for piece in ("1", "2", "_other") if letter == "a" else ("1", "2"):
            arrays[f"{letter}{piece}"] = pools[name].take(sizes.segment_tokens, sizes.tuples)
    return arrays
