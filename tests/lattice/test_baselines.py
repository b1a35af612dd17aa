import math

import numpy as np
import pytest
import torch

from mneme.core.corpora import read_documents
from mneme.lattice.baselines import (
    bm25_scores,
    fit_pca,
    fit_scaled_pca,
    random_projection,
    tfidf_scores,
    truncation,
    words,
)
from mneme.lattice.retrieval import VectorError, reconstruction, spread
from mneme.lattice.teacher_config import TeacherConfig
from mneme.lattice.teachers import embed, load_teacher


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def planted(count, seed):
    """Return vectors in a plane of three dimensions of ten, off the origin."""
    basis = np.linalg.qr(normal(10, 3, seed=9))[0]
    return normal(count, 3, seed=seed) * [5, 3, 2] @ basis.T + 4


def test_pca_finds_the_planted_plane():
    codec = fit_pca(planted(200, 0), 3)
    held_out = planted(50, 1)
    quality = reconstruction(held_out, codec.decode(codec.encode(held_out)), codec.mean_D)
    assert quality["r2"] == pytest.approx(1)
    scatter = np.cov(codec.encode(planted(200, 0)).T)
    np.testing.assert_allclose(scatter, np.diag(np.diag(scatter)), atol=1e-10)
    assert (np.diff(np.diag(scatter)) < 0).all()


def test_pca_against_the_eigenvectors_of_the_covariance():
    train = normal(80, 6) @ normal(6, 6, seed=1)
    codec = fit_pca(train, 2)
    vectors = np.linalg.eigh(np.cov(train.T))[1][:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(vectors.T @ codec.encode_DS), np.eye(2), atol=1e-10)


def test_pca_is_fitted_on_train_only():
    """What it makes of a vector does not depend on which others are encoded with it."""
    codec = fit_pca(planted(200, 0), 3)
    held_out = planted(50, 1)
    alone = np.concatenate([codec.encode(row[None]) for row in held_out])
    np.testing.assert_allclose(codec.encode(held_out), alone, atol=1e-12)
    np.testing.assert_array_equal(codec.mean_D, planted(200, 0).mean(0))
    moved = codec.encode(held_out + 100.0)  # far away: seen with the old mean and axes
    np.testing.assert_allclose(moved, alone + 100 * codec.encode_DS.sum(0), atol=1e-10)


def test_random_projections_keep_lengths_on_average():
    x = normal(1, 100)
    ratios = []
    for seed in range(200):
        codec = random_projection(100, 20, generator=np.random.default_rng(seed))
        ratios.append(np.square(codec.encode(x)).sum() / np.square(x).sum())
    assert np.mean(ratios) == pytest.approx(1, abs=4 * math.sqrt(2 / 20 / 200))
    assert np.std(ratios) == pytest.approx(math.sqrt(2 / 20), rel=0.2)


def test_decoding_a_projection_is_the_shortest_vector_with_it():
    codec = random_projection(30, 8, generator=np.random.default_rng(0))
    x = normal(5, 30)
    back = codec.decode(codec.encode(x))
    np.testing.assert_allclose(codec.encode(back), codec.encode(x), atol=1e-10)
    assert (np.linalg.norm(back, axis=1) < np.linalg.norm(x, axis=1)).all()


def test_truncation_keeps_the_first_numbers():
    codec, x = truncation(6, 4), normal(3, 6)
    np.testing.assert_array_equal(codec.encode(x), x[:, :4])
    np.testing.assert_array_equal(codec.decode(codec.encode(x))[:, 4:], 0)
    assert codec.parameters == 6 + 2 * 24


TEXTS = ["the cat sat", "a dog sat down", "blue cat, blue sky", "nothing else"]


def test_tfidf_by_hand():
    train = ["cat sat", "cat ran", "dog"]
    idf = {"cat": 1 + math.log(4 / 3), "sat": 1 + math.log(4 / 2), "dog": 1 + math.log(4 / 2)}
    both = tfidf_scores(["cat sat"], ["cat cat dog"], train=train)
    top = 2 * idf["cat"] ** 2
    sizes = math.hypot(idf["cat"], idf["sat"]) * math.hypot(2 * idf["cat"], idf["dog"])
    assert both.item() == pytest.approx(top / sizes)
    assert tfidf_scores(["bird"], ["cat"], train=train).item() == 0
    assert tfidf_scores([""], ["cat"], train=train).item() == 0


