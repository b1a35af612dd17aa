"""Drawing tokens: known answers, transformers' processors as oracle, frequencies, bad logits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from mneme.core.config import ConfigError
from mneme.core.seeds import torch_generator
from mneme.ttt.chat_config import SamplingConfig
from mneme.ttt.sampling import SamplingError, probabilities, sample

P = torch.tensor([[0.4, 0.1, 0.3, 0.2], [0.05, 0.05, 0.1, 0.8]], dtype=torch.float64)


def how(temperature=1.0, top_k=None, top_p=None):
    return SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (how(), P.tolist()),
        (how(temperature=0.0), [[1, 0, 0, 0], [0, 0, 0, 1]]),
        (how(temperature=0.5), (P.square() / P.square().sum(1, keepdim=True)).tolist()),
        (how(top_k=1), [[1, 0, 0, 0], [0, 0, 0, 1]]),
        (how(top_k=2), [[4 / 7, 0, 3 / 7, 0], [0, 0, 1 / 9, 8 / 9]]),
        (how(top_k=99), P.tolist()),
        (how(top_p=0.39), [[1, 0, 0, 0], [0, 0, 0, 1]]),
        (how(top_p=0.75), [[4 / 9, 0, 3 / 9, 2 / 9], [0, 0, 0, 1]]),
        (how(top_p=1.0), P.tolist()),
        # The nucleus is taken of what the k likeliest leave: .4 / .7 is below .6, .8 / .9 is not.
        (how(top_k=2, top_p=0.6), [[4 / 7, 0, 3 / 7, 0], [0, 0, 0, 1]]),
    ],
)
def test_probabilities_by_hand(config, expected):
    torch.testing.assert_close(
        probabilities(P.log(), config), torch.tensor(expected, dtype=torch.float64)
    )


@examples(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.05, 5),
    top_k=st.none() | st.integers(1, 40),
    top_p=st.none() | st.floats(0.01, 1),
)
def test_probabilities_are_those_of_transformers(seed, temperature, top_k, top_p):
    logits_BV = torch.randn(3, 30, generator=torch_generator(seed, "l"), dtype=torch.float64) * 3
    scores = TemperatureLogitsWarper(temperature)(None, logits_BV)
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p is not None:
        scores = TopPLogitsWarper(top_p)(None, scores)
    ours = probabilities(logits_BV, how(temperature, top_k, top_p))
    torch.testing.assert_close(ours, scores.softmax(-1), atol=1e-12, rtol=1e-9)


def test_frequencies_follow_the_probabilities():
    n, config = 20_000, how(temperature=0.7, top_k=3)
    drawn = sample(P.log()[:1].expand(n, -1), config, generator=torch_generator(0, "draw"))
    p = probabilities(P.log()[:1], config)[0]
    for token, share in enumerate(p.tolist()):
        error = math.sqrt(share * (1 - share) / n)
        assert (drawn == token).double().mean().item() == pytest.approx(share, abs=4 * error)


def test_a_seed_decides_the_draws_and_greedy_draws_nothing():
    flat_BV = torch.zeros(50, 100)
    first, again, other = (
        sample(flat_BV, how(), generator=torch_generator(seed, "draw")) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    generator = torch_generator(0, "draw")
    before = generator.get_state()
    drawn = sample(P.log(), how(temperature=0.0, top_k=3, top_p=0.5), generator=generator)
    assert drawn.tolist() == [0, 3]
    assert torch.equal(generator.get_state(), before)


def test_tiny_temperatures_and_huge_logits_stay_finite():
    logits_BV = torch.tensor([[3e30, -3e30, 2.9e30]])
    assert probabilities(logits_BV, how(temperature=1e-6)).tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_refused(bad, temperature):
    with pytest.raises(SamplingError, match="not finite"):
        sample(torch.tensor([[0.0, bad]]), how(temperature), generator=torch_generator(0, "draw"))


@pytest.mark.parametrize(
    ("broken", "key"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
    ],
)
def test_settings_out_of_range_are_named(broken, key):
    with pytest.raises(ConfigError, match=f"^{key} must be"):
        how(**broken)
