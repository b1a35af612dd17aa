import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence

from mneme.nn.head import head_kl, head_nll, head_weight
from mneme.nn.onednn import OneDNNLinear


@pytest.fixture(name="case")
def _case():
    generator = torch.Generator().manual_seed(0)
    # 3 x 130 rows: more than one block, the last one not full
    states = torch.randn(3, 130, 16, generator=generator, requires_grad=True)
    weight = torch.randn(50, 16, generator=generator)
    target = torch.randn(3, 130, 16, generator=generator)
    labels = torch.randint(0, 50, (3, 130), generator=generator)
    return states, weight, target, labels


def test_uniform_head_costs_ln_v():
    states, labels = torch.randn(1, 4, 8), torch.zeros(1, 4, dtype=torch.long)
    loss = head_nll(states, torch.zeros(50, 8), labels)
    torch.testing.assert_close(loss, torch.full((1, 4), 50.0).log())


def test_equal_models_have_no_divergence(case):
    states, weight, _, _ = case
    loss = head_kl(states, weight, states.detach(), temperature=2.0)
    assert loss.abs().max() < 1e-6
    (slope,) = torch.autograd.grad(loss.sum(), states)
    assert slope.abs().max() < 1e-6


def test_nll_and_gradient_equal_cross_entropy(case):
    states, weight, _, labels = case
    upstream = torch.rand(3, 130)
    expected = F.cross_entropy((states @ weight.T).transpose(1, 2), labels, reduction="none")
    got = head_nll(states, weight, labels)
    torch.testing.assert_close(got, expected)
    slopes = [torch.autograd.grad(loss, states, upstream)[0] for loss in (got, expected)]
    torch.testing.assert_close(*slopes)
    with torch.no_grad():
        torch.testing.assert_close(head_nll(states, weight, labels), expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_kl_and_gradient_equal_torch_distributions(case, temperature):
    states, weight, target, _ = case
    p, q = (Categorical(logits=s @ weight.T / temperature) for s in (target, states))
    expected = kl_divergence(p, q) * temperature**2
    got = head_kl(states, weight, target, temperature=temperature)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    slopes = [torch.autograd.grad(loss.mean(), states)[0] for loss in (got, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-7)
    assert got.min() >= 0


def test_half_precision_head_is_close(case):
    states, weight, _, labels = case
    low = states.detach().bfloat16().requires_grad_()
    loss = head_nll(low, weight.bfloat16(), labels)
    assert loss.dtype is torch.float32
    exact = head_nll(low.float(), weight.bfloat16().float(), labels)
    torch.testing.assert_close(loss, exact, rtol=0, atol=0.1)
    assert torch.autograd.grad(loss.mean(), low)[0].dtype is torch.bfloat16


def test_head_of_a_model(tiny_llama):
    assert head_weight(tiny_llama) is not tiny_llama.lm_head.weight
    assert head_weight(tiny_llama).data_ptr() == tiny_llama.lm_head.weight.data_ptr()
    tiny_llama.lm_head.bias = torch.nn.Parameter(torch.zeros(128))
    with pytest.raises(ValueError, match="head has a bias"):
        head_weight(tiny_llama)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 12), (2, 5, 12), (6, 4)])
def test_onednn_linear_equals_linear(bias, shape):
    generator = torch.Generator().manual_seed(1)
    inputs = [
        torch.randn(shape, generator=generator),
        torch.randn(9, shape[-1], generator=generator),
    ]
    inputs += [torch.randn(9, generator=generator)] if bias else []
    inputs = [x.requires_grad_() for x in inputs]
    with OneDNNLinear():
        got = F.linear(*inputs)
    assert "_Linear" in type(got.grad_fn).__name__
    expected = F.linear(*inputs)
    torch.testing.assert_close(got, expected)
    upstream = torch.randn(expected.shape, generator=generator)
    slopes = [torch.autograd.grad(y, inputs, upstream) for y in (got, expected)]
    torch.testing.assert_close(*slopes)


def test_onednn_leaves_everything_else_alone(tiny_llama):
    x, w = torch.randn(3, 4), torch.randn(2, 4)
    with OneDNNLinear():
        assert torch.equal(F.linear(x.double(), w.double()), x.double() @ w.double().T)
        assert F.linear(x.bfloat16(), w.bfloat16()).dtype is torch.bfloat16
        assert F.linear(x[0], w).shape == (2,)
        assert F.linear(x, weight=w).shape == (3, 2)
        with torch.inference_mode():
            logits = tiny_llama(torch.arange(9)[None]).logits
    torch.testing.assert_close(logits, tiny_llama(torch.arange(9)[None]).logits, rtol=0, atol=1e-5)


def test_builds_without_onednn_compute_as_always(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    x, w = torch.randn(3, 4, requires_grad=True), torch.randn(2, 4)
    with OneDNNLinear():
        y = F.linear(x, w)
    assert "_Linear" not in type(y.grad_fn).__name__
