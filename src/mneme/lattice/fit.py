"""Train an arm: every arm by the same loop, steps, batches and optimiser.

A question's surface goes through the core and is compared with its answer's surface, which does
not. What a step draws depends only on the seed and the step, so a killed training continues bit for
bit, and arms see the same pairs in the same order.

Legend: B batch, N pairs, D width of the embedding, S size of the surface.
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
from mneme.core.seeds import derive, torch_generator
from mneme.lattice.config import ArmConfig, FitConfig, RecipeConfig, fit_of
from mneme.lattice.losses import info_nce, positive_only, reconstruction_loss
from mneme.lattice.network import Material, Retriever, build_retriever, controlled
from mneme.lattice.retrieval import VectorError, effective_rank, retrieval
from mneme.nn.schedule import warm_cosine

BETAS = (0.9, 0.98)


class DivergedError(ValueError):
    """The training's loss or gradient is no longer a number."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a training leaves."""

    network: Retriever
    """With the weights that are kept, in evaluation mode: the best ones, or, after the source's
    loss, the last."""
    last: dict[str, Tensor]
    """State after the last step."""
    best_step: int
    """Steps made when those were reached (0: the initial network of an untrained arm)."""
    history: dict[str, Any]
    """Readings along the training, seconds, parameters: JSON-ready."""


