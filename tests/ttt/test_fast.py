"""FastWeights: one clipped step for each sample, save, load, reset, rows, adapters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mneme.core.seeds import torch_generator
from mneme.ttt.fast import FastWeights, FastWeightsError, matrix_of, square_norm
from mneme.ttt.inner import read


def filled(fast, seed=0):
    """Return random tensors of the same names and shapes."""
    generator = torch_generator(seed, "fast")
    return {
        name: torch.randn(w.shape, generator=generator, dtype=w.dtype) for name, w in fast.items()
    }


class Adapted(nn.Module):
    """A linear layer with a low-rank adapter beside it, as adapter libraries wrap them."""

    def __init__(self, base):
        super().__init__()
        self.base, self.in_features = base, base.in_features
        generator = torch_generator(1, "adapter")
        draw = [torch.randn(n, 1, generator=generator) for n in base.weight.shape]
        self.u, self.v = (nn.Parameter(d.to(base.weight)) for d in draw)

    def forward(self, x):
        return self.base(x) + (x @ self.v) @ self.u.T


# --- known answers


def test_w0_is_the_model_bit_for_bit_and_takes_no_memory_for_the_batch(model_of):
    model = model_of()
    fast = FastWeights.init(model, 3)
    assert tuple(fast) == model.fast_names()
    assert (len(fast), fast.batch) == (6, 3)
    for name, w in fast.items():
        own = model.get_submodule(name).weight
        assert w.shape == (3, *own.shape)
        assert all(torch.equal(row, own) for row in w)
        assert w.untyped_storage().nbytes() == own.untyped_storage().nbytes()


def test_all_weights_are_laid_out_as_gradients_come(model_of, tokens_of, inner_of):
    """One layout of memory, wherever they come from: equal weights give equal numbers."""
    model = model_of()
    start = FastWeights.init(model, 2)
    learnt = read(model, tokens_of(2, 9), inner_of()).state.fast
    loaded = FastWeights.load(learnt.save(), model)
    places = FastWeights({name: w[[1, 0]] for name, w in learnt.items()})
    for fast in (start, learnt, loaded, places, learnt.row(1), FastWeights.join([learnt, start])):
        assert all(w.stride(1) == 1 for w in fast.values())
    x, _ = model.prefix(tokens_of(2, 7, seed=3))
    logits = [model.suffix(x, fast, None)[0] for fast in (learnt, loaded)]
    assert torch.equal(*logits)
    still = read(model, tokens_of(2, 9), inner_of(learning_rate=0.0), flush=True).state.fast
    logits = [model.suffix(x, fast, None)[0] for fast in (start, still)]
    assert torch.equal(*logits)


def test_a_step_by_hand(inner_of):
    fast = FastWeights({"a": torch.zeros(3, 1, 2), "b": torch.ones(3, 1, 1)})
    gradients = {
        "a": torch.tensor([[[3.0, 0.0]], [[0.3, 0.0]], [[0.0, 0.0]]]),
        "b": torch.tensor([[[4.0]], [[0.4]], [[0.0]]]),
    }
    moved = fast.update(gradients, inner_of(learning_rate=0.5, clip=1.0))
    assert torch.equal(square_norm(gradients), torch.tensor([25.0, 0.25, 0.0]))
    torch.testing.assert_close(moved["a"][:, 0, 0], torch.tensor([-0.3, -0.15, 0.0]))
    torch.testing.assert_close(moved["b"][:, 0, 0], torch.tensor([0.6, 0.8, 1.0]))
    assert torch.equal(fast["a"], torch.zeros(3, 1, 2)), "a step makes new tensors"


def test_below_the_clip_nothing_is_rounded(model_of, inner_of):
    fast = FastWeights.init(model_of(), 2)
    gradients = filled(fast)
    clip = float(square_norm(gradients).max().sqrt()) * 1.0001
    free, clipped = (fast.update(gradients, inner_of(clip=c)) for c in (1e300, clip))
    for name, w in fast.items():
        assert torch.equal(free[name], clipped[name])
        assert torch.equal(free[name], w - 0.5 * gradients[name])


def test_no_gradient_no_step_and_no_nan(model_of, inner_of):
    fast = FastWeights.init(model_of(), 2)
    gradients = {name: torch.zeros_like(w, requires_grad=True) for name, w in fast.items()}
    moved = fast.update(gradients, inner_of(clip=1.0))
    assert all(torch.equal(moved[name], w) for name, w in fast.items())
    sum(w.sum() for w in moved.values()).backward()
    assert all((g.grad == -0.5).all() for g in gradients.values())


# --- properties


def test_the_clip_is_differentiated(inner_of):
    start = FastWeights({"a": torch.zeros(2, 2, 3, dtype=torch.float64)})
    inner = inner_of(clip=0.7)
    g = filled(start)["a"].requires_grad_()
    assert torch.autograd.gradcheck(lambda g: start.update({"a": g}, inner)["a"], g)


@pytest.mark.parametrize("clip", [1e9, 0.5])
def test_samples_do_not_touch_each_other(model_of, inner_of, clip):
    fast, inner = FastWeights.init(model_of(), 3), inner_of(clip=clip)
    gradients = filled(fast)
    moved = fast.update(gradients, inner)
    for i in range(3):
        alone = fast.row(i).update({n: g[i : i + 1] for n, g in gradients.items()}, inner)
        for name in fast:
            torch.testing.assert_close(moved.row(i)[name], alone[name], atol=1e-15, rtol=0)
    again = FastWeights.join([moved.row(i) for i in range(3)])
    assert all(torch.equal(again[name], moved[name]) for name in fast)


def test_reset_restores_w0_bit_for_bit(model_of, inner_of):
    model = model_of()
    start = FastWeights.init(model, 2)
    moved = start.update(filled(start), inner_of())
    assert not any(torch.equal(moved[name], w) for name, w in start.items())
    back = moved.reset(model)
    assert back.batch == 2
    assert all(torch.equal(back[name], w) for name, w in start.items())


def test_save_and_load_are_inverse(model_of, inner_of):
    model = model_of()
    start = FastWeights.init(model, 2)
    moved = start.update(filled(start), inner_of())
    saved = moved.save()
    assert all(not w.requires_grad and w.is_contiguous() for w in saved.values())
    back = FastWeights.load(saved, model)
    assert tuple(back) == tuple(moved)
    assert all(torch.equal(back[name], w) for name, w in moved.items())
    assert all(w.grad_fn is None for w in moved.detached().values())
    saved["blocks.1.mlp_ttt.gate"].zero_()
    assert moved["blocks.1.mlp_ttt.gate"].abs().sum() > 0, "saving copies"


def test_fast_weights_as_trained_change_nothing(model_of, tokens_of):
    model = model_of()
    x, _ = model.prefix(tokens_of(2, 7))
    fast, _ = model.suffix(x, FastWeights.init(model, 2), None)
    torch.testing.assert_close(fast, model.suffix(x, None, None)[0], atol=1e-13, rtol=0)


def test_an_adapter_is_part_of_w0(model_of, tokens_of):
    model, tokens = model_of(), tokens_of(2, 7)
    before = model(tokens)
    mlp = model.blocks[2].mlp_ttt
    mlp.down = Adapted(mlp.down)
    x, _ = model.prefix(tokens)
    plain, fast = (model.suffix(x, w, None)[0] for w in (None, FastWeights.init(model, 2)))
    assert (plain - before).abs().max() > 1e-3
    torch.testing.assert_close(fast, plain, atol=1e-13, rtol=0)
    want = mlp.down.base.weight + mlp.down.u @ mlp.down.v.T
    torch.testing.assert_close(matrix_of(mlp.down), want, atol=1e-13, rtol=0)
    found = [torch.autograd.grad(logits.square().sum(), mlp.down.u)[0] for logits in (plain, fast)]
    torch.testing.assert_close(*found, atol=1e-10, rtol=1e-10)


# --- errors


def test_weights_of_another_model_are_refused(model_of):
    model = model_of()
    saved = FastWeights.init(model, 2).save()
    with pytest.raises(
        FastWeightsError, match=r"mlp_ttt.gate has shape .* needs \(B, 6, 8\): load"
    ):
        FastWeights.load({**saved, "blocks.1.mlp_ttt.gate": torch.zeros(2, 5, 8)}, model)
    with pytest.raises(FastWeightsError, match="of different numbers of samples: save"):
        FastWeights.load({**saved, "blocks.1.mlp_ttt.up": torch.zeros(3, 6, 8)}, model)
    with pytest.raises(FastWeightsError, match=r"this model has \(none\): load it with the model"):
        FastWeights.load(saved, model_of("sliding"))
