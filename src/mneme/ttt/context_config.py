"""Settings of the long-context experiment: which test documents, which contexts, which bins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from mneme.core.config import ConfigError, require
from mneme.core.seeds import numpy_generator
from mneme.ttt.contexts import Kind

DocumentKind = Literal["play", "conversation", "chain"]


@dataclass(frozen=True, kw_only=True)
class DynamicConfig:
    """Dynamic evaluation: clipped gradient descent on all weights after every chunk.

    References
    ----------
    Krause et al. (2018), Dynamic evaluation of neural sequence models.
    """

    chunk: int
    """Tokens a step."""
    clip: float
    """Largest global norm of one document's gradient."""
    learning_rates: tuple[float, ...]
    """Candidates; the one with the lowest loss on validation documents is used."""
    documents: int
    """Validation documents that choose it."""
    tokens: int
    """Predicted tokens of each: as many as are read, since the best rate falls with length."""
    batch: int
    """Documents at a time: each has its own copy of all weights."""
    kinds: tuple[Kind, ...]
    """Contexts that are also measured, a part of `context.kinds` with own and none; or empty."""

    def __post_init__(self) -> None:
        for name in ("chunk", "documents", "tokens", "batch"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.clip > 0, "clip", "above 0", self.clip)
        rates = self.learning_rates
        usable = bool(rates) and min(rates) > 0 and len(set(rates)) == len(rates)
        require(usable, "learning_rates", "one or more different ones above 0", rates)
        require(_complete(self.kinds), "kinds", "empty, or with own and none", self.kinds)


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """One set of test documents."""

    corpus: str
    """Corpus whose test documents they are: runs of recipes with this corpus read them."""
    kind: DocumentKind
    """play: windows of plays; conversation: beginnings of conversations; chain: random Markov
    chains, corpus `markov` alone."""
    documents: int
    """Documents N."""
    tokens: int
    """Predicted tokens of a document; conversations may end before."""
    least_tokens: int
    """Predicted tokens of a document, at least; below `tokens` for conversations only."""
    adapt_tokens: int
    """First tokens of a document: what a control replaces."""
    counted_tokens: int
    """Tokens whose loss is counted, a lead-in of one receptive field after the adapted ones; also
    the last tokens of a document whose loss is followed over lengths of context."""
    contexts: tuple[int, ...]
    """Tokens read before the last `counted_tokens`, ascending; may be empty."""
    edges: tuple[int, ...]
    """Tokens seen at the start of each bin of the loss by position, ascending from 1 or more; the
    last one is past the end."""

    def __post_init__(self) -> None:
        for name in ("documents", "adapt_tokens", "counted_tokens"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        ragged = self.kind == "conversation"
        fits = 1 <= self.least_tokens <= self.tokens
        require(fits, "least_tokens", f"1 to tokens = {self.tokens}", self.least_tokens)
        equal = ragged or self.least_tokens == self.tokens
        rule = f"tokens = {self.tokens}, as {self.kind} documents are of equal length"
        require(equal, "least_tokens", rule, self.least_tokens)
        require(_rising(self.contexts), "contexts", "ascending from 1 on", self.contexts)
        longest = max(self.contexts, default=0) + self.counted_tokens
        rule = f"at most tokens + 1 - counted_tokens = {self.tokens + 1 - self.counted_tokens}"
        require(longest <= self.tokens + 1, "contexts", rule, self.contexts)
        enough = len(self.edges) > 1 and _rising(self.edges)
        require(enough, "edges", "two or more, ascending from 1 on", self.edges)
        within = max(self.edges) <= self.tokens + 1
        require(within, "edges", f"at most tokens + 1 = {self.tokens + 1}", self.edges)

    def needed(self, receptive_field: int) -> int:
        """Return how many tokens a document must have for its contexts to be compared."""
        return self.adapt_tokens + max(receptive_field, 1) + self.counted_tokens

    @property
    def bins(self) -> list[tuple[str, int, int]]:
        """Return name, first and last number of tokens seen of each bin of the loss by position."""
        return [
            (str(first) if end - 1 == first else f"{first}-{end - 1}", first, end - 1)
            for first, end in pairwise(self.edges)
        ]


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """How the arms are read on documents that no training and no choice has seen."""

    sets: dict[str, SetConfig]
    """Sets of test documents by name."""
    kinds: tuple[Kind, ...]
    """Contexts that arms with fast weights are adapted on: own (the document's beginning),
    shuffled (its tokens), sentences (its sentences, shuffled), other (another document), random
    (any tokens), none; own and none among them."""
    batch: int
    """Documents at a time."""
    resamples: int
    """Bootstrap resamples."""
    untrained_kinds: tuple[Kind, ...]
    """Contexts of the arms that were not meta-trained (`naive`, `untrained`), a part of `kinds`
    with own and none; or empty. What they are worth there is what updates do by themselves: a
    baseline, no null."""
    dynamic: DynamicConfig
    """Dynamic evaluation."""

    def __post_init__(self) -> None:
        require(bool(self.sets), "sets", "one or more", self.sets)
        complete = {"own", "none"} <= set(self.kinds) and len(set(self.kinds)) == len(self.kinds)
        require(complete, "kinds", "different ones, with own and none", self.kinds)
        for name, few in {
            "dynamic.kinds": self.dynamic.kinds,
            "untrained_kinds": self.untrained_kinds,
        }.items():
            require(set(few) <= set(self.kinds), name, f"a part of kinds = {self.kinds}", few)
        few = self.untrained_kinds
        require(_complete(few), "untrained_kinds", "empty, or with own and none", few)
        require(self.batch >= 1, "batch", "at least 1", self.batch)
        require(self.resamples >= 100, "resamples", "at least 100", self.resamples)

    def sets_of(self, corpus: str) -> dict[str, SetConfig]:
        """Return the sets that runs on a corpus read."""
        return {name: one for name, one in self.sets.items() if one.corpus == corpus}

    def chance(self, *purpose: str) -> dict[str, Any]:
        """Return the bootstrap's arguments: equal draws for equal purposes, whatever the run."""
        generator = numpy_generator(0, "bootstrap", *purpose)
        return {"resamples": self.resamples, "generator": generator}


def _complete(few: Sequence[Kind]) -> bool:
    return not few or {"own", "none"} <= set(few)


def _rising(values: Sequence[int]) -> bool:
    return all(a < b for a, b in pairwise((0, *values)))


def require_sets(config: ContextConfig, corpora: Sequence[str]) -> None:
    """Check that every set belongs to a corpus that some run is trained on.

    Raises
    ------
    ConfigError
        Naming the set and the corpora there are.
    """
    for name, one in config.sets.items():
        if one.corpus not in corpora:
            known = ", ".join(sorted(corpora))
            raise ConfigError(f"sets.{name}.corpus must be one of {known}, got {one.corpus!r}")
