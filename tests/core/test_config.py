"""Settings: every mistake is one named sentence; what is built can be written out again."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.core.config import ConfigError, build, describe, fingerprint, plain, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    """A nested block."""

    rate: float
    """Learning rate, in (0, 1)."""
    mode: Literal["slow", "fast"]
    """How."""

    def __post_init__(self) -> None:
        require(0 < self.rate < 1, "rate", "in (0, 1)", self.rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    """A block with every kind of field."""

    count: int
    """How many."""
    flag: bool
    """Whether."""
    name: str | None
    """Name, or null."""
    sizes: tuple[int, ...]
    """Sizes, tokens."""
    pair: tuple[str, str]
    """Two names."""
    inner: Inner
    """A block."""
    named: dict[str, Inner]
    """Blocks by name."""
    listed: tuple[Inner, ...]
    """Blocks in a list."""
    extra: Any
    """Anything."""


INNER = {"rate": 0.5, "mode": "slow"}
GOOD = {
    "count": 3,
    "flag": True,
    "name": None,
    "sizes": [1, 2],
    "pair": ["a", "b"],
    "inner": INNER,
    "named": {"x": INNER},
    "listed": [INNER],
    "extra": [1, "two"],
}


def test_builds_immutable_settings_from_yaml_values():
    built = build(Outer, GOOD, where="outer")
    inner = Inner(rate=0.5, mode="slow")
    assert built == Outer(
        count=3,
        flag=True,
        name=None,
        sizes=(1, 2),
        pair=("a", "b"),
        inner=inner,
        named={"x": inner},
        listed=(inner,),
        extra=[1, "two"],
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        built.count = 4


def test_a_whole_number_is_a_float_where_one_is_asked():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Block:
        x: float

    built = build(Block, {"x": 2}, where="b")
    assert built.x == 2.0
    assert isinstance(built.x, float)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cuont": 1}, "outer.cuont is not a known key; did you mean 'count'? Expected: count, "),
        ({"zzz": 1}, "outer.zzz is not a known key Expected: count, flag"),
        (
            {"count": "3"},
            "outer.count must be int, got '3' (YAML reads 1e-4 as text: write 1.0e-4)",
        ),
        ({"count": "three"}, "outer.count must be int, got 'three'"),
        ({"count": True}, "outer.count must be int, got True"),
        ({"count": 3.0}, "outer.count must be int, got 3.0"),
        ({"count": None}, "outer.count must be int, got None"),
        ({"flag": 1}, "outer.flag must be bool, got 1"),
        ({"flag": "yes"}, "outer.flag must be bool, got 'yes'"),
        ({"name": 7}, "outer.name must be str, got 7"),
        ({"sizes": 4}, "outer.sizes must be a list, got 4"),
        ({"sizes": [1, "2"]}, "outer.sizes[1] must be int, got '2'"),
        ({"pair": ["a"]}, "outer.pair must be a list of 2 entries, got ['a']"),
        ({"count": 2**63}, "outer.count must be within 64 bits, got 9223372036854775808"),
        (
            {"count": 1 << 20000},
            "outer.count must be within 64 bits, got a number of thousands of digits",
        ),
        ({"inner": {**INNER, "rate": 10**400}}, "outer.inner.rate must be within 64 bits, got 10"),
        ({"inner": {**INNER, "rate": float("nan")}}, "outer.inner.rate must be finite, got nan"),
        ({"inner": {**INNER, "rate": float("-inf")}}, "outer.inner.rate must be finite, got -inf"),
        ({"count": "x" * 5000}, f"outer.count must be int, got '{'x' * 299}..."),
        ({"a\nb": 1}, r"outer.'a\nb' is not a known key Expected: count, "),
        ({None: 1}, "outer.None is not a known key Expected: count, "),
        ({"named": {"a\nb": 5}}, r"outer.named.'a\nb' must be a block of keys, got 5"),
        (
            {"named": {1: INNER}},
            "outer.named must be named by text (in quotes, where YAML reads it otherwise), got 1",
        ),
        ({"inner": 5}, "outer.inner must be a block of keys, got 5"),
        ({"inner": {**INNER, "rate": 1.5}}, "outer.inner.rate must be in (0, 1), got 1.5"),
        ({"inner": {**INNER, "mode": "Fast"}}, "outer.inner.mode must be one of 'slow', 'fast'"),
        ({"inner": {"mode": "fast"}}, "outer.inner.rate is missing: add it to the configuration"),
        ({"named": []}, "outer.named must be a block of named entries, got []"),
        (
            {"named": {"x": {**INNER, "rat": 1}}},
            "outer.named.x.rat is not a known key; did you mean",
        ),
        (
            {"listed": [INNER, {**INNER, "rate": 0}]},
            "outer.listed[1].rate must be in (0, 1), got 0",
        ),
    ],
)
def test_every_mistake_names_key_rule_and_value(change, sentence):
    with pytest.raises(ConfigError) as error:
        build(Outer, {**GOOD, **change}, where="outer")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", sorted(GOOD))
def test_every_missing_key_is_named(key):
    with pytest.raises(ConfigError, match=rf"outer\.{key} is missing"):
        build(Outer, {k: v for k, v in GOOD.items() if k != key}, where="outer")


@pytest.mark.parametrize("mapping", [None, [], "text", 3])
def test_a_block_must_be_a_mapping(mapping):
    with pytest.raises(ConfigError, match="outer must be a block of keys"):
        build(Outer, mapping, where="outer")


def test_one_and_true_are_not_the_same_choice():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Block:
        x: Literal[0, 1]

    assert build(Block, {"x": 1}, where="b").x == 1
    with pytest.raises(ConfigError, match="must be one of 0, 1, got True"):
        build(Block, {"x": True}, where="b")


whole = st.integers(-(2**63) + 1, 2**63 - 1)
names = st.text("abcdefgh_", min_size=1, max_size=6)
inners = st.builds(
    Inner,
    rate=st.floats(0.001, 0.999),
    mode=st.sampled_from(["slow", "fast"]),
)
outers = st.builds(
    Outer,
    count=whole,
    flag=st.booleans(),
    name=st.none() | names,
    sizes=st.lists(whole, max_size=3).map(tuple),
    pair=st.tuples(names, names),
    inner=inners,
    named=st.dictionaries(names, inners, max_size=3),
    listed=st.lists(inners, max_size=3).map(tuple),
    extra=st.none() | st.integers() | st.lists(names, max_size=2),
)


@settings(max_examples=50, deadline=None)
@given(outers)
def test_settings_survive_being_written_as_json(value):
    written = json.loads(json.dumps(plain(value)))
    assert build(Outer, written, where="outer") == value
    assert plain(build(Outer, written, where="outer")) == written


@settings(max_examples=50, deadline=None)
@given(outers, st.randoms(use_true_random=False))
def test_fingerprint_ignores_the_order_of_keys_only(value, random):
    items = list(plain(value).items())
    random.shuffle(items)
    assert fingerprint(dict(items)) == fingerprint(value)
    assert fingerprint(dataclasses.replace(value, count=value.count + 1)) != fingerprint(value)


def test_fingerprint_refuses_nan():
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"x": float("nan")})


def test_describe_lists_every_key_with_type_and_docstring():
    rows = {row.key: row for row in describe(Outer, where="outer")}
    assert list(rows) == [
        "outer.count",
        "outer.flag",
        "outer.name",
        "outer.sizes",
        "outer.pair",
        "outer.inner",
        "outer.inner.rate",
        "outer.inner.mode",
        "outer.named",
        "outer.named.<name>.rate",
        "outer.named.<name>.mode",
        "outer.listed",
        "outer.listed[].rate",
        "outer.listed[].mode",
        "outer.extra",
    ]
    assert rows["outer.inner.rate"].doc == "Learning rate, in (0, 1)."
    assert rows["outer.inner.rate"].type == "float"
    assert rows["outer.name"].type == "str | None"
    assert rows["outer.inner.mode"].type == "Literal['slow', 'fast']"
