"""Metrics of the room: known answers, slow independent versions, properties, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dtaidistance import dtw_ndim
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.routing import measure

few = settings(max_examples=25, deadline=None)
shapes = st.tuples(st.integers(1, 4), st.integers(3, 12), st.integers(2, 4))
seeds = st.integers(0, 2**32 - 1)


def simplex(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Peaked weights, some exactly 0 and 1, with repeats along time so that ties occur."""
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet(np.full(shape[-1], 0.5), shape[:-1])
    one_hot = np.eye(shape[-1])[generator.integers(shape[-1], size=shape[:-1])]
    pick = generator.random((*shape[:-1], 1)) < 0.4
    return np.where(pick, one_hot, weights)


# --- switch lag ---------------------------------------------------------------------------------


def test_switch_lag_of_hand_made_trajectories():
    weights = [
        [0.9, 0.9, 0.9, 0.0, 0.0, 0.0],  # at once: a true lag of 0
        [0.1, 0.95, 0.2, 0.9, 0.91, 0.92],  # the lone token 1 is no run; ends with the segment
        [0.1, 0.95, 0.95, 0.1, 0.95, 0.95],  # runs of two only: never
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ]
    lag, observed = measure.switch_lag(weights, threshold=0.9, run_tokens=3)
    assert lag.tolist() == [0, 3, 6, 6]
    assert observed.tolist() == [True, True, False, False]


def loop_switch_lag(row, threshold, run):
    for i in range(len(row) - run + 1):
        if all(w >= threshold for w in row[i : i + run]):
            return i, True
    return len(row), False


@few
@given(shapes, seeds, st.integers(1, 3), st.sampled_from([0.5, 0.7, 0.9, 0.99]))
def test_switch_lag_equals_a_loop(shape, seed, run, threshold):
    weights = simplex(shape, seed)[..., 0]
    lag, observed = measure.switch_lag(weights, threshold=threshold, run_tokens=run)
    expected = [loop_switch_lag(row, threshold, run) for row in weights]
    assert list(zip(lag.tolist(), observed.tolist(), strict=True)) == expected
    assert (lag[~observed] == shape[1]).all()
    higher, _ = measure.switch_lag(weights, threshold=(1 + threshold) / 2, run_tokens=run)
    assert (higher >= lag).all()


def test_leading_axes_are_kept():
    weights = simplex((2, 3, 8, 3), 0)
    lag, observed = measure.switch_lag(weights[..., 1], threshold=0.5, run_tokens=2)
    assert lag.shape == observed.shape == (2, 3)
    gap = measure.return_gap(weights, weights[::-1], domain=1)
    flat = measure.return_gap(weights.reshape(6, 8, 3), weights[::-1].reshape(6, 8, 3), domain=1)
    for name, values in gap.items():
        assert values.shape == (2, 3)
        np.testing.assert_array_equal(values.ravel(), flat[name])


@pytest.mark.parametrize("run_tokens", [0, 5])
def test_switch_lag_needs_a_run_that_fits(run_tokens):
    with pytest.raises(ValueError, match=r"run_tokens must be 1\.\.4"):
        measure.switch_lag(np.ones((2, 4)), threshold=0.9, run_tokens=run_tokens)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1])
def test_weights_outside_0_to_1_are_refused(bad):
    weights = np.full((2, 4), 0.5)
    weights[1, 2] = bad
    for call in (
        lambda: measure.switch_lag(weights, threshold=0.9, run_tokens=3),
        lambda: measure.avg_weight(weights),
        lambda: measure.tail_area(weights, 2),
        lambda: measure.deep_crystallization_ratio(weights, 0.95),
        lambda: measure.mix_entropy(np.stack([weights, 1 - weights], axis=-1)),
    ):
        with pytest.raises(ValueError, match=r"finite and in 0\.\.1"):
            call()
    with pytest.raises(ValueError, match="at least one token"):
        measure.avg_weight(np.empty((0, 4)))


def test_switching_asymmetry_is_paired_and_signed():
    gap = measure.switching_asymmetry([9, 2, 5], [0, 4, 5])
    assert gap["signed"].tolist() == [9, -2, 0]
    assert gap["absolute"].tolist() == [9, 2, 0]
    with pytest.raises(ValueError, match="paired by text"):
        measure.switching_asymmetry([1, 2], [1])


# --- return gap ---------------------------------------------------------------------------------


def test_return_gap_of_opposite_one_hot_weights():
    first = np.tile([1.0, 0.0], (1, 5, 1))
    gap = measure.return_gap(first, first[..., ::-1], domain=0)
    assert gap["cosine"] == pytest.approx(1.0)
    assert gap["euclidean"] == pytest.approx(math.sqrt(2))
    assert gap["dtw"] == pytest.approx(5 * math.sqrt(2))
    assert gap["dtw_normalised"] == pytest.approx(math.sqrt(2))
    assert gap["mean_difference"] == -1.0


