"""Train a transformer arm: every arm by the same loop, steps, batches and optimiser.

The loss is the mean negative log-likelihood over the window, plus what the run asks for: auxiliary
targets of the slots, regularisers, drift. What a step draws depends only on the seed and the step,
so a killed training continues bit for bit, and arms see the same windows in the same order.

Legend: B batch, W windows, T position, D width, M slots, H horizon.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mneme.core.checkpoints import Log, Training, run_steps
from mneme.core.seeds import torch_generator
from mneme.nn.onednn import OneDNNLinear
from mneme.nn.schedule import warm_cosine
from mneme.zeta.carry_config import CarryConfig
from mneme.zeta.config import SLOT_ARMS, ModelConfig, RunConfig, TrainingConfig
from mneme.zeta.drift import drift_loss, drift_weight, require_horizon
from mneme.zeta.invariants import AuxHeads
from mneme.zeta.memory import Slots
from mneme.zeta.network import Material, Network, build_network
from mneme.zeta.prime_config import RowConfig
from mneme.zeta.reading import effect_percent, rollout_reading, window_nll
from mneme.zeta.regularisers import attention_penalty, cap_norms, penalty

BETAS = (0.9, 0.95)
"""AdamW's; the second is that of most transformers, since gradients shrink as the loss falls."""
EFFECT_EVERY = 4
"""The slots' effect is read on every so-manieth of the windows that a reading takes: each slot is
cut once, so that all of them would take longer than a tenth of the training."""
ATTENTION_EVERY, ATTENTION_ROWS = 4, 8
"""Attention is regularised every 4th step, four times as strongly, on 8 windows of the batch: the
explicit maps are slow and the expected gradient is that of every step."""


class DivergedError(ValueError):
    """The training's loss or gradient is no longer a number."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a training leaves."""

    network: Network
    """With the last weights."""
    last: dict[str, Tensor]
    """State after the last step."""
    best: dict[str, Tensor]
    """State at the lowest validation NLL among the readings."""
    best_step: int
    """Steps made when it was reached."""
    history: dict[str, Any]
    """Readings along the training, seconds, tokens/s, parameters: JSON-ready."""


