"""Train one arm of a recipe: every arm by the same loop, tokens, data order and optimiser.

What a step reads depends only on the seed and the step, so a killed training continues bit for
bit, and all arms see the same sequences in the same order. Arms differ in the loss alone
(`mneme.ttt.meta`).

On CUDA all arms compute in float32 with TF32 products, not under bfloat16 autocast: second
derivatives through casts were not shown to be safe, and arms are compared at equal precision.

Legend: B batch, T predicted tokens of a sequence, I inner updates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mneme.core.checkpoints import Log, Training, run_steps
from mneme.core.seeds import torch_generator
from mneme.nn.schedule import warm_cosine
from mneme.ttt.config import TTT_ARMS, Arm, RecipeConfig
from mneme.ttt.material import Material
from mneme.ttt.meta import inner_at, meta_reading, validation_losses
from mneme.ttt.model import TTTTransformer, build_model

BETAS = (0.9, 0.95)
"""AdamW's; the second is that of most language models, since gradients shrink as the loss falls."""


_READ = ("val_nll", "val_nll_frozen")


class DivergedError(ValueError):
    """The training's loss or gradient is no longer a number."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a training leaves."""

    model: TTTTransformer
    """With the last weights."""
    history: dict[str, Any]
    """Readings along the training, seconds, tokens/s, parameters: JSON-ready."""


def fit(
    material: Material,
    recipe: RecipeConfig,
    arm: Arm,
    *,
    vocabulary: int,
    seed: int,
    device: torch.device,
    checkpoint: str | Path,
    fingerprint: str,
    log: Log,
    label: str,
) -> Fitted:
    """Train one arm at one seed.

    Parameters
    ----------
    material : Material
        Sequences that train and those that validate.
    recipe : RecipeConfig
        Settings, the same for all arms of a comparison.
    arm : str
        What is trained.
    vocabulary : int
        Token ids are 0 .. vocabulary - 1.
    seed : int
        Decides initial weights and the order of the sequences.
    device : torch.device
        Where the network computes.
    checkpoint : path
        File from which a killed training continues; the caller removes it.
    fingerprint : str
        Hash of settings, code and data.
    log, label : callable, str
        Takes progress lines, which begin with the label.

    Raises
    ------
    DivergedError
        Loss or gradient is not finite; names the step.
    InnerLossError
        The loss of a chunk is not finite; names step and chunk.
    """
    generator = torch_generator(seed, "weights")
    model = build_model(recipe.model, arm, vocabulary=vocabulary, generator=generator)
    course = Course(model.to(device), material, recipe, arm, seed=seed)
    with _tf32(device):
        run_steps(
            course.step,
            course.training,
            steps=recipe.training.steps,
            path=checkpoint,
            fingerprint=f"{fingerprint} seed {seed}",
            log=log,
            label=f"{label} seed {seed}",
        )
    return Fitted(model=course.model, history=course.summary())


