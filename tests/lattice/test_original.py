import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mneme.core.config import ConfigError
from mneme.core.seeds import torch_generator
from mneme.lattice.baselines import fit_pca, random_projection
from mneme.lattice.config import AdapterConfig, CellConfig
from mneme.lattice.original import OriginalConfig, OriginalNetwork, run_original
from mneme.lattice.published import BATCH, LOSS, SIMILARITY
from mneme.lattice.retrieval import spread
from mneme.lattice.synthetic import related_vectors

CPU = torch.device("cpu")
SMALL = OriginalConfig(
    width=120,
    pairs=8,
    train_pairs=7,
    test_pairs=40,
    correlations=(0.0, 0.27),
    steps=10,
    learning_rate=2e-3,
    adapter=AdapterConfig(strategy="hierarchical", dropout=0.1, groups=8),
    cell=CellConfig(
        kind="mlp",
        shape=(11, 3, 4),
        surface="single",
        channels=4,
        hidden=16,
        steps=11,
        boundary="walls",
        dropout=0.0,
        checkpointed=False,
    ),
)
TINY = dataclasses.replace(
    SMALL, steps=4, cell=dataclasses.replace(SMALL.cell, shape=(6, 3, 4), steps=6)
)
FULL = dataclasses.replace(
    SMALL,
    width=4096,
    learning_rate=5e-4,
    cell=dataclasses.replace(SMALL.cell, shape=(11, 15, 15), channels=8, hidden=32),
)


@pytest.mark.parametrize("seed", range(20))
def test_the_gate_over_twenty_seeds(seed):
    """The source's network is flagged always, vectors and codecs never.

    Its lattice has made one vector of everything before any training, so that what training on
    positives alone does cannot be seen here: `test_fit` shows it without a lattice.
    """
    made = run_original(TINY, 0.27, seed=seed, device=CPU)
    assert not made["raw"]["collapsed"]
    assert made["before"]["collapsed"]
    assert made["after"]["collapsed"]
    generator = torch_generator(seed, "codecs")
    questions, answers = (v.numpy() for v in related_vectors(90, 120, 0.27, generator=generator))
    pca = fit_pca(np.concatenate([questions[40:], answers[40:]]), 12)
    projection = random_projection(120, 12, generator=np.random.default_rng(seed))
    for codec in (pca, projection):
        assert not spread(codec.encode(questions[:40]), codec.encode(answers[:40])).collapsed


@pytest.mark.parametrize("rho", [0.0, 0.27])
def test_the_loss_falls_for_related_and_unrelated_pairs_alike(rho):
    made = run_original(SMALL, rho, seed=0, device=CPU)
    assert made["loss"][-1] < 0.3 * made["loss"][0]
    assert min(made["similarity"]) > 0.99
    assert len(made["loss"]) == len(made["similarity"]) == 11
    assert made["after"]["recall@1"] < 0.15
    assert made["raw"]["similarity"] == pytest.approx(rho, abs=0.1)  # deviation .09 / sqrt(40)
    for when in ("before", "after"):
        assert made[when]["similarity"] > 0.99 < made[when]["negative_cosine"]
    assert (made["compression"], made["batch"]) == (10, 7)
    assert "effective rank" in made["after"]["reason"]


def test_nothing_crosses_a_lattice_that_starts_at_random():
    network = OriginalNetwork(SMALL, seed=0)
    vectors = torch.cat(related_vectors(20, 120, 0.0, generator=torch_generator(0)))
    shown = torch.from_numpy(network.processed(vectors))
    assert F.cosine_similarity(shown[:20], shown[20:]).min() > 0.999
    with torch.no_grad():
        entering = network.adapter.eval().encode(vectors)
    assert F.cosine_similarity(entering[:20], entering[20:]).min() < 0.95


def test_runs_repeat_and_differ_by_seed():
    short = dataclasses.replace(TINY, steps=2)
    state = torch.random.get_rng_state()
    first, again, other = (run_original(short, 0.27, seed=seed, device=CPU) for seed in (0, 0, 1))
    assert first == again
    assert first["loss"] != other["loss"]
    assert torch.equal(state, torch.random.get_rng_state())


def test_vectors_have_the_correlation_that_was_asked_for():
    for rho in (0.0, 0.27, 0.8):
        generator = torch_generator(0, "related")
        questions, answers = related_vectors(300, 400, rho, generator=generator)
        torch.testing.assert_close(questions.norm(dim=1), torch.ones(300))
        torch.testing.assert_close(answers.norm(dim=1), torch.ones(300))
        cosine = (questions * answers).sum(1).mean().item()
        assert cosine == pytest.approx(rho, abs=4 / (300 * 400) ** 0.5)


def test_published_figures_are_complete():
    assert list(LOSS) == list(SIMILARITY) == [0, 2, 4, 6, 8, 10]
    assert SMALL.train_pairs == BATCH


@pytest.mark.gpu
def test_a_gpu_finds_the_same():
    adapter = dataclasses.replace(SMALL.adapter, dropout=0.0)  # drawn by the device's own generator
    still = dataclasses.replace(SMALL, adapter=adapter)
    cuda = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats()
    here, there = (run_original(still, 0.27, seed=0, device=device) for device in (CPU, cuda))
    assert torch.cuda.max_memory_allocated() > 4 * here["parameters"]
    np.testing.assert_allclose(there["loss"], here["loss"], atol=1e-3)
    assert there["after"]["collapsed"]


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.27])
def test_the_published_curve(rho):
    runs = [run_original(FULL, rho, seed=seed, device=CPU) for seed in range(3)]
    assert all(run["parameters"] == 45_918_613 for run in runs)
    assert all(run["after"]["collapsed"] for run in runs)
    mean = np.mean([run["loss"] for run in runs], 0)
    for step, loss in LOSS.items():
        assert mean[step] == pytest.approx(loss, abs=0.15), step


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"train_pairs": 8}, "train_pairs"),
        ({"test_pairs": 1}, "test_pairs"),
        ({"correlations": (1.0,)}, "correlations"),
        ({"steps": 0}, "steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_settings_out_of_range(changes, key):
    with pytest.raises(ConfigError, match=key):
        dataclasses.replace(SMALL, **changes)