@few
@given(shapes, seeds)
def test_return_gap_of_equal_trajectories_is_exactly_0(shape, seed):
    weights = simplex(shape, seed).astype(np.float32)
    gap = measure.return_gap(weights, weights.copy(), domain=0)
    assert all((values == 0.0).all() for values in gap.values())


def loop_return_gap(first, second, domain):
    cosine = euclidean = difference = 0.0
    for a, b in zip(first, second, strict=True):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        cosine += 1 - dot / (math.hypot(*a) * math.hypot(*b))
        euclidean += math.dist(a, b)
        difference += b[domain] - a[domain]
    return cosine / len(first), euclidean / len(first), difference / len(first)


@few
@given(shapes, seeds)
def test_return_gap_equals_a_loop(shape, seed):
    first, second = simplex(shape, seed), simplex(shape, seed + 1)
    gap = measure.return_gap(first, second, domain=1)
    for n in range(shape[0]):
        cosine, euclidean, difference = loop_return_gap(first[n], second[n], 1)
        assert gap["cosine"][n] == pytest.approx(cosine, abs=1e-12)
        assert gap["euclidean"][n] == pytest.approx(euclidean, abs=1e-12)
        assert gap["mean_difference"][n] == pytest.approx(difference, abs=1e-12)


def loop_dtw(x, y):
    """Fill the table cell by cell, carrying (cost, cells) compared in that order."""
    table = {}
    for i in range(len(x)):
        for j in range(len(y)):
            ways = [table[c] for c in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if c in table]
            cost, cells = min(ways) if ways else (0.0, 0)
            apart = np.linalg.norm(np.asarray(x[i]) - np.asarray(y[j]))
            table[i, j] = (cost + float(apart), cells + 1)
    return table[len(x) - 1, len(y) - 1]


@few
@given(shapes, st.integers(1, 14), seeds)
def test_dtw_equals_the_library_and_a_loop(shape, other_length, seed):
    first = simplex(shape, seed)
    second = simplex((shape[0], other_length, shape[2]), seed + 1)
    accumulated, steps = measure.dtw(first, second)
    for n in range(shape[0]):
        library = dtw_ndim.distance(first[n], second[n], inner_dist="euclidean")
        assert accumulated[n] == pytest.approx(library, abs=1e-12)
        cost, cells = loop_dtw(first[n], second[n])
        assert accumulated[n] == pytest.approx(cost, abs=1e-12)
        assert steps[n] == cells
        assert max(shape[1], other_length) <= steps[n] <= shape[1] + other_length - 1


@few
@given(shapes, seeds)
def test_dtw_is_symmetric_and_no_larger_than_the_straight_path(shape, seed):
    first, second = simplex(shape, seed), simplex(shape, seed + 1)
    accumulated, _ = measure.dtw(first, second)
    back, _ = measure.dtw(second, first)
    np.testing.assert_allclose(accumulated, back, atol=1e-12)
    straight = np.linalg.norm(first - second, axis=-1).sum(axis=-1)
    assert (accumulated <= straight + 1e-12).all()


def test_dtw_takes_the_shortest_of_equal_paths():
    flat = np.full((1, 4, 2), 0.5)
    accumulated, steps = measure.dtw(flat, flat)
    assert (accumulated.item(), steps.item()) == (0.0, 4)
    accumulated, steps = measure.dtw(flat, flat[:, :2])
    assert (accumulated.item(), steps.item()) == (0.0, 4)


def test_dtw_forgives_a_delay():
    step = np.array([0, 0, 0, 1, 1, 1, 1, 1], float)
    late = np.array([0, 0, 0, 0, 0, 1, 1, 1], float)
    first, second = (np.stack([w, 1 - w], axis=-1)[None] for w in (step, late))
    gap = measure.return_gap(first, second, domain=0)
    assert gap["dtw"].item() == 0.0
    assert gap["euclidean"].item() == pytest.approx(2 * math.sqrt(2) / 8)


def test_return_gap_names_what_is_wrong():
    weights = simplex((2, 5, 2), 0)
    with pytest.raises(ValueError, match="shapes must agree"):
        measure.return_gap(weights, weights[:, :4], domain=0)
    with pytest.raises(ValueError, match="must sum to 1"):
        measure.return_gap(weights, weights / 2, domain=0)
    with pytest.raises(ValueError, match="equal texts and domains"):
        measure.dtw(weights, weights[:1])
    with pytest.raises(ValueError, match=r"\(\.\.\., T, K\)"):
        measure.mix_entropy(weights[0, 0])


