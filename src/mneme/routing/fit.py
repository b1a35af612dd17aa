"""Train the domains' LoRA adapters one after another, and measure every adapter on every domain.

Adapters sit above layer k, so the output of layer k is computed once a text and every epoch, every
adapter and every measurement starts there. With `above_gate: false` k is 0: adapters on all layers.

Legend: B batch, N chunks, T position, D width, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mneme.core.checkpoints import Log, Training, run_steps
from mneme.core.config import require
from mneme.core.devices import peak_memory_mb
from mneme.core.seeds import torch_generator
from mneme.nn.backbone import require_context
from mneme.nn.head import head_nll, head_weight
from mneme.nn.onednn import OneDNNLinear
from mneme.nn.split import UpperHalf, lower, upper
from mneme.routing.begun import Begun
from mneme.routing.domains import BASE
from mneme.routing.lora import activate, adapter_parameters, attached
from mneme.routing.sleep import Rehearsal, join, rehearsal_loss
from mneme.routing.stages import AdapterFitConfig

ADAMW: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "foreach": True}
"""AdamW without decay: B starts at zero and should not be drawn back to it."""


@dataclass(frozen=True, kw_only=True)
class FittedAdapters:
    """The backbone with all trained adapters, and what was measured."""

    model: Any
    """PeftModel; valid inside the context that made it; `lora.activate` chooses the adapter."""
    losses: dict[str, dict[str, list[float]]]
    """Adapter name or `base` -> domain -> held-out loss of each chunk, nats/token."""
    history: dict[str, Any]
    """Losses a step, seconds, tokens/s, memory."""


@contextmanager
def fitted_adapters(
    base: Any,
    tokens: Mapping[str, np.ndarray],
    config: AdapterFitConfig,
    *,
    seed: int,
    device: torch.device,
    checkpoint: str | Path,
    fingerprint: str,
    log: Log,
    begun: Begun | None = None,
) -> Iterator[FittedAdapters]:
    """Train one run at one seed; the backbone is as before when the context is left.

    Parameters
    ----------
    base : transformers.PreTrainedModel
        Frozen causal language model on `device`, in evaluation mode.
    tokens : mapping of ndarray
        `<domain>.train` (N, T) and `<domain>.loss` (N, T), int32 token ids without padding.
    config : AdapterFitConfig
        Settings.
    seed : int
        Training seed: initial weights and order of chunks.
    device : torch.device
        Where to compute.
    checkpoint, fingerprint, log
        As `path` and the others of `run_steps`; the caller removes the checkpoint.
    begun : Begun, optional
        The first domain's adapter, from a run that trains it in the same way: it is not trained,
        and neither it nor the backbone measured, again.

    Yields
    ------
    FittedAdapters
        Trained adapters, losses, history.

    Raises
    ------
    ConfigError, BackboneError
        The material is too small or longer than the context, or a target module does not exist.
    """
    run = config.run
    k = config.backbone.gate_layer if run.above_gate else 0
    chunks = {d: _chunks(tokens, d, run.samples, run.tokens) for d in config.domains}
    _require_context(base, tokens, config)
    options = {"targets": config.backbone.target_modules, "first_layer": k, "seed": seed}
    with OneDNNLinear(), attached(base, config.adapters, config.domains, **options) as model:
        parts = Parts(model, lower(base, k), upper(base, k), head_weight(base), run.batch, device)
        course = Course(parts, chunks, config, seed=seed, begun=begun)
        run_steps(
            lambda index: course.step(course.first + index),
            course.training,
            steps=course.steps - course.first,
            path=checkpoint,
            fingerprint=f"{fingerprint} seed {seed}",
            log=log,
            label=f"{config.name} seed {seed}",
        )
        yield _measured(course, {d: _tensor(tokens[f"{d}.loss"]) for d in config.domains})


def _require_context(base: Any, tokens: Mapping[str, np.ndarray], config: AdapterFitConfig) -> None:
    longest = max(config.run.tokens, *(tokens[f"{d}.loss"].shape[1] for d in config.domains))
    keys = f"routing.adapters.runs.{config.name}.tokens or routing.prepare.loss_tokens"
    require_context(base, longest, keys)


@dataclass(frozen=True)
class Parts:
    """The model, cut at layer k."""

    model: Any
    """PeftModel that owns the adapters."""
    lower: nn.Module
    """Ids -> states of layer k; frozen, without adapters."""
    upper: UpperHalf
    """States of layer k -> logits; carries the adapters."""
    head: Tensor
    """Weight of the frozen head (V, D)."""
    batch: int
    """Chunks a pass."""
    device: torch.device
    """Where everything lies."""

    def low(self, ids_NT: Tensor) -> Tensor:
        """Compute the states of layer k of all chunks (N, T, D)."""
        pieces = ids_NT.to(self.device).split(self.batch)
        return torch.cat([self.lower(ids_BT)[0] for ids_BT in pieces])

    def high(self, h_NTD: Tensor) -> Tensor:
        """Compute the normed states of all chunks with the active adapter (N, T, D)."""
        return torch.cat([self.upper.states(h_BTD) for h_BTD in h_NTD.split(self.batch)])

    def nll(self, states_BTD: Tensor, ids_BT: Tensor) -> Tensor:
        """Next-token loss at every position but the last (B, T-1), nats."""
        return head_nll(states_BTD[:, :-1], self.head, ids_BT[:, 1:])


class Course:
    """Training of all domains as one numbered sequence of steps, so that it can be continued.

    What a step draws depends only on the seed and the step, never on what ran before.
    """

    def __init__(
        self,
        parts: Parts,
        chunks: Mapping[str, Tensor],
        config: AdapterFitConfig,
        *,
        seed: int,
        begun: Begun | None = None,
    ) -> None:
        self.parts, self.config, self.seed, self.begun = parts, config, seed, begun
        self.ids = {domain: ids_NT.to(parts.device) for domain, ids_NT in chunks.items()}
        started = time.perf_counter()
        with torch.no_grad():
            self.h = {domain: parts.low(ids_NT) for domain, ids_NT in self.ids.items()}
        self.lower_s = time.perf_counter() - started
        weights = {d: adapter_parameters(parts.model, d) for d in config.domains}
        rate = config.run.learning_rate
        self.training = Training(
            tensors={key: p for part in weights.values() for key, p in part.items()},
            optimizers={
                d: torch.optim.AdamW(list(part.values()), lr=rate, **ADAMW)
                for d, part in weights.items()
            },
        )
        self.parameters = sum(p.numel() for p in weights[config.domains[0]].values())
        self.epoch_steps = -(-config.run.samples // config.run.batch)
        self.domain_steps = self.epoch_steps * config.run.epochs
        self.steps = self.domain_steps * len(config.domains)
        self.first = 0
        if begun is not None:
            begun.give(weights[config.domains[0]])
            self.first = self.domain_steps
        self._domain: str | None = None
        self.rehearsal: Rehearsal | None = None

    def step(self, index: int) -> dict[str, Any]:
        """Make step `index`; returns its domain, losses (nats) and wall time (s)."""
        started = time.perf_counter()
        which, inside = divmod(index, self.domain_steps)
        domain = self.config.domains[which]
        if domain != self._domain:
            self.begin(domain)
        optimizer = self.training.optimizers[domain]
        optimizer.zero_grad(set_to_none=True)
        rows = self.rows_of(domain, inside)
        loss = self.learn(self.h[domain][rows], self.ids[domain][rows])
        protect = None if self.rehearsal is None else self._rehearse(domain, inside)
        optimizer.step()
        seconds = time.perf_counter() - started
        tokens = len(rows) * self.config.run.tokens
        return {"domain": domain, "loss": loss, "protect": protect} | {
            "seconds": seconds,
            "tokens": tokens,
        }

    def learn(self, h_BTD: Tensor, ids_BT: Tensor) -> float:
        """Add the gradient of a batch's mean next-token loss; returns that loss, nats."""
        loss = self.parts.nll(self.parts.upper.states(h_BTD), ids_BT).mean()
        loss.backward()
        return loss.item()

    def _rehearse(self, domain: str, inside: int) -> float:
        """Add the gradient of the weighted rehearsal loss; returns it unweighted."""
        run, shared = self.config.run, self.config.adapters
        assert self.rehearsal is not None
        assert run.protect != "none"
        generator = torch_generator(self.seed, "rehearse", domain, str(inside))
        drawn = self.rehearsal.draw(run.batch, generator=generator)
        loss = rehearsal_loss(
            self.parts.upper.states(drawn.states),
            drawn,
            self.parts.head,
            protect=run.protect,
            temperature=shared.sleep_temperature,
        )
        (shared.sleep_weight * loss).backward()
        return loss.item()

    def rows_of(self, domain: str, inside: int) -> Tensor:
        """Return the chunks of step `inside` of a domain: every epoch is a fresh permutation."""
        epoch, place = divmod(inside, self.epoch_steps)
        generator = torch_generator(self.seed, "order", domain, str(epoch))
        order = torch.randperm(self.config.run.samples, generator=generator)
        return order.split(self.config.run.batch)[place].to(self.parts.device)

    def begin(self, domain: str) -> None:
        """Activate a domain's adapter, with earlier domains ready to be rehearsed."""
        earlier = self.config.domains[: self.config.domains.index(domain)]
        protect = self.config.run.protect
        self.rehearsal = None
        if earlier and protect != "none":
            self.rehearsal = join([self._remember(d, protect == "sleep") for d in earlier])
        activate(self.parts.model, domain)
        self._domain = domain

    def _remember(self, domain: str, with_snapshot: bool) -> Rehearsal:
        snapshot = None
        if with_snapshot:
            activate(self.parts.model, domain)
            with torch.no_grad():
                snapshot = self.parts.high(self.h[domain])
        return Rehearsal(states=self.h[domain], ids=self.ids[domain], snapshot=snapshot)

    def summary(self) -> dict[str, Any]:
        """Return the history by domain."""
        domains = {}
        if self.begun is not None:
            domains[self.config.domains[0]] = self.begun.history
        for domain in self.config.domains[len(domains) :]:
            records = [r for r in self.training.history if r["domain"] == domain]
            seconds, tokens = (sum(r[key] for r in records) for key in ("seconds", "tokens"))
            domains[domain] = {
                "loss": [r["loss"] for r in records],
                "protect": [r["protect"] for r in records],
                "seconds": round(seconds, 3),
                "tokens": tokens,
                "tokens_per_s": round(tokens / seconds, 2),
            }
        facts = {"seed": self.seed, "lower_seconds": round(self.lower_s, 3)}
        return {"domains": domains, "parameters": self.parameters} | facts


