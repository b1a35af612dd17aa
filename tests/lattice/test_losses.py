import math

import pytest
import torch

from mneme.core.seeds import torch_generator
from mneme.lattice.losses import info_nce, positive_only, reconstruction_loss


def vectors(seed, count=7, width=5):
    return torch.randn(count, width, generator=torch_generator(seed), dtype=torch.float64)


def slow_info_nce(first, second, temperature):
    total = 0.0
    for one, other in ((first, second), (second, first)):
        for i, x in enumerate(one):
            scores = [float(x @ y / x.norm() / y.norm()) / temperature for y in other]
            total += math.log(sum(map(math.exp, scores))) - scores[i]
    return total / (2 * len(first))


@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0])
def test_info_nce_against_loops(temperature):
    first, second = vectors(0), vectors(1)
    expected = slow_info_nce(first, second, temperature)
    assert info_nce(first, second, temperature=temperature).item() == pytest.approx(expected)


def test_info_nce_of_known_cases():
    same = torch.ones(7, 3, dtype=torch.float64)
    assert info_nce(same, same, temperature=0.1).item() == pytest.approx(math.log(7))
    axes = torch.eye(7, dtype=torch.float64)
    expected = math.log(1 + 6 * math.exp(-10))
    assert info_nce(axes, axes, temperature=0.1).item() == pytest.approx(expected)
    assert info_nce(axes, axes.roll(1, 0), temperature=0.1).item() > 9


def test_info_nce_looks_at_directions_and_is_symmetric():
    first, second = vectors(0), vectors(1)
    loss = info_nce(first, second, temperature=0.2)
    torch.testing.assert_close(info_nce(5 * first, 0.1 * second, temperature=0.2), loss)
    torch.testing.assert_close(info_nce(second, first, temperature=0.2), loss)


def test_positives_only_against_loops():
    first, second = vectors(0), vectors(1)
    cosine = [float(x @ y / x.norm() / y.norm()) for x, y in zip(first, second, strict=True)]
    squared = [float(d) ** 2 for d in (first - second).flatten()]
    expected = 1 - sum(cosine) / 7 + 0.1 * sum(squared) / 35
    assert positive_only(first, second).item() == pytest.approx(expected)


def test_one_vector_for_everything_satisfies_the_source():
    same = torch.ones(7, 3, dtype=torch.float64)
    assert positive_only(same, same).item() == pytest.approx(0)
    assert positive_only(same, -same).item() == pytest.approx(2 + 0.1 * 4)


def test_reconstruction_is_the_mean_squared_error():
    x = vectors(0)
    assert reconstruction_loss(x, x).item() == 0
    assert reconstruction_loss(x, x + 2).item() == pytest.approx(4)
