"""Outer loss: against central differences and against an inner loop written sample by sample."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from mneme.core.config import ConfigError
from mneme.core.seeds import torch_generator
from mneme.ttt.config import InnerConfig, ModelConfig, TrainingConfig
from mneme.ttt.inner import InnerLossError, read
from mneme.ttt.meta import (
    adapted_tokens,
    inner_at,
    inner_share,
    meta_loss,
    meta_reading,
    validation_losses,
)
from mneme.ttt.model import build_model

SIZES = ModelConfig(
    blocks=3,
    width=8,
    heads=2,
    hidden=10,
    ttt_blocks=2,
    window=5,
    rope_base=100.0,
    qk_norm=True,
    tied=False,
)
INNER = InnerConfig(chunk=4, learning_rate=1.0, clip=0.5)
TRAINING = TrainingConfig(
    steps=10,
    batch=4,
    micro_batch=2,
    tokens=18,
    learning_rate=1e-3,
    warmup=2,
    weight_decay=0.1,
    clip=1.0,
    objective="all_chunks",
    adapt_share=0.6,
    inner_warmup=4,
    inner_start=0.2,
    checkpointed=False,
    eval_every=5,
    eval_documents=2,
)
SPLIT = dataclasses.replace(TRAINING, objective="split")
OBJECTIVES = pytest.mark.parametrize("training", [TRAINING, SPLIT], ids=["all_chunks", "split"])
V = 7
PARTS = {
    "embedding": "embedding",
    "prefix": "blocks.0.",
    "fast MLP": ".mlp_ttt.",
    "static MLP": ".mlp_static.",
}


@pytest.fixture(name="model", scope="module")
def _model():
    """Two TTT blocks of float64, with weights large enough for curved losses."""
    generator = torch_generator(1, "weights")
    model = build_model(SIZES, "second", vocabulary=V, generator=generator).double()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * noise)
    return model


@pytest.fixture(name="tokens", scope="module")
def _tokens():
    """Two sequences of 18 predicted tokens: four chunks and half a chunk."""
    return torch.randint(V, (2, 19), generator=torch_generator(2, "tokens"))


def gradients_of(model, tokens, training, arm="second", inner=INNER):
    loss = meta_loss(model, tokens, inner, training, arm=arm)
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return loss.detach(), dict(zip(names, found, strict=True))


def slope(model, tokens, training, names, direction, step=2e-7):
    """Return the derivative of the loss along a direction, by central differences."""
    parameters = dict(model.named_parameters())
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            for name in names:
                parameters[name].add_(sign * step * direction[name])
        losses.append(meta_loss(model, tokens, INNER, training, arm="second").item())
        with torch.no_grad():
            for name in names:
                parameters[name].sub_(sign * step * direction[name])
    return (losses[0] - losses[1]) / (2 * step)


def slow_loss(model, tokens, training, inner=INNER):
    """Each sequence by itself: its own fast weights, its own loop, counted token by token."""
    total, count = 0.0, 0
    border = tokens.shape[1] - 1
    if training.objective == "split":
        border = round(training.adapt_share * border)
    for row in tokens:
        fast = {name: model.get_parameter(f"{name}.weight")[None] for name in model.fast_names()}
        x, _ = model.prefix(row[None, :-1])
        starts = sorted({*range(0, border, inner.chunk), border})
        ends = [*starts[1:], len(row) - 1]
        past = None
        for start, end in zip(starts, ends, strict=True):
            if start == end:
                continue
            logits, past = model.suffix(x[:, start:end], fast, past, twice=True)
            nll = F.cross_entropy(logits[0], row[start + 1 : end + 1], reduction="none")
            if training.objective == "all_chunks" or start >= border:
                total, count = total + nll.sum(), count + len(nll)
            if end <= border:
                names = list(fast)
                found = torch.autograd.grad(nll.mean(), [fast[n] for n in names], create_graph=True)
                norm = torch.sqrt(sum((g**2).sum() for g in found))
                share = torch.clamp(inner.clip / norm, max=1.0)
                fast = {
                    n: fast[n] - inner.learning_rate * share * g
                    for n, g in zip(names, found, strict=True)
                }
    return total / count


@OBJECTIVES
def test_meta_gradient_is_the_central_difference_and_first_order_is_not(model, tokens, training):
    _, second = gradients_of(model, tokens, training, "second")
    _, first = gradients_of(model, tokens, training, "first")
    for part, mark in PARTS.items():
        names = [name for name in second if mark in name]
        assert names, part
        generator = torch_generator(3, part)
        direction = {
            n: torch.randn(second[n].shape, generator=generator, dtype=torch.float64) for n in names
        }
        wanted = slope(model, tokens, training, names, direction)
        told = {
            order: sum((found[n] * direction[n]).sum().item() for n in names)
            for order, found in (("second", second), ("first", first))
        }
        assert told["second"] == pytest.approx(wanted, rel=1e-6), part
        assert told["first"] != pytest.approx(wanted, rel=1e-2), part


@OBJECTIVES
@pytest.mark.parametrize(("rate", "clip"), [(1.0, 0.1), (0.1, 1e3)])
def test_loss_and_gradient_equal_one_sequence_at_a_time(model, tokens, training, rate, clip):
    inner = dataclasses.replace(INNER, learning_rate=rate, clip=clip)
    loss, found = gradients_of(model, tokens, training, inner=inner)
    slow = slow_loss(model, tokens, training, inner)
    assert loss.item() == pytest.approx(slow.item(), rel=1e-11)
    wanted = torch.autograd.grad(slow, list(model.parameters()))
    for (name, gradient), other in zip(found.items(), wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-11, msg=name)


@OBJECTIVES
@pytest.mark.parametrize("arm", ["first", "second"])
def test_gradients_reach_every_parameter(model, tokens, training, arm):
    _, found = gradients_of(model, tokens, training, arm)
    for name, gradient in found.items():
        assert gradient is not None, name
        assert gradient.abs().max() > 1e-8, name


@OBJECTIVES
@pytest.mark.parametrize("arm", ["first", "second"])
def test_checkpointed_equals_plain(model, tokens, training, arm):
    loss, found = gradients_of(model, tokens, training, arm)
    again = dataclasses.replace(training, checkpointed=True)
    same, others = gradients_of(model, tokens, again, arm)
    assert same.item() == pytest.approx(loss.item(), rel=1e-13)
    for name, gradient in found.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("arm", ["first", "second"])
def test_without_an_inner_rate_it_is_the_plain_loss(model, tokens, arm):
    still = dataclasses.replace(INNER, learning_rate=0.0)
    loss, found = gradients_of(model, tokens, TRAINING, arm, inner=still)
    plain, wanted = gradients_of(model, tokens, TRAINING, "two_mlp")
    assert loss.item() == pytest.approx(plain.item(), rel=1e-12)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-11, msg=name)


@pytest.mark.parametrize("arm", ["full", "sliding", "dynamic", "two_mlp"])
def test_other_arms_count_every_token_once(tokens, arm):
    model = build_model(SIZES, arm, vocabulary=V, generator=torch_generator(1, "weights")).double()
    reading = meta_reading(model, tokens, INNER, SPLIT, arm=arm)
    log_p = model(tokens)[:, :-1].log_softmax(-1)
    wanted = [log_p[b, t, tokens[b, t + 1]] for b in range(2) for t in range(18)]
    assert reading.loss.item() == pytest.approx(-sum(wanted).item() / 36, rel=1e-12)
    assert reading.norms_BI is None


@OBJECTIVES
def test_validation_reads_what_the_objective_counts_one_sequence_at_a_time(model, tokens, training):
    found_BT = validation_losses(model, tokens, INNER, training, arm="second")
    assert found_BT.shape == (2, 18 if training.objective == "all_chunks" else 7)
    slow = slow_loss(model, tokens, training).item()
    assert found_BT.mean().item() == pytest.approx(slow, rel=1e-11)
    frozen_BT = validation_losses(model, tokens, INNER, training, arm="second", update=False)
    log_p = model(tokens)[:, :-1].log_softmax(-1)
    plain_BT = -log_p.gather(2, tokens[:, 1:, None])[..., 0].detach()
    torch.testing.assert_close(frozen_BT, plain_BT[:, -found_BT.shape[1] :], rtol=0, atol=1e-11)
    assert (found_BT - frozen_BT)[:, -1].abs().min() > 1e-3, "updates were made and seen"
    others_BT = validation_losses(model, tokens, INNER, training, arm="two_mlp")
    torch.testing.assert_close(others_BT, frozen_BT, rtol=0, atol=1e-11)


def test_a_split_within_one_chunk_is_validated_with_its_update(model, tokens):
    """The source's shape: as many tokens as a chunk, so a plain reading would see no update."""
    inner = dataclasses.replace(INNER, chunk=5)
    few = dataclasses.replace(SPLIT, tokens=5, adapt_share=0.4)
    learnt, still = (
        validation_losses(model, tokens[:, :6], inner, few, arm="second", update=update)
        for update in (True, False)
    )
    assert learnt.shape == (2, 3)
    assert (learnt - still).abs().min() > 1e-4