# --- mixed segment ------------------------------------------------------------------------------


def test_even_and_one_sided_mixes():
    even, one_hot = np.full((1, 6, 2), 0.5), np.tile([1.0, 0.0], (1, 6, 1))
    assert measure.mix_entropy(even) == pytest.approx(math.log(2))
    assert measure.mix_balance(even) == 1.0
    assert measure.mix_entropy(one_hot).item() == 0.0
    assert measure.mix_balance(one_hot).item() == 0.0
    swinging = np.stack([one_hot[0, :3], one_hot[0, :3, ::-1]]).reshape(1, 6, 2)
    assert measure.mix_entropy(swinging).item() == 0.0  # sure of every token,
    assert measure.mix_balance(swinging).item() == 1.0  # even over all of them


def test_balance_of_chosen_domains():
    weights = np.tile([0.6, 0.3, 0.1], (1, 4, 1))
    assert measure.mix_balance(weights) == pytest.approx(1 / 6)
    assert measure.mix_balance(weights, domains=(0, 1)) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no weight"):
        measure.mix_balance(np.tile([1.0, 0.0, 0.0], (1, 4, 1)), domains=(1, 2))


@few
@given(shapes, seeds)
def test_mix_metrics_equal_loops(shape, seed):
    weights = simplex(shape, seed)
    entropy, balance = measure.mix_entropy(weights), measure.mix_balance(weights)
    for n, text in enumerate(weights.tolist()):
        total = sum(-w * math.log(w) for token in text for w in token if w > 0)
        assert entropy[n] == pytest.approx(total / len(text), abs=1e-12)
        means = [sum(token[k] for token in text) / len(text) for k in range(shape[2])]
        assert balance[n] == pytest.approx(min(means) / max(means), abs=1e-12)
        assert 0 <= entropy[n] <= math.log(shape[2]) + 1e-12


# --- dwell --------------------------------------------------------------------------------------


@few
@given(shapes, seeds, st.integers(1, 14))
def test_dwell_metrics_equal_loops(shape, seed, window):
    weights = simplex(shape, seed)[..., 0]
    whole = measure.deep_crystallization_ratio(weights, 0.95)
    after, after_valid = measure.deep_crystallization_ratio_after(weights, 0.95, window)
    last, last_valid = measure.deep_crystallization_ratio_last(weights, 0.95, window)
    average = measure.avg_weight(weights)
    for n, row in enumerate(weights.tolist()):
        deep = [w > 0.95 for w in row]
        assert whole[n] == pytest.approx(sum(deep) / len(deep))
        assert average[n] == pytest.approx(sum(row) / len(row))
        assert after_valid[n] == (len(row) > window)
        assert last_valid[n] == (len(row) >= window)
        if after_valid[n]:
            assert after[n] == pytest.approx(sum(deep[window:]) / len(deep[window:]))
        if last_valid[n]:
            assert last[n] == pytest.approx(sum(deep[-window:]) / window)
            area = sum(1 - w for w in row[:window])
            assert measure.tail_area(weights, window)[n] == pytest.approx(area)


def test_deep_means_above_the_bound_and_switched_means_at_it():
    weights = np.array([[0.95, 0.96, 0.95, 0.99]])
    assert measure.deep_crystallization_ratio(weights, 0.95).tolist() == [0.5]
    assert measure.deep_crystallization_ratio_after(weights, 0.95, 2)[0].tolist() == [0.5]
    assert measure.switch_lag(weights, threshold=0.95, run_tokens=4)[0].tolist() == [0]


@pytest.mark.parametrize("n_tokens", [16, 64, 256])
def test_a_gate_of_constant_lag_follows_the_null_curve(n_tokens):
    lag = 9
    weights = np.where(np.arange(n_tokens) < lag, 0.2, 0.99)[None]
    whole = measure.deep_crystallization_ratio(weights, 0.95)
    assert whole == pytest.approx(measure.constant_lag_deep_ratio(lag, n_tokens))
    after, valid = measure.deep_crystallization_ratio_after(weights, 0.95, 32)
    assert valid.item() == (n_tokens > 32)
    assert after.item() == (1.0 if valid.item() else 0.0)  # flat: no rise by itself


def test_null_curve_never_falls_below_0():
    assert measure.constant_lag_deep_ratio(20, [10, 20, 40]).tolist() == [0.0, 0.0, 0.5]


def test_windows_longer_than_the_segment():
    with pytest.raises(ValueError, match="tail_area over 32 tokens, segment has 16"):
        measure.tail_area(np.ones((2, 16)), 32)
    with pytest.raises(ValueError, match="at least 1"):
        measure.deep_crystallization_ratio_last(np.ones((2, 16)), 0.95, 0)
