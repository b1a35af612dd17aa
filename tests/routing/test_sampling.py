"""The nucleus has a known content and known proportions."""

from __future__ import annotations

import pytest
import torch

from mneme.core.seeds import torch_generator
from mneme.routing.sampling import Sampling, pick


def test_pick_keeps_the_nucleus_and_its_proportions():
    probability = torch.tensor([0.1, 0.5, 0.05, 0.3, 0.05])
    logits = probability.log().expand(4000, -1)
    generator = torch_generator(0, "pick")
    drawn = pick(logits, Sampling(temperature=1.0, top_p=0.7, generator=generator))
    share = torch.bincount(drawn, minlength=5) / 4000
    expected = torch.tensor([0.0, 0.625, 0.0, 0.375, 0.0])
    torch.testing.assert_close(share, expected, rtol=0, atol=0.04)
    assert share[[0, 2, 4]].eq(0).all()
    greedy = pick(logits, Sampling(temperature=0.0, top_p=1.0, generator=None))
    assert greedy.eq(1).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"temperature": -1.0}, "temperature must be 0 or positive"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\]"),
        ({"temperature": 1.0}, "needs a generator"),
    ],
)
def test_settings_are_checked(change, match):
    with pytest.raises(ValueError, match=match):
        Sampling(**({"temperature": 0.0, "top_p": 1.0, "generator": None} | change))
