import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.lattice.retrieval import (
    METRICS,
    VectorError,
    alignment,
    bytes_per_vector,
    chance,
    effective_rank,
    negative_cosine,
    reconstruction,
    retrieval,
    score_retrieval,
    spread,
    uniformity,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def slow_scores(scores):
    """Sort every row by hand; ties: mean over all orders of the tied ones."""
    found = {name: [] for name in METRICS}
    for n, row in enumerate(scores):
        ranks = []
        for order in itertools.permutations(range(len(row))):
            if all(row[a] >= row[b] for a, b in itertools.pairwise(order)):
                ranks.append(order.index(n) + 1)
        found["recall@1"].append(np.mean([r == 1 for r in ranks]))
        found["recall@5"].append(np.mean([r <= 5 for r in ranks]))
        found["mrr"].append(np.mean([1 / r for r in ranks]))
        found["ndcg@10"].append(np.mean([1 / math.log2(1 + r) if r <= 10 else 0 for r in ranks]))
    return found


def test_known_ranks():
    scores = np.zeros((12, 12))
    for n in range(12):  # n answers are better than the right one
        scores[n, n] = 0.5
        scores[n, [m for m in range(12) if m != n][:n]] = 1.0
    found = score_retrieval(scores)
    assert found["recall@1"].tolist() == [1.0] + [0.0] * 11
    assert found["recall@5"].tolist() == [1.0] * 5 + [0.0] * 7
    assert found["mrr"].tolist() == [1 / r for r in range(1, 13)]
    gains = [1 / math.log2(1 + r) for r in range(1, 11)]
    np.testing.assert_allclose(found["ndcg@10"], [*gains, 0.0, 0.0], rtol=1e-15)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=36, max_size=36))
def test_scores_against_all_orders(values):
    scores = np.array(values, float).reshape(6, 6)
    found, slow = score_retrieval(scores), slow_scores(scores)
    for name in METRICS:
        np.testing.assert_allclose(found[name], slow[name], atol=1e-12)


def test_a_network_that_says_the_same_of_everything_scores_chance():
    guess = chance(300)
    assert guess["recall@1"] == pytest.approx(1 / 300)
    assert guess["recall@5"] == pytest.approx(5 / 300)
    assert guess["mrr"] == pytest.approx(sum(1 / r for r in range(1, 301)) / 300)
    found = retrieval(np.ones((300, 7)), np.ones((300, 7)))
    for name in METRICS:
        np.testing.assert_allclose(found[name], guess[name])


def test_rounding_finds_nothing():
    """One vector for all, but for the last bits, which questions and answers share row by row."""
    bits = 1 + 1e-7 * normal(50, 40)
    found = retrieval(bits, bits)
    np.testing.assert_allclose(found["recall@1"], 1 / 50)
    spread_out = 1 + 1e-3 * normal(50, 40)
    assert retrieval(spread_out, spread_out)["recall@1"].tolist() == [1.0] * 50


def test_permuted_answers_fall_to_chance():
    vectors = normal(400, 30)
    answers = vectors + 0.3 * normal(400, 30, seed=1)
    assert retrieval(vectors, answers)["recall@1"].mean() > 0.99
    order = np.random.default_rng(2).permutation(400)
    found, guess = retrieval(vectors, answers[order]), chance(400)
    for name in METRICS:
        sd = max(found[name].std(), 0.05) / 20
        assert abs(found[name].mean() - guess[name]) < 3.5 * sd, name


def test_search_looks_at_directions_only():
    questions, answers = normal(50, 8), normal(50, 8, seed=1)
    sizes = np.exp(normal(50, 1, seed=2))
    for name, values in retrieval(questions, answers).items():
        np.testing.assert_array_equal(retrieval(questions * sizes, answers / sizes)[name], values)


def test_alignment_and_uniformity_against_loops():
    first, second = normal(20, 5), normal(20, 5, seed=1)
    a = [row / np.linalg.norm(row) for row in first]
    b = [row / np.linalg.norm(row) for row in second]
    apart = [np.sum((x - y) ** 2) for x, y in zip(a, b, strict=True)]
    assert alignment(first, second) == pytest.approx(np.mean(apart))
    pairs = [math.exp(-2 * np.sum((x - y) ** 2)) for x, y in itertools.combinations(a, 2)]
    assert uniformity(first) == pytest.approx(math.log(np.mean(pairs)))


