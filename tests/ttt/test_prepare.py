from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from mneme.core.config import ConfigError, build
from mneme.core.corpora import Document, read_documents
from mneme.core.workflow import merge
from mneme.ttt.codec import Codec, byte_tokenizer
from mneme.ttt.corpus_config import KINDS, SPLITS, CorpusConfig, MarkovConfig
from mneme.ttt.material import text_material
from mneme.ttt.prepare import offensive, plays, prepare, split_of
from mneme.ttt.settings import TTTConfig

CONFIGS = Path(__file__).parents[2] / "config"

SETTINGS = {
    "tokenizer": "bpe",
    "vocabulary": 280,
    "sources": {"shakespeare": 0.5, "chitchat": 0.5},
    "train_share": 0.5,
    "validation_share": 0.25,
    "test_part": "last",
    "min_turns": 3,
    "drop_offensive": True,
    "limit": None,
    "harmless": ["god"],
    "seed": 0,
}
CONFIG = build(CorpusConfig, SETTINGS, where="corpus")
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "his", "god", "go", "home"]
CHAT = byte_tokenizer().replace("|user|", "|im_start|").replace("|end|", "|im_end|")


def documents():
    generator = np.random.default_rng(0)

    def text(joint, words):
        return joint.join(" ".join(generator.choice(WORDS, 4)) for _ in range(words))

    scenes = [Document(f"play{i % 8}", text("\n\n", 5)) for i in range(16)]
    talks = [Document(f"talk{i:02}", text("\n", 3 + i % 4)) for i in range(24)]
    return {"shakespeare": scenes, "chitchat": talks}


@pytest.fixture(scope="module")
def prepared():
    return prepare(documents(), CONFIG, tokenizer=None)


def texts_of(prepared):
    codec, arrays = Codec(prepared.tokenizer), prepared.arrays
    spans = np.split(arrays["ids"], arrays["offsets"][1:-1])
    return {str(n): codec.decode(ids) for n, ids in zip(arrays["names"], spans, strict=True)}


def rendered(text):
    marks = ("<|user|>", "<|assistant|>")
    return "".join(marks[i % 2] + line for i, line in enumerate(text.split("\n"))) + "<|end|>"


def test_every_document_comes_back(prepared):
    sources = documents()
    expected = plays(sources["shakespeare"])
    expected |= {talk.group: rendered(talk.text) for talk in sources["chitchat"]}
    assert texts_of(prepared) == expected


def test_scenes_of_a_play_are_joined_in_their_order():
    scenes = [Document("a", "one"), Document("b", "x"), Document("a", "two")]
    assert plays(scenes) == {"a": "one\n\ntwo", "b": "x"}


def test_parts_are_dealt_by_play_and_by_conversation(prepared):
    arrays = prepared.arrays
    for kind, sizes in zip(KINDS, ([4, 2, 2], [12, 6, 6]), strict=True):
        here = arrays["kind"] == KINDS.index(kind)
        assert np.bincount(arrays["split"][here]).tolist() == sizes
    assert len(set(arrays["names"])) == len(arrays["names"]) == 32
    assert len(set(arrays["group"])) == 32


def test_facts_count_what_the_arrays_hold(prepared):
    arrays, facts = prepared.arrays, prepared.facts
    assert facts["vocabulary"] == arrays["vocabulary"] == 280
    assert sum(row["tokens"] for row in facts["parts"]) == len(arrays["ids"])
    assert [row["documents"] for row in facts["parts"]] == [4, 2, 2, 12, 6, 6]
    row = facts["parts"][3]
    assert (row["kind"], row["split"]) == ("conversation", "train")
    here = {
        n
        for n, k, s in zip(arrays["names"], arrays["kind"], arrays["split"], strict=True)
        if (k, s) == (1, 0)
    }
    size = sum(len(talk.text) for talk in documents()["chitchat"] if talk.group in here)
    assert row["bytes_per_token"] == pytest.approx(size / row["tokens"])


def test_turns_point_at_marks(prepared):
    arrays = prepared.arrays
    codec = Codec(prepared.tokenizer)
    marked = np.flatnonzero(np.isin(arrays["ids"], [codec.marks.user[0], codec.marks.assistant[0]]))
    np.testing.assert_array_equal(arrays["turns"], marked)
    count = {talk.group: talk.text.count("\n") + 1 for talk in documents()["chitchat"]}
    wanted = [count.get(str(name), 0) for name in arrays["names"]]
    np.testing.assert_array_equal(np.diff(arrays["turn_offsets"]), wanted)


