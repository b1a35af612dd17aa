import math

import pytest
import torch

from mneme.nn.schedule import warm_cosine


def shares(steps, warmup):
    return [warm_cosine(index, steps=steps, warmup=warmup) for index in range(steps)]


def test_known_shares():
    assert shares(6, 2) == pytest.approx([0.5, 1, 1, (1 + math.sqrt(0.5)) / 2, 0.5, 0.14644661])
    assert shares(1, 0) == [1.0]
    assert shares(3, 3) == pytest.approx([1 / 3, 2 / 3, 1])


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0), (100, 7), (50, 49)])
def test_it_rises_to_the_peak_and_falls_towards_zero(steps, warmup):
    made = shares(steps, warmup)
    assert made[:warmup] == sorted(made[:warmup])
    assert made[warmup:] == sorted(made[warmup:], reverse=True)
    assert made[warmup] == 1.0
    assert min(made) > 0


def test_without_warm_up_it_is_torchs_cosine():
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    rates = []
    for _ in range(30):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert shares(30, 0) == pytest.approx(rates, abs=1e-12)
