"""A trained arm with all it needs around it: standardised embeddings in, surfaces to compare out.

Teachers' embeddings share one large direction and differ in size from feature to feature. Each
feature is standardised with the mean and deviation of the training embeddings, questions and
answers together, which are part of the network.

Legend: N pairs, M vectors, D width of the embedding, S size of the surface.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mneme.core.seeds import torch_generator
from mneme.lattice.blocks import parameter_count
from mneme.lattice.config import ArmConfig, RecipeConfig
from mneme.lattice.pca_start import start_as_pca
from mneme.lattice.processor import Processor
from mneme.lattice.retrieval import Floats, VectorError, narrow

BATCH = 256
"""Vectors a pass when nothing is trained; never changes a result by more than rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """Embeddings of question-answer pairs, and which of them train and select."""

    questions_ND: Tensor
    """Embeddings of the questions, float32."""
    answers_ND: Tensor
    """Embeddings of their answers, float32."""
    train: Tensor
    """Pairs that train, int64."""
    val: Tensor
    """Pairs on which the best state is chosen, int64."""

    def __post_init__(self) -> None:
        if self.questions_ND.shape != self.answers_ND.shape or self.questions_ND.ndim != 2:
            shapes = f"{tuple(self.questions_ND.shape)} and {tuple(self.answers_ND.shape)}"
            raise VectorError(f"questions and answers must be paired embeddings, got {shapes}")
        for name, vectors in (("questions", self.questions_ND), ("answers", self.answers_ND)):
            bad = int((~torch.isfinite(vectors).all(1)).sum())
            if bad:
                raise VectorError(
                    f"{name}: {bad} of {len(vectors)} embeddings hold NaN or infinity: make the "
                    "embeddings again, in float32"
                )

    def to(self, device: torch.device) -> Material:
        """Return the same on `device`."""
        return Material(
            questions_ND=self.questions_ND.to(device),
            answers_ND=self.answers_ND.to(device),
            train=self.train.to(device),
            val=self.val.to(device),
        )


def controlled(material: Material, arm: ArmConfig, *, seed: int) -> Material:
    """Return the material as an arm sees it: fewer pairs, answers exchanged, noise for questions.

    Parameters
    ----------
    material : Material
        As it is.
    arm : ArmConfig
        `pairs`, `answers` and `vectors`.
    seed : int
        Decides which pairs stay, the exchange and the noise. Answers are exchanged among all pairs
        of the same split; what arm `permuted` is tested on needs `control_answers` as well.

    Raises
    ------
    VectorError
        More pairs are asked for than there are.
    """
    train = material.train
    if arm.pairs is not None:
        if arm.pairs > len(train):
            raise VectorError(f"pairs: {arm.pairs} are asked for and {len(train)} train: lower it")
        generator = torch_generator(seed, "pairs")
        # the first of one fixed order: a smaller amount is part of every larger one
        train = train[torch.randperm(len(train), generator=generator)[: arm.pairs]]
    questions, answers = material.questions_ND, material.answers_ND
    if arm.vectors == "noise":
        questions = noise_like(questions, train, seed=seed)
    if arm.answers != "own":
        answers = answers.clone()
        for name, rows in (("train", train), ("val", material.val)):
            generator = torch_generator(seed, "permuted", name)
            answers[rows] = answers[rows[torch.randperm(len(rows), generator=generator)]]
    return Material(questions_ND=questions, answers_ND=answers, train=train, val=material.val)


def noise_like(vectors_MD: Tensor, train: Tensor, *, seed: int) -> Tensor:
    """Return Gaussian noise with the mean and deviation of each feature of the rows `train`."""
    deviation_D, mean_D = torch.std_mean(vectors_MD[train], 0)
    generator = torch_generator(seed, "noise", str(len(vectors_MD)))
    return mean_D + deviation_D * torch.randn(vectors_MD.shape, generator=generator)


