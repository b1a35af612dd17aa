"""Adapter training: learns what is planted, resumes bit for bit, is measured on answers alone."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from mneme.core.checkpoints import run_steps
from mneme.core.seeds import numpy_generator, torch_generator
from mneme.ttt.adapter import (
    Course,
    answer_nll,
    dialogue_nll,
    fit_adapter,
    measure_adapter,
    sample_replies,
)
from mneme.ttt.adapter_config import AdapterMeasureConfig, AdapterRunConfig, AdapterTrainingConfig
from mneme.ttt.adapter_report import MeasuredAdapter, adapter_block, distinct, repetition, words
from mneme.ttt.chat_config import SamplingConfig
from mneme.ttt.codec import Codec, byte_tokenizer
from mneme.ttt.config import InnerConfig, ModelConfig
from mneme.ttt.dialogue import Conversation, Dialogues, answer_mask, cut
from mneme.ttt.fit import DivergedError
from mneme.ttt.model import build_model
from mneme.ttt.tinylora import adapt, trainable

CPU = torch.device("cpu")
SIZES = ModelConfig(
    blocks=2,
    width=16,
    heads=2,
    hidden=24,
    ttt_blocks=1,
    window=8,
    rope_base=100.0,
    qk_norm=True,
    tied=False,
)
TRAINING = AdapterTrainingConfig(
    steps=12, batch=4, tokens=24, warmup=2, clip=1.0, eval_every=5, eval_conversations=6
)
MEASURE = AdapterMeasureConfig(
    conversations=5,
    updated=(),
    prompts=("hello", "how are you?"),
    reply_tokens=7,
    sampling=SamplingConfig(temperature=1.0, top_k=None, top_p=None),
)
CODEC = Codec(byte_tokenizer())
INNER = InnerConfig(chunk=4, learning_rate=0.5, clip=1.0)


def run(form="shared", **changes):
    size = {"rank": 2, "vector": 4} if form == "tinylora" else {"rank": None, "vector": None}
    told = {
        "base": "text",
        "form": form,
        **size,
        "learning_rate": 0.05,
        "control": "none",
        "control_of": None,
    }
    return AdapterRunConfig(**(told | changes))


@pytest.fixture(scope="module")
def base():
    generator = torch_generator(0, "model")
    return build_model(SIZES, "second", vocabulary=CODEC.vocabulary, generator=generator)


def talks(count, *, seed, answer=None):
    """Conversations of 2-6 turns; the answers are random letters, or all the same one."""
    generator = numpy_generator(seed, "talks")
    found = []
    for _ in range(count):
        texts = [
            answer if k % 2 and answer else "".join(map(chr, generator.integers(97, 123, 5)))
            for k in range(int(generator.integers(2, 7)))
        ]
        ids, starts = CODEC.dialogue(texts, ended=True)
        found.append(Conversation(tokens_T=ids.astype(np.int64), turns_K=starts))
    return found


def dialogues(**kind):
    parts = {
        name: talks(8, seed=i, **kind) for i, name in enumerate(("train", "validation", "test"))
    }
    return Dialogues(**parts, marks=CODEC.marks)


DIALOGUES = dialogues()


def fitted(base, tmp_path, data=DIALOGUES, chosen=None, training=TRAINING, name="a", seed=0):
    return fit_adapter(
        base,
        data,
        chosen or run(),
        training,
        seed=seed,
        device=CPU,
        checkpoint=tmp_path / f"{name}.pt",
        fingerprint="f",
        log=lambda line: None,
        label="adapter",
    )


@pytest.mark.parametrize("form", ["tinylora", "shared"])
def test_a_planted_answer_is_learnt(base, tmp_path, form):
    same = dialogues(answer="aaaa")
    longer = dataclasses.replace(TRAINING, steps=40)
    result = fitted(base, tmp_path, same, run(form), longer)
    points = result.history["points"]
    assert [point["step"] for point in points] == [0, *range(5, 41, 5)]
    assert points[-1]["val_nll"] < points[0]["val_nll"] - 0.5
    found = measure_adapter(
        base, result.model, same, longer, conversations=5, device=CPU, inner=INNER
    )
    assert (found["after_C"] < found["before_C"] - 0.15).all()
    assert found["after_ttt_C"].mean() < found["before_ttt_C"].mean() - 0.15
    assert (found["before_ttt_C"] != found["before_C"]).all()
    plain = measure_adapter(
        base, result.model, same, longer, conversations=5, device=CPU, inner=None
    )
    assert plain.keys() == {"before_C", "after_C", "tokens_C"}


def test_random_answers_teach_their_letters_only(base, tmp_path):
    longer = dataclasses.replace(TRAINING, steps=40)
    result = fitted(base, tmp_path, chosen=run("tinylora"), training=longer)
    # 26 letters in 5 of 6 counted tokens; the sixth ends the turn.
    least = 5 / 6 * math.log(26)
    assert result.history["points"][-1]["val_nll"] > least - 0.2


@pytest.mark.parametrize("form", ["tinylora", "shared"])
def test_a_killed_training_ends_bit_for_bit_the_same(base, tmp_path, form):
    whole, killed, resumed = (
        Course(adapt(base, run(form), seed=0), DIALOGUES, run(form), TRAINING, seed=0)
        for _ in range(3)
    )

    def make(course, name, *, until=TRAINING.steps):
        def step(index):
            if index == until:
                raise KeyboardInterrupt
            return course.step(index)

        told = {"fingerprint": "f", "log": lambda line: None, "label": "a", "save_every_s": 0.0}
        run_steps(step, course.training, steps=TRAINING.steps, path=tmp_path / name, **told)

    make(whole, "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        make(killed, "killed.pt", until=7)
    make(resumed, "killed.pt")
    assert resumed.summary()["points"] == whole.summary()["points"]
    pairs = zip(trainable(resumed.adapter).values(), trainable(whole.adapter).values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(
        torch.equal(a, b)
        for a, b in zip(
            trainable(killed.adapter).values(), trainable(whole.adapter).values(), strict=True
        )
    )


def test_the_base_is_frozen_and_seeds_differ(base, tmp_path):
    before = [p.clone() for p in base.parameters()]
    results = [fitted(base, tmp_path, name=str(seed), seed=seed) for seed in (0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(before, base.parameters(), strict=True))
    first, second = (result.history["points"][-1]["val_nll"] for result in results)
    assert first != second
    assert results[0].history["points"][0]["val_nll"] == results[1].history["points"][0]["val_nll"]


def test_the_control_learns_foreign_answers_and_is_read_on_true_ones(base, tmp_path):
    own = Course(base, DIALOGUES, run(), TRAINING, seed=0)
    other = Course(base, DIALOGUES, run(control="permuted", control_of="x"), TRAINING, seed=0)
    assert np.array_equal(own.val.tokens_NT, other.val.tokens_NT)
    answers = [sorted(c.train.tokens_NT[:, 1:][c.train.counted_NT].tolist()) for c in (own, other)]
    assert answers[0] == answers[1]
    assert own.train.tokens_NT.tolist() != other.train.tokens_NT.tolist()


def test_losses_of_conversations_are_the_slow_ones(base):
    chosen = cut(DIALOGUES.test, CODEC.marks, tokens=16)
    nll_C, tokens_C = dialogue_nll(base, chosen, batch=3, device=CPU, inner=None)
    for place, conversation in enumerate(DIALOGUES.test):
        tokens_T, mask_T = conversation.tokens_T, answer_mask(conversation, CODEC.marks)
        losses = []
        for t in range(1, len(tokens_T)):
            start = (t - 1) // 16 * 16
            logits_V = base(torch.from_numpy(tokens_T[None, start:t]))[0, -1]
            if mask_T[t]:
                losses.append(-logits_V.log_softmax(-1)[tokens_T[t]].item())
        assert tokens_C[place] == len(losses) == mask_T.sum()
        assert nll_C[place] == pytest.approx(np.mean(losses), abs=1e-5)


def test_reading_with_updates_is_the_slow_reader_s_piece_by_piece(base, slow_read):
    """Padding and other rows change nothing; no rate, no difference."""
    chosen = cut(DIALOGUES.test, CODEC.marks, tokens=16)
    nll_C, _ = dialogue_nll(base, chosen, batch=3, device=CPU, inner=INNER)
    total_C, tokens_C = np.zeros(len(nll_C)), np.zeros(len(nll_C))
    for owner, tokens_T, counted_T in zip(
        chosen.conversation_N, chosen.tokens_NT, chosen.counted_NT, strict=True
    ):
        slow_T = slow_read(base, torch.from_numpy(tokens_T), INNER).nll.detach().numpy()
        total_C[owner] += slow_T[counted_T].sum()
        tokens_C[owner] += counted_T.sum()
    np.testing.assert_allclose(nll_C, total_C / tokens_C, atol=1e-4)
    plain_C, _ = dialogue_nll(base, chosen, batch=3, device=CPU, inner=None)
    still = dataclasses.replace(INNER, learning_rate=0.0)
    still_C, _ = dialogue_nll(base, chosen, batch=3, device=CPU, inner=still)
    np.testing.assert_allclose(still_C, plain_C, atol=1e-6)
    assert np.abs(nll_C - plain_C).max() > 1e-3


def test_only_answers_have_a_loss(base):
    pieces = cut(DIALOGUES.train, CODEC.marks, tokens=24)
    loss = answer_nll(base, pieces.tokens_NT, pieces.counted_NT, device=CPU)
    assert loss.shape == (pieces.counted_NT.sum(),)
    changed = pieces.tokens_NT.copy()
    last_N = pieces.counted_NT.shape[1] - pieces.counted_NT[:, ::-1].argmax(axis=1)
    for row, last in zip(changed, last_N, strict=True):
        row[last + 1 :] = 77  # what follows the last answer
    assert torch.equal(answer_nll(base, changed, pieces.counted_NT, device=CPU), loss)


def test_a_diverged_training_names_its_step(base, tmp_path):
    with pytest.raises(DivergedError, match=r"is (nan|inf) at step \d+: lower learning_rate"):
        fitted(base, tmp_path, chosen=run(learning_rate=1e30))


def test_replies_are_drawn_alike_and_end_at_a_mark(base, tmp_path):
    adapted = fitted(base, tmp_path).model
    told = sample_replies(base, adapted, CODEC, MEASURE, seed=0)
    assert [reply["prompt"] for reply in told] == list(MEASURE.prompts)
    assert told == sample_replies(base, adapted, CODEC, MEASURE, seed=0)
    assert told != sample_replies(base, adapted, CODEC, MEASURE, seed=1)
    same = sample_replies(base, base, CODEC, MEASURE, seed=0)
    assert all(reply["base"] == reply["adapter"] for reply in same)
    for reply in told:
        assert len(CODEC.encode(reply["base"])) <= 3 * MEASURE.reply_tokens  # a broken byte: 3
        assert not any(mark in reply["base"] for mark in ("<|user|>", "<|assistant|>", "<|end|>"))


def test_words_and_their_repetition():
    assert words("I don't, you DON’T?") == ["i", "don't", ",", "you", "don’t", "?"]
    assert distinct(["a", "b", "a", "b"], n=2) == pytest.approx(2 / 3)
    assert distinct(["a"], n=2) is None
    assert distinct([], n=1) is None
    assert repetition(["a", "b", "c"], within=16) == 0
    assert repetition(["a"] * 5, within=16) == pytest.approx(4 / 5)
    assert repetition(["a", "b", "a", "c", "a", "a"], within=1) == pytest.approx(1 / 6)
    assert repetition([], within=4) is None


def measured(shift=0.0, *, seeds=(0, 1), conversations=40, control_of=None, replies=None):
    """An adapter that lowers every loss by .3 and what `shift` adds to that."""
    generator = np.random.default_rng(0)
    before = 4 + generator.normal(size=(len(seeds), conversations))
    noise = 0.01 * np.random.default_rng(1).normal(size=before.shape)
    points = [{"step": 0, "train_loss": None, "val_nll": 4.0}]
    points += [{"step": 5, "train_loss": 4.0, "val_nll": 3.7}]
    reply = {"prompt": "hi", "base": "a a a a", "adapter": "a b c d"}
    return MeasuredAdapter(
        seeds=seeds,
        before_SC=before,
        after_SC=before - 0.3 + shift + noise,
        before_ttt_SC=before - 1,
        after_ttt_SC=before - 1.05 + shift + noise,
        replies=replies or ((reply, reply),) * len(seeds),
        histories=({"points": points, "trained_parameters": 447},) * len(seeds),
        base="text",
        tried=5,
        control_of=control_of,
    )


def block(run, **controls):
    generator = numpy_generator(0, "report")
    return adapter_block(run, controls=controls, resamples=200, generator=generator)


def row(found, metric):
    (only,) = [r for r in found["rows"] if r["metric"] == metric and r["seed"] is None]
    return only


def test_the_planted_change_is_found_with_an_interval_far_below_the_spread():
    found = block(measured(), permuted=measured(0.1, control_of="ours"))
    change = row(found, "dialogue_nll.change")
    assert change["low"] < change["value"] < change["high"]
    assert change["value"] == pytest.approx(-0.3, abs=0.01)
    assert change["high"] - change["low"] < 0.02
    assert change["n"] == 40
    assert row(found, "dialogue_nll.before")["value"] == pytest.approx(
        row(found, "dialogue_nll.after")["value"] - change["value"]
    )
    against = row(found, "dialogue_nll.minus_permuted")
    assert against["value"] == pytest.approx(-0.1, abs=1e-9)
    updated = row(found, "dialogue_nll_ttt.change")
    assert updated["value"] == pytest.approx(-0.05, abs=0.01), "what is left where updates help too"
    assert row(found, "dialogue_nll_ttt.minus_permuted")["value"] == pytest.approx(-0.1, abs=1e-9)
    seeds = [r for r in found["rows"] if r["metric"] == "dialogue_nll.change" and r["seed"] == 1]
    assert len(seeds) == 1
    assert row(found, "trained_parameters")["value"] == 447
    json.dumps(found, allow_nan=False)


def test_an_adapter_that_was_not_read_with_updates_has_no_such_rows():
    found = block(dataclasses.replace(measured(), before_ttt_SC=None, after_ttt_SC=None))
    assert not [r for r in found["rows"] if r["metric"].startswith("dialogue_nll_ttt")]
    assert row(found, "dialogue_nll.change")["value"] < -0.2


def test_nothing_is_found_where_nothing_is():
    same = measured()
    against = row(block(same, other=measured()), "dialogue_nll.minus_other")
    assert (against["value"], against["low"], against["high"]) == (0, 0, 0)


def test_replies_and_curves_are_reported():
    found = block(measured())
    assert row(found, "distinct_2.base")["value"] == pytest.approx(1 / 3)
    assert row(found, "distinct_2.adapter")["value"] == 1
    assert row(found, "repetition.change")["value"] == pytest.approx(-3 / 4)
    assert row(found, "words.base")["n"] == 2
    assert found["curves"] == {
        "step": [0, 5],
        "train_loss": [[None, 4.0]] * 2,
        "val_nll": [[4.0, 3.7]] * 2,
    }
    assert [(r["seed"], r["base"]) for r in found["replies"]] == [
        (0, "a a a a"),
        (0, "a a a a"),
        (1, "a a a a"),
        (1, "a a a a"),
    ]


def test_empty_replies_are_undefined_not_zero():
    empty = {"prompt": "hi", "base": "", "adapter": "a b"}
    some = {"prompt": "ho", "base": "a b", "adapter": "a b"}
    found = block(measured(replies=((empty, empty), (empty, empty))))
    assert row(found, "repetition.base")["value"] is None
    assert row(found, "repetition.base")["reason"] == "left out for too short a reply: 2 prompts"
    assert row(found, "words.adapter")["value"] == 2
    found = block(measured(replies=((empty, some), (empty, some))))
    assert row(found, "repetition.base")["n"] == 1
    found = block(measured(replies=((empty, some, some),) * 2))
    assert row(found, "distinct_2.change")["reason"] == "left out for too short a reply: 1 prompts"
    assert row(found, "distinct_2.base")["value"] == 1


def test_a_control_on_other_conversations_is_refused():
    with pytest.raises(ValueError, match="control has other seeds or conversations"):
        block(measured(), control=measured(conversations=39))