def test_the_vocabulary_sees_training_texts_only(prepared):
    arrays, sources = prepared.arrays, documents()
    held_out = set(arrays["names"][arrays["split"] != 0])
    changed = {
        source: [
            dataclasses.replace(d, text=d.text.replace("cat", "zebu")) if d.group in held_out else d
            for d in docs
        ]
        for source, docs in sources.items()
    }
    assert prepare(changed, CONFIG, tokenizer=None).tokenizer == prepared.tokenizer
    train = {
        source: [dataclasses.replace(d, text=d.text.replace("cat", "zebu")) for d in docs]
        for source, docs in sources.items()
    }
    assert prepare(train, CONFIG, tokenizer=None).tokenizer != prepared.tokenizer


def test_prepared_twice_is_the_same_and_the_seed_deals_anew(prepared):
    again = prepare(documents(), CONFIG, tokenizer=None)
    assert again.tokenizer == prepared.tokenizer
    assert again.facts == prepared.facts
    for name, value in prepared.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], value)
    other = prepare(documents(), dataclasses.replace(CONFIG, seed=1), tokenizer=None)
    assert not np.array_equal(other.arrays["split"], prepared.arrays["split"])


def test_left_out_conversations_move_no_other(prepared):
    sources = documents()
    talks = sources["chitchat"]
    talks[3] = Document(talks[3].group, "well\nshit\nyes")
    talks[9] = Document(talks[9].group, "well\nno")
    result = prepare(sources, CONFIG, tokenizer=None)
    facts = {k: result.facts[k] for k in ("dropped_short", "dropped_offensive")}
    assert facts == {"dropped_short": 1, "dropped_offensive": 1}
    before = dict(zip(prepared.arrays["names"], prepared.arrays["split"], strict=True))
    after = dict(zip(result.arrays["names"], result.arrays["split"], strict=True))
    assert before.keys() - after.keys() == {"talk03", "talk09"}
    assert all(before[name] == part for name, part in after.items())


def test_what_offends():
    listed = offensive(["god", "hell"])
    for text in (
        "Oh SHIT!",
        "sh1t",
        "what an a$s",
        "deep-throat",
        "deep  throat",
        "s.h.i.t",
        "5hit",
    ):
        assert listed.found(text), text
    for text in (
        "oh my god",
        "he'll go to hell",
        "class assembly",
        "Scunthorpe",
        "deep in my throat",
    ):
        assert not listed.found(text), text
    assert offensive([]).found("oh my god") == {"god"}
    with pytest.raises(ConfigError, match="harmless names qwerty"):
        offensive(["qwerty"])


def test_offensive_words_are_left_in_when_asked():
    sources = documents()
    sources["chitchat"][3] = Document("talk03", "well\nshit\nyes")
    kept = prepare(sources, dataclasses.replace(CONFIG, drop_offensive=False), tokenizer=None)
    assert kept.facts["dropped_offensive"] == 0
    assert texts_of(kept)["talk03"] == rendered("well\nshit\nyes")


def test_other_tokenizers_and_one_source():
    options = {"vocabulary": None, "sources": {"chitchat": 1.0}}
    config = dataclasses.replace(CONFIG, tokenizer="bytes", **options)
    result = prepare(documents(), config, tokenizer=None)
    assert result.facts["vocabulary"] == 259
    assert set(result.arrays["kind"]) == {1}
    config = dataclasses.replace(CONFIG, tokenizer="smollm2", **options)
    given = prepare({"chitchat": documents()["chitchat"]}, config, tokenizer=CHAT)
    assert given.tokenizer == CHAT
    assert texts_of(given)["talk00"].startswith("<|im_start|>user\n")
    with pytest.raises(ConfigError, match=r"needs the tokenizer\.json of SmolLM2"):
        prepare(documents(), config, tokenizer=None)


def test_splits_of_few_documents():
    for count in (3, 4, 5, 38):
        split = split_of(count, CONFIG, generator=np.random.default_rng(0))
        assert np.bincount(split, minlength=3).min() >= 1
    assert len(SPLITS) == 3
    with pytest.raises(ConfigError, match="holds 2 documents"):
        split_of(2, CONFIG, generator=np.random.default_rng(0))


@pytest.mark.parametrize("count", [3, 10, 37, 4000])
def test_no_document_is_for_tests_in_both_parts_and_validation_stays(count):
    shares = {"train_share": 0.65, "validation_share": 0.1}
    last, first = (
        split_of(
            count,
            dataclasses.replace(CONFIG, test_part=part, **shares),
            generator=np.random.default_rng(0),
        )
        for part in ("last", "first")
    )
    assert np.bincount(first).tolist() == np.bincount(last).tolist()
    assert not ((first == 2) & (last == 2)).any()
    assert (first[last == 2] == 0).all(), "what was read before is trained on"
    np.testing.assert_array_equal(first == 1, last == 1)


def test_too_few_to_train_on_for_another_test_part():
    with pytest.raises(ConfigError, match="test_part must be last, or there must be as many"):
        build(
            CorpusConfig,
            SETTINGS | {"test_part": "first", "train_share": 0.3},
            where="corpus",
        )
    tight = dataclasses.replace(CONFIG, train_share=0.34, validation_share=0.32, test_part="first")
    with pytest.raises(ConfigError, match="25 give 8 and 9: raise train_share"):
        split_of(25, tight, generator=np.random.default_rng(0))