class Retriever(nn.Module):
    """Standardisation, adapter and core.

    Parameters
    ----------
    processor : Processor
        In mode `dialogue`.
    mean_D, scale_D : Tensor
        What is taken off an embedding and what it is divided by.
    """

    mean_D: Tensor
    scale_D: Tensor

    def __init__(self, processor: Processor, *, mean_D: Tensor, scale_D: Tensor) -> None:
        super().__init__()
        assert processor.mode == "dialogue", processor.mode
        self.processor = processor
        self.register_buffer("mean_D", mean_D)
        self.register_buffer("scale_D", scale_D)

    def standardise(self, embeddings_MD: Tensor) -> Tensor:
        """Return standardised embeddings."""
        return (embeddings_MD - self.mean_D) / self.scale_D

    @torch.inference_mode()
    def surfaces(self, questions_MD: Tensor, answers_MD: Tensor) -> tuple[Floats, Floats]:
        """Return what is compared, without dropout: surfaces (M, S) behind the core and before it.

        Questions have gone through the core, answers have not.
        """
        self.eval()
        parts = [[], []]
        for one, other in zip(questions_MD.split(BATCH), answers_MD.split(BATCH), strict=True):
            parts[0].append(self.processor(self.standardise(one)).surface_BS)
            parts[1].append(self.processor.adapter.encode(self.standardise(other)))
        questions, answers = (torch.cat(part).double().cpu().numpy() for part in parts)
        return questions, answers

    @torch.inference_mode()
    def reconstruct(self, embeddings_MD: Tensor) -> Floats:
        """Return embeddings (M, D) after the way to the surface and back, without the core."""
        self.eval()
        adapter, parts = self.processor.adapter, []
        for part in embeddings_MD.split(BATCH):
            made = adapter.decode(adapter.encode(self.standardise(part)))
            parts.append(made * self.scale_D + self.mean_D)
        return torch.cat(parts).double().cpu().numpy()

    def sizes(self) -> dict[str, Any]:
        """Return parameters of the adapter and the core."""
        return {
            "adapter_parameters": parameter_count(self.processor.adapter),
            "core_parameters": parameter_count(self.processor.core),
        }


def build_retriever(
    material: Material, arm: ArmConfig, recipe: RecipeConfig, *, seed: int
) -> Retriever:
    """Build an arm's network with initial weights from `seed`, on the CPU.

    Raises
    ------
    ConfigError
        Sizes that do not go together.
    VectorError
        Vectors of fewer numbers than a surface: no codec that an arm is compared with could be
        fitted.
    """
    narrow(material.questions_ND.shape[1], recipe.cell.surface_size, "an adapter")
    steps = recipe.cell.steps if arm.lattice_steps is None else arm.lattice_steps
    processor = Processor(
        "dialogue",
        replace(recipe.adapter, strategy=arm.strategy),
        replace(recipe.cell, steps=steps),
        core=arm.core,
        width=material.questions_ND.shape[1],
        condition=None,
        seed=seed,
    )
    seen = torch.cat([material.questions_ND[material.train], material.answers_ND[material.train]])
    deviation_D, mean_D = torch.std_mean(seen.double().cpu(), 0, correction=0)
    # a feature that never changes is left as it is: it would become 0 / 0
    scale_D = torch.where(deviation_D > 1e-6 * deviation_D.max(), deviation_D, 1.0)
    network = Retriever(processor, mean_D=mean_D.float(), scale_D=scale_D.float())
    if arm.start == "pca":
        start_as_pca(processor.adapter, network.standardise(seen.cpu()))
    return network


def control_answers(answers_MD: np.ndarray, arm: ArmConfig, *, seed: int) -> np.ndarray:
    """Return held-out answers as an arm is tested on: their own, or exchanged."""
    if arm.answers != "permuted":
        return answers_MD
    order = torch.randperm(len(answers_MD), generator=torch_generator(seed, "permuted", "test"))
    return answers_MD[order.numpy()]