def test_only_updates_that_a_counted_loss_sees_are_made(model, tokens):
    for training, updates in ((TRAINING, 4), (SPLIT, 3)):  # 18 = 4 * 4 + 2; 11 = 2 * 4 + 3
        reading = meta_reading(model, tokens, INNER, training, arm="second")
        assert reading.norms_BI.shape == (2, updates)
        assert not reading.norms_BI.requires_grad
        assert (reading.norms_BI > 0).all()


def test_tokens_that_are_adapted_on():
    assert adapted_tokens(TRAINING, 512, chunk=32) == 480
    assert adapted_tokens(TRAINING, 513, chunk=32) == 512
    assert adapted_tokens(TRAINING, 32, chunk=32) == 0
    share = dataclasses.replace(SPLIT, adapt_share=0.2)
    assert adapted_tokens(share, 64, chunk=64) == 13
    with pytest.raises(ConfigError, match="adapt_share must be a share that leaves tokens on both"):
        adapted_tokens(share, 2, chunk=1)


def test_a_sequence_of_one_chunk_has_no_updates(model, tokens):
    reading = meta_reading(model, tokens[:, :5], INNER, TRAINING, arm="second")
    plain = meta_loss(model, tokens[:, :5], INNER, TRAINING, arm="two_mlp")
    assert reading.norms_BI.shape == (2, 0)
    assert reading.loss.item() == pytest.approx(plain.item(), rel=1e-12)


def test_inner_rate_warms_up_linearly():
    shares = [inner_share(TRAINING, step=step) for step in range(6)]
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    at = inner_at(dataclasses.replace(INNER, learning_rate=2.0), TRAINING, step=1)
    assert at.learning_rate == pytest.approx(0.8)
    assert (at.chunk, at.clip) == (INNER.chunk, INNER.clip)
    none = dataclasses.replace(TRAINING, inner_warmup=0)
    assert inner_share(none, step=0) == 1.0


def test_the_chunk_of_a_loss_that_is_no_number_is_counted_over_both_parts(model, tokens):
    begun = read(model, tokens[:, :17], INNER)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.head.weight.fill_(torch.nan)
    with pytest.raises(InnerLossError, match="chunk 4 at step 3 is not finite"):
        read(broken, tokens[:, 16:], INNER, state=begun.state, update=False, step=3)
