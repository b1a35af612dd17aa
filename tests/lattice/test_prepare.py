from pathlib import Path

import numpy as np
import pytest
import yaml

from mneme.core.config import ConfigError
from mneme.core.corpora import Document, read_documents
from mneme.core.seeds import numpy_generator
from mneme.core.workflow import merge
from mneme.lattice.own_pairs import OWN_PAIRS, own_columns
from mneme.lattice.prepare import (
    Pair,
    PairError,
    PairsConfig,
    columns_of,
    dialogue_pairs,
    distinct,
    docstring_pairs,
    prepare,
    require_distinct,
    split_pairs,
)

CONFIG = Path(__file__).parents[2] / "config"
SIZES = {"train": 10, "val": 4, "test": 6}
SETTINGS = {"min_words": 2, "per_group": {"chat": 2, "code": 3}, **SIZES, "seed": 0}

CODE = '''
class Shelf:
    """Not a function."""

    def take(self, count, *, sorted=False) -> list:
        """
        Return the first  books.

        More of it.
        """
        def inner(x):
            """Help the outer one."""

    def silent(self):
        pass

    def blank(self):
        """ """

async def fetch(url="a"):
    """Fetch it."""
'''


def config(**changes):
    return PairsConfig(**(SETTINGS | changes))


def many(groups=20, each=3):
    return [
        Pair(f"g{g}", f"question {g} {i}", f"answer {g} {i}")
        for g in range(groups)
        for i in range(each)
    ]


def split(pairs, seed=0, per_group=2, **sizes):
    generator = numpy_generator(seed, "pairs")
    return split_pairs(pairs, SIZES | sizes, per_group=per_group, generator=generator)


def documents(count=12, each=6):
    """Return made-up conversations and source files; the turns of two of them are the same."""
    chats, files = [], []
    for d in range(count):
        turns = [f"turn {d % (count - 1)} {i} is said" for i in range(2 * each)]
        chats.append(Document(f"chat {d}", "\n".join(turns)))
        functions = [f'def f{d}_{i}(x):\n    """Return number {d} {i}."""\n' for i in range(each)]
        files.append(Document(f"file{d}.py", "\n".join(functions)))
    return {"chitchat": chats, "python": files}


def test_replies_follow_their_prompts_and_no_turn_is_in_two_pairs():
    made = dialogue_pairs([Document("c1", "a b\nc  d\ne f\ng h\ni j"), Document("c2", "k\nl")])
    assert made == [Pair("c1", "a b", "c d"), Pair("c1", "e f", "g h"), Pair("c2", "k", "l")]


def test_signatures_have_the_first_line_of_their_documentation():
    assert docstring_pairs([Document("shelf.py", CODE)]) == [
        Pair("shelf.py", "def Shelf.take(self, count, *, sorted=False)", "Return the first books."),
        Pair("shelf.py", "def Shelf.inner(x)", "Help the outer one."),
        Pair("shelf.py", "def fetch(url='a')", "Fetch it."),
    ]


def test_repeated_and_short_texts_are_left_out():
    kept = Pair("g", "a b", "c d")
    pairs = [
        kept,
        Pair("h", "A b", "e f"),
        Pair("h", "g h", "C D"),
        Pair("h", "i", "j k"),
        Pair("h", "l m", "n"),
        Pair("h", "o p", "O p"),
        Pair("h", "q r", "s t"),
    ]
    assert distinct(pairs, min_words=2) == [kept, pairs[-1]]


def test_no_source_is_in_two_splits_and_sizes_are_as_asked():
    parts = split(many())
    assert {name: len(part) for name, part in parts.items()} == {"train": 10, "val": 4, "test": 6}
    groups = [{pair.group for pair in part} for part in parts.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))
    for part in parts.values():
        counts = [sum(p.group == group for p in part) for group in {p.group for p in part}]
        assert max(counts) <= 2
    assert split(many()) == parts
    assert split(many(), seed=1) != parts


