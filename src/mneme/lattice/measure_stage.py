"""Stage `lattice_measure`: every trained arm of a teacher on its test pairs.

Legend: N pairs, D width of the embedding, B batch, C channels, Z, Y, X cells along the axes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mneme.core.checkpoints import Log
from mneme.lattice.automaton import Lattice, LatticeWarning
from mneme.lattice.baseline_runs import Texts, baseline_runs, fastest
from mneme.lattice.config import ArmConfig
from mneme.lattice.gather import Measured
from mneme.lattice.material import training_material
from mneme.lattice.measure import Reading, read_vectors
from mneme.lattice.network import (
    Material,
    Retriever,
    build_retriever,
    control_answers,
    noise_like,
)
from mneme.lattice.own_pairs import EIGHT
from mneme.lattice.stages_measure import MeasureStageConfig

Arrays = Mapping[str, NDArray]
States = Mapping[str, Sequence[Mapping[str, Tensor]]]


class WeightsError(ValueError):
    """Weights of another network than the arm's."""


def measured_teacher(
    config: MeasureStageConfig,
    vectors: Arrays,
    texts: Texts | None,
    states: States,
    *,
    device: torch.device,
    log: Log,
) -> dict[str, Measured]:
    """Measure all that stands on one teacher's embeddings, on the same test pairs.

    Parameters
    ----------
    config : MeasureStageConfig
        Arms, recipe, seeds.
    vectors : mapping
        `<split>_questions`, `<split>_answers` (N, D) for train, val, test and, where there are
        such pairs, `EIGHT`.
    texts : mapping, optional
        Split -> [group, question, answer] of each pair, in the order of the vectors; None where
        pairs have no texts.
    states : mapping
        Arm -> weights under each seed.
    device : torch.device
        Where networks compute.
    log : callable
        Takes a line a run.

    Returns
    -------
    dict
        Baseline or arm -> what was measured, baselines first.

    Raises
    ------
    WeightsError
        Weights of another network.
    VectorError
        Vectors that cannot be measured, or too few for PCA.
    """
    runs = baseline_runs(
        vectors,
        texts,
        config.read,
        surface=config.recipe.cell.surface_size,
        seeds=config.seeds,
    )
    log(f"{config.teacher}: {len(runs)} baselines read")
    material = training_material(vectors)
    for name, arm in config.arms.items():
        assert name not in runs, f"an arm has the name of baseline {name}"
        runs[name] = _measured_arm(config, arm, material, vectors, states[name], device=device)
        log(f"{config.teacher}: {name} read")
    return runs


def opened(
    state: Mapping[str, Tensor], material: Material, arm: ArmConfig, config: MeasureStageConfig
) -> Retriever:
    """Return an arm's network with the weights that training left, in evaluation mode.

    Raises
    ------
    WeightsError
        Weights of another network.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LatticeWarning)  # said when the arm was trained
        # the weights are replaced: where they start from does not matter
        arm = replace(arm, start="random")
        network = build_retriever(material, arm, config.recipe, seed=0)
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        line = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"the weights do not fit the recipe ({line}): delete the arm's folder and run snakemake"
        ) from None
    return network.eval()


def _measured_arm(
    config: MeasureStageConfig,
    arm: ArmConfig,
    material: Material,
    vectors: Arrays,
    states: Sequence[Mapping[str, Tensor]],
    *,
    device: torch.device,
) -> Measured:
    """Read one arm under every seed; latency and the picture are those of the first seed."""
    mean_D = np.concatenate([vectors["train_questions"], vectors["train_answers"]]).mean(0)
    readings: list[Reading] = []
    first: dict[str, Any] = {}
    for seed, state in zip(config.seeds, states, strict=True):
        network = opened(state, material, arm, config).to(device)
        pairs = [side.to(device) for side in held_out(vectors, arm, seed=seed)]
        eight = _eight(network, vectors, arm, seed=seed, device=device)
        readings.append(_read(network, *pairs, mean_D=mean_D, eight=eight))
        if not first:
            first = _looked_at(network, pairs[0][: config.read.shown], times=config.read.timings)
    return Measured(
        kind="trained",
        seeds=config.seeds,
        readings=tuple(readings),
        numbers=config.recipe.cell.surface_size,
        **first,
    )


def held_out(vectors: Arrays, arm: ArmConfig, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return the test pairs (N, D) as an arm is tested on: its control of them, if it is one."""
    questions = questions_of(vectors, arm, "test", seed=seed)
    answers = control_answers(vectors["test_answers"].astype(np.float32), arm, seed=seed)
    return questions, torch.from_numpy(answers)


def questions_of(vectors: Arrays, arm: ArmConfig, split: str, *, seed: int) -> Tensor:
    """Return the questions (N, D) of a split, or an arm's noise in their place."""
    if arm.vectors != "noise":
        return torch.from_numpy(vectors[f"{split}_questions"].astype(np.float32))
    # all splits at once: their noise must not be that of training or validation
    splits = [vectors[f"{one}_questions"] for one in ("train", "val", split)]
    every = torch.from_numpy(np.concatenate(splits).astype(np.float32))
    noise = noise_like(every, torch.arange(len(splits[0])), seed=seed)
    return noise[-len(splits[-1]) :]


def _eight(
    network: Retriever, vectors: Arrays, arm: ArmConfig, *, seed: int, device: torch.device
) -> tuple[NDArray, NDArray] | None:
    """Return the eight pairs' surfaces; their answers are never exchanged."""
    if f"{EIGHT}_questions" not in vectors:
        return None
    answers = torch.from_numpy(vectors[f"{EIGHT}_answers"].astype(np.float32))
    questions = questions_of(vectors, arm, EIGHT, seed=seed)
    return network.surfaces(questions.to(device), answers.to(device))


def _read(
    network: Retriever,
    questions: Tensor,
    answers: Tensor,
    *,
    mean_D: NDArray,
    eight: tuple[NDArray, NDArray] | None,
) -> Reading:
    surfaces = network.surfaces(questions, answers)
    both = torch.cat([questions, answers])
    return read_vectors(
        *surfaces,
        original_MD=both.double().cpu().numpy(),
        made_MD=network.reconstruct(both),
        mean_D=mean_D,
        eight=eight,
    )


def _looked_at(network: Retriever, questions_BD: Tensor, *, times: int) -> dict[str, Any]:
    """Return latency, sizes and the state of the lattice."""

    @torch.inference_mode()
    def encoded() -> Tensor:
        # on the CPU afterwards, so that all is done
        return network.processor(network.standardise(questions_BD)).surface_BS.cpu()

    sizes = network.sizes()
    return {
        "parameters": sizes["adapter_parameters"],
        "core_parameters": sizes["core_parameters"],
        "encode_s": fastest(encoded, times=times) / len(questions_BD),
        "states": _pictured(network, questions_BD),
    }


@torch.inference_mode()
def _pictured(network: Retriever, questions_BD: Tensor) -> NDArray[np.float32] | None:
    """Return the mean size of the state in the middle slice, (steps + 1, Z, X); None without."""
    core = network.processor.core
    if not isinstance(core, Lattice):
        return None
    surfaces = network.processor.surface(network.standardise(questions_BD))
    states_TBCZYX = core.states(surfaces)
    middle = states_TBCZYX[..., states_TBCZYX.shape[-2] // 2, :]
    return middle.abs().mean((1, 2)).float().cpu().numpy()
