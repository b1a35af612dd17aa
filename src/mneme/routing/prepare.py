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
from mneme.routing.works import PREFIX

Encode = Callable[[str], tuple[list[int], list[int]]]
"""Text -> token ids and the indices of tokens that begin a line."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much material the protocol needs."""

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
    """What the protocol needs."""


def sizes_of(config: RoutingConfig) -> Sizes:
    """Return what the protocol needs."""
    protocol = config.protocol
    return Sizes(
        tuples=protocol.tuples,
        segment_tokens=protocol.segment_tokens,
        long_tokens=max(*protocol.dwell_tokens, protocol.segment_tokens),
    )


def split_groups(
    documents: Sequence[Document],
    config: PrepareConfig,
    *,
    generator: np.random.Generator,
    name: str,
) -> dict[str, list[Document]]:
    """Split documents by group into train, calibration and test, disjoint in groups.

    `name` is the domain's, for messages.

    Raises
    ------
    ConfigError
        The corpus is empty or has fewer than three groups.
    """
    groups = sorted({document.group for document in documents})
    if len(groups) < 3:
        raise ConfigError(
            f"the corpus of domain {name!r} holds {len(groups)} groups of documents, at least 3 "
            "are needed to split it into train, calibration and test: add documents"
        )
    order = [groups[i] for i in generator.permutation(len(groups))]
    first = max(1, round(len(order) * config.train_share))
    second = max(first + 1, round(len(order) * (config.train_share + config.calibration_share)))
    second = min(second, len(order) - 1)
    first = min(first, second - 1)
    names = {group: "train" for group in order[:first]}
    names |= {group: "calibration" for group in order[first:second]}
    parts: dict[str, list[Document]] = {"train": [], "calibration": [], "test": []}
    for document in documents:
        parts[names.get(document.group, "test")].append(document)
    return parts


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What is left of a document."""

    ids: np.ndarray
    """Token ids."""
    starts: np.ndarray
    """Indices of tokens that begin a line."""
    group: str
    """Play, file or conversation; empty when several were joined."""


class Pool:
    """Documents of one split from which disjoint token spans are drawn, encoded when needed."""

    def __init__(
        self,
        documents: Sequence[Document],
        encode: Encode,
        *,
        generator: np.random.Generator,
        name: str,
    ) -> None:
        self._fresh = [documents[int(i)] for i in generator.permutation(len(documents))]
        self._encode, self._generator, self._name = encode, generator, name
        self._left: list[Piece] = []

    def take(self, length: int, count: int) -> np.ndarray:
        """Draw `count` disjoint spans of `length` tokens, shape (count, length), int32."""
        return self.take_grouped(length, count)[0]

    def take_grouped(self, length: int, count: int) -> tuple[np.ndarray, list[str]]:
        """Draw disjoint spans, one a document as long as there are unopened ones.

        Parameters
        ----------
        length : int
            Tokens a span.
        count : int
            Spans.

        Returns
        -------
        spans : ndarray, shape (count, length), int32
            Token ids; spans begin at a line start where the text has one.
        groups : list of str
            Group of each span.

        Raises
        ------
        ConfigError
            The corpus is too small for what is asked.
        """
        taken: list[tuple[np.ndarray, str]] = []
        while len(taken) < count and self._fresh:
            document = self._fresh.pop()
            ids, starts = self._encode(document.text)
            piece = Piece(ids=np.asarray(ids), starts=np.asarray(starts), group=document.group)
            self._cut(piece, length, taken)
        self._recut(length, count, taken)
        if len(taken) < count:
            self._join()
            self._recut(length, count, taken)
        if len(taken) < count:
            raise ConfigError(
                f"corpus {self._name} is too small: {count} spans of {length} tokens were "
                "asked, lower routing.protocol.tuples, the dwell or the chunk numbers"
            )
        return np.stack([ids for ids, _ in taken]).astype(np.int32), [g for _, g in taken]

    def _recut(self, length: int, count: int, taken: list[tuple[np.ndarray, str]]) -> None:
        """Cut what is left of opened documents, one span each in turn."""
        found = True
        while len(taken) < count and found:
            found, left, self._left = False, self._left, []
            for place, piece in enumerate(left):
                if len(taken) == count:
                    self._left += left[place:]
                    break
                found |= self._cut(piece, length, taken)

    def _cut(self, piece: Piece, length: int, taken: list[tuple[np.ndarray, str]]) -> bool:
        """Cut one span if the piece is long enough; what is left on either side is kept."""
        ids, starts = piece.ids, piece.starts
        if len(ids) < length:
            self._left.append(piece)
            return False
        usable = starts[starts <= len(ids) - length] if len(starts) else starts
        start = int(self._generator.choice(usable)) if len(usable) else 0
        end = start + length
        taken.append((ids[start:end], piece.group))
        for low, high in ((0, start), (end, len(ids))):
            if high > low:
                inside = starts[(starts >= low) & (starts < high)] - low
                self._left.append(Piece(ids=ids[low:high], starts=inside, group=piece.group))
        return True

    def _join(self) -> None:
        """Join what is left into one stream, for corpora of short documents."""
        if self._left:
            offsets = np.cumsum([0, *(len(piece.ids) for piece in self._left)])
            starts = [p.starts + o for p, o in zip(self._left, offsets, strict=False)]
            ids = np.concatenate([piece.ids for piece in self._left])
            self._left = [Piece(ids=ids, starts=np.concatenate(starts), group="")]


def domain_material(
    documents: Sequence[Document], encode: Encode, config: PrepareConfig, *, name: str
) -> tuple[dict[str, np.ndarray], Pool]:
    """Cut one domain's chunks; parameters, arrays and pool as in `chunks_and_works`."""
    arrays, _, pool = chunks_and_works(documents, encode, config, name=name)
    return arrays, pool


