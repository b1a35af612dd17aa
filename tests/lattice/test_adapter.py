from itertools import pairwise

import pytest
import torch
from torch import nn

from mneme.core.config import ConfigError
from mneme.core.seeds import torch_generator
from mneme.lattice.adapter import Adapter, GroupAttention, WidthError, hidden_sizes
from mneme.lattice.blocks import parameter_count
from mneme.lattice.config import STRATEGIES, AdapterConfig

ALL = (*STRATEGIES, "linear")


def config(strategy, **changes):
    return AdapterConfig(**({"strategy": strategy, "dropout": 0.1, "groups": 8} | changes))


def adapter(strategy, *, width=64, surface=12, seed=0):
    generator = torch_generator(seed, "adapter")
    return Adapter(config(strategy), width=width, surface=surface, generator=generator)


def counted(strategy, width):
    """Count without holding hundreds of megabytes of weights."""
    with torch.device("meta"):
        return parameter_count(shell(strategy, width))


def shell(strategy, width):
    from mneme.lattice.adapter import _networks

    return nn.ModuleList(_networks(config(strategy), width, 225))


@pytest.mark.parametrize(
    ("strategy", "width", "parameters"),
    [
        ("hierarchical", 4096, 45_918_613),
        ("hierarchical", 1024, 2_702_651),
        ("hierarchical", 768, 1_402_797),
        ("hierarchical", 576, 648_825),
        ("hierarchical", 384, 372_705),
        ("learned_linear", 4096, 1_856_163),
        ("attention_based", 4096, 68_972_769),
        ("autoencoder", 4096, 17_818_025),
    ],
)
def test_parameters_are_those_of_the_source(strategy, width, parameters):
    assert counted(strategy, width) == parameters


def test_parameters_of_seven_layers_of_smollm2():
    sizes = [4032, 2822, 1975, 1382, 967, 676, 473, 331, 225]
    assert hidden_sizes(4032, 225) == sizes[1:-1]
    pairs = list(pairwise(sizes))
    weights = 2 * sum(a * b for a, b in pairs)
    biases = sum(a + b for a, b in pairs)
    norms = 2 * 2 * sum(sizes[1:-1])
    assert counted("hierarchical", 4032) == weights + biases + norms == 44_500_165


def test_sizes_shrink_to_the_surface_and_no_further():
    assert hidden_sizes(4096, 225) == [2867, 2006, 1404, 982, 687, 480, 336]
    assert hidden_sizes(576, 225) == [403]
    assert hidden_sizes(384, 225) == [304]
    assert hidden_sizes(450, 225) == [337]  # exactly twice: nothing to shrink, one step between
    for width in range(460, 5000, 37):
        sizes = hidden_sizes(width, 225)
        assert all(b == int(a * 7 / 10) for a, b in zip([width, *sizes], sizes, strict=False))
        assert sizes[-1] <= 450 < [width, *sizes][-2]


@pytest.mark.parametrize("strategy", ALL)
def test_there_and_back(strategy):
    made = adapter(strategy).eval()
    x = torch.randn(5, 64, generator=torch_generator(0))
    surface = made.encode(x)
    assert surface.shape == (5, 12)
    assert made.decode(surface).shape == (5, 64)
    assert torch.isfinite(made.decode(surface)).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_sources_width_there_and_back(strategy):
    """4,096 numbers with real weights, not counted on paper: an 8-billion teacher's vectors."""
    made = adapter(strategy, width=4096, surface=225).eval()
    assert parameter_count(made) == counted(strategy, 4096)
    sizes = torch.logspace(-1, 1, 4096)  # features of unlike size around a mean, as teachers' are
    x = 2 + sizes * torch.randn(3, 4096, generator=torch_generator(0))
    with torch.inference_mode():
        surface = made.encode(x)
        back = made.decode(surface)
        alone = made.decode(made.encode(x[1:2]))
    assert (surface.shape, back.shape) == ((3, 225), (3, 4096))
    assert torch.isfinite(surface).all()
    assert torch.isfinite(back).all()
    assert torch.pdist(surface).min() > 1e-3, "three vectors, three surfaces"
    torch.testing.assert_close(alone[0], back[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strategy", ALL)
def test_a_vector_never_sees_its_batch(strategy):
    made = adapter(strategy).double().eval()
    x = torch.randn(5, 64, generator=torch_generator(0), dtype=torch.float64)
    together = made.decode(made.encode(x))
    alone = torch.cat([made.decode(made.encode(row[None])) for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strategy", ALL)
def test_every_weight_gets_a_gradient(strategy):
    made = adapter(strategy).eval()
    x = torch.randn(5, 64, generator=torch_generator(0))
    made.decode(made.encode(x)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in made.parameters())


def test_group_attention_is_attention_over_groups():
    attention = GroupAttention(12, 3).double()
    attention.initialise(torch_generator(0))
    with torch.no_grad():
        attention.outward.weight.copy_(torch.eye(12))
    x = torch.randn(4, 12, generator=torch_generator(1), dtype=torch.float64)
    for row, got in zip(x, attention(x[:, :]), strict=True):
        q, k, v = (part.reshape(3, 4) for part in attention.inward(row).split(12))
        slow = torch.stack(
            [sum(w * u for w, u in zip(torch.softmax(k @ a / 2, 0), v, strict=True)) for a in q]
        )
        torch.testing.assert_close(got, slow.flatten())


def test_groups_do_look_at_one_another():
    """Multi-head attention on one token would give each head its own value back."""
    made = adapter("attention_based").eval()
    attention = made.encoder[0]
    x = torch.randn(1, 64, generator=torch_generator(0))
    values = attention.inward(x)[:, 128:]
    assert not torch.allclose(attention(x), attention.outward(values), atol=1e-3)


def test_seeds_decide_the_weights():
    first, same, other = (adapter("hierarchical", seed=s) for s in (0, 0, 1))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
    assert not torch.equal(first.encoder[0].weight, other.encoder[0].weight)
    assert not torch.equal(first.encoder[0].bias, other.encoder[0].bias)


def test_weights_start_as_pytorch_would_draw_them():
    made = adapter("hierarchical", width=400, surface=30)
    weight = made.encoder[0].weight.detach()
    assert weight.max() <= 1 / 20
    assert weight.std().item() == pytest.approx(1 / 20 / 3**0.5, rel=0.02)


def test_dropout_only_in_training():
    made = adapter("hierarchical")
    x = torch.randn(2, 64, generator=torch_generator(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(made.train().encode(x), made.encode(x))
        made.eval()
        assert torch.equal(made.encode(x), made.encode(x))


def test_identity_for_surfaces_only():
    made = adapter("identity", width=12)
    x = torch.randn(2, 12, generator=torch_generator(0))
    assert torch.equal(made.decode(made.encode(x)), x)
    with pytest.raises(ConfigError, match="another than identity for vectors of 64"):
        adapter("identity")


def test_one_sentence_for_another_width():
    made = adapter("hierarchical")
    with pytest.raises(WidthError, match=r"\(2, 65\) do not fit an adapter for 64 numbers"):
        made.encode(torch.zeros(2, 65))
    with pytest.raises(WidthError, match=r"surfaces of shape \(64,\)"):
        made.decode(torch.zeros(64))
    with pytest.raises(ConfigError, match="groups must be a divisor of the embedding's width 60"):
        adapter("attention_based", width=60)


@pytest.mark.parametrize(("name", "value"), [("dropout", 1.0), ("groups", 0)])
def test_settings_out_of_range(name, value):
    with pytest.raises(ConfigError, match=name):
        config("hierarchical", **{name: value})
