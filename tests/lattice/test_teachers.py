import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mneme.core.config import ConfigError
from mneme.lattice.retrieval import VectorError
from mneme.lattice.teacher_config import SyntheticConfig, TeacherConfig, cache_key
from mneme.lattice.teachers import (
    POOLING,
    embed,
    load_teacher,
    overlong,
    pooled,
    tokens_hash,
    weights_hash,
)
from mneme.nn.hub import BackboneError
from mneme.nn.tokenizer import byte_tokenizer

CPU = torch.device("cpu")
MADE_BY = {
    **{"code": "c", "torch": "2.0", "transformers": "4.0"},
    **{"device": "cpu", "threads": 1, "batch": 4},
}
TEXTS = ["one", "a much longer text than that", "two words", "zz"]


def config(folder, **changes):
    settings = {
        "source": "local",
        "synthetic": None,
        "name": str(folder),
        "revision": None,
        "dtype": "float32",
        "layers": (-1,),
        "max_tokens": 16,
        "normalise": False,
        "license_url": "",
    }
    return TeacherConfig(**(settings | changes))


@pytest.fixture(name="folders", scope="module")
def _folders(tmp_path_factory):
    """Save a tiny encoder (with the vocabulary of bytes) and a tiny causal model."""
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

    sizes = {
        "vocab_size": 260,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    made = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = {
            "bert": BertModel(BertConfig(**sizes), add_pooling_layer=False),
            "llama": LlamaForCausalLM(LlamaConfig(**sizes)),
        }
    for name, model in models.items():
        made[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(made[name])
        byte_tokenizer().save_pretrained(made[name])
    return made


def teacher(folder, **changes):
    return load_teacher(config(folder, **changes), device=CPU, resources=folder)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_vectors_are_masked_means_of_each_text_alone(folders, kind):
    made = teacher(folders[kind], layers=(0, 2, -1))
    assert made.width == 48
    vectors = embed(made, TEXTS, batch=3)
    assert vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = torch.tensor([made.tokenizer(text)["input_ids"][:16]])
        with torch.no_grad():
            states = made.model(ids, output_hidden_states=True).hidden_states
        slow = torch.cat([states[layer][0].mean(0) for layer in (0, 2, 3)])
        np.testing.assert_allclose(vector, slow.numpy(), atol=1e-5)


def test_order_and_batches_do_not_matter(folders):
    made = teacher(folders["llama"])
    once = embed(made, TEXTS, batch=4)
    np.testing.assert_allclose(embed(made, TEXTS, batch=1), once, atol=1e-5)
    np.testing.assert_allclose(embed(made, TEXTS[::-1], batch=2), once[::-1], atol=1e-5)


def test_padding_never_counts_whatever_it_holds():
    states = [torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).half()]
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    clean = pooled(states, mask, config("x", layers=(0,)))
    states[0][0, 3:] = float("inf")
    dirty = pooled(states, mask, config("x", layers=(0,)))
    assert torch.equal(clean, dirty)
    assert clean.dtype == torch.float32
    torch.testing.assert_close(clean[0], states[0][0, :3].float().mean(0))


def test_each_layer_is_normalised_by_itself(folders):
    plain = embed(teacher(folders["bert"], layers=(1, 3)), TEXTS, batch=4)
    unit = embed(teacher(folders["bert"], layers=(1, 3), normalise=True), TEXTS, batch=4)
    expected = F.normalize(torch.from_numpy(plain).unflatten(1, (2, 16)), dim=2).flatten(1)
    np.testing.assert_allclose(unit, expected.numpy(), atol=1e-6)


def test_half_precision_comes_back_in_float32(folders):
    full = embed(teacher(folders["llama"]), TEXTS, batch=4)
    half = embed(teacher(folders["llama"], dtype="bfloat16"), TEXTS, batch=4)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, full, atol=0.1)
    assert not np.array_equal(half, full)


