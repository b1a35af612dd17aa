"""Corpora -> question-answer pairs, without repeated texts, split by their source.

Two natural kinds: a turn of a conversation and the reply to it, and a Python function's signature
and the first line of its documentation. Pairs of one conversation or file are never on both sides
of a split. No text occurs twice among the questions or twice among the answers: a question with two
right answers could not be scored.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mneme.core.config import require
from mneme.core.corpora import Document
from mneme.core.seeds import numpy_generator

SPLITS = ("train", "val", "test")
KINDS = ("chat", "code")
_WORD = re.compile(r"\w+")
_SPACE = re.compile(r"\s+")


class PairError(ValueError):
    """Pairs that cannot be used: which, why, what to do."""


@dataclass(frozen=True)
class Pair:
    """A question, its answer, and the source that is never split."""

    group: str
    """Conversation or file."""
    question: str
    """Text."""
    answer: str
    """Text."""


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """How many pairs are kept and how they are split."""

    min_words: int
    """Fewest words of a question and of an answer, at least 1."""
    per_group: dict[str, int]
    """Most pairs of one conversation (`chat`) and of one source file (`code`), at least 1."""
    train: int
    """Training pairs, half of either kind."""
    val: int
    """Pairs on which the best state is chosen, half of either kind."""
    test: int
    """Pairs on which claims are measured, half of either kind; at least 6, or the five first of a
    search would be all of them."""
    seed: int
    """Seed of the split."""

    def __post_init__(self) -> None:
        require(self.min_words >= 1, "min_words", "at least 1", self.min_words)
        both = sorted(self.per_group) == sorted(KINDS)
        rule = f"a number for each of {', '.join(KINDS)}, at least 1"
        require(both and min(self.per_group.values()) >= 1, "per_group", rule, self.per_group)
        for split in SPLITS:
            size = getattr(self, split)
            least = 6 if split == "test" else len(KINDS)
            even = size >= least and size % len(KINDS) == 0
            require(even, split, f"an even number, at least {least}", size)


def prepare(
    documents: Mapping[str, Sequence[Document]], config: PairsConfig
) -> dict[str, list[Pair]]:
    """Return the pairs of every split, chat and code in turn.

    Parameters
    ----------
    documents : mapping
        Corpora `chitchat` and `python` -> their documents.
    config : PairsConfig
        Sizes, and the seed of the split.

    Returns
    -------
    dict
        `SPLITS` -> pairs; no text occurs twice on one side in all of them together.

    Raises
    ------
    PairError
        Too few pairs, or a source file that is not Python.
    """
    found = {
        "chat": dialogue_pairs(documents["chitchat"]),
        "code": docstring_pairs(documents["python"]),
    }
    kind_of = {pair.group: kind for kind, pairs in found.items() for pair in pairs}
    every = distinct([p for pairs in found.values() for p in pairs], min_words=config.min_words)
    parts = {
        kind: split_pairs(
            [pair for pair in every if kind_of[pair.group] == kind],
            {split: getattr(config, split) // len(KINDS) for split in SPLITS},
            per_group=config.per_group[kind],
            generator=numpy_generator(config.seed, "lattice", "pairs", kind),
        )
        for kind in KINDS
    }
    return {
        split: [
            pair for both in zip(*(parts[k][split] for k in KINDS), strict=True) for pair in both
        ]
        for split in SPLITS
    }


def columns_of(parts: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, list[str]]:
    """Return texts of prepared pairs by the names of their embeddings.

    Parameters
    ----------
    parts : mapping
        `SPLITS` -> triples (group, question, answer), as `lattice_prepare` writes them.

    Returns
    -------
    dict
        `<split>_questions` and `<split>_answers` of every split, in this order.
    """
    return {
        f"{split}_{side}": [triple[place] for triple in parts[split]]
        for split in SPLITS
        for place, side in ((1, "questions"), (2, "answers"))
    }


def dialogue_pairs(documents: Iterable[Document]) -> list[Pair]:
    """Return turns with the reply that follows; every turn is in one pair at most.

    Parameters
    ----------
    documents : iterable of Document
        Conversations, one line a turn.
    """
    pairs = []
    for document in documents:
        turns = document.text.splitlines()
        spoken = zip(turns[::2], turns[1::2], strict=False)
        pairs += [Pair(document.group, _tidy(prompt), _tidy(reply)) for prompt, reply in spoken]
    return pairs


def docstring_pairs(documents: Iterable[Document]) -> list[Pair]:
    """Return signatures of Python functions with the first line of their documentation.

    Parameters
    ----------
    documents : iterable of Document
        Source files.

    Raises
    ------
    PairError
        A file is not Python of this version.
    """
    pairs = []
    for document in documents:
        try:
            tree = ast.parse(document.text)
        except SyntaxError as error:
            raise PairError(
                f"{document.group} is not valid Python (line {error.lineno}): leave the file out"
            ) from None
        for name, function in _functions(tree):
            text = ast.get_docstring(function)
            if text and text.strip():
                question = f"def {name}({ast.unparse(function.args)})"
                answer = text.strip().splitlines()[0]
                pairs.append(Pair(document.group, _tidy(question), _tidy(answer)))
    return pairs


def _functions(
    node: ast.AST, inside: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield functions in the order of the file, methods named with their class."""
    for child in ast.iter_child_nodes(node):
        name = inside
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{inside}{child.name}", child
        elif isinstance(child, ast.ClassDef):
            name = f"{child.name}."
        yield from _functions(child, name)