def fit(
    material: Material,
    run: RunConfig,
    config: ModelConfig,
    training: TrainingConfig,
    *,
    carry: CarryConfig | None,
    seed: int,
    device: torch.device,
    checkpoint: str | Path,
    fingerprint: str,
    log: Log,
    label: str,
    rows: RowConfig | None = None,
) -> Fitted:
    """Train one run at one seed.

    Parameters
    ----------
    material : Material
        Windows of the series, those that train and those that select.
    run, config, training : RunConfig, ModelConfig, TrainingConfig
        Settings; `training` is the same for all arms.
    carry : CarryConfig, optional
        Settings of the carried memory; given exactly for arm `carry`.
    seed : int
        Decides initial weights and the order of the windows.
    device : torch.device
        bfloat16 autocast on CUDA only.
    checkpoint, fingerprint : path, str
        File from which a killed training continues (the caller removes it); hash of all inputs.
    log, label : callable, str
        Takes progress lines, which begin with the label.
    rows : RowConfig, optional
        What the prime memory tells; given exactly for arm `primes_transformer`.

    Returns
    -------
    Fitted

    Raises
    ------
    ConfigError
        Settings that do not go together.
    DivergedError
        Loss or gradient is not finite.
    """
    material = material.to(device)
    network = build_network(run, config, carry=carry, seed=seed, rows=rows).to(device)
    course = Course(network, material, run, training, seed=seed)
    run_steps(
        course.step,
        course.training,
        steps=training.steps,
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
        network: Network,
        material: Material,
        run: RunConfig,
        training: TrainingConfig,
        *,
        seed: int,
    ) -> None:
        self.network, self.material, self.run, self.config = network, material, run, training
        self.seed, self.device = seed, material.spacings_WT.device
        if run.drift_weight:
            require_horizon(run.drift_horizon, material.spacings_WT.shape[1])
        network.adapt(material)
        self.aux = self._heads()
        self.optimizer = torch.optim.AdamW(self._groups(), lr=0.0, betas=BETAS, fused=True)
        state = network.state_dict()
        self.best = {name: tensor.detach().clone() for name, tensor in state.items()}
        heads = {} if self.aux is None else dict(self.aux.named_parameters())
        self.training = Training(
            tensors=state
            | {f"best.{name}": tensor for name, tensor in self.best.items()}
            | {f"aux.{name}": tensor for name, tensor in heads.items()},
            optimizers={"adamw": self.optimizer},
        )
        every = max(1, math.ceil(len(material.val) / training.eval_windows))
        self.eval_rows = material.val[::every]

    def _heads(self) -> AuxHeads | None:
        if self.run.aux == "none":
            return None
        seen_WT = self.material.spacings_WT[self.material.train, :-1]
        sizes = self.network.model.config
        return AuxHeads(seen_WT, self.run.aux, slots=sizes.slots, width=sizes.width)

    def _groups(self) -> list[dict[str, Any]]:
        """Sort parameters: matrices decay, vectors and memory do not, slots learn more slowly."""
        slots = {id(p) for p in self.network.model.memory_parameters()}
        memory = self.network.memory
        plain = set() if memory is None else {id(p) for p in memory.memory_parameters()}
        parameters = list(self.network.parameters())
        if self.aux is not None:
            parameters += list(self.aux.parameters())
        groups: dict[str, list[nn.Parameter]] = {"matrices": [], "vectors": [], "slots": []}
        for p in parameters:
            vector = p.ndim < 2 or id(p) in plain
            groups["slots" if id(p) in slots else "vectors" if vector else "matrices"].append(p)
        return [
            {
                "params": members,
                "weight_decay": self.config.weight_decay if name == "matrices" else 0.0,
                "factor": self.config.memory_learning_rate if name == "slots" else 1.0,
            }
            for name, members in groups.items()
            if members
        ]

    def step(self, index: int) -> dict[str, Any]:
        """Make step `index`; returns losses (nats), seconds and, when due, a reading."""
        started = time.perf_counter()
        self.network.follow(self.material, step=index)
        self._set_rate(index)
        self.optimizer.zero_grad(set_to_none=True)
        with _linear(self.device):
            losses = self.losses(index)
            losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self._trained(), self.config.clip)
        record = {name: value.item() for name, value in losses.items()}
        self._check(index, record["loss"], norm.item())
        self.optimizer.step()
        if self.run.regularise:
            cap_norms(*self.network.model.memory_parameters())
        record["seconds"] = time.perf_counter() - started
        if (index + 1) % self.config.eval_every == 0 or index + 1 == self.config.steps:
            record |= self.read(index)
        return record

    def losses(self, index: int) -> dict[str, Tensor]:
        """Compute the loss of step `index` (`loss`) and its unweighted parts."""
        rows, run = self.rows_of(index), self.run
        with self._cast():
            output = self.network(self.material, rows, slots=self._dropped(index))
        truth_BT = self.material.spacings_WT[rows, 1:]
        parts = {"nll": -output.mixture.log_prob(truth_BT).mean()}
        loss = parts["nll"]
        if self.aux is not None:
            parts["aux"] = self.aux(output.memory_BMD.float(), self.material.spacings_WT[rows, :-1])
            loss = loss + run.aux_weight * parts["aux"]
        if run.regularise:
            parts["penalty"] = self._penalty(index, rows, output.mixture.log_weights)
            loss = loss + parts["penalty"]
        if run.drift_weight and index % run.drift_every == 0:
            parts["drift"] = self._drift(index)
            place = {"step": index, "steps": self.config.steps}
            loss = (
                loss + drift_weight(run.drift_weight, run.drift_schedule, **place) * parts["drift"]
            )
        return {"loss": loss, **parts}

    def _penalty(self, index: int, rows: Tensor, log_weights: Tensor) -> Tensor:
        place = {"step": index, "steps": self.config.steps}
        total = penalty(self._slots(), log_weights, **place)
        if index % ATTENTION_EVERY:
            return total
        few = rows[:ATTENTION_ROWS]
        with self._cast():
            maps = self.network(self.material, few, slots=None, attention=True).attention
        slots = self.network.model.config.slots
        on_slots = maps[..., slots:, :slots].float()
        return total + ATTENTION_EVERY * attention_penalty(on_slots, **place)

    def _drift(self, index: int) -> Tensor:
        """Roll out windows that are drawn apart from the step's batch."""
        generator = torch_generator(self.seed, "drift", str(index))
        place = torch.randint(
            len(self.material.train), (self.run.drift_batch,), generator=generator
        )
        rows = self.material.train[place.to(self.device)]
        with self._cast():
            return drift_loss(
                self.network.model,
                self.material.spacings_WT[rows],
                level_B=self.network.level(self.material, rows),
                horizon=self.run.drift_horizon,
            )

    def _dropped(self, index: int) -> Slots | None:
        """Zero each slot of each window with the run's chance."""
        if not self.run.slot_dropout:
            return None
        slots, width = self.network.model.config.slots, self.network.model.config.width
        generator = torch_generator(self.seed, "dropout", str(index))
        keep = torch.rand(self.config.batch, slots, generator=generator) >= self.run.slot_dropout
        values = torch.zeros(self.config.batch, slots, width, device=self.device)
        return Slots(keep_BM=keep.to(self.device), values_BMD=values)

    def rows_of(self, index: int) -> Tensor:
        """Return the windows of step `index` (B,): permutation after permutation, in batches."""
        count, batch = len(self.material.train), self.config.batch
        place = torch.arange(index * batch, (index + 1) * batch)
        epoch_B, inside_B = place // count, place % count
        rows_B = torch.empty_like(place)
        for epoch in epoch_B.unique().tolist():
            generator = torch_generator(self.seed, "order", str(epoch))
            order = torch.randperm(count, generator=generator)
            rows_B[epoch_B == epoch] = order[inside_B[epoch_B == epoch]]
        return self.material.train[rows_B.to(self.device)]

    def read(self, index: int) -> dict[str, Any]:
        """Read the validation windows after step `index` and keep the state if it is the best.

        `val_nll` is over the same evenly spaced windows at every reading, so that readings
        compare; the last adds `val_nll_all` over all of them. Every arm that rolls is rolled out on
        the same windows (`err_source@10`); arms with slots tell the largest's effect.
        """
        self.network.refresh(self.material, anchor=True)
        last = index + 1 == self.config.steps
        rows = self.material.val if last else self.eval_rows
        with _linear(self.device):  # in full precision, as everything after the training is
            nll_W = window_nll(self.network, self.material, rows)
            few = torch.isin(rows, self.eval_rows)
            reading: dict[str, Any] = {"val_nll": nll_W[few].mean().item()}
            told = self.network, self.material, self.eval_rows
            if self.network.rolls:
                reading["err_source@10"] = rollout_reading(*told)
            if self.run.arm in SLOT_ARMS:
                reading["eff_percent"] = effect_percent(*told[:2], self.eval_rows[::EFFECT_EVERY])
        if last:
            reading["val_nll_all"] = nll_W.mean().item()
        if not math.isfinite(reading["val_nll"]):
            self._fail(index, "validation NLL", reading["val_nll"])
        if reading["val_nll"] < self.best_reading()[0]:
            for name, tensor in self.network.state_dict().items():
                self.best[name].copy_(tensor)
        return reading

    def fitted(self) -> Fitted:
        """Return what the finished training leaves."""
        last = self.network.state_dict()
        return Fitted(
            network=self.network,
            last={name: tensor.detach().clone() for name, tensor in last.items()},
            best={name: tensor.clone() for name, tensor in self.best.items()},
            best_step=self.best_reading()[1],
            history=self.summary(),
        )

    def best_reading(self) -> tuple[float, int]:
        """Return the lowest validation NLL so far and the steps made by then."""
        history = enumerate(self.training.history, 1)
        readings = [(r["val_nll"], made) for made, r in history if "val_nll" in r]
        return min(readings, default=(math.inf, 0))

    def summary(self) -> dict[str, Any]:
        """Return the readings with the mean training losses since the one before."""
        points, since = [], []
        for made, record in enumerate(self.training.history, 1):
            since.append(record)
            if "val_nll" in record:
                points.append({"step": made} | _mean_losses(since) | _reading(record))
                since = []
        seconds = sum(r["seconds"] for r in self.training.history)
        tokens = self.config.steps * self.config.batch * (self.material.spacings_WT.shape[1] - 1)
        return {
            "points": points,
            "seconds": round(seconds, 3),
            "tokens": tokens,
            "tokens_per_s": round(tokens / seconds, 1),
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "val_nll_all": self.training.history[-1]["val_nll_all"],
            "seed": self.seed,
        }

    def _set_rate(self, index: int) -> None:
        share = warm_cosine(index, steps=self.config.steps, warmup=self.config.warmup)
        rate = self.config.learning_rate * share
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _slots(self) -> Tensor:
        bank = self.network.model.bank
        assert bank is not None
        return bank.vectors()

    def _cast(self) -> AbstractContextManager[Any]:
        """Return bfloat16 autocast on CUDA, nothing elsewhere."""
        if self.device.type == "cuda":
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    def _check(self, index: int, loss: float, norm: float) -> None:
        if not math.isfinite(loss):
            self._fail(index, "loss", loss)
        if not math.isfinite(norm):
            self._fail(index, "gradient norm", norm)

    def _fail(self, index: int, what: str, value: float) -> None:
        rate = self.config.learning_rate
        raise DivergedError(
            f"the training's {what} is {value} at step {index}: lower learning_rate ({rate:g}), "
            f"or lengthen warmup ({self.config.warmup})"
        )


def _linear(device: torch.device) -> AbstractContextManager[Any]:
    """Return the context of fast linear layers on the CPU."""
    return OneDNNLinear() if device.type == "cpu" else nullcontext()


def _mean_losses(records: list[dict[str, Any]]) -> dict[str, float]:
    names = [n for n in ("loss", "nll", "aux", "penalty", "drift") if any(n in r for r in records)]
    found = {name: [r[name] for r in records if name in r] for name in names}
    return {f"train_{name}": sum(values) / len(values) for name, values in found.items()}


def _reading(record: Mapping[str, Any]) -> dict[str, float]:
    names = ("val_nll", "val_nll_all", "eff_percent", "err_source@10")
    return {name: record[name] for name in names if name in record}
