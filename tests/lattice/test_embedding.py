import numpy as np
import pytest
import torch
import transformers

from mneme.core.config import plain
from mneme.core.seeds import torch_generator
from mneme.lattice import teachers
from mneme.lattice.cache import CacheError
from mneme.lattice.embedding import embed_columns
from mneme.lattice.stages_prepare import EmbedStageConfig
from mneme.lattice.synthetic import drawn, related_vectors
from mneme.lattice.teacher_config import SyntheticConfig, TeacherConfig
from mneme.nn.tokenizer import byte_tokenizer

CPU = torch.device("cpu")
COLUMNS = {
    "train_questions": ["one", "a longer text", "x"],
    "train_answers": ["two", "y", "another text"],
    "test_questions": ["three"],
    "test_answers": ["four four"],
}


@pytest.fixture(name="model", scope="module")
def _model(tmp_path_factory):
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = BertModel(
            BertConfig(vocab_size=260, num_attention_heads=2, **sizes), add_pooling_layer=False
        )
    made.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def config(model, resources, *, batch=3, **changes):
    settings = {
        "source": "local",
        "synthetic": None,
        "name": str(model),
        "revision": None,
        "dtype": "float32",
        "layers": (-1,),
        "max_tokens": 10,
        "normalise": True,
        "license_url": "",
    }
    teacher = TeacherConfig(**(settings | changes))
    return EmbedStageConfig(name="tiny", teacher=teacher, resources=str(resources), batch=batch)


def synthetic(**changes):
    return SyntheticConfig(**({"width": 2000, "rho": 0.5, "seed": 0} | changes))


def test_every_text_has_its_own_vector(model, tmp_path):
    told = config(model, tmp_path)
    arrays, facts = embed_columns({"pairs": COLUMNS}, told, device=CPU)
    teacher = teachers.load_teacher(told.teacher, device=CPU, resources=tmp_path)
    assert list(arrays) == list(COLUMNS)
    for name, texts in COLUMNS.items():
        alone = teachers.embed(teacher, texts, batch=1)
        np.testing.assert_allclose(arrays[name], alone, atol=1e-6)
    assert (facts["dim"], facts["texts"], facts["bytes"]) == (8, 8, 8 * 8 * 4)
    own = facts["sets"]["pairs"]
    known = {"texts": 8, "cut": 2, "kept": False, "reason": None}
    assert {name: own[name] for name in known} == known
    assert (tmp_path / "embeddings" / f"{own['key']}.npy").is_file()


def test_a_further_set_leaves_the_others_as_they_are(model, tmp_path):
    told = config(model, tmp_path)
    alone, facts = embed_columns({"pairs": COLUMNS}, told, device=CPU)
    eight = {"eight_questions": ["a question", "b"], "eight_answers": ["answers", "cd"]}
    both, more = embed_columns({"pairs": COLUMNS, "eight": eight}, told, device=CPU)
    assert list(both) == [*COLUMNS, *eight]
    assert all(np.array_equal(both[name], alone[name]) for name in COLUMNS)
    assert [told["texts"] for told in more["sets"].values()] == [8, 4]
    assert more["texts"] == 12
    assert [told["kept"] for told in more["sets"].values()] == [True, False]
    keys = [told["key"] for told in more["sets"].values()]
    assert keys[0] == facts["sets"]["pairs"]["key"] != keys[1]


def test_a_second_time_nothing_is_embedded(model, tmp_path, monkeypatch):
    first, facts = embed_columns({"pairs": COLUMNS}, config(model, tmp_path), device=CPU)

    def refuse(*args, **kwargs):
        raise AssertionError("embedded again")

    monkeypatch.setattr(teachers, "embed", refuse)
    again, known = embed_columns({"pairs": COLUMNS}, config(model, tmp_path), device=CPU)
    assert known["sets"]["pairs"]["kept"]
    assert known["sets"]["pairs"]["key"] == facts["sets"]["pairs"]["key"]
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array)
    for other in ({"batch": 2}, {"normalise": False}, {"max_tokens": 9}):
        with pytest.raises(AssertionError, match="embedded again"):
            embed_columns({"pairs": COLUMNS}, config(model, tmp_path, **other), device=CPU)
    more = {**COLUMNS, "more": ["text"]}
    with pytest.raises(AssertionError, match="embedded again"):
        embed_columns({"pairs": more}, config(model, tmp_path), device=CPU)


@pytest.mark.parametrize("changed", ["torch", "transformers", "pooling", "tokens", "weights"])
def test_vectors_of_other_libraries_or_files_are_not_taken(model, tmp_path, monkeypatch, changed):
    def made():
        told = embed_columns({"pairs": COLUMNS}, config(model, tmp_path), device=CPU)[1]
        return told["sets"]["pairs"]

    first, again = made(), made()
    assert (first["key"], again["kept"]) == (again["key"], True)
    if changed == "pooling":
        monkeypatch.setattr(teachers, "POOLING", "last token")
    elif changed in ("tokens", "weights"):
        monkeypatch.setattr(teachers, f"{changed}_hash", lambda *given: "0" * 64)
    else:
        library = {"torch": torch, "transformers": transformers}[changed]
        monkeypatch.setattr(library, "__version__", "9.9.9")
    other = made()
    assert other["key"] != first["key"]
    assert not other["kept"]


def test_damaged_kept_vectors_are_never_used(model, tmp_path):
    def key():
        made = embed_columns({"pairs": COLUMNS}, config(model, tmp_path), device=CPU)
        return made[1]["sets"]["pairs"]["key"]

    first = key()
    path = tmp_path / "embeddings" / f"{first}.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CacheError, match="is damaged"):
        key()
    path.unlink()
    assert key() == first
    assert path.is_file()


def test_drawn_vectors_need_no_model_and_are_not_kept(model, tmp_path):
    told = config(model, tmp_path, source="synthetic", synthetic=synthetic())
    arrays, facts = embed_columns({"pairs": COLUMNS}, told, device=CPU)
    assert {name: len(array) for name, array in arrays.items()} == {
        name: len(texts) for name, texts in COLUMNS.items()
    }
    assert facts["texts"] == facts["sets"]["pairs"]["texts"] == 8
    assert facts["sets"]["pairs"]["key"] is None
    assert facts["sets"]["pairs"]["reason"]
    assert not list(tmp_path.iterdir())
    assert plain(told)["teacher"]["synthetic"] == {"width": 2000, "rho": 0.5, "seed": 0}


def test_drawn_answers_have_the_asked_cosine_and_splits_are_apart():
    vectors = drawn(COLUMNS, synthetic())
    cosine = (vectors["train_questions"] * vectors["train_answers"]).sum(1)
    np.testing.assert_allclose(cosine, 0.5, atol=0.1)  # deviation .75 / sqrt(2000) = .02
    assert all(array.dtype == np.float32 for array in vectors.values())
    more = drawn({**COLUMNS, "train_questions": [""] * 9, "train_answers": [""] * 9}, synthetic())
    np.testing.assert_array_equal(more["test_answers"], vectors["test_answers"])
    assert abs(float(vectors["train_questions"][0] @ vectors["test_questions"][0])) < 0.1
    other = drawn(COLUMNS, synthetic(seed=1))
    assert not np.array_equal(other["test_answers"], vectors["test_answers"])
    same = related_vectors(4, 6, 1.0, generator=torch_generator(0, "test"))
    torch.testing.assert_close(*same)