def test_a_part_that_the_filter_empties_is_an_error():
    sources = documents()
    sources["chitchat"] = [Document(d.group, "a\nb") for d in sources["chitchat"]]
    with pytest.raises(ConfigError, match="no conversation is left for train"):
        prepare(sources, CONFIG, tokenizer=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": 258}, "vocabulary must be at least 259"),
        ({"vocabulary": None}, "vocabulary must be at least 259"),
        ({"tokenizer": "bytes"}, "vocabulary must be null for bytes"),
        ({"sources": {"python": 1.0}}, "sources must be some of shakespeare, chitchat"),
        ({"sources": {}}, "sources must be some of"),
        ({"sources": {"chitchat": 0.7}}, "sources must be shares above 0 with sum 1"),
        ({"train_share": 0.8}, "train_share must be below 1 together"),
        ({"validation_share": 0.0}, "validation_share must be between 0 and 1"),
        ({"min_turns": 1}, "min_turns must be at least 2"),
        ({"harmless": ["God"]}, "harmless must be in lower case"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        build(CorpusConfig, SETTINGS | change, where="corpus")


@pytest.mark.parametrize(("key", "value"), [("symbols", 1), ("concentration", 0.0)])
def test_wrong_chains_are_named(key, value):
    begin = {"steps": 0, "symbols": 2, "concentration": 0.1, "tokens": 8}
    good = {"symbols": 4, "concentration": 0.1, "seed": 0, "test_seed": 1, "begin": begin}
    with pytest.raises(ConfigError, match=f"markov.{key} must be"):
        build(MarkovConfig, good | {key: value}, where="markov")


def test_a_limit_keeps_the_first_plays_and_conversations():
    few = prepare(documents(), dataclasses.replace(CONFIG, limit=4), tokenizer=None)
    names = list(dict.fromkeys(plays(documents()["shakespeare"])))[:4]
    names += [talk.group for talk in documents()["chitchat"]][:4]
    assert set(texts_of(few)) == set(names)
    with pytest.raises(ConfigError, match="limit must be null or at least 3"):
        dataclasses.replace(CONFIG, limit=2)


# --- the real corpora


@pytest.fixture(scope="module")
def real_texts(corpora_dir):
    texts = {
        name: read_documents(corpora_dir / f"{name}.jsonl") for name in ("shakespeare", "chitchat")
    }
    made = {}

    def arrays(corpus):
        """Two sizes may ask for the same corpus: ten seconds."""
        if repr(corpus) not in made:
            made[repr(corpus)] = prepare(texts, corpus, tokenizer=None).arrays
        return made[repr(corpus)]

    return arrays


@pytest.mark.parametrize("size", ["config", "long", "gpu"])
def test_the_corpora_have_the_lengths_that_every_size_asks_for(real_texts, size):
    """Training and validation sequences, all test documents, and enough that allow contexts."""
    content = yaml.safe_load((CONFIGS / "config.yaml").read_text(encoding="utf-8"))
    overlay = yaml.safe_load((CONFIGS / f"{size}.yaml").read_text(encoding="utf-8"))
    room = build(TTTConfig, merge(content["ttt"], overlay["ttt"]), where="ttt")
    corpus, recipe = room.corpora["text"], room.recipe("text_second")
    material = text_material(real_texts(corpus), corpus)
    training, dynamic = recipe.training, room.context.dynamic
    wanted = (training.batch, training.tokens + 1)
    assert material.batch(0, room.seeds[0], training.batch, training.tokens).shape == wanted
    validation = material.validation(training.eval_documents, training.tokens)
    assert len(validation) == training.eval_documents
    assert len(material.validation(dynamic.documents, dynamic.tokens)) == dynamic.documents
    read = [one.tokens for one in room.context.sets.values() if one.kind == "play"]
    assert dynamic.tokens == min(read), "the rate is chosen at the length of the plays"
    for one in room.context.sets_of("text").values():
        needed = one.needed(recipe.model.receptive_field)
        if one.kind == "play":
            tokens_NT, groups_N = material.test_documents("play", one.tokens, one.documents)
            assert tokens_NT.shape == (one.documents, one.tokens + 1)
            assert one.tokens + 1 >= needed
            assert len(np.unique(groups_N)) >= 6
            continue
        ragged = material.test_conversations(one.least_tokens, one.tokens, one.documents)
        assert (ragged.lengths >= needed).sum() >= 16, "contexts of fewer tell nothing"
    trained = np.diff(material._arrays["offsets"])[material._arrays["split"] == 0].sum()
    passes = training.steps * training.batch * training.tokens / trained
    assert passes <= 6, "more is learnt by heart"
