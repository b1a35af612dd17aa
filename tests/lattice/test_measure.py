import numpy as np
import pytest

from mneme.lattice.measure import (
    EIGHT_METRICS,
    difference_name,
    difference_rows,
    eight_rows,
    read_eight,
    read_vectors,
    reading_rows,
)
from mneme.lattice.retrieval import METRICS, VectorError
from mneme.stats.intervals import Resamples

SEEDS = (3, 5)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def reading(noise, *, seed=0, count=60):
    questions = normal(count, 12, seed=100)
    answers = questions + noise * normal(count, 12, seed=seed)
    return read_vectors(questions, answers, original_MD=None, made_MD=None, mean_D=None)


def rows(readings, seeds=SEEDS):
    made = reading_rows(
        readings,
        seeds=seeds,
        control_of="on",
        resamples=Resamples(200, np.random.default_rng(0)),
    )
    return {(row.metric, row.seed): row for row in made}


def differences(first, second):
    return {metric: row for (metric, seed), row in by_seed(first, second).items() if seed is None}


def by_seed(first, second, seeds=None):
    made = difference_rows(
        first,
        second,
        against="off",
        seeds=seeds or SEEDS,
        control_of="on",
        resamples=Resamples(400, np.random.default_rng(0)),
    )
    return {(row.metric, row.seed): row for row in made}


def test_rows_hold_what_was_measured():
    pair = [reading(1.5, seed=1), reading(1.5, seed=2)]
    made = rows(pair)
    for metric in METRICS:
        both = made[metric, None]
        assert both.value == pytest.approx(np.mean([r.scores[metric].mean() for r in pair]))
        assert both.low < both.value < both.high
        assert both.control_of == "on"
        for seed, one in zip(SEEDS, pair, strict=True):
            assert made[metric, seed].value == pytest.approx(one.scores[metric].mean())
    assert made["chance_recall@1", None].value == pytest.approx(1 / 60)
    assert made["alignment", 5].value == pair[1].values["alignment"]
    assert made["effective_rank", None].value == pytest.approx(
        np.mean([r.spread.effective_rank for r in pair])
    )
    assert made["collapsed", None].value == 0
    assert made["collapsed", None].reason is None


def test_a_codec_has_no_rows_by_seed():
    made = rows([reading(1.0)], seeds=(None,))
    assert {seed for _, seed in made} == {None}
    assert len({metric for metric, _ in made}) == len(made)


def test_a_collapsed_seed_is_named():
    flat = read_vectors(
        np.ones((60, 12)), np.ones((60, 12)), original_MD=None, made_MD=None, mean_D=None
    )
    made = rows([reading(1.0), flat])["collapsed", None]
    assert made.value == 0.5
    assert made.reason.startswith("COLLAPSED: effective rank 1.00")


def test_reconstruction_is_measured_where_there_is_a_decoder():
    vectors = normal(60, 12)
    extra = {"original_MD": vectors, "made_MD": 0.5 * vectors, "mean_D": np.zeros(12)}
    made = read_vectors(vectors, vectors, **extra)
    assert made.values["reconstruction_r2"] == pytest.approx(0.75)
    assert made.values["reconstruction_cosine"] == pytest.approx(1)


def test_the_eight_pairs_by_a_loop():
    questions, answers = normal(8, 12), normal(8, 12, seed=1)
    found = read_eight(questions, answers)
    assert list(found) == list(EIGHT_METRICS)
    for n, question in enumerate(questions):
        cosines = [
            question @ answer / np.linalg.norm(question) / np.linalg.norm(answer)
            for answer in answers
        ]
        others = [cosine for m, cosine in enumerate(cosines) if m != n]
        told = (cosines[n], np.mean(others), cosines[n] - np.mean(others))
        assert [found[name][n] for name in EIGHT_METRICS[:3]] == pytest.approx(told)
        assert found["eight_recall@1"][n] == (cosines[n] == max(cosines))


def test_one_vector_for_everything_is_as_similar_to_every_answer():
    found = read_eight(np.ones((8, 5)), np.ones((8, 5)))
    assert found["eight_related"] == pytest.approx(np.ones(8))
    assert found["eight_gap"] == pytest.approx(np.zeros(8))
    assert found["eight_recall@1"] == pytest.approx(np.full(8, 1 / 8))


def test_rows_of_the_eight_are_over_eight_questions():
    told = {"original_MD": None, "made_MD": None, "mean_D": None}
    pair = [
        read_vectors(
            normal(60, 12), normal(60, 12), **told, eight=(normal(8, 12), normal(8, 12, seed=s))
        )
        for s in (1, 2)
    ]
    resamples = Resamples(200, np.random.default_rng(0))
    shared = {"seeds": SEEDS, "control_of": "on", "resamples": resamples}
    made = eight_rows(pair, **shared)
    by_name = {(row.metric, row.seed): row for row in made}
    assert set(by_name) == {(m, s) for m in EIGHT_METRICS for s in (None, *SEEDS)}
    both = by_name["eight_gap", None]
    assert both.value == pytest.approx(np.mean([r.eight["eight_gap"].mean() for r in pair]))
    assert both.low < both.value < both.high
    assert (both.n, both.unit, both.control_of) == (8, "cosine", "on")
    assert by_name["eight_recall@1", 3].unit == "fraction"
    assert eight_rows([reading(1.0)], **shared) == []


def test_differences_find_what_is_there_and_nothing_else():
    good, bad = [reading(0.5, seed=s) for s in (1, 2)], [reading(2.0, seed=s) for s in (1, 2)]
    made = differences(good, bad)
    assert list(made) == [difference_name(metric, "off") for metric in METRICS]
    assert all(row.low > 0 for row in made.values())
    same = differences(good, good)
    assert all(row.value == row.low == row.high == 0 for row in same.values())
    apart = differences(bad, good)
    assert apart["mrr_minus_off"].value == pytest.approx(-made["mrr_minus_off"].value)


def test_a_codec_stands_against_every_seed():
    many, one = [reading(0.5, seed=s) for s in (1, 2)], reading(2.0)
    expected = np.mean([r.scores["mrr"].mean() for r in many]) - one.scores["mrr"].mean()
    assert differences(many, [one])["mrr_minus_off"].value == pytest.approx(expected)


def test_a_difference_has_a_row_for_every_seed():
    many, one = [reading(0.5, seed=s) for s in (1, 2)], reading(2.0)
    for others in ([one], [reading(2.0, seed=s) for s in (4, 5)]):
        made = by_seed(many, others)
        names = {difference_name(metric, "off") for metric in METRICS}
        assert set(made) == {(name, seed) for name in names for seed in (None, *SEEDS)}
        each = [made["mrr_minus_off", seed] for seed in SEEDS]
        for place, row in enumerate(each):
            other = others[min(place, len(others) - 1)]
            gap = many[place].scores["mrr"].mean() - other.scores["mrr"].mean()
            assert row.value == pytest.approx(gap)
            assert (row.low, row.high, row.n, row.control_of) == (None, None, 60, "on")
        assert made["mrr_minus_off", None].value == pytest.approx(np.mean([r.value for r in each]))
    codecs = by_seed([reading(0.5)], [one], seeds=(None,))
    assert {seed for _, seed in codecs} == {None}


def test_one_sentence_for_what_cannot_be_paired():
    with pytest.raises(VectorError, match=r"different numbers of questions \(\[50, 60\]\)"):
        differences([reading(1.0)], [reading(1.0, count=50)])
    with pytest.raises(VectorError, match="3 seeds cannot be paired with 2 of off"):
        differences([reading(1.0)] * 3, [reading(1.0)] * 2)