class Course:
    """A training as numbered steps, so that it can be continued."""

    def __init__(
        self,
        model: TTTTransformer,
        material: Material,
        recipe: RecipeConfig,
        arm: Arm,
        *,
        seed: int,
    ) -> None:
        self.model, self.material, self.seed = model, material, seed
        self.arm: Arm = arm
        self.inner, self.config = recipe.inner, recipe.training
        self.device = next(model.parameters()).device
        groups = parameter_groups(model, weight_decay=self.config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, fused=True)
        self.training = Training(
            tensors=dict(model.named_parameters()), optimizers={"adamw": self.optimizer}
        )

    def step(self, index: int) -> dict[str, Any]:
        """Make step `index`; returns its loss (nats), inner gradients, seconds, and readings."""
        started = time.perf_counter()
        share = warm_cosine(index, steps=self.config.steps, warmup=self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * share
        self.optimizer.zero_grad(set_to_none=True)
        record: dict[str, Any] = self.accumulate(index)
        self._check(index, "loss", record["loss"])
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self._check(index, "gradient norm", norm.item())
        self.optimizer.step()
        record["seconds"] = time.perf_counter() - started
        if (index + 1) % self.config.eval_every == 0 or index + 1 == self.config.steps:
            record |= self.validation(step=index)
            for name in _READ:
                self._check(index, "validation loss", record.get(name, 0.0))
        return record

    def accumulate(self, index: int) -> dict[str, float]:
        """Add the gradients of step `index`, micro-batch by micro-batch, to the parameters'.

        Returns
        -------
        dict
            `loss` (nats); for arms with an inner loop also `inner_norm`, the mean norm of the
            inner gradients, and `clipped`, the share of them above the clip.
        """
        tokens_BT1 = self.tokens_of(index)
        inner = inner_at(self.inner, self.config, step=index)
        losses, norms = [], []
        rows = self.config.micro_batch * len(tokens_BT1) // self.config.batch
        for few_BT1 in tokens_BT1.split(rows):
            reading = meta_reading(
                self.model, few_BT1, inner, self.config, arm=self.arm, step=index
            )
            share = len(few_BT1) / len(tokens_BT1)
            (share * reading.loss).backward()
            losses.append(share * reading.loss.detach())
            if reading.norms_BI is not None:
                norms.append(reading.norms_BI)
        record = {"loss": torch.stack(losses).sum().item()}
        if norms and norms[0].numel():
            norms_BI = torch.cat(norms)
            record["inner_norm"] = norms_BI.mean().item()
            record["clipped"] = (norms_BI > self.inner.clip).double().mean().item()
        return record

    def tokens_of(self, index: int) -> Tensor:
        """Return the sequences of step `index`, (batch, T + 1) int64 on the device.

        Shorter ones, where training begins with them, are as many more.
        """
        tokens_BT1 = self.material.batch(index, self.seed, self.config.batch, self.config.tokens)
        return torch.from_numpy(tokens_BT1).to(self.device)

    def validation(self, *, step: int) -> dict[str, float]:
        """Return mean losses (nats a token) on validation sequences, read as at test time.

        Parameters
        ----------
        step : int
            Step just made, for the message of an error.

        Returns
        -------
        dict
            `val_nll`, of the tokens that the objective counts: arms with an inner loop update
            their fast weights at the full inner learning rate, each sequence from its beginning
            and by itself. For those also `val_nll_frozen`, the same tokens without any update:
            where the two are equal, no loss has seen one.
        """
        found = {"val_nll": self._validation_nll(update=True, step=step)}
        if self.arm in TTT_ARMS:
            found["val_nll_frozen"] = self._validation_nll(update=False, step=step)
        return found

    def _validation_nll(self, *, update: bool, step: int) -> float:
        tokens_BT1 = torch.from_numpy(
            self.material.validation(self.config.eval_documents, self.config.tokens)
        )
        parts = [
            validation_losses(
                self.model,
                few_BT1.to(self.device),
                self.inner,
                self.config,
                arm=self.arm,
                update=update,
                step=step,
            )
            for few_BT1 in tokens_BT1.split(self.config.micro_batch)
        ]
        return torch.cat(parts).double().mean().item()

    def summary(self) -> dict[str, Any]:
        """Return the readings with what the training was like since the one before."""
        points, since = [], []
        for made, record in enumerate(self.training.history, 1):
            since.append(record)
            if "val_nll" in record:
                read = {key: record[key] for key in _READ if key in record}
                points.append({"step": made} | _means(since) | read)
                since = []
        seconds = sum(record["seconds"] for record in self.training.history)
        tokens = self.config.steps * self.config.batch * self.config.tokens
        return {
            "points": points,
            "seconds": round(seconds, 3),
            "tokens": tokens,
            "tokens_per_s": round(tokens / seconds, 1),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "seed": self.seed,
        }

    def _check(self, index: int, what: str, value: float) -> None:
        if not math.isfinite(value):
            rate, inner = self.config.learning_rate, self.inner.learning_rate
            raise DivergedError(
                f"the training's {what} is {value} at step {index}: lower learning_rate "
                f"({rate:g}) or inner.learning_rate ({inner:g}), or lengthen warmup "
                f"({self.config.warmup})"
            )


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Sort parameters for the optimiser: matrices decay, vectors do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _means(records: list[dict[str, Any]]) -> dict[str, float]:
    """Return means since the last reading, by the names of the history."""
    names = {"loss": "train_loss", "inner_norm": "inner_norm", "clipped": "clipped"}
    return {
        told: sum(record[name] for record in records) / len(records)
        for name, told in names.items()
        if name in records[0]
    }


@contextmanager
def _tf32(device: torch.device) -> Iterator[None]:
    """Let CUDA's float32 products use TF32 inside; leave the CPU alone."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