def chunks_and_works(
    documents: Sequence[Document], encode: Encode, config: PrepareConfig, *, name: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Pool]:
    """Cut one domain's chunks; return them, their works and what is left of its test texts.

    Returns
    -------
    arrays : dict of ndarray, int32
        `train` (n, tokens), `calibration`, `validation`, `test` (n, chunk_tokens), `loss`
        (loss_chunks, loss_tokens).
    works : dict of ndarray, str, (n,)
        `test` and `loss`, on which numbers are measured: group of each chunk; empty where several
        were joined.
    pool : Pool
        Test texts, for `tuple_material`.
    """
    generator = numpy_generator(config.seed, "prepare", name)
    parts = split_groups(documents, config, generator=generator, name=name)
    # A stream of its own for each use: asking for more of one changes nothing else.
    pools = {
        part: Pool(
            documents,
            encode,
            generator=numpy_generator(config.seed, "prepare", name, part),
            name=name,
        )
        for part, documents in parts.items()
    }
    held_out = max(2, config.calibration_chunks // 3)
    length = config.chunk_tokens
    arrays = {"train": pools["train"].take(config.train_tokens, config.train_chunks)}
    both = pools["calibration"].take(length, config.calibration_chunks + held_out)
    arrays["calibration"] = both[: config.calibration_chunks]
    arrays["validation"] = both[config.calibration_chunks :]
    works = {}
    for part, size, count in (
        ("test", length, held_out),
        ("loss", config.loss_tokens, config.loss_chunks),
    ):
        arrays[part], groups = pools["test"].take_grouped(size, count)
        works[part] = np.asarray(groups)
    return arrays, works, pools["test"]


def tuple_material(
    pools: Mapping[str, Pool], pair: tuple[str, str], sizes: Sizes, *, seed: int
) -> dict[str, np.ndarray]:
    """Cut the text tuples of the protocol; parameters and arrays as in `tuples_and_works`."""
    return tuples_and_works(pools, pair, sizes, seed=seed)[0]


def tuples_and_works(
    pools: Mapping[str, Pool], pair: tuple[str, str], sizes: Sizes, *, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Cut the text tuples of the protocol from the test texts of domains A and B.

    Parameters
    ----------
    pools : mapping of str to Pool
        Domain -> what is left of its test texts.
    pair : tuple of str
        Domains A and B.
    sizes : Sizes
        Numbers and lengths.
    seed : int
        Seed of the dealing.

    Returns
    -------
    arrays : dict of ndarray, int32, one row a tuple
        `a_long`, `a_other_long`, `b_long` (N, long_tokens): middle segments A', A'' and B; `a1`,
        `a2`, `b1`, `b2` (N, segment_tokens). All are different passages; those of one domain in
        one tuple come from different groups as far as there are enough.
    works : dict of ndarray, str, (N,)
        `works.a_long` and so on: group of each passage; empty where several were joined.
    """
    arrays, works = {}, {}
    for letter, name in zip("ab", pair, strict=True):
        middles = ("_long", "_other_long") if letter == "a" else ("_long",)
        used: list[set[str]] = [set() for _ in range(sizes.tuples)]
        generator = numpy_generator(seed, "prepare", name, "deal")
        for piece in (*middles, "1", "2"):
            length = sizes.long_tokens if piece in middles else sizes.segment_tokens
            spans, groups = pools[name].take_grouped(length, sizes.tuples)
            order = deal(groups, used, generator=generator)
            arrays[f"{letter}{piece}"] = spans[order]
            works[f"{PREFIX}{letter}{piece}"] = np.asarray(groups)[order]
            for row, index in zip(used, order, strict=True):
                row.add(groups[index])
    return arrays, works


def deal(
    groups: Sequence[str], used: Sequence[set[str]], *, generator: np.random.Generator
) -> np.ndarray:
    """Give every tuple one span so that as few as possible repeat a group it already has.

    Returns
    -------
    ndarray, shape (N,), int64
        Index of the span of each tuple; a permutation.
    """
    from scipy.optimize import linear_sum_assignment

    clash = [[group in row or group == "" for group in groups] for row in used]
    noise = generator.random((len(used), len(groups))) / (2 * len(groups))
    _, order = linear_sum_assignment(np.asarray(clash, float) + noise)
    return order
