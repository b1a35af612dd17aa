"""Run `original`: the source's recipe on vectors whose relation is known, and how it collapses.

Eight pairs of unit vectors of 4,096 numbers, seven of which train: ten full-batch steps of AdamW on
1 - cosine + .1 squared error of the pairs alone. The published loss starts near 1 while question
and answer surfaces have similarity .9998 before any training. Both hold together when the surface
goes through a lattice whose random rule lets nothing across: its far face shows the same of every
question, and has nothing to do with the answer's surface that it is compared with. So the lattice
here starts at random, not as transport, and its output is what the far face shows, without a way
around. Training then turns the answers' surfaces towards that one vector.

Legend: N pairs, D width of the embedding, S size of the surface.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mneme.core.seeds import torch_generator
from mneme.lattice.adapter import Adapter
from mneme.lattice.automaton import Lattice
from mneme.lattice.blocks import initialise
from mneme.lattice.fit import drawing
from mneme.lattice.losses import positive_only
from mneme.lattice.original_config import OriginalConfig
from mneme.lattice.retrieval import Floats, alignment, retrieval, spread
from mneme.lattice.synthetic import related_vectors


class OriginalNetwork(nn.Module):
    """Adapter, and a lattice that starts at random and has no way around it."""

    def __init__(self, config: OriginalConfig, *, seed: int) -> None:
        super().__init__()
        surface = config.cell.surface_size
        self.adapter = Adapter(
            config.adapter,
            width=config.width,
            surface=surface,
            generator=torch_generator(seed, "adapter"),
        )
        generator = torch_generator(seed, "core")
        self.lattice = Lattice(config.cell, frozen=False, generator=generator)
        initialise(self.lattice.cell, generator)
        with torch.no_grad():
            self.lattice.cell.move.weight.zero_()
        self.lattice.cell.move.requires_grad_(False)
        self.lattice.alpha.requires_grad_(False)

    def forward(self, vectors_ND: Tensor) -> Tensor:
        """Return the surface (N, S) that leaves the lattice."""
        return self.lattice.shown(self.adapter.encode(vectors_ND))

    @torch.inference_mode()
    def processed(self, vectors_ND: Tensor) -> Floats:
        """Return surfaces behind the lattice, without dropout, float64."""
        self.eval()
        return self(vectors_ND).double().cpu().numpy()


def run_original(
    config: OriginalConfig, rho: float, *, seed: int, device: torch.device
) -> dict[str, Any]:
    """Train the source's recipe on vectors of correlation `rho` and measure the end.

    Parameters
    ----------
    config : OriginalConfig
        Settings.
    rho : float
        Correlation of a question with its answer.
    seed : int
        Decides vectors, weights and dropout.
    device : torch.device
        Where to compute, in float32; vectors and first weights are drawn on the CPU.

    Returns
    -------
    dict, JSON-ready
        `loss` and `similarity` (of question and answer surfaces that leave the lattice, training
        pairs, without dropout) before each step and after the last; of the test pairs under `raw`,
        `before` and `after`: recall@1, effective rank, cosine of related and of unrelated surfaces,
        whether they have collapsed and why; `parameters` of the adapter, `lattice_parameters`,
        `compression` (numbers in over numbers out) and `batch`.
    """
    count = config.pairs + config.test_pairs
    vectors = related_vectors(
        count, config.width, rho, generator=torch_generator(seed, "vectors", str(rho))
    )
    train = [side[: config.train_pairs].to(device) for side in vectors]
    test = [side[config.pairs :].to(device) for side in vectors]
    network = OriginalNetwork(config, seed=seed).to(device)
    before = _measured(*(network.processed(side) for side in test))
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate)
    losses, similarities = [], []
    for step in range(config.steps + 1):
        similarities.append(_similarity(network, train))
        network.train()
        with drawing(seed, step, device):
            loss = positive_only(network(train[0]), network.adapter.encode(train[1]))
        losses.append(loss.item())
        if step < config.steps:
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return {
        "rho": rho,
        "seed": seed,
        "loss": losses,
        "similarity": similarities,
        "raw": _measured(*(side.double().cpu().numpy() for side in test)),
        "before": before,
        "after": _measured(*(network.processed(side) for side in test)),
        "parameters": sum(p.numel() for p in network.adapter.parameters()),
        "lattice_parameters": sum(p.numel() for p in network.lattice.parameters()),
        "compression": config.width / config.cell.surface_size,
        "batch": config.train_pairs,
    }


def _similarity(network: OriginalNetwork, train: list[Tensor]) -> float:
    first, second = (network.processed(side) for side in train)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(1) / np.maximum(lengths, 1e-30)).mean())


def _measured(questions_NS: Floats, answers_NS: Floats) -> dict[str, Any]:
    found = spread(questions_NS, answers_NS)
    return {
        "recall@1": float(retrieval(questions_NS, answers_NS)["recall@1"].mean()),
        "effective_rank": found.effective_rank,
        "similarity": 1 - alignment(questions_NS, answers_NS) / 2,
        "negative_cosine": found.negative_cosine,
        "collapsed": found.collapsed,
        "reason": found.reason,
    }