def test_more_training_pairs_leave_the_tested_ones_alone():
    few, more = split(many(), train=5), split(many(), train=20)
    assert few["test"] == more["test"]
    assert few["val"] == more["val"]
    assert few["train"] == more["train"][:5]


def test_both_kinds_have_half_of_every_split():
    parts = prepare(documents(), config())
    assert [(name, len(part)) for name, part in parts.items()] == list(SIZES.items())
    sources = {}
    for name, part in parts.items():
        assert [pair.group.startswith("chat") for pair in part] == [True, False] * (len(part) // 2)
        counts = {group: sum(p.group == group for p in part) for group in {p.group for p in part}}
        assert all(n <= (2 if group.startswith("chat") else 3) for group, n in counts.items())
        assert not set(counts) & set(sources)
        sources |= dict.fromkeys(counts, name)
    require_distinct([pair for part in parts.values() for pair in part])
    assert prepare(documents(), config()) == parts
    assert prepare(documents(), config(seed=1)) != parts
    assert prepare(documents(), config(train=12))["test"] == parts["test"]


def test_texts_are_listed_by_split_and_side():
    parts = {"val": [("g", "q1", "a1"), ("g", "q2", "a2")], "train": [], "test": [("h", "q", "a")]}
    assert columns_of(parts) == {
        "train_questions": [],
        "train_answers": [],
        "val_questions": ["q1", "q2"],
        "val_answers": ["a1", "a2"],
        "test_questions": ["q"],
        "test_answers": ["a"],
    }
    assert next(iter(columns_of(parts))) == "train_questions"


@pytest.fixture(scope="module")
def real_documents(corpora_dir):
    return {name: read_documents(corpora_dir / f"{name}.jsonl") for name in ("chitchat", "python")}


@pytest.mark.parametrize("size", ["long", "gpu"])
def test_the_corpora_give_the_larger_sizes_their_pairs(real_documents, size):
    content = yaml.safe_load((CONFIG / "config.yaml").read_text(encoding="utf-8"))
    overlay = yaml.safe_load((CONFIG / f"{size}.yaml").read_text(encoding="utf-8"))
    asked = PairsConfig(**merge(content["lattice"], overlay["lattice"])["pairs"])
    parts = prepare(real_documents, asked)
    assert {name: len(part) for name, part in parts.items()} == {
        "train": asked.train,
        "val": asked.val,
        "test": asked.test,
    }
    answers = [pair.answer.casefold() for part in parts.values() for pair in part]
    assert len(answers) == len(set(answers))


def test_our_own_eight_pairs_are_eight():
    assert len(OWN_PAIRS) == 8
    require_distinct(OWN_PAIRS)
    assert all(np.char.count(pair.answer, " ") > 5 for pair in OWN_PAIRS)
    columns = own_columns()
    assert list(columns) == ["eight_questions", "eight_answers"]
    for number, pair in enumerate(OWN_PAIRS):
        assert [texts[number] for texts in columns.values()] == [pair.question, pair.answer]


def test_one_sentence_for_pairs_that_cannot_be_used():
    twice = [
        Pair("a", "one", "Same thing"),
        Pair("b", "two", "other"),
        Pair("c", "x", "same  thing"),
    ]
    with pytest.raises(PairError, match=r"answers 0 and 2 are the same \('same thing'\)"):
        require_distinct(twice)
    with pytest.raises(PairError, match="questions 0 and 1 are the same"):
        split([Pair("a", "one", "1"), Pair("b", "One ", "2")])
    with pytest.raises(PairError, match=r"too few for 10 train pairs .* lower pairs.train"):
        split(many(groups=7))
    with pytest.raises(PairError, match=r"bad\.py is not valid Python \(line 1\)"):
        docstring_pairs([Document("bad.py", "def (")])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train", 0),
        ("val", 3),
        ("test", 1),
        ("min_words", 0),
        ("per_group", {"chat": 4}),
        ("per_group", {"chat": 4, "code": 0}),
    ],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ConfigError, match=name):
        config(**{name: value})
