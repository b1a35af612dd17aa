"""Dynamic evaluation: batched equals one document at a time, choice of the learning rate."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mneme.core.config import ConfigError, build
from mneme.ttt.context_config import DynamicConfig
from mneme.ttt.dynamic import (
    DynamicEvaluationError,
    choose_rate,
    own_weights,
    read_dynamic,
    read_frozen,
)

SETTINGS = {
    "chunk": 4,
    "clip": 1.0,
    "learning_rates": [0.1, 0.3],
    "documents": 2,
    "tokens": 7,
    "batch": 2,
    "kinds": [],
}


def dynamic_config(**changes):
    return build(DynamicConfig, SETTINGS | changes, where="dynamic")


def small(model_of, arm="sliding", **changes):
    return model_of(arm, blocks=2, ttt_blocks=1, **changes)


def read_alone(model, tokens_T, *, chunk, learning_rate, clip):
    """One document: a copy of the network, an optimiser, chunks from a cache."""
    own, nll, before, after = copy.deepcopy(model), [], None, None
    optimizer = torch.optim.SGD(own.parameters(), lr=learning_rate)
    for start in range(0, len(tokens_T) - 1, chunk):
        inputs, targets = tokens_T[:-1][start : start + chunk], tokens_T[1:][start : start + chunk]
        stream, before = own.prefix(inputs[None], before)
        logits, after = own.suffix(stream, None, after)
        before, after = before.detached(), after.detached()
        losses = F.cross_entropy(logits[0], targets, reduction="none")
        optimizer.zero_grad()
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(own.parameters(), clip)
        optimizer.step()
        nll.append(losses.detach())
    return torch.cat(nll), dict(own.named_parameters())


@pytest.mark.parametrize("clip", [0.3, 1e9])
@pytest.mark.parametrize(("arm", "tied"), [("sliding", False), ("full", False), ("sliding", True)])
def test_documents_together_are_read_as_each_alone(model_of, tokens_of, arm, tied, clip):
    model, tokens = small(model_of, arm, tied=tied), tokens_of(3, 23)
    lengths = torch.tensor([23, 10, 2])
    settings = {"chunk": 4, "learning_rate": 0.3, "clip": clip}
    start = own_weights(model, 3)
    nll, weights = read_dynamic(model, tokens, start, lengths_B=lengths, **settings)
    for row, length in enumerate(lengths.tolist()):
        alone, own = read_alone(model, tokens[row, :length], **settings)
        # clip_grad_norm_ divides by norm + 1e-6.
        torch.testing.assert_close(nll[row, : length - 1], alone, rtol=0, atol=1e-5)
        assert (nll[row, length - 1 :] == 0).all()
        for name, w in own.items():
            torch.testing.assert_close(weights[name][row], w.detach(), rtol=0, atol=1e-5)
        moved = (
            weights["blocks.0.attention.v.weight"][row] - start["blocks.0.attention.v.weight"][row]
        )
        assert moved.abs().max() > 1e-4  # every weight learns, those of the first block too


def test_without_clip_the_two_agree_to_the_last_digits(model_of, tokens_of):
    model, tokens = small(model_of), tokens_of(2, 18)
    settings = {"chunk": 4, "learning_rate": 0.5, "clip": 1e9}
    nll, _ = read_dynamic(model, tokens, own_weights(model, 2), **settings)
    for row in range(2):
        alone, _ = read_alone(model, tokens[row], **settings)
        torch.testing.assert_close(nll[row], alone, rtol=0, atol=1e-12)


def test_rate_0_is_plain_reading(model_of, tokens_of):
    model, tokens = small(model_of), tokens_of(3, 20)
    start = own_weights(model, 3)
    nll, weights = read_dynamic(model, tokens, start, chunk=5, learning_rate=0.0, clip=1.0)
    plain = F.cross_entropy(model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none")
    torch.testing.assert_close(nll, plain.detach(), rtol=0, atol=1e-12)
    assert all(torch.equal(weights[name], w) for name, w in start.items())


def test_held_weights_are_each_document_s_own(model_of, tokens_of):
    model, tokens = small(model_of), tokens_of(2, 15)
    _, weights = read_dynamic(
        model, tokens, own_weights(model, 2), chunk=4, learning_rate=0.5, clip=1.0
    )
    nll = read_frozen(model, tokens, weights)
    for row in range(2):
        own = copy.deepcopy(model)
        own.load_state_dict({name: w[row] for name, w in weights.items()})
        logits = own(tokens[row : row + 1, :-1])
        plain = F.cross_entropy(logits[0], tokens[row, 1:], reduction="none")
        torch.testing.assert_close(nll[row], plain.detach(), rtol=0, atol=1e-12)


def test_what_comes_later_changes_nothing_before(model_of, tokens_of):
    model, tokens = small(model_of), tokens_of(1, 21)
    other = tokens.clone()
    other[0, 13] = (other[0, 13] + 1) % 7
    settings = {"chunk": 4, "learning_rate": 0.5, "clip": 1.0}
    first, _ = read_dynamic(model, tokens, own_weights(model, 1), **settings)
    second, _ = read_dynamic(model, other, own_weights(model, 1), **settings)
    assert torch.equal(first[:, :12], second[:, :12])
    assert (first[:, 12:] != second[:, 12:]).all()


def test_it_learns_a_document_that_repeats(model_of):
    model = small(model_of)
    tokens = torch.tensor([[1, 4, 2, 6, 3] * 12])
    nll, _ = read_dynamic(
        model, tokens, own_weights(model, 1), chunk=5, learning_rate=0.5, clip=1.0
    )
    assert nll[0, -5:].mean() < 0.5 * nll[0, :5].mean()


def test_validation_documents_choose_the_rate(model_of):
    model = small(model_of)
    documents = np.tile([1, 4, 2, 6, 3], (3, 5))
    chosen = choose_rate(model, documents, dynamic_config(learning_rates=[1e-6, 0.5, 1e-3]))
    assert chosen.learning_rate == 0.5
    facts = chosen.facts()
    assert facts["tries"] == 3
    losses = facts["val_nll"]
    assert losses["0.5"] < losses["0.001"] < losses["1e-06"]
    one, _ = read_dynamic(
        model,
        torch.as_tensor(documents[:2]),
        own_weights(model, 2),
        chunk=4,
        learning_rate=0.5,
        clip=1.0,
    )
    assert losses["0.5"] == pytest.approx(float(one.mean()), abs=1e-9)


def test_a_rate_that_diverges_is_told_and_not_chosen(model_of):
    model, documents = small(model_of), np.tile([1, 4, 2, 6, 3], (2, 4))
    config = dynamic_config(learning_rates=[1e200, 0.1], clip=1e300)
    chosen = choose_rate(model, documents, config)
    assert chosen.learning_rate == 0.1
    assert chosen.facts()["val_nll"]["1e+200"] is None
    with pytest.raises(DynamicEvaluationError, match="add a smaller one"):
        choose_rate(model, documents, dynamic_config(learning_rates=[1e200], clip=1e300))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"clip": 0.0}, "clip must be above 0"),
        ({"learning_rates": []}, "learning_rates must be one or more different ones above 0"),
        ({"learning_rates": [0.1, 0.1]}, "learning_rates must be one or more different ones"),
        ({"kinds": ["own"]}, "kinds must be empty, or with own and none"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ConfigError, match=message):
        dynamic_config(**changes)