def fit(
    material: Material,
    arm: ArmConfig,
    recipe: RecipeConfig,
    *,
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
        Embeddings of pairs, those that train and those that select.
    arm, recipe : ArmConfig, RecipeConfig
        Settings; `recipe` is the same for all arms.
    seed : int
        Decides initial weights and the order of the pairs.
    device : torch.device
        Where to compute, in float32.
    checkpoint : path
        File from which a killed training continues; the caller removes it.
    fingerprint : str
        Hash of settings, code and data.
    log, label : callable, str
        Takes progress lines, which begin with the label.

    Returns
    -------
    Fitted

    Raises
    ------
    ConfigError
        Settings that do not go together.
    VectorError
        Fewer training pairs than a batch, or fewer than two to select on.
    DivergedError
        Loss or gradient is not finite.
    """
    material = controlled(material, arm, seed=seed)
    network = build_retriever(material, arm, recipe, seed=seed).to(device)
    course = Course(network, material.to(device), arm, recipe.fit, seed=seed)
    if arm.trained:
        run_steps(
            course.step,
            course.training,
            steps=course.config.steps,
            path=checkpoint,
            fingerprint=f"{fingerprint} seed {seed}",
            log=log,
            label=f"{label} seed {seed}",
        )
    return course.fitted()


class Course:
    """A training as numbered steps, so that it can be continued."""

    def __init__(
        self,
        network: Retriever,
        material: Material,
        arm: ArmConfig,
        config: FitConfig,
        *,
        seed: int,
    ) -> None:
        self.network, self.material, self.arm = network, material, arm
        self.config = fit_of(arm, config)
        self.seed, self.device = seed, material.questions_ND.device
        _require_pairs(material, self.config)
        self.optimizer = torch.optim.AdamW(self._groups(), lr=0.0, betas=BETAS)
        state = network.state_dict()
        self.best = {name: tensor.detach().clone() for name, tensor in state.items()}
        self.training = Training(
            tensors=state | {f"best.{name}": tensor for name, tensor in self.best.items()},
            optimizers={"adamw": self.optimizer},
        )

    def _groups(self) -> list[dict[str, Any]]:
        """Sort parameters: matrices decay, the core has a learning rate of its own."""
        core = {id(p) for p in self.network.processor.core.parameters()}
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for p in self.network.parameters():
            if p.requires_grad:
                groups.setdefault((id(p) in core, p.ndim >= 2), []).append(p)
        return [
            {
                "params": members,
                "peak": self.config.core_learning_rate if inner else self.config.learning_rate,
                "weight_decay": self.config.weight_decay if matrix else 0.0,
            }
            for (inner, matrix), members in groups.items()
        ] or [{"params": [nn.Parameter(torch.zeros(()))], "peak": 0.0}]

    def step(self, index: int) -> dict[str, Any]:
        """Make step `index`; returns losses, seconds and, when due, a reading."""
        started = time.perf_counter()
        self._set_rate(index)
        self.optimizer.zero_grad(set_to_none=True)
        self._set_mode(index)
        with drawing(self.seed, index, self.device):
            losses = self.losses(index)
            if losses["loss"].requires_grad:  # nothing can be trained in an identity
                losses["loss"].backward()
        if self._frozen(index):
            for p in self.network.processor.adapter.parameters():
                p.grad = None
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, self.config.clip)
        record = {name: value.item() for name, value in losses.items()}
        self._check(index, record["loss"], norm.item())
        self.optimizer.step()
        record["seconds"] = time.perf_counter() - started
        if (index + 1) % self.config.eval_every == 0 or index + 1 == self.config.steps:
            record |= self.read()
        return record

    def losses(self, index: int) -> dict[str, Tensor]:
        """Compute the loss of step `index` (`loss`) and its unweighted parts."""
        rows_B = self.rows_of(index)
        questions_BD = self.network.standardise(self.material.questions_ND[rows_B])
        answers_BD = self.network.standardise(self.material.answers_ND[rows_B])
        adapter, core = self.network.processor.adapter, self.network.processor.core
        surfaces = adapter.encode(questions_BD), adapter.encode(answers_BD)
        made = [adapter.decode(surface) for surface in surfaces]
        rebuilt = 0.5 * (
            reconstruction_loss(questions_BD, made[0]) + reconstruction_loss(answers_BD, made[1])
        )
        if self._warming(index):
            return {"loss": rebuilt, "reconstruction": rebuilt}
        found_BS = core(surfaces[0])
        if self.config.loss == "original":
            loss = positive_only(found_BS, surfaces[1])
            return {"loss": loss, "reconstruction": rebuilt}
        contrast = info_nce(found_BS, surfaces[1], temperature=self.config.temperature)
        loss = contrast + self.config.reconstruction * rebuilt
        return {"loss": loss, "infonce": contrast, "reconstruction": rebuilt}

    def rows_of(self, index: int) -> Tensor:
        """Return the pairs of step `index` (B,): no pair twice, permutation after permutation."""
        train, batch = self.material.train, self.config.batch
        epoch, place = divmod(index, len(train) // batch)
        generator = torch_generator(self.seed, "order", str(epoch))
        order = torch.randperm(len(train), generator=generator).to(self.device)
        return train[order[place * batch : (place + 1) * batch]]

    def read(self) -> dict[str, Any]:
        """Read the validation pairs and keep the state if it is the best so far.

        The source chose no state: after its loss the last one is kept. Choosing by retrieval would
        bring in the negatives that this loss is without.
        """
        rows = self.material.val
        questions, answers = self.network.surfaces(
            self.material.questions_ND[rows], self.material.answers_ND[rows]
        )
        found = retrieval(questions, answers)
        reading: dict[str, Any] = {f"val_{name}": float(found[name].mean()) for name in found}
        reading["val_effective_rank"] = effective_rank(questions)
        if self.config.loss == "original" or reading["val_mrr"] > self.best_reading()[0]:
            for name, tensor in self.network.state_dict().items():
                self.best[name].copy_(tensor)
        return reading

    def fitted(self) -> Fitted:
        """Return what the finished training leaves."""
        last = {n: tensor.detach().clone() for n, tensor in self.network.state_dict().items()}
        history = self.summary()
        self.network.load_state_dict(self.best)
        every = self.config.loss == "original"
        step = len(self.training.history) if every else max(self.best_reading()[1], 0)
        return Fitted(network=self.network.eval(), last=last, best_step=step, history=history)

    def best_reading(self) -> tuple[float, int]:
        """Return the highest validation MRR so far and the steps made when it was first reached."""
        history = enumerate(self.training.history, 1)
        readings = [(r["val_mrr"], -made) for made, r in history if "val_mrr" in r]
        mrr, made = max(readings, default=(-1.0, 0))
        return mrr, -made

    def summary(self) -> dict[str, Any]:
        """Return the readings with the mean training losses since the one before."""
        points, since = [], []
        for made, record in enumerate(self.training.history, 1):
            since.append(record)
            if "val_mrr" in record:
                names = [name for name in ("loss", "infonce", "reconstruction") if name in record]
                means = {
                    f"train_{name}": math.fsum(r[name] for r in since if name in r)
                    / sum(name in r for r in since)
                    for name in names
                }
                reading = {n: value for n, value in record.items() if n.startswith("val_")}
                points.append({"step": made} | means | reading)
                since = []
        return {
            "points": points,
            "seconds": round(sum(r["seconds"] for r in self.training.history), 3),
            "pairs": len(self.material.train),
            "seed": self.seed,
            **self.network.sizes(),
        }

    def _warming(self, index: int) -> bool:
        """Tell whether step `index` trains reconstruction alone."""
        if not self.arm.staged:
            return False
        return index < self.config.warmup_steps or self.arm.core == "off"

    def _frozen(self, index: int) -> bool:
        return self.arm.staged and not self._warming(index)

    def _set_mode(self, index: int) -> None:
        self.network.train()
        if self._frozen(index):
            self.network.processor.adapter.eval()

    def _set_rate(self, index: int) -> None:
        share = 1.0
        if self.config.schedule == "cosine":
            share = warm_cosine(index, steps=self.config.steps, warmup=0)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share

    def _check(self, index: int, loss: float, norm: float) -> None:
        for what, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                rate = max(self.config.learning_rate, self.config.core_learning_rate)
                raise DivergedError(
                    f"the training's {what} is {value} at step {index}: lower learning_rate or "
                    f"core_learning_rate (now up to {rate:g})"
                )


@contextmanager
def drawing(seed: int, index: int, device: torch.device) -> Iterator[None]:
    """Let dropout, which knows only the global generators, draw step `index`'s own numbers."""
    gpus = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(derive(seed, "dropout", str(index)))
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(derive(seed, "dropout", str(index)))
        yield


def _require_pairs(material: Material, config: FitConfig) -> None:
    if len(material.train) < config.batch:
        raise VectorError(
            f"{len(material.train)} training pairs are fewer than a batch of {config.batch}: add "
            "pairs or lower fit.batch"
        )
    if len(material.val) < 2:
        raise VectorError(
            f"{len(material.val)} validation pairs cannot rank anything: at least 2 are needed"
        )