def test_the_cache_key_changes_with_everything(folders):
    base, loaded = config("model"), teacher(folders["bert"])
    weights, tokens = weights_hash(loaded.model), tokens_hash(loaded, TEXTS)

    def key(texts=TEXTS, teacher=base, **changes):
        told = {"weights": weights, "tokens": tokens, "pooling": POOLING, "made_by": MADE_BY}
        return cache_key(texts, teacher, **(told | changes))

    keys = [key()]
    assert key(list(TEXTS), config("model")) == keys[0]
    for texts in (TEXTS[::-1], [*TEXTS[:3], "z"], TEXTS[:3], ["onea much", *TEXTS[2:]]):
        keys.append(key(texts))
    changes = (
        {"name": "other"},
        {"layers": (-2,)},
        {"layers": (-1, -1)},
        {"dtype": "bfloat16"},
        {"max_tokens": 15},
        {"normalise": True},
        {"source": "hub"},
        {"source": "hub", "revision": "a" * 40},
    )
    for change in changes:
        keys.append(key(teacher=dataclasses.replace(base, **change)))
    for name, value in MADE_BY.items():
        keys.append(key(made_by={**MADE_BY, name: value * 2}))
    keys += [key(weights=weights[::-1]), key(tokens=tokens[::-1]), key(pooling="last token")]
    keys += [key(["a", "b"]), key(["a b"])]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)


def test_the_hash_of_tokens_stands_for_the_tokenizer(folders, tmp_path):
    made = teacher(folders["bert"])
    before = tokens_hash(made, TEXTS)
    assert before == tokens_hash(teacher(folders["bert"]), list(TEXTS))
    assert before != tokens_hash(made, TEXTS[::-1])
    assert before != tokens_hash(teacher(folders["bert"], max_tokens=4), TEXTS)
    shutil.copytree(folders["bert"], tmp_path / "lower")
    path = tmp_path / "lower" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["normalizer"] is None
    content["normalizer"] = {"type": "Replace", "pattern": {"String": "z"}, "content": "y"}
    path.write_text(json.dumps(content), encoding="utf-8")
    other = teacher(tmp_path / "lower")
    assert weights_hash(other.model) == weights_hash(made.model)
    assert tokens_hash(other, TEXTS) != before, "the same weights behind another tokenizer"
    assert tokens_hash(other, TEXTS[:3]) == tokens_hash(made, TEXTS[:3]), "no z in these"


def test_texts_that_are_cut_are_counted(folders):
    made = teacher(folders["bert"], max_tokens=5)
    lengths = [len(made.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert overlong(made, TEXTS) == sum(length > 5 for length in lengths) == 2
    assert overlong(teacher(folders["bert"], max_tokens=max(lengths)), TEXTS) == 0


def test_the_hash_of_weights_sees_one_bit(folders):
    made = teacher(folders["bert"]).model
    before = weights_hash(made)
    assert before == weights_hash(teacher(folders["bert"]).model)
    assert before != weights_hash(teacher(folders["llama"]).model)
    weight = made.get_input_embeddings().weight
    weight[3, 2] = torch.nextafter(weight[3, 2], torch.tensor(9.0))
    assert weights_hash(made) != before
    assert weights_hash(made.bfloat16()) != before


def test_one_sentence_for_what_cannot_be_had(folders, tmp_path):
    with pytest.raises(ConfigError, match="layers must be -4 to 3"):
        teacher(folders["bert"], layers=(4,))
    with pytest.raises(BackboneError, match="holds no saved model"):
        teacher(tmp_path)
    with pytest.raises(VectorError, match="text 1 is empty"):
        embed(teacher(folders["bert"]), ["a", " "], batch=2)
    made = teacher(folders["bert"])
    made.model.embeddings.word_embeddings.weight.fill_(torch.nan)
    with pytest.raises(VectorError, match="gave NaN or infinity for 4 texts"):
        embed(made, TEXTS, batch=4)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"layers": ()}, "layers"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"revision": "x"}, "revision"),
        ({"source": "synthetic"}, "synthetic"),
        ({"synthetic": SyntheticConfig(width=2, rho=0.5, seed=0)}, "synthetic"),
    ],
)
def test_settings_out_of_range(changes, key):
    with pytest.raises(ConfigError, match=key):
        config("x", **changes)


@pytest.mark.parametrize(("name", "value"), [("width", 0), ("rho", 1.5)])
def test_drawn_vectors_out_of_range(name, value):
    with pytest.raises(ConfigError, match=name):
        SyntheticConfig(**({"width": 2, "rho": 0.5, "seed": 0} | {name: value}))
