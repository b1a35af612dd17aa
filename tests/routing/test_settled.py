"""Deepening after entry: none in a gate that only flickers, however; a planted one is found."""

from __future__ import annotations

import numpy as np
import pytest
from planted import PAIR, protocol_of, runs_of, trace_of
from scipy.stats import t as student

from mneme.routing.fatigue import fatigue
from mneme.routing.measure import constant_lag_deep_ratio, switch_lag
from mneme.routing.settled import (
    LEAST_TOKENS,
    SETTLE_TOKENS,
    settled_excess,
    shortest_dwell,
)

LENGTHS = (16, 24, 40, 64, 112, 192, 320, 512)
DEEP, RUN, METRIC = 0.95, 3, "deep_crystallization_ratio_excess"
X = np.log2([n for n in LENGTHS if n >= shortest_dwell(RUN)])


def flicker(generator, texts, *, share, stays=0.0, lag=0, tokens=512):
    """Deep tokens of texts: with probability `share` each, correlated by `stays` a token.

    Before `lag` a text is deep with a tenth of that. `share` may differ by text and token.
    """
    share_NT = np.broadcast_to(share, (texts, tokens)).copy()
    share_NT[np.arange(tokens) < np.broadcast_to(lag, texts)[:, None]] *= 0.1
    fresh_NT = generator.random((texts, tokens)) < share_NT
    kept_NT = generator.random((texts, tokens)) < stays
    deep_NT = fresh_NT.copy()
    for t in range(1, tokens):
        deep_NT[:, t] = np.where(kept_NT[:, t], deep_NT[:, t - 1], fresh_NT[:, t])
    return np.where(deep_NT, 0.99, 0.3)


def slopes(excess_ND):
    kept_ND = excess_ND[:, -len(X) :]
    centred = X - X.mean()
    return kept_ND @ centred / np.square(centred).sum()


def excess_of(weights_NT):
    return settled_excess(weights_NT, LENGTHS, deep_weight=DEEP, run_tokens=RUN)[0]


def before(weights_NT):
    """Return what was read before: whole share minus p (1 - lag / n), p from the longest dwell."""
    deep_NT = weights_NT > DEEP
    whole_ND = np.stack([deep_NT[:, :n].mean(axis=1) for n in LENGTHS], axis=-1)
    lag_N, _ = switch_lag(weights_NT, threshold=DEEP, run_tokens=RUN)
    inside_N = constant_lag_deep_ratio(lag_N, LENGTHS[-1])
    p_N = np.divide(whole_ND[:, -1], inside_N, out=np.zeros(len(lag_N)), where=inside_N > 0)
    return whole_ND - p_N[:, None] * constant_lag_deep_ratio(lag_N[:, None], np.array(LENGTHS))


def mixture(generator, texts):
    """Texts of the token router's kind: some nearly always deep, most hardly ever."""
    return generator.choice([0.1, 0.25, 0.6, 0.95], texts, p=[0.4, 0.3, 0.2, 0.1])[:, None]


GATES = {
    "rare": {"share": 0.2},
    "even": {"share": 0.5, "lag": 6},
    "late": {"share": 0.9, "lag": 30},
    "correlated": {"share": 0.6, "stays": 0.7, "lag": 6},
    "correlated longer": {"share": 0.8, "stays": 0.8},
    "mixture": {},
}


def drawn(name, texts, seed=0):
    generator = np.random.default_rng([seed, list(GATES).index(name)])
    options = dict(GATES[name])
    if name == "mixture":
        options = {"share": mixture(generator, texts), "lag": generator.geometric(0.1, texts)}
        options["stays"] = 0.5
    return flicker(generator, texts, **options)


@pytest.mark.parametrize("name", GATES)
def test_a_gate_that_only_flickers_has_no_excess_at_any_dwell_and_no_slope(name):
    texts = 20_000
    excess_ND = excess_of(drawn(name, texts))
    error_D = excess_ND.std(axis=0) / np.sqrt(texts)
    # Correlated flicker may keep (1 - p) r^16 of the run, spread over the tokens read.
    assert (np.abs(excess_ND.mean(axis=0)) <= 4 * error_D + 1e-3).all()
    found_N = slopes(excess_ND)
    assert abs(found_N.mean()) <= 4 * found_N.std() / np.sqrt(texts) + 5e-4


@pytest.mark.parametrize("name", GATES)
def test_intervals_of_fifty_texts_hold_the_slope_of_zero(name):
    sets, texts = 400, 50
    found = slopes(excess_of(drawn(name, sets * texts, seed=1))).reshape(sets, texts)
    half = student.ppf(0.975, texts - 1) * found.std(axis=1, ddof=1) / np.sqrt(texts)
    assert 0.92 <= (np.abs(found.mean(axis=1)) <= half).mean() <= 0.985


