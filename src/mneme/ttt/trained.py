"""Trained networks opened again, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mneme.core.seeds import torch_generator
from mneme.ttt.config import Arm, ModelConfig
from mneme.ttt.model import TTTTransformer, build_model


class WeightsError(ValueError):
    """Weights on the disk belong to another network."""


def trained_model(
    config: ModelConfig,
    arm: Arm,
    state: Mapping[str, Tensor],
    *,
    vocabulary: int,
    device: torch.device,
) -> TTTTransformer:
    """Return a network with trained weights, ready to be read.

    Parameters
    ----------
    config, arm
        What was trained; `dynamic` opens the weights of a sliding window.
    state : mapping
        Its weights by name.
    vocabulary : int
        Token ids are 0 .. vocabulary - 1.
    device : torch.device
        Where it computes.

    Raises
    ------
    WeightsError
        The weights are those of another network.
    """
    model = TTTTransformer(config, arm, vocabulary=vocabulary)
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        line = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"the weights do not fit the recipe ({line}): delete the run's folder and run snakemake"
        ) from None
    return model.to(device).eval().requires_grad_(True)


def measured_model(
    config: ModelConfig,
    arm: Arm,
    state: Mapping[str, Tensor] | None,
    *,
    vocabulary: int,
    seed: int,
    device: torch.device,
) -> TTTTransformer:
    """Return the network of a run: with its trained weights, or as it began where it has none."""
    if state is None:
        return untrained_model(config, arm, vocabulary=vocabulary, seed=seed, device=device)
    return trained_model(config, arm, state, vocabulary=vocabulary, device=device)


def untrained_model(
    config: ModelConfig, arm: Arm, *, vocabulary: int, seed: int, device: torch.device
) -> TTTTransformer:
    """Return the network that training with this seed began with."""
    generator = torch_generator(seed, "weights")
    return build_model(config, arm, vocabulary=vocabulary, generator=generator).to(device).eval()
