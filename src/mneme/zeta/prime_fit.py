"""Train the density head of a prime arm on rows, and read it on windows.

What a step draws depends only on the seed and the step, so a killed training continues bit for bit.

Legend: B batch, N rows, F columns, W windows, T position, K components.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mneme.core.checkpoints import Log, Training, run_steps
from mneme.core.seeds import torch_generator
from mneme.nn.schedule import warm_cosine
from mneme.zeta.mixture import Mixture
from mneme.zeta.prime_config import PrimesConfig, RowConfig, WindowPrimesConfig
from mneme.zeta.prime_net import PrimeNet
from mneme.zeta.prime_rows import Phases, PrimeData, Rows, prime_rows
from mneme.zeta.primes import Floats, Ints

BETAS = (0.9, 0.99)
"""AdamW's; rows are many and gradients shrink as the loss falls."""
CHUNK = 65_536
"""Rows a pass when nothing is learnt."""


@dataclass(frozen=True, kw_only=True)
class FittedPrimes:
    """What a training leaves."""

    net: PrimeNet
    """With the weights of the lowest validation NLL among the readings."""
    last: dict[str, Tensor]
    """State after the last step."""
    best_step: int
    """Steps made when the lowest was reached."""
    history: dict[str, Any]
    """Readings along the training, seconds, parameters: JSON-ready."""


class DivergedError(ValueError):
    """The training's loss is no longer a number."""


