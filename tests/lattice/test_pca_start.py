import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mneme.core.config import ConfigError
from mneme.core.seeds import torch_generator
from mneme.lattice.adapter import Adapter
from mneme.lattice.baselines import fit_pca
from mneme.lattice.config import PCA_STRATEGIES, AdapterConfig, ArmConfig
from mneme.lattice.pca_start import start_as_pca
from mneme.lattice.retrieval import VectorError


def planted(count=400, width=80, seed=0):
    """Return vectors with mean 0 whose features differ in size, smaller and smaller."""
    generator = torch_generator(seed, "planted")
    sizes = 0.95 ** torch.arange(width)
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    vectors = torch.randn(count, width, generator=generator) * sizes @ turn
    return vectors - vectors.mean(0)


def started(strategy, vectors, surface=12):
    config = AdapterConfig(strategy=strategy, dropout=0.0, groups=4)
    generator = torch_generator(0, "adapter")
    adapter = Adapter(config, width=vectors.shape[1], surface=surface, generator=generator)
    start_as_pca(adapter, vectors)
    return adapter.eval()


def similarities(vectors):
    unit = F.normalize(torch.as_tensor(vectors).float(), dim=1)
    return (unit @ unit.T)[np.triu_indices(len(unit), 1)]


@pytest.mark.parametrize("strategy", PCA_STRATEGIES)
def test_surfaces_are_principal_components_up_to_their_length(strategy):
    vectors = planted()
    adapter = started(strategy, vectors)
    with torch.no_grad():
        made = adapter.encode(vectors)
    exact = fit_pca(vectors.numpy(), 12).encode(vectors.numpy())
    close = torch.corrcoef(torch.stack([similarities(made), similarities(exact)]))[0, 1]
    assert close > (0.9999 if strategy == "linear" else 0.93)


@pytest.mark.parametrize("strategy", PCA_STRATEGIES)
def test_the_decoder_goes_back(strategy):
    vectors = planted()
    adapter, codec = started(strategy, vectors, surface=40), fit_pca(vectors.numpy(), 40)
    with torch.no_grad():
        made = adapter.decode(adapter.encode(vectors))
    exact = torch.from_numpy(codec.decode(codec.encode(vectors.numpy()))).float()
    cosine = F.cosine_similarity(made, vectors).mean()
    assert cosine > F.cosine_similarity(exact, vectors).mean() - 0.03
    assert torch.isfinite(made).all()


@pytest.mark.parametrize("count", [60, 400])
def test_the_first_layer_holds_the_axes_of_largest_variance_in_order(count):
    vectors = planted(count=count)
    adapter = started("hierarchical", vectors)
    first = next(m for m in adapter.encoder.modules() if isinstance(m, torch.nn.Linear))
    rows = min(first.out_features, count)
    found = first.weight[:rows].double()
    assert torch.allclose(found @ found.T, torch.eye(rows).double(), atol=1e-5)
    exact = torch.linalg.svd(vectors.double(), full_matrices=False)
    kept = (found @ vectors.double().T).norm(dim=1)
    assert torch.allclose(kept, exact.S[:rows], atol=1e-3 * exact.S[0])
    turned = (found[:10] * exact.Vh[:10]).sum(1).abs()
    assert torch.allclose(turned, torch.ones(10).double(), atol=1e-5)


def test_it_can_be_trained_from_there():
    adapter = started("hierarchical", planted())
    adapter.decode(adapter.encode(planted(seed=1))).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in adapter.parameters())


def test_one_sentence_for_too_few_vectors_and_other_forms():
    with pytest.raises(VectorError, match=r"from 12 principal components needs more .* got 12"):
        started("linear", planted(count=12))
    with pytest.raises(ConfigError, match="start must be random for strategy attention_based"):
        ArmConfig(
            strategy="attention_based",
            start="pca",
            core="off",
            lattice_steps=None,
            answers="own",
            vectors="teacher",
            trained=True,
            staged=False,
            pairs=None,
            loss=None,
            steps=None,
            control_of=None,
        )