def test_bm25_by_loops():
    k1, b, questions = 1.5, 0.75, ["blue cat", "sat", "cat cat"]
    mean = sum(len(words(t)) for t in TEXTS) / 4
    expected = np.zeros((3, 4))
    for i, question in enumerate(questions):
        for j, text in enumerate(TEXTS):
            for word in words(question):
                held = words(text).count(word)
                seen = sum(word in words(t) for t in TEXTS)
                idf = math.log(1 + (4 - seen + 0.5) / (seen + 0.5))
                bound = held + k1 * (1 - b + b * len(words(text)) / mean)
                expected[i, j] += idf * held * (k1 + 1) / bound
    found = bm25_scores(questions, TEXTS, saturation=k1, length=b)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[0].argmax() == 2


def test_words_are_found_by_words():
    for scores in (
        tfidf_scores(TEXTS, TEXTS, train=TEXTS),
        bm25_scores(TEXTS, TEXTS, saturation=1.5, length=0.75),
    ):
        assert scores.argmax(1).tolist() == [0, 1, 2, 3]


def test_one_sentence_for_too_few_vectors():
    with pytest.raises(VectorError, match="more than 225 training vectors, got 225: add pairs"):
        fit_pca(normal(225, 300), 225)
    fit_pca(normal(226, 225), 225)
    with pytest.raises(VectorError, match=r"PCA to 225 numbers .* these have 100"):
        fit_pca(normal(300, 100), 225)
    with pytest.raises(VectorError, match="a random projection to 225"):
        random_projection(100, 225, generator=np.random.default_rng(0))
    with pytest.raises(VectorError, match="vectors of 7 numbers do not fit a codec for 6"):
        truncation(6, 4).encode(normal(3, 7))
    bad = normal(300, 3)
    bad[0, 0] = np.nan
    with pytest.raises(VectorError, match="training vectors: 1 of 300 rows hold NaN"):
        fit_pca(bad, 2)


def test_scaled_pca_is_pca_of_standardised_features_and_whitening_makes_components_equal():
    generator = np.random.default_rng(3)
    train = generator.normal(size=(60, 8)) * np.geomspace(0.1, 50, 8) + 5
    train[:, 1] += train[:, 0]
    plain = fit_scaled_pca(train, 4, whitening=0.0)
    scaled = train / train.std(0)
    expected = fit_pca(scaled, 4).encode(scaled)
    np.testing.assert_allclose(plain.encode(train), expected, atol=1e-9)
    white = fit_scaled_pca(train, 4, whitening=1.0)
    np.testing.assert_allclose(np.cov(white.encode(train).T, bias=True), np.eye(4), atol=1e-9)
    both = [codec.decode(codec.encode(train)) for codec in (plain, white)]
    np.testing.assert_allclose(both[0], both[1], atol=1e-8)
    whole = fit_scaled_pca(train, 8, whitening=0.5)
    np.testing.assert_allclose(whole.decode(whole.encode(train)), train, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [-1, 15])
def test_the_gate_flags_no_real_vector_and_no_codec_of_them(corpora_dir, embedded_model_dir, layer):
    """SmolLM2's lie in a narrow cone: of all that is measured they come nearest to the gate."""
    documents = read_documents(corpora_dir / "chitchat.jsonl")
    turns = [turn for document in documents[:200] for turn in document.text.split("\n")]
    texts = [turn for turn in dict.fromkeys(turns) if len(turn.split()) > 3][:660]
    config = TeacherConfig(
        source="embedded",
        synthetic=None,
        name="smollm2-135m",
        revision=None,
        dtype="float32",
        layers=(layer,),
        max_tokens=24,
        normalise=False,
        license_url="",
    )
    resources = embedded_model_dir.parents[1]
    teacher = load_teacher(config, device=torch.device("cpu"), resources=resources)
    vectors = embed(teacher, texts, batch=64).astype(float)
    train, one, other = vectors[:460], vectors[460:560], vectors[560:]
    raw = spread(one, other)
    assert not raw.collapsed
    assert raw.negative_cosine > 0.7, "a cone, or this test says little"
    codecs = [fit_pca(train, 225), fit_scaled_pca(train, 225, whitening=0.0)]
    for seed in range(20):
        codecs.append(random_projection(576, 225, generator=np.random.default_rng(seed)))
    for codec in codecs:
        assert not spread(codec.encode(one), codec.encode(other)).collapsed
