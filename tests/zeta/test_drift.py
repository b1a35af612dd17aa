import pytest
import torch
from torch import nn

from mneme.core.config import ConfigError
from mneme.core.seeds import torch_generator
from mneme.zeta.config import ModelConfig
from mneme.zeta.drift import drift_context, drift_loss, drift_weight, require_horizon
from mneme.zeta.model import SpacingMDN

CONFIG = ModelConfig(layers=1, heads=1, width=8, components=2, window=16, slots=2, scale_floor=1e-3)


@pytest.fixture(name="model")
def _model():
    generator = torch_generator(0, "test")
    options = {"position": "rope", "slot_id": True, "extra": 0, "generator": generator}
    return SpacingMDN(CONFIG, arm="prefix", **options)


@pytest.fixture(name="x")
def _x():
    return torch.rand(5, 16, generator=torch_generator(1, "test")) * 2


def test_schedules_end_at_the_full_weight():
    at = {
        kind: [drift_weight(0.1, kind, step=step, steps=101) for step in (0, 50, 100)]
        for kind in ("constant", "linear", "exponential")
    }
    assert at["constant"] == [0.1, 0.1, 0.1]
    assert at["linear"] == pytest.approx([0.0, 0.05, 0.1])
    assert at["exponential"] == pytest.approx([0.001, 0.01, 0.1])
    assert drift_weight(0.1, "constant", step=0, steps=1) == 0.1


def test_loss_of_a_model_that_always_says_one(model, x):
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0]))
    wanted = torch.stack([(1 - row[8:13]).cumsum(0).abs().mean() for row in x]).mean()
    torch.testing.assert_close(drift_loss(model, x, level_B=None, horizon=5), wanted)
    exact = x.clone()
    exact[:, 8:] = 1.0
    assert drift_loss(model, exact, level_B=None, horizon=8).item() == pytest.approx(0.0, abs=1e-5)


def test_loss_equals_a_rollout_that_recomputes_every_step(model, x):
    losses = []
    for row in x:
        seen, off, total = row[:8], 0.0, 0.0
        for step in range(6):
            said = model(seen[None]).mixture.mean()[0, -1]
            off = off + said - row[8 + step]
            total = total + off.abs()
            seen = torch.cat([seen, said[None]])
        losses.append(total / 6)
    slow = torch.stack(losses).mean()
    fast = drift_loss(model, x, level_B=None, horizon=6)
    torch.testing.assert_close(fast, slow)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for a, b in zip(
        torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_gradients_reach_the_slots_but_not_the_context(model, x):
    x.requires_grad_()
    drift_loss(model, x, level_B=None, horizon=4).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.memory_parameters())
    assert x.grad[:, :8].abs().sum() == 0


def test_descending_the_loss_shortens_the_drift(model, x):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    first = drift_loss(model, x, level_B=None, horizon=8).item()
    for _ in range(100):
        optimizer.zero_grad()
        drift_loss(model, x, level_B=None, horizon=8).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert drift_loss(model, x, level_B=None, horizon=8).item() < 0.8 * first


def test_a_horizon_beyond_the_window_is_refused():
    assert drift_context(256) == 128
    require_horizon(128, 256)
    with pytest.raises(ConfigError, match="drift_horizon must be at most 128, half a window"):
        require_horizon(129, 256)
