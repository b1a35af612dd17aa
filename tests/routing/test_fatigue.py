"""Room routing, fatigue: what grows with dwell is found, what only looks so is not."""

import json

import numpy as np
import pytest
from planted import PAIR, noisy_gate, protocol_of, runs_of, step_gate, trace_of

from mneme.routing.fatigue import TREND_METRICS, dwell_slope, fatigue
from mneme.routing.published import PUBLISHED

SEEDS = (0, 1)
DWELL = (16, 24, 40, 64, 112)
ENTRY = 6


def measure(gate, runs=None, **changes):
    protocol, runs = protocol_of(**changes), runs or runs_of()
    trace = trace_of(runs, protocol, gate(protocol), phase="fatigue")
    return fatigue(trace, runs, protocol, pair=PAIR, seeds=SEEDS)


def row(block, metric, seed=None):
    (found,) = [r for r in block["rows"] if r["metric"] == metric and r["seed"] == seed]
    return found


def growing(context, n):
    """Two tokens more for every doubling of dwell, after B only."""
    return {16: 2, 32: 4, 64: 6, 128: 8}[n] if context in ("real", "shuffled") else 0


@pytest.fixture(scope="module")
def constant():
    return measure(lambda protocol: step_gate(protocol, lambda *_: 3, entry=ENTRY))


@pytest.fixture(scope="module")
def grown():
    return measure(
        lambda protocol: step_gate(protocol, growing, entry=ENTRY), dwell_tokens=(16, 32, 64, 128)
    )


def test_under_a_constant_lag_the_whole_share_rises_by_itself(constant):
    ours = constant["ours"]
    for n in DWELL:
        assert row(ours, f"deep_crystallization_ratio@{n}")["value"] == 1 - ENTRY / n
        assert row(ours, f"entry_lag@{n}")["value"] == ENTRY
    rising = row(ours, "deep_crystallization_ratio.per_doubling")
    assert rising["value"] > 0.05
    assert row(ours, "deep_crystallization_ratio.spearman")["value"] == 1


@pytest.mark.parametrize(
    "metric",
    [
        "deep_crystallization_ratio_excess",
        "deep_crystallization_ratio_after_32",
        "deep_crystallization_ratio_last_16",
        "switch_lag",
        "tail_area_32",
    ],
)
def test_under_a_constant_lag_nothing_else_rises(constant, metric):
    ours = constant["ours"]
    if metric == "deep_crystallization_ratio_last_16":
        assert row(ours, f"{metric}@16")["value"] == 10 / 16  # entry falls among the last 16
        assert all(row(ours, f"{metric}@{n}")["value"] == 1 for n in DWELL[1:])
        assert row(ours, f"{metric}.per_doubling")["value"] > 0  # by that one dwell alone
        return
    expected = {"excess": 0, "32": 1, "lag": 3}.get(metric.rsplit("_", 1)[-1], 0)
    if metric == "tail_area_32":
        expected = 3 * 0.999 + 29 * 0.001
    for n in DWELL:
        if metric.endswith(("after_32", "excess")) and n <= 32:
            continue
        assert row(ours, f"{metric}@{n}")["value"] == pytest.approx(expected, abs=1e-6)
    slope = row(ours, f"{metric}.per_doubling")
    assert (slope["value"], slope["low"], slope["high"]) == (0, 0, 0)
    assert [row(ours, f"{metric}.per_doubling", s)["value"] for s in SEEDS] == [0, 0]
    correlation = row(ours, f"{metric}.pearson")
    assert correlation["value"] is None
    assert "same everywhere" in correlation["reason"]
    assert f"{metric}.pearson" not in ours["p_values"]


def test_an_entry_lag_beyond_the_stay_leaves_no_excess():
    ours = measure(lambda protocol: step_gate(protocol, lambda *_: 0, entry=30))["ours"]
    for n in DWELL[2:]:
        assert row(ours, f"deep_crystallization_ratio_excess@{n}")["value"] == 0
        assert row(ours, f"settled_share@{n}")["value"] == (n >= 30 + 3 + 16 + 8)


def test_contrasts_have_a_p_at_every_dwell_and_over_them(grown):
    ours = grown["ours"]
    contrasts = {
        r["metric"]
        for r in ours["rows"]
        if "_minus_" in r["metric"] and r["seed"] is None and r["low"] is not None
    }
    assert {"switch_lag_minus_aa@16", "avg_weight_minus_aa@128"} <= contrasts
    # A correlation with no scatter in it has no p, as it has no value.
    assert {m for m in contrasts if "@" in m} <= set(ours["p_values"])
    assert ours["p_values"]["switch_lag_minus_aa@16"] == pytest.approx(2 / 64)
    assert ours["p_values"]["switch_lag_minus_shuffled_b@16"] == 1