@pytest.mark.parametrize("name", ["rare", "mixture"])
def test_what_was_read_before_falls_with_dwell_under_the_same_gates(name):
    excess_ND = before(drawn(name, 20_000))
    assert excess_ND[:, 0].mean() > 0.01
    centred = np.log2(LENGTHS) - np.log2(LENGTHS).mean()
    found_N = excess_ND @ centred / np.square(centred).sum()
    assert found_N.mean() < -10 * found_N.std() / np.sqrt(len(found_N))


@pytest.mark.parametrize("stays", [0.0, 0.7])
@pytest.mark.parametrize("lag", [4, 20])
def test_a_gate_that_becomes_deeper_is_found_in_fifty_texts(stays, lag):
    generator = np.random.default_rng([3, lag])
    share_T = 0.6 + 0.04 * np.log2(np.arange(1, 513))  # .6 at entry, .96 after 512 tokens
    found, texts = [], 50
    for _ in range(40):
        slopes_N = slopes(excess_of(flicker(generator, texts, share=share_T, stays=stays, lag=lag)))
        error = slopes_N.std(ddof=1) / np.sqrt(texts)
        found.append(slopes_N.mean() - student.ppf(0.975, texts - 1) * error > 0)
    assert np.mean(found) >= 0.9
    assert slopes_N.mean() > 0.01


def test_shares_begin_after_the_run_and_the_wait_and_are_differences_from_the_longest():
    """By hand: entry at token 2, so tokens 2 + 3 + 16 = 21 and later are read."""
    weights = np.full(64, 0.99)
    weights[:2] = 0.1
    weights[21:31] = 0.5  # ten tokens that are not deep
    excess, settled = settled_excess(
        weights[None], (16, 24, 31, 41, 64), deep_weight=DEEP, run_tokens=RUN
    )
    share = np.array([0.0, 0.0, 0 / 10, 10 / 20, 33 / 43])
    assert settled.tolist() == [[False, False, True, True, True]]
    np.testing.assert_allclose(excess[0], share - share[-1])
    assert shortest_dwell(RUN) == RUN + SETTLE_TOKENS + LEAST_TOKENS == 27


def test_a_text_that_never_enters_or_too_late_has_no_excess_and_says_so():
    weights = np.full((3, 64), 0.1)
    weights[0, ::2] = 0.99  # deep every other token, never three in a row
    weights[1, 50:] = 0.99  # 50 + 3 + 16 is beyond the end
    weights[2, 30:] = 0.99  # read from 49 on
    excess, settled = settled_excess(weights, (40, 58, 64), deep_weight=DEEP, run_tokens=RUN)
    assert settled.tolist() == [[False] * 3, [False] * 3, [False, True, True]]
    assert (excess == 0).all()


def test_a_weight_equal_to_the_deep_weight_is_not_deep():
    weights = np.full((1, 64), DEEP)
    assert not settled_excess(weights, (64,), deep_weight=DEEP, run_tokens=RUN)[1].any()


@pytest.mark.parametrize("lengths", [(40, 40), (40, 24), (40, 65), ()])
def test_lengths_must_increase_within_the_segment(lengths):
    with pytest.raises((ValueError, IndexError)):
        settled_excess(np.ones((1, 64)), lengths, deep_weight=DEEP, run_tokens=RUN)


def measured(middle_of):
    """Rows of run `ours` through `fatigue`, 40 texts and 2 seeds, B a prefix of the longest."""
    protocol, runs, texts = protocol_of(dwell_tokens=LENGTHS), runs_of("ours"), 40
    middle = 1 - middle_of(np.random.default_rng(7), 2 * texts).reshape(2, texts, -1)

    def weights(mixer, context, n):
        size = protocol.segment_tokens
        a = np.full((2, texts, 2 * size + n), 0.999)
        if context == "real":
            a[:, :, size : size + n] = middle[:, :, :n]
        return a

    trace = trace_of(runs, protocol, weights, phase="fatigue")
    ours = fatigue(trace, runs, protocol, pair=PAIR, seeds=(0, 1))["ours"]
    return {row["metric"]: row for row in ours["rows"] if row["seed"] is None}, ours["p_values"]


@pytest.mark.parametrize("stays", [0.0, 0.7])
def test_fatigue_rows_of_a_flickering_gate_hold_zero_and_of_a_deepening_one_do_not(stays):
    rows, _ = measured(lambda g, n: flicker(g, n, share=0.5, stays=stays, lag=5))
    slope = rows[f"{METRIC}.per_doubling"]
    assert slope["low"] <= 0 <= slope["high"]
    assert rows[f"{METRIC}@24"]["value"] is None
    assert (
        "fewer than 8 tokens of a stay of 24 are 16 after entry" in rows[f"{METRIC}@24"]["reason"]
    )
    assert rows[f"{METRIC}@512"]["value"] == 0
    assert rows["settled_share@16"]["value"] == 0
    assert rows["settled_share@512"]["value"] == 1
    share_T = 0.6 + 0.04 * np.log2(np.arange(1, 513))
    rows, p = measured(lambda g, n: flicker(g, n, share=share_T, stays=stays, lag=5))
    assert rows[f"{METRIC}.per_doubling"]["low"] > 0
    assert p[f"{METRIC}.per_doubling"] < 0.01