def test_extremes():
    same, opposite = np.ones((4, 3)), -np.ones((4, 3))
    assert alignment(same, same) == 0
    assert alignment(same, opposite) == pytest.approx(4)
    assert uniformity(same) == pytest.approx(0)
    poles = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert uniformity(poles) == pytest.approx(-8)
    assert effective_rank(np.eye(6)) == pytest.approx(6)
    assert effective_rank(same) == pytest.approx(1)
    assert effective_rank(np.array([[3.0, 0], [0, 1.0], [0, 5.0]])) == pytest.approx(
        math.exp(-sum(p * math.log(p) for p in (1 / (1 + 2**0.5), 2**0.5 / (1 + 2**0.5))))
    )
    assert negative_cosine(same, same) == pytest.approx(1)
    assert negative_cosine(np.eye(3), np.eye(3)) == 0
    assert negative_cosine(np.zeros((2, 3)), np.zeros((2, 3))) == 0


def test_negative_cosine_against_a_loop():
    first, second = normal(15, 4), normal(15, 4, seed=1)
    cosine = [
        x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        for i, x in enumerate(first)
        for j, y in enumerate(second)
        if i != j
    ]
    assert negative_cosine(first, second) == pytest.approx(np.mean(cosine))


def test_reconstruction_of_known_quality():
    vectors = normal(200, 6) + 3
    mean = vectors.mean(0)
    perfect = reconstruction(vectors, vectors, mean)
    assert perfect == {"r2": 1, "cosine": pytest.approx(1), "centred": pytest.approx(1)}
    ignorant = reconstruction(vectors, np.tile(mean, (200, 1)), mean)
    assert ignorant["r2"] == pytest.approx(0)
    assert ignorant["cosine"] > 0.9
    assert ignorant["centred"] == 0
    half = reconstruction(vectors, mean + 0.5 * (vectors - mean), mean)
    assert half["r2"] == pytest.approx(0.75)
    assert half["centred"] == pytest.approx(1)


def test_bytes():
    assert bytes_per_vector(225, "float16") == 450
    assert bytes_per_vector(225, "int8") == 225


@pytest.mark.parametrize("seed", range(20))
def test_the_gate_flags_what_has_collapsed_and_nothing_else(seed):
    """Vectors with a known share in common; `test_original` does it with networks."""
    questions, answers = normal(40, 100, seed=seed), normal(40, 100, seed=100 + seed)
    shared = normal(1, 100, seed=200 + seed)
    assert not spread(questions, answers).collapsed
    assert not spread(questions + 3 * shared, answers + 3 * shared).collapsed  # cosine .9
    constant = spread(np.tile(shared, (40, 1)), np.tile(shared, (40, 1)))
    assert constant.collapsed
    assert "effective rank 1.00" in constant.reason
    cone = spread(questions + 30 * shared, answers + 30 * shared)
    assert 0.998 < cone.negative_cosine < 0.9995  # as of a language model's middle layers
    assert not cone.collapsed
    close = spread(questions + 100 * shared, answers + 100 * shared)
    assert close.collapsed
    assert "unrelated vectors have cosine" in close.reason
    plane = np.linalg.svd(questions, full_matrices=False)[2][:2]
    assert spread(questions @ plane.T, answers @ plane.T).collapsed


def test_one_sentence_for_what_cannot_be_measured():
    bad = normal(5, 3)
    bad[2, 1] = np.nan
    bad[4, 0] = np.inf
    with pytest.raises(VectorError, match=r"2 of 5 rows hold NaN or infinity \(first: row 2\)"):
        retrieval(bad, normal(5, 3))
    with pytest.raises(VectorError, match="questions have 3 numbers a vector and answers 4"):
        retrieval(normal(5, 3), normal(5, 4))
    with pytest.raises(VectorError, match="as many answers as questions"):
        retrieval(normal(5, 3), normal(4, 3))
    with pytest.raises(VectorError, match="at least 2"):
        retrieval(normal(1, 3), normal(1, 3))
    with pytest.raises(VectorError, match="one vector a row"):
        effective_rank(normal(5))
    with pytest.raises(VectorError, match="paired"):
        alignment(normal(5, 3), normal(4, 3))
    with pytest.raises(VectorError, match="nothing to reconstruct"):
        reconstruction(np.ones((3, 2)), np.ones((3, 2)), np.ones(2))
    for measure in (uniformity, lambda x: negative_cosine(x, x)):
        with pytest.raises(VectorError, match="at least two"):
            measure(normal(1, 3))