def readable_windows(windows: Ints, window: int, config: RowConfig) -> Ints:
    """Leave out the first windows of a series, before which there is nothing to remember."""
    return windows[
        windows * window >= config.memory.refresh * -(-config.halo // config.memory.refresh)
    ]


def prime_data(
    heights: Floats,
    spacings: Floats,
    levels: Floats,
    windows: Ints,
    config: RowConfig,
    *,
    window: int,
    phases: Phases,
) -> PrimeData:
    """Compute the rows of all targets of some windows; the memory reads the series from its start.

    Parameters
    ----------
    heights, spacings, levels : array (n + 1,), (n,), (n + 1,)
        A series.
    windows : array (W,)
        Window indices, ascending (`readable_windows`).
    config : RowConfig
        Settings.
    window : int
        Spacings of a window; its targets are all but the first.
    phases : str
        As in `prime_rows`.

    Returns
    -------
    PrimeData
        Position i of window w serves spacing w x window + i + 1.
    """
    asked_WT = windows[:, None] * window + np.arange(1, window)
    rows = prime_rows(heights, levels, asked_WT.reshape(-1), config, phases=phases)
    truth_WT = spacings[asked_WT].astype(np.float32)
    return PrimeData(rows.reshape(*asked_WT.shape, -1), truth_WT)


def fit_primes(
    train: PrimeData,
    val: PrimeData,
    config: PrimesConfig | WindowPrimesConfig,
    *,
    seed: int,
    device: torch.device,
    checkpoint: str | Path,
    fingerprint: str,
    log: Log,
    label: str,
) -> FittedPrimes:
    """Train the head of one run at one seed.

    Parameters
    ----------
    train, val : PrimeData
        Rows to learn from, and rows that choose the weights.
    config : PrimesConfig
        Settings; rows were made with `config.rows`.
    seed : int
        Decides initial weights and the order of rows.
    device : torch.device
        Where to compute.
    checkpoint : path
        File from which a killed training continues; the caller removes it.
    fingerprint : str
        Hash of settings, code and data.
    log : callable
        Takes progress lines.
    label : str
        What is trained, for the lines.

    Returns
    -------
    FittedPrimes
        Net with its best weights, last state, history.

    Raises
    ------
    DivergedError
        The loss is not finite: names the step.
    """
    course = Course(train, val, config, seed=seed, device=device)
    run_steps(
        course.step,
        course.training,
        steps=config.training.steps,
        path=checkpoint,
        fingerprint=f"{fingerprint} seed {seed}",
        log=log,
        label=f"{label} seed {seed}",
    )
    last = {name: tensor.detach().clone() for name, tensor in course.net.state_dict().items()}
    course.net.load_state_dict(course.best)
    step, history = course.best_reading()[1], course.summary()
    return FittedPrimes(net=course.net, last=last, best_step=step, history=history)


class Course:
    """A training as numbered steps, so that it can be continued."""

    def __init__(
        self,
        train: PrimeData,
        val: PrimeData,
        config: PrimesConfig | WindowPrimesConfig,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.config, self.seed, self.device = config.training, seed, device
        self.train, self.val = _flat(train, device), _flat(val, device)
        self.net = PrimeNet(config.rows, config.head, generator=torch_generator(seed, "head"))
        self.net.standardise(
            train.rows_WTF.reshape(-1, config.rows.columns), train.truth_WT.reshape(-1)
        )
        self.net.to(device)
        self.optimizer = torch.optim.AdamW(self._groups(), lr=0.0, betas=BETAS, fused=True)
        state = self.net.state_dict()
        self.best = {name: tensor.clone() for name, tensor in state.items()}
        self.training = Training(
            tensors=state | {f"best.{name}": tensor for name, tensor in self.best.items()},
            optimizers={"adamw": self.optimizer},
        )

    def _groups(self) -> list[dict[str, Any]]:
        """Matrices decay, vectors do not."""
        parameters = list(self.net.parameters())
        return [
            {
                "params": [p for p in parameters if p.ndim > 1],
                "weight_decay": self.config.weight_decay,
            },
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]

    def step(self, index: int) -> dict[str, Any]:
        """Make step `index`; returns its loss (nats), seconds and, when due, a reading."""
        started = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(index)
        rows_NF, truth_N = self.train
        drawn_B = torch.randint(
            len(rows_NF),
            (self.config.batch,),
            generator=torch_generator(self.seed, "rows", str(index)),
        ).to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        loss = -self.net(rows_NF[drawn_B]).log_prob(truth_N[drawn_B]).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip)
        if not math.isfinite(loss.item()):
            raise DivergedError(f"step {index}: the loss is {loss.item()}; lower learning_rate")
        self.optimizer.step()
        record = {"loss": loss.item(), "seconds": time.perf_counter() - started}
        if (index + 1) % self.config.eval_every == 0 or index + 1 == self.config.steps:
            record |= self._read(index, last=index + 1 == self.config.steps)
        return record

    def _rate(self, index: int) -> float:
        share = warm_cosine(index, steps=self.config.steps, warmup=self.config.warmup)
        return self.config.learning_rate * share

    @torch.no_grad()
    def _read(self, index: int, *, last: bool) -> dict[str, float]:
        """Read validation rows, keeping the weights when their NLL is the lowest.

        `val_nll` is over the same evenly spaced rows at every reading, so that readings compare;
        the last adds `val_nll_all` over all of them.
        """
        every = max(1, len(self.val[0]) // self.config.eval_rows)
        reading = {"val_nll": self._val_nll(every)}
        if last:
            reading["val_nll_all"] = self._val_nll(1)
        if not math.isfinite(reading["val_nll"]):
            raise DivergedError(
                f"step {index}: the validation NLL is {reading['val_nll']}; lower learning_rate"
            )
        if reading["val_nll"] < self.best_reading()[0]:
            for name, tensor in self.net.state_dict().items():
                self.best[name].copy_(tensor)
        return reading

    def _val_nll(self, every: int) -> float:
        parts = zip(*(part[::every].split(CHUNK) for part in self.val), strict=True)
        nll = torch.cat([-self.net(rows).log_prob(truth) for rows, truth in parts])
        return nll.double().mean().item()

    def best_reading(self) -> tuple[float, int]:
        """Return the lowest reading so far and the steps made when it was taken."""
        readings = enumerate(self.training.history, 1)
        return min(
            ((r["val_nll"], n) for n, r in readings if "val_nll" in r), default=(math.inf, 0)
        )

    def summary(self) -> dict[str, Any]:
        """Return readings along the training and what it cost."""
        records = self.training.history
        every = self.config.eval_every
        readings = [
            {
                "step": n,
                "train_nll": float(np.mean([p["loss"] for p in records[max(0, n - every) : n]])),
                "val_nll": r["val_nll"],
            }
            for n, r in enumerate(records, 1)
            if "val_nll" in r
        ]
        seconds = sum(r["seconds"] for r in records)
        return {
            "seed": self.seed,
            "points": readings,
            "val_nll_all": records[-1]["val_nll_all"],
            "seconds": round(seconds, 3),
            "rows_per_s": round(self.config.batch * len(records) / seconds, 1),
            "train_rows": len(self.train[0]),
            "parameters": sum(p.numel() for p in self.net.parameters()),
        }


def _flat(examples: PrimeData, device: torch.device) -> tuple[Tensor, Tensor]:
    rows_NF = torch.from_numpy(examples.rows_WTF).flatten(0, 1)
    return rows_NF.to(device), torch.from_numpy(examples.truth_WT).flatten().to(device)


@torch.no_grad()
def predict(net: PrimeNet, rows_NF: Rows) -> Mixture:
    """Predict the spacing after each row.

    Parameters
    ----------
    net : PrimeNet
        Trained head.
    rows_NF : array (..., F)
        Rows.

    Returns
    -------
    Mixture
        Tensors (..., K) on the CPU.
    """
    device = next(net.parameters()).device
    flat = torch.from_numpy(rows_NF).flatten(0, -2)
    parts = [net(part.to(device)) for part in flat.split(CHUNK)]
    shape = (*rows_NF.shape[:-1], -1)
    return Mixture(*(torch.cat(arrays).cpu().reshape(shape) for arrays in zip(*parts, strict=True)))