def distinct(pairs: Iterable[Pair], *, min_words: int) -> list[Pair]:
    """Return pairs without short texts and without any question or answer that occurred before.

    Texts are the same when they differ in case and spaces only.
    """
    kept, questions, answers = [], set(), set()
    for pair in pairs:
        question, answer = pair.question.casefold(), pair.answer.casefold()
        short = min(len(_WORD.findall(text)) for text in (question, answer)) < min_words
        if short or question in questions or answer in answers or question == answer:
            continue
        questions.add(question)
        answers.add(answer)
        kept.append(pair)
    return kept


def require_distinct(pairs: Sequence[Pair]) -> None:
    """Refuse pairs (a user's own, say) in which a text occurs twice on one side.

    Raises
    ------
    PairError
        Names the first repeated text.
    """
    for what in ("question", "answer"):
        first: dict[str, int] = {}
        for number, pair in enumerate(pairs):
            text = _tidy(getattr(pair, what)).casefold()
            if text in first:
                raise PairError(
                    f"{what}s {first[text]} and {number} are the same ({text!r:.60}): a search "
                    "with two right answers cannot be scored, remove one of the pairs"
                )
            first[text] = number


def split_pairs(
    pairs: Sequence[Pair],
    sizes: Mapping[str, int],
    *,
    per_group: int,
    generator: np.random.Generator,
) -> dict[str, list[Pair]]:
    """Split pairs so that no group is in two splits.

    Parameters
    ----------
    pairs : sequence of Pair
        All pairs, without repetitions (`distinct`).
    sizes : mapping
        `SPLITS` -> pairs wanted.
    per_group : int
        Most pairs of one group.
    generator : numpy.random.Generator
        Source of the order of groups and of the choice inside a group.

    Returns
    -------
    dict
        `SPLITS` -> exactly as many pairs as asked for. Test is filled first, then val, so that more
        training pairs leave the pairs that are tested on as they are.

    Raises
    ------
    PairError
        Too few pairs or groups.
    """
    require_distinct(pairs)
    members: dict[str, list[Pair]] = {}
    for pair in pairs:
        members.setdefault(pair.group, []).append(pair)
    groups = sorted(members)
    order = iter([groups[i] for i in generator.permutation(len(groups))])
    parts: dict[str, list[Pair]] = {}
    for split in reversed(SPLITS):
        wanted, part = sizes[split], []
        for group in order:
            own = members[group]
            chosen = sorted(generator.permutation(len(own))[:per_group])
            part += [own[i] for i in chosen]
            if len(part) >= wanted:
                break
        if len(part) < wanted:
            raise PairError(
                f"the {len(pairs)} pairs of {len(groups)} sources are too few for {wanted} {split} "
                f"pairs beside the others: lower pairs.{split}, raise per_group or add texts"
            )
        parts[split] = part[:wanted]
    return {split: parts[split] for split in SPLITS}


def _tidy(text: str) -> str:
    return _SPACE.sub(" ", text).strip()
