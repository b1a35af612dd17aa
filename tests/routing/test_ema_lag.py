"""The oracle gate's closed form against the recursion, token by token."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.routing.ema_lag import ema_lag, ema_weight
from mneme.routing.measure import switch_lag


def recursion(decay, oracle_logit, domains, stays, tokens):
    """Softmax weight of the entered domain from z_i = a z_(i-1) + (1 - a) x_i itself."""
    lengths = [*stays, tokens]
    visited = [(len(lengths) - 1 - s) % 2 for s in range(len(lengths))]  # 0 is the one entered
    z, weights = np.zeros(domains), []
    for domain, length in zip(visited, lengths, strict=True):
        x = np.full(domains, -oracle_logit)
        x[domain] = oracle_logit
        for _ in range(length):
            z = decay * z + (1 - decay) * x
            weights.append(float(np.exp(z[0]) / np.exp(z).sum()))
    return np.array(weights[-tokens:])


settings_of_gates = {
    "decay": st.sampled_from([0.0, 0.3, 0.8, 0.95]),
    "oracle_logit": st.sampled_from([0.5, 2.0, 6.0]),
    "domains": st.integers(2, 4),
}


@settings(max_examples=40, deadline=None)
@given(stays=st.lists(st.integers(1, 40), max_size=3), **settings_of_gates)
def test_weight_and_lag_equal_the_recursion(decay, oracle_logit, domains, stays):
    gate = {"decay": decay, "oracle_logit": oracle_logit, "domains": domains, "stays": stays}
    weights = recursion(decay, oracle_logit, domains, stays, 120)
    np.testing.assert_allclose(ema_weight(np.arange(120), **gate), weights, rtol=1e-12)
    for threshold in (0.55, 0.9, 0.985):
        lag, observed = switch_lag(weights, threshold=threshold, run_tokens=3)
        assert ema_lag(threshold=threshold, **gate) == (lag.item() if observed else None)


@pytest.mark.parametrize("decay", [0.5, 0.8, 0.9, 0.97])
@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99])
def test_lag_of_two_domains_is_the_logarithm(decay, threshold):
    logit = 4.0
    half = math.log(threshold / (1 - threshold)) / 2
    for stays, start in ((None, -logit), ([30], -logit * (1 - decay**30))):
        tokens = math.log((1 - half / logit) / (1 - start / logit)) / math.log(decay)
        expected = max(0, math.ceil(tokens - 1e-9) - 1)
        gate = {"decay": decay, "oracle_logit": logit, "domains": 2, "stays": stays}
        assert ema_lag(threshold=threshold, **gate) == expected


def test_endless_stay_is_the_limit_of_a_long_one():
    gate = {"decay": 0.9, "oracle_logit": 3.0, "threshold": 0.9, "domains": 3}
    assert ema_lag(stays=None, **gate) == ema_lag(stays=[2000], **gate)
    i = np.arange(50)
    z = 3.0 * (1 - 2 * 0.9 ** (i + 1))
    weights = ema_weight(i, decay=0.9, oracle_logit=3.0, domains=2, stays=None)
    np.testing.assert_allclose(weights, 1 / (1 + np.exp(-2 * z)), rtol=1e-12)


def test_lag_grows_with_dwell_and_decay():
    gate = {"oracle_logit": 3.0, "threshold": 0.9, "domains": 2}
    by_dwell = [ema_lag(decay=0.95, stays=[64, n], **gate) for n in (4, 8, 16, 64)]
    assert by_dwell == sorted(by_dwell)
    assert by_dwell[0] < by_dwell[-1]
    assert ema_lag(decay=0.0, stays=None, **gate) == 0


def test_a_threshold_above_the_limit_is_never_reached():
    limit = 1 / (1 + math.exp(-2.0))
    gate = {"oracle_logit": 1.0, "domains": 2, "stays": None}
    for decay in (0.0, 0.3, 0.999):
        assert ema_lag(decay=decay, threshold=limit + 1e-6, **gate) is None
    assert ema_lag(decay=0.999, threshold=limit - 1e-3, **gate) > 1000


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"decay": 1.0}, "decay"),
        ({"oracle_logit": 0.0}, "oracle_logit"),
        ({"domains": 1}, "domains"),
        ({"stays": [3, 0]}, "stays"),
    ],
)
def test_settings_out_of_range(wrong, message):
    gate = {"decay": 0.9, "oracle_logit": 1.0, "domains": 2, "stays": None} | wrong
    with pytest.raises(ValueError, match=message):
        ema_lag(threshold=0.6, **gate)