def _measured(course: Course, held_out: Mapping[str, Tensor]) -> FittedAdapters:
    started = time.perf_counter()
    known = {} if course.begun is None else course.begun.losses
    losses = {**known, **held_out_losses(course.parts, held_out, known=known)}
    facts = {
        "evaluation_seconds": round(time.perf_counter() - started, 3),
        "peak_memory_mib": round(_peak_memory_mib(course.parts.device), 1),
    }
    history = course.summary() | facts
    return FittedAdapters(model=course.parts.model, losses=losses, history=history)


@torch.inference_mode()
def held_out_losses(
    parts: Parts, held_out: Mapping[str, Tensor], *, known: Collection[str] = ()
) -> dict[str, dict[str, list[float]]]:
    """Measure the bare backbone and every adapter on every domain.

    Parameters
    ----------
    parts : Parts
        The model.
    held_out : mapping of Tensor
        Domain -> ids (N, T).
    known : collection of str
        Which of them to leave out.

    Returns
    -------
    dict
        `base` or adapter -> domain -> mean next-token loss of each chunk, nats/token.
    """
    losses: dict[str, dict[str, list[float]]] = {
        name: {} for name in (BASE, *held_out) if name not in known
    }
    for domain, ids_NT in held_out.items():
        ids_NT = ids_NT.to(parts.device)
        h_NTD = parts.low(ids_NT)
        for name in losses:
            with _using(parts.model, name):
                states_NTD = parts.high(h_NTD)
            nll_N = parts.nll(states_NTD, ids_NT).mean(1)
            losses[name][domain] = nll_N.tolist()
    return losses


@contextmanager
def _using(model: Any, name: str) -> Iterator[None]:
    """Activate one adapter, or none for `base`."""
    with model.disable_adapter() if name == BASE else nullcontext():
        if name != BASE:
            activate(model, name)
        yield


def _chunks(tokens: Mapping[str, np.ndarray], domain: str, samples: int, length: int) -> Tensor:
    """Return the first `samples` training chunks of a domain, cut to `length` tokens."""
    ids = tokens[f"{domain}.train"]
    enough = ids.shape[0] >= samples and ids.shape[1] >= length
    rule = f"at most {ids.shape[0]} samples of {ids.shape[1]} tokens for domain {domain}"
    require(enough, "samples", rule, (samples, length))
    return _tensor(ids[:samples, :length])


def _tensor(ids: np.ndarray) -> Tensor:
    return torch.from_numpy(ids.astype(np.int64))


def _peak_memory_mib(device: torch.device) -> float:
    """Return the peak memory of the device that computes, MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_memory_mb()
