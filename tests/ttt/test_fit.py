"""The loop of meta-training: what it learns, that it continues, and what all arms share."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from mneme.core import checkpoints
from mneme.core.seeds import numpy_generator, torch_generator
from mneme.ttt import fit as fit_module
from mneme.ttt.config import InnerConfig, ModelConfig, RecipeConfig, TrainingConfig
from mneme.ttt.fit import Course, DivergedError, fit, parameter_groups
from mneme.ttt.inner import InnerLossError, read
from mneme.ttt.meta import inner_at, meta_loss
from mneme.ttt.model import build_model

CPU = torch.device("cpu")
V = 5
SIZES = ModelConfig(
    blocks=2,
    width=8,
    heads=2,
    hidden=12,
    ttt_blocks=1,
    window=4,
    rope_base=100.0,
    qk_norm=True,
    tied=True,
)
TRAINING = TrainingConfig(
    steps=5,
    batch=4,
    micro_batch=2,
    tokens=14,
    learning_rate=1e-2,
    warmup=2,
    weight_decay=0.1,
    clip=1.0,
    objective="all_chunks",
    adapt_share=0.5,
    inner_warmup=3,
    inner_start=0.25,
    checkpointed=False,
    eval_every=2,
    eval_documents=3,
)
ARMS = ("full", "sliding", "two_mlp", "dynamic", "first", "second")


class Shorter:
    """The same, halved, and so twice as many, in the first two steps."""

    def __init__(self):
        self.whole = Cycles()
        self.vocabulary, self.validation = V, self.whole.validation

    def batch(self, step, seed, sequences, tokens):
        parts = 2 if step < 2 else 1
        return self.whole.batch(step, seed, sequences * parts, tokens // parts)


class Cycles:
    """Sequences that count upwards modulo V, with a random start and seldom a random token."""

    vocabulary = V

    def __init__(self):
        self.asked = []

    def batch(self, step, seed, sequences, tokens):
        self.asked.append((step, seed, sequences, tokens))
        return self._draw(numpy_generator(seed, "order", str(step)), sequences, tokens)

    def validation(self, documents, tokens):
        return self._draw(numpy_generator(0, "validation"), documents, tokens)

    def _draw(self, generator, sequences, tokens):
        start = generator.integers(V, size=(sequences, 1))
        counted = (start + np.arange(tokens + 1)) % V
        noise = generator.integers(V, size=counted.shape)
        return np.where(generator.random(counted.shape) < 0.05, noise, counted)


def recipe(**training):
    return RecipeConfig(
        corpus="markov",
        model=SIZES,
        inner=InnerConfig(chunk=4, learning_rate=0.5, clip=1.0),
        training=dataclasses.replace(TRAINING, **training),
    )


def fitted(folder, arm="second", *, seed=0, log=lambda line: None, material=None, **training):
    return fit(
        material or Cycles(),
        recipe(**training),
        arm,
        vocabulary=V,
        seed=seed,
        device=CPU,
        checkpoint=folder / "checkpoint",
        fingerprint=f"{arm} {training}",
        log=log,
        label="test",
    )


def course_of(arm="second", *, seed=0, material=None, dtype=torch.float64, **training):
    generator = torch_generator(seed, "weights")
    model = build_model(SIZES, arm, vocabulary=V, generator=generator).to(dtype)
    return Course(model, material or Cycles(), recipe(**training), arm, seed=seed)


def state_of(model):
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("arm", ["sliding", "second"])
def test_learns_what_is_planted(tmp_path, arm):
    history = fitted(tmp_path, arm, steps=40, eval_every=40, learning_rate=3e-2).history
    assert history["points"][-1]["val_nll"] < 0.75  # ln 5 = 1.61; the noise alone costs .4


def test_first_step_is_adamw_on_the_meta_loss():
    course = course_of(warmup=0, clip=1e9, weight_decay=0.5, micro_batch=4)
    slow = build_model(SIZES, "second", vocabulary=V, generator=torch_generator(0, "weights"))
    slow = slow.double()
    tokens = torch.from_numpy(Cycles().batch(0, 0, 4, 14))
    first = InnerConfig(chunk=4, learning_rate=0.125, clip=1.0)  # warm-up begins at a quarter
    loss = meta_loss(slow, tokens, first, course.config, arm="second")
    loss.backward()
    parts = [[p for p in slow.parameters() if (p.ndim >= 2) == matrix] for matrix in (True, False)]
    groups = [{"params": parts[0], "weight_decay": 0.5}, {"params": parts[1], "weight_decay": 0}]
    torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95)).step()
    assert course.step(0)["loss"] == pytest.approx(loss.item(), rel=1e-12)
    for mine, other in zip(course.model.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


def test_more_and_shorter_sequences_weigh_as_one_batch():
    """Their mean loss and its gradient, whatever the micro-batch, not twice as much."""
    found = []
    for micro_batch in (4, 1):
        course = course_of("second", material=Shorter(), micro_batch=micro_batch)
        record = course.accumulate(0)
        found.append([p.grad.clone() for p in course.model.parameters()])
        assert course.tokens_of(0).shape == (8, 8)
        assert course.tokens_of(2).shape == (4, 15)
        inner = inner_at(course.inner, course.config, step=0)
        whole = meta_loss(course.model, course.tokens_of(0), inner, course.config, arm="second")
        assert record["loss"] == pytest.approx(whole.item(), rel=1e-5)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", ["all_chunks", "split"])
@pytest.mark.parametrize("arm", ["sliding", "first", "second"])
def test_micro_batches_give_the_gradient_of_one_batch(arm, objective):
    records, gradients = [], []
    for micro_batch in (4, 1):
        course = course_of(arm, micro_batch=micro_batch, objective=objective)
        records.append(course.accumulate(1))
        gradients.append([p.grad for p in course.model.parameters()])
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-14)
    assert records[0] == pytest.approx(records[1], rel=1e-12)


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("arm", "at"), [("sliding", 2), ("first", 1), ("second", 3)])
def test_killed_and_continued_equals_uninterrupted(tmp_path, monkeypatch, arm, at):
    whole = fitted(tmp_path, arm)
    checkpoints.remove(tmp_path / "checkpoint")
    step = Course.step

    def dies(course, index):
        if index == at:
            raise Killed
        return step(course, index)

    with monkeypatch.context() as patch:
        patch.setattr(Course, "step", dies)
        patch.setitem(checkpoints.run_steps.__kwdefaults__, "save_every_s", 0.0)
        with pytest.raises(Killed):
            fitted(tmp_path, arm)
    lines = []
    continued = fitted(tmp_path, arm, log=lines.append)
    assert f"continuing after step {at}/5" in lines[0]
    assert same(state_of(whole.model), state_of(continued.model))
    for key in whole.history.keys() - {"seconds", "tokens_per_s"}:
        assert whole.history[key] == continued.history[key], key


def test_all_arms_read_the_same_tokens_in_the_same_order(tmp_path):
    asked, counts = set(), set()
    for arm in ARMS:
        material = Cycles()
        (tmp_path / arm).mkdir()
        counts.add(
            fitted(tmp_path / arm, arm, material=material, steps=2, warmup=1).history["tokens"]
        )
        asked.add(tuple(material.asked))
    assert asked == {((0, 0, 4, 14), (1, 0, 4, 14))}
    assert counts == {2 * 4 * 14}


def test_seed_changes_initial_weights_and_order(tmp_path):
    zero, other = course_of(seed=0), course_of(seed=1)
    assert torch.equal(course_of("sliding").tokens_of(3), zero.tokens_of(3))
    assert not torch.equal(other.tokens_of(3), zero.tokens_of(3))
    ours, theirs = state_of(zero.model), state_of(other.model)
    for name, tensor in ours.items():
        if tensor.ndim >= 2:
            assert not torch.equal(tensor, theirs[name]), name
    again, first = fitted(tmp_path), fitted(tmp_path)  # the second: read back
    assert same(state_of(again.model), state_of(first.model))


def test_inner_rate_warms_up_and_validation_reads_at_the_full_rate(monkeypatch):
    told, read_at = [], []
    meta, reader = fit_module.meta_reading, fit_module.validation_losses

    def spy(model, tokens, inner, training, *, arm, step):
        told.append((step, arm, inner.learning_rate))
        return meta(model, tokens, inner, training, arm=arm, step=step)

    def spied(model, tokens, inner, training, **options):
        read_at.append((inner.learning_rate, options["update"], options["step"]))
        return reader(model, tokens, inner, training, **options)

    monkeypatch.setattr(fit_module, "meta_reading", spy)
    monkeypatch.setattr(fit_module, "validation_losses", spied)
    course = course_of(micro_batch=4, eval_every=1)
    for index in range(4):
        course.step(index)
    assert told == [
        (i, "second", pytest.approx(r)) for i, r in enumerate([0.125, 0.25, 0.375, 0.5])
    ]
    assert read_at == [(0.5, learns, step) for step in range(4) for learns in (True, False)]
    read_at.clear()
    assert course_of("two_mlp").validation(step=7).keys() == {"val_nll"}
    assert len(read_at) == 2  # micro-batches


@pytest.mark.parametrize("arm", ARMS)
def test_validation_loss_is_the_mean_over_sequences_alone(arm):
    course = course_of(arm)
    losses, still = [], []
    for row in torch.from_numpy(Cycles().validation(3, 14)):
        log_p = course.model(row[None])[0, :-1].log_softmax(-1)
        still.append(-log_p.gather(1, row[1:, None])[:, 0].detach())
        if arm in ("first", "second"):
            losses.append(read(course.model, row[None], course.inner, update=True).nll_BT[0])
    frozen = torch.cat(still).mean().item()
    found = course.validation(step=0)
    if not losses:
        assert found == {"val_nll": pytest.approx(frozen, rel=1e-10)}
        return
    assert found["val_nll"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-10)
    assert found["val_nll_frozen"] == pytest.approx(frozen, rel=1e-10)
    assert found["val_nll_frozen"] != pytest.approx(found["val_nll"], rel=1e-6)


def test_a_split_in_sequences_of_one_chunk_is_validated_with_its_update():
    """As the source trains: its validation must tell what an update is worth."""
    course = course_of(objective="split", tokens=4)
    found = course.validation(step=0)
    assert abs(found["val_nll"] - found["val_nll_frozen"]) > 1e-4
    rows = torch.from_numpy(Cycles().validation(3, 4))
    state = read(course.model, rows[:, :3], course.inner, flush=True).state
    rest = read(course.model, rows[:, 2:], course.inner, state=state, update=False).nll_BT
    assert found["val_nll"] == pytest.approx(rest.mean().item(), rel=1e-10)


def test_validation_leaves_the_training_as_it_is():
    course, other = course_of(eval_every=1), course_of(eval_every=100)
    for index in range(3):
        course.step(index)
        other.step(index)
    assert same(state_of(course.model), state_of(other.model))


def test_history_is_plain_and_tells_the_inner_loop(tmp_path):
    (tmp_path / "plain").mkdir()
    history = fitted(tmp_path, "second").history
    assert [p["step"] for p in history["points"]] == [2, 4, 5]
    assert json.loads(json.dumps(history, allow_nan=False)) == history
    for point in history["points"]:
        read_of = {"val_nll", "val_nll_frozen"}
        assert point.keys() == {"step", "train_loss", "inner_norm", "clipped"} | read_of
        assert point["inner_norm"] > 0
        assert 0 <= point["clipped"] <= 1
    assert history["tokens"] == 5 * 4 * 14
    seconds = history["tokens"] / history["tokens_per_s"]
    assert history["seconds"] == pytest.approx(seconds, rel=0.05)
    plain = fitted(tmp_path / "plain", "two_mlp").history
    assert plain["parameters"] == history["parameters"]
    assert plain["points"][0].keys() == {"step", "train_loss", "val_nll"}


def test_points_are_means_since_the_last_one():
    course = course_of()
    records = [{"loss": 1.0, "seconds": 1.0}, {"loss": 3.0, "seconds": 1.0, "val_nll": 9.0}]
    records += [{"loss": 7.0, "seconds": 2.0, "val_nll": 8.0}]
    course.training.history.extend(records)
    summary = course.summary()
    assert summary["points"] == [
        {"step": 2, "train_loss": 2.0, "val_nll": 9.0},
        {"step": 3, "train_loss": 7.0, "val_nll": 8.0},
    ]
    assert (summary["seconds"], summary["tokens_per_s"]) == (4.0, 70.0)


def test_clipped_share_counts_gradients_above_the_clip():
    norms = {}
    for clip in (1e-6, 1e6):
        course = course_of()
        course.inner = dataclasses.replace(course.inner, clip=clip)
        record = course.accumulate(0)
        norms[clip] = record["clipped"]
        assert record["inner_norm"] > 1e-6
    assert norms == {1e-6: 1.0, 1e6: 0.0}


def test_gradient_is_clipped_by_its_norm_over_all_parameters():
    course = course_of(clip=1e-3)
    course.step(0)
    total = torch.sqrt(sum((p.grad**2).sum() for p in course.model.parameters()))
    assert total.item() == pytest.approx(1e-3, rel=1e-3)


def test_matrices_decay_and_vectors_do_not():
    model = course_of().model
    matrices, vectors = parameter_groups(model, weight_decay=0.3)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert all(p.ndim >= 2 for p in matrices["params"])
    assert all(p.ndim == 1 for p in vectors["params"])
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("arm", ["sliding", "second"])
def test_a_gradient_that_is_no_number_names_the_step(monkeypatch, arm):
    course = course_of(arm)
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda parameters, clip: torch.tensor(torch.inf)
    )
    with pytest.raises(DivergedError, match=r"gradient norm is inf at step 3: lower learning_rate"):
        course.step(3)


def test_a_validation_loss_that_is_no_number_names_step_and_chunk(monkeypatch):
    course = course_of("second", eval_every=1)
    monkeypatch.setattr(course.optimizer, "step", lambda: spoil(course.model))
    with pytest.raises(InnerLossError, match=r"chunk 0 at step 3 is not finite"):
        course.step(3)


def spoil(model):
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)


def test_a_loss_that_is_no_number_names_the_step():
    course = course_of("sliding")
    with torch.no_grad():
        next(course.model.parameters()).fill_(torch.nan)
    with pytest.raises(DivergedError, match=r"loss is nan at step 2: lower learning_rate"):
        course.step(2)


def test_an_inner_loss_that_is_no_number_names_step_and_chunk():
    course = course_of("second")
    with torch.no_grad():
        next(course.model.parameters()).fill_(torch.nan)
    with pytest.raises(InnerLossError, match=r"(?s)step 2.*chunk 0|chunk 0.*step 2"):
        course.step(2)
