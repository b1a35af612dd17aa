"""Splits are disjoint by group, spans are disjoint, small corpora are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.core.backbones import BackboneConfig
from mneme.core.config import ConfigError, build
from mneme.core.corpora import Document, read_documents
from mneme.core.workflow import merge
from mneme.nn.tokenizer import encoder, load_tokenizer
from mneme.routing.config import PrepareConfig, RoutingConfig
from mneme.routing.prepare import (
    Pool,
    Sizes,
    chunks_and_works,
    deal,
    domain_material,
    sizes_of,
    split_groups,
    tuple_material,
    tuples_and_works,
)

ROOT = Path(__file__).parents[2]
CONFIG = PrepareConfig(
    seed=0,
    train_chunks=3,
    train_tokens=8,
    train_share=0.3,
    calibration_share=0.3,
    chunk_tokens=8,
    calibration_chunks=6,
    loss_chunks=4,
    loss_tokens=8,
)


def encode(text: str) -> tuple[list[int], list[int]]:
    """Every word is a token that is a unique number; a line starts after each newline."""
    words = text.split()
    return [int(word) for word in words], list(range(0, len(words), 5))


def documents(groups: int, words: int) -> list[Document]:
    """Number all words of the corpus, so that no token occurs twice."""
    texts = np.arange(groups * words).reshape(groups, words)
    return [Document(f"group{i}", " ".join(map(str, row))) for i, row in enumerate(texts)]


def test_splits_share_no_group():
    generator = np.random.default_rng(0)
    texts = split_groups(documents(10, 5), CONFIG, generator=generator, name="prose")
    assert {name: len(part) for name, part in texts.items()} == {
        "train": 3,
        "calibration": 3,
        "test": 4,
    }
    assert len({d.group for part in texts.values() for d in part}) == 10


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), words=st.integers(20, 60))
def test_spans_of_every_kind_are_disjoint(seed, words):
    pool = Pool(
        documents(8, words),
        encode,
        generator=np.random.default_rng(seed),
        name="x",
    )
    spans = np.concatenate([pool.take(16, 4).ravel(), pool.take(5, 6).ravel()])
    assert len(set(spans.tolist())) == len(spans)


def test_spans_are_contiguous_text():
    pool = Pool(
        [Document("g", "0 1 2 3 4 5 6 7 8 9")], encode, generator=np.random.default_rng(0), name="x"
    )
    span = pool.take(4, 1)[0]
    assert span[0] in (0, 5)
    assert np.diff(span).tolist() == [1, 1, 1]


def test_short_documents_are_joined():
    pool = Pool([Document("g", "1 2 3")] * 4, encode, generator=np.random.default_rng(0), name="x")
    assert pool.take(10, 1).shape == (1, 10)


def test_material_keeps_splits_apart():
    arrays, pool = domain_material(documents(12, 80), encode, CONFIG, name="x")
    assert arrays["calibration"].shape == (6, 8)
    parts = [set((part // 80).ravel().tolist()) for part in arrays.values()]
    train, calibration, validation, test, loss = parts
    assert not train & (calibration | validation | test | loss)
    assert not (calibration | validation) & (test | loss)
    left = pool.take(8, 2)
    assert not set(left.ravel().tolist()) & set(arrays["loss"].ravel().tolist())


def test_held_out_chunks_name_their_works_and_are_the_same_without_them():
    arrays, works, _ = chunks_and_works(documents(12, 80), encode, CONFIG, name="x")
    alone, _ = domain_material(documents(12, 80), encode, CONFIG, name="x")
    assert {part: len(names) for part, names in works.items()} == {"test": 2, "loss": 4}
    for part, names in works.items():
        assert names.tolist() == [f"group{i}" for i in arrays[part][:, 0] // 80]
    assert all(np.array_equal(alone[part], arrays[part]) for part in arrays)


def test_too_small_and_empty_corpora_are_refused():
    pool = Pool([Document("g", "1 2 3")], encode, generator=np.random.default_rng(0), name="plays")
    with pytest.raises(ConfigError, match="corpus plays is too small: 2 spans of 5 tokens"):
        pool.take(5, 2)
    with pytest.raises(ConfigError, match="corpus of domain 'prose' holds 0 groups"):
        split_groups([], CONFIG, generator=np.random.default_rng(0), name="prose")


def test_more_training_chunks_change_nothing_else():
    one, _ = domain_material(documents(12, 80), encode, CONFIG, name="x")
    more = dataclasses.replace(CONFIG, train_chunks=6)
    two, _ = domain_material(documents(12, 80), encode, more, name="x")
    assert two["train"].shape == (6, 8)
    for part in ("calibration", "validation", "test", "loss"):
        np.testing.assert_array_equal(one[part], two[part])


def test_unopened_documents_come_first():
    pool = Pool(documents(6, 40), encode, generator=np.random.default_rng(0), name="x")
    _, groups = pool.take_grouped(8, 6)
    assert len(set(groups)) == 6


def test_dealing_keeps_groups_of_a_tuple_apart_when_it_can():
    used = [{"a"}, {"b"}, {"c"}]
    for seed in range(20):
        order = deal(["a", "b", "c"], used, generator=np.random.default_rng(seed))
        assert sorted(order) == [0, 1, 2]
        assert all("abc"[i] not in row for i, row in zip(order, used, strict=True))


def test_a_tuple_reads_different_documents():
    sizes = Sizes(tuples=4, segment_tokens=8, long_tokens=16)
    pools = {
        name: Pool(documents(20, 40), encode, generator=np.random.default_rng(i), name=name)
        for i, name in enumerate("xy")
    }
    arrays, works = tuples_and_works(pools, ("x", "y"), sizes, seed=0)
    assert arrays["a_long"].shape == (4, 16)
    assert set(works) == {f"works.{piece}" for piece in arrays}
    for piece, spans in arrays.items():
        assert works[f"works.{piece}"].tolist() == [f"group{i}" for i in spans[:, 0] // 40]
    for row in range(4):
        plays = [arrays[k][row, 0] // 40 for k in ("a_long", "a_other_long", "a1", "a2")]
        assert len(set(plays)) == 4


def test_joined_passages_are_of_no_named_work():
    sizes = Sizes(tuples=2, segment_tokens=8, long_tokens=8)
    pools = {
        name: Pool(documents(30, 5), encode, generator=np.random.default_rng(0), name=name)
        for name in "xy"
    }
    arrays, works = tuples_and_works(pools, ("x", "y"), sizes, seed=0)
    assert arrays["a1"].shape == (2, 8)
    assert works["works.a1"].tolist() == ["", ""]


def test_tuples_are_the_same_with_and_without_their_works():
    sizes = Sizes(tuples=3, segment_tokens=8, long_tokens=16)
    one, two = (
        {
            name: Pool(documents(20, 40), encode, generator=np.random.default_rng(1), name=name)
            for name in "xy"
        }
        for _ in range(2)
    )
    arrays, _ = tuples_and_works(one, ("x", "y"), sizes, seed=0)
    alone = tuple_material(two, ("x", "y"), sizes, seed=0)
    assert set(alone) == set(arrays)
    assert all(np.array_equal(alone[name], arrays[name]) for name in arrays)


def test_the_corpora_hold_the_two_hundred_tuples_that_long_asks_for(
    corpora_dir, embedded_model_dir
):
    """At its own shares, chunks and dwell, in the tokens of the embedded backbone."""
    base, more = (
        yaml.safe_load((ROOT / f"config/{name}.yaml").read_text(encoding="utf-8"))
        for name in ("config", "long")
    )
    config = build(RoutingConfig, merge(base, more)["routing"], where="routing")
    assert config.protocol.tuples == 200
    backbone = build(BackboneConfig, base["backbones"]["smollm2-135m"], where="backbone")
    encode = encoder(load_tokenizer(backbone, folder=embedded_model_dir.parents[1]))
    pools = {}
    for domain in config.domains:
        documents = read_documents(corpora_dir / f"{domain.corpus}.jsonl")
        _, pools[domain.name] = domain_material(documents, encode, config.prepare, name=domain.name)
    arrays, works = tuples_and_works(pools, config.pair, sizes_of(config), seed=0)
    assert {len(ids) for ids in arrays.values()} == {200}
    assert arrays["b_long"].shape == (200, 1024)
    # None had to be joined, and A2 is from as many plays as the test share has, or nearly.
    assert all((names != "").all() for names in works.values())
    assert len(set(works["works.a2"])) >= 20
