"""Cross-entropy with its second derivative written out: torch's own is the oracle."""

from __future__ import annotations

import pytest
import torch

from mneme.core.seeds import torch_generator
from mneme.ttt.nll import nll_of

B, C, V = 2, 3, 5


def drawn(scale=1.0):
    generator = torch_generator(0, "nll")
    logits = torch.randn(B, C, V, generator=generator, dtype=torch.float64) * scale
    return logits, torch.randint(V, (B, C), generator=generator)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_values_are_log_probabilities_however_small(scale):
    logits, targets = drawn(scale)
    found = nll_of(logits, targets, twice=True)
    want = [-logits[b, c].log_softmax(-1)[targets[b, c]] for b in range(B) for c in range(C)]
    torch.testing.assert_close(found.flatten(), torch.stack(want), rtol=1e-14, atol=0)


def derivatives(twice, *, scale):
    """Return gradient, and the gradient of a function of it, for logits and slopes."""
    logits, targets = drawn(scale)
    logits.requires_grad_()
    generator = torch_generator(1, "nll")
    slope = torch.rand(B, C, generator=generator, dtype=torch.float64).requires_grad_()
    direction = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
    nll = nll_of(logits, targets, twice=twice)
    (first,) = torch.autograd.grad((nll * slope).sum(), logits, create_graph=True)
    mixed = (first * direction).sum() + (first.square().sum() + 1).sqrt() + nll.square().sum()
    return first.detach(), *torch.autograd.grad(mixed, [logits, slope])


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_both_derivatives_are_torchs(scale):
    for found, want in zip(
        derivatives(True, scale=scale), derivatives(False, scale=scale), strict=True
    ):
        torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-12)


def test_both_derivatives_are_central_differences():
    logits, targets = drawn()
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: nll_of(x, targets, twice=True), logits)
    assert torch.autograd.gradgradcheck(lambda x: nll_of(x, targets, twice=True), logits)