def test_a_gate_that_is_deep_half_of_the_time_at_every_dwell_has_no_excess():
    def flickering(protocol):
        steady = step_gate(protocol, lambda *_: 0, entry=4)

        def weights(mixer, context, n):
            w_a = steady(mixer, context, n).copy()
            if context == "real":
                first = protocol.segment_tokens + 8
                w_a[:, :, first : protocol.segment_tokens + n : 2] = 0.5
            return w_a

        return weights

    ours = measure(flickering, runs_of("ours"), dwell_tokens=(32, 64, 128, 256))["ours"]
    whole = [row(ours, f"deep_crystallization_ratio@{n}")["value"] for n in (32, 256)]
    excess = [row(ours, f"deep_crystallization_ratio_excess@{n}")["value"] for n in (32, 256)]
    # 1 - lag / n alone would call this -.38 and -.48 of "excess".
    assert whole == [0.5, 0.5]
    assert all(abs(value) < 0.06 for value in excess)
    assert ours["censored"]["switch_lag@32"] == 0
    assert row(ours, "switch_lag@32_median")["value"] == 0


def test_a_lag_planted_to_grow_with_dwell_is_found(grown):
    ours = grown["ours"]
    for n, lag in ((16, 2), (32, 4), (64, 6), (128, 8)):
        assert row(ours, f"switch_lag@{n}")["value"] == lag
        assert row(ours, f"switch_lag_minus_aa@{n}")["value"] == lag
        assert row(ours, f"switch_lag_minus_shuffled_b@{n}")["value"] == 0
        assert row(ours, f"return_gap_mean_difference@{n}")["value"] == pytest.approx(
            -lag * 0.998 / 32, abs=1e-6
        )
    for metric in ("switch_lag", "switch_lag_minus_aa", "switch_lag_minus_blocked"):
        assert row(ours, f"{metric}.per_doubling")["value"] == pytest.approx(2)
        assert row(ours, f"{metric}.spearman")["value"] == pytest.approx(1)
    assert row(ours, "switch_lag.per_doubling", 1)["value"] == pytest.approx(2)
    assert row(ours, "switch_lag_minus_shuffled_b.per_doubling")["value"] == 0
    # All signs alike in 6 texts: the least p of 64 patterns, both sides.
    assert ours["p_values"]["switch_lag.per_doubling"] == pytest.approx(2 / 64)
    lengths = np.array([16, 32, 64, 128])
    r = np.corrcoef(lengths, [2, 4, 6, 8])[0, 1]
    assert row(ours, "switch_lag.pearson")["value"] == pytest.approx(r)


def test_the_controls_have_trends_of_their_own(grown):
    assert row(grown["aa"], "switch_lag.per_doubling")["value"] == 0
    assert row(grown["blocked"], "switch_lag.per_doubling")["value"] == 0
    assert row(grown["shuffled_b"], "switch_lag.per_doubling")["value"] == pytest.approx(2)


def test_a_gate_on_tokens_alone_has_no_gap_at_any_dwell():
    blocks = measure(lambda protocol: noisy_gate(protocol, seeds=2, texts=6))
    for n in DWELL:
        assert row(blocks["token"], f"return_gap_cosine@{n}")["value"] == 0
        assert row(blocks["token"], f"switch_lag_minus_aa@{n}")["value"] == 0
        assert row(blocks["ours"], f"return_gap_cosine@{n}")["value"] > 0


def test_what_is_undefined_says_why(constant):
    short = row(constant["ours"], "deep_crystallization_ratio_after_32@24")
    assert short["value"] is None
    assert "no token of a stay of 24" in short["reason"]
    reset = row(constant["reset"], "deep_crystallization_ratio@16")
    assert "no middle segment" in reset["reason"]
    assert row(constant["aa"], "return_gap_cosine@16")["value"] == 0
    assert "no reference" in row(constant["bab"], "return_gap_cosine@16")["reason"]
    assert "fewer than three" in row(constant["bab"], "return_gap_cosine.spearman")["reason"]


def test_a_stay_shorter_than_the_last_tokens_is_undefined_there():
    ours = measure(
        lambda protocol: step_gate(protocol, lambda *_: 0),
        runs_of("ours"),
        dwell_tokens=(8, 16, 24),
    )["ours"]
    found = row(ours, "deep_crystallization_ratio_last_16@8")
    assert found["value"] is None
    assert "shorter than 16" in found["reason"]
    assert "fewer than three" in row(ours, "deep_crystallization_ratio_last_16.pearson")["reason"]


def test_every_run_names_every_metric_once_in_strict_json():
    blocks = measure(lambda protocol: noisy_gate(protocol, seeds=2, texts=6))
    assert set(blocks) == set(runs_of())
    for block in blocks.values():
        names = [(r["metric"], r["seed"]) for r in block["rows"]]
        assert len(names) == len(set(names))
        over_seeds = {name for name, seed in names if seed is None}
        for metric in TREND_METRICS:
            assert {f"{metric}@{n}" for n in DWELL} | {f"{metric}.pearson"} <= over_seeds
        assert all(r["value"] is not None or r["reason"] for r in block["rows"])
    assert json.loads(json.dumps(blocks, allow_nan=False)) == blocks


def test_dwell_slope_is_exactly_zero_for_equal_means():
    x = np.log2(DWELL)
    assert dwell_slope(np.full((3, 5), 0.1), x) == 0
    line = 0.3 + 0.7 * x
    assert dwell_slope(np.stack([line, line]), x) == pytest.approx(0.7)


def test_published_points_have_one_value_a_dwell():
    mistral = PUBLISHED["fatigue"]["mistral_7b_fast"]
    lists = [value for value in mistral.values() if isinstance(value, list)]
    assert len(lists) >= 5
    assert {len(value) for value in lists} == {3}
