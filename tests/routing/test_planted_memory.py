"""Hysteresis by simulation, through the room's own functions: none in the null, the planted found.

2,000 data sets of weights (N texts, S seeds, T tokens, K = 2) go through `lag` or `gaps`,
`contrast`, `rows_of` and `p_values`, as `mneme.routing.hysteresis` sends a real trace through them.
Simulations share the axis of texts up to `contrast` (all that is per text) and are cut apart for
the statistics. These use 300 resamples where the protocol's default is 2,000: p is valid at any
number, and 300 keeps the file under 40 s on one core.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from planted import protocol_of

from mneme.routing.readings import Measured, Segments, contrast, gaps, lag, p_values, rows_of
from mneme.routing.sharing import Works

RUNS, BATCH = 2000, 100
SEEDS = (0, 1)
LAG, GAP = "switch_lag_BA_minus_aa", "return_gap_cosine_minus_aa"
EXTRA = {LAG: 1.5, GAP: 4.0}  # planted: mean tokens that the gate lags longer after B
TEXTS = {LAG: 50, GAP: 30}
TOKENS = {LAG: 64, GAP: 20}  # warping paths are measured with the gap and cost T^2
PROTOCOL = protocol_of(resamples=300, gap_tokens=16)
NONE, APART = frozenset(), Works(names={})  # texts that share no works


def last_segments(tokens, texts, generator, *, extra):
    """Second A after B, after A' and after A'': one text effect, own jitter, noise, extra lag.

    How a text opens is common to its three readings and to all seeds, what came before it to all
    seeds: seeds are no further texts. A gate without memory treats the three alike.
    """
    opening_N = generator.geometric(0.15, texts) - 1
    bias_S = 0.4 * generator.normal(size=(len(SEEDS), 1, 1))
    found = []
    for more in (extra, 0.0, 0.0):
        onset_N = opening_N + generator.geometric(0.4, texts) - 1 + generator.poisson(more, texts)
        turned_NT = np.arange(tokens) >= onset_N[:, None]
        noise_SNT = 0.8 * generator.normal(size=(len(SEEDS), *turned_NT.shape))
        back_SNT = 1 / (1 + np.exp(-np.where(turned_NT, 4.0, -2.0) - bias_S - noise_SNT))
        last_SNTK = np.stack([back_SNT, 1 - back_SNT], axis=-1).astype(np.float32)
        found.append(
            Segments(
                middle_SNTK=None,
                last_SNTK=last_SNTK,
                domains=(0, 1, 0),
                pieces=NONE,
                middle_pieces=NONE,
            )
        )
    return found


def differences(metric, texts, generator, *, extra):
    """Run minus control, a value per seed and text."""
    after_b, reference, other = last_segments(TOKENS[metric], texts, generator, extra=extra)
    theta, held = PROTOCOL.threshold, PROTOCOL.run_tokens
    if metric == LAG:
        run, control = (
            {"switch_lag_BA": lag(x.last_SNTK[..., 0], theta, held, pieces=NONE)}
            for x in (after_b, reference)
        )
    else:
        run, control = (
            gaps(reference, x, tokens=PROTOCOL.gap_tokens, domain=0) for x in (after_b, other)
        )
    return contrast(run, control, "aa")[metric]


def verdicts(metric, texts, generator, *, extra):
    """Share of simulations with p < .05, and with p < .05 and an interval without 0."""
    counts = np.zeros(2)
    for _ in range(RUNS // BATCH):
        every = differences(metric, texts * BATCH, generator, extra=extra)
        for values_SN in np.split(every.values_SN, BATCH, axis=1):
            values = {metric: Measured(values_SN=values_SN, unit=every.unit, pieces=NONE)}
            row, *by_seed = rows_of(values, PROTOCOL, APART, seeds=SEEDS, control_of=None)
            assert (row.n, len(by_seed)) == (texts, len(SEEDS))
            p = p_values(values, APART)[metric]
            counts += p < 0.05, p < 0.05 and not row.low <= 0 <= row.high
    return counts / RUNS


def planned(differences_SN):
    """Texts for power .8, two-sided 5 %: the t test's n, and 15 % more as the tests here assume no
    distribution (Lehmann 1998, Nonparametrics, 2.1)."""
    by_text_N = differences_SN.mean(axis=0)
    return math.ceil(1.15 * ((1.960 + 0.842) * by_text_N.std() / by_text_N.mean()) ** 2)


@pytest.mark.parametrize("metric", [LAG, GAP])
def test_no_memory_is_found_in_a_gate_without_memory(metric):
    by_p, claimed = verdicts(metric, TEXTS[metric], np.random.default_rng(21), extra=0.0)
    # At least 3 %: a test that hardly ever rejects would pass the ceiling for nothing.
    assert 0.03 <= by_p <= 0.06
    assert claimed <= 0.06


@pytest.mark.parametrize("metric", [LAG, GAP])
def test_planted_memory_is_found(metric):
    generator = np.random.default_rng(22)
    pilot_SN = differences(metric, 20_000, generator, extra=EXTRA[metric]).values_SN
    if metric == LAG:
        assert pilot_SN.mean() == pytest.approx(EXTRA[LAG], abs=0.15)
    texts = planned(pilot_SN)
    assert 10 <= texts <= 100
    assert verdicts(metric, texts, generator, extra=EXTRA[metric])[1] >= 0.80
