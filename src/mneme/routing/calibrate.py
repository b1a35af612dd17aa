"""Contrastive calibration of a Time Mixer on labelled chunks.

Loss = recency-weighted pooled NLL of the domain + weight * supervised contrast of pooled hidden
activations. Log-probabilities are pooled, not logits: the gates act per token, so every token
must be right, and a few confident ones must not speak for a chunk.

Learning rates are chosen on validation chunks; accuracy is claimed once, on test chunks.

Legend: N chunks, B chunks of a batch, T position, D width, H hidden width, K domains.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mneme.core.config import plain, require
from mneme.routing.chunks import Chunks, Part, read_chunks, shuffle_labels, tensor_of
from mneme.routing.config import CalibrationConfig, MixerConfig
from mneme.routing.contrast import pool, supervised_contrast
from mneme.routing.mixer import TimeMixer, build_mixer

_PARTS: tuple[Part, ...] = ("calibration", "validation", "test")
_EVALUATION_BATCH = 64  # bounds memory only


@dataclass(frozen=True, kw_only=True)
class MixerFitConfig:
    """Settings of the script `routing_mixer_fit`."""

    name: str
    """Name of the mixer."""
    mixer: MixerConfig
    """Its definition."""
    calibration: CalibrationConfig
    """How it is calibrated."""
    domains: tuple[str, ...]
    """Names of the domains, in order; at least two."""
    seeds: tuple[int, ...]
    """Training seeds."""
    limit: tuple[int, int] | None
    """Use only so many calibration chunks a domain, and so many of their first tokens."""

    def __post_init__(self) -> None:
        require(len(self.domains) >= 2, "domains", "a list of at least two", self.domains)
        require(len(self.seeds) >= 1, "seeds", "a list of at least one seed", self.seeds)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How well a mixer names the labels of some chunks."""

    nll: float
    """Mean recency-weighted NLL, nats."""
    tokens: tuple[float, ...]
    """Share of tokens whose largest gate is the label's, each chunk, 0..1."""
    chunks: tuple[int, ...]
    """1 where the pooled log-probabilities name the label."""

    @property
    def token(self) -> float:
        """Mean token accuracy, 0..1."""
        return sum(self.tokens) / len(self.tokens)

    @property
    def chunk(self) -> float:
        """Share of chunks named rightly, 0..1."""
        return sum(self.chunks) / len(self.chunks)


@dataclass(frozen=True, kw_only=True)
class CalibrationResult:
    """A calibrated mixer and how it came about."""

    mixer: TimeMixer
    """On the CPU, in eval mode, without gradients."""
    history: list[dict[str, float]]
    """One entry an epoch of the chosen learning rate; empty when nothing was trained."""
    tried: list[dict[str, float | None]]
    """Each configuration tried with its validation NLL (None: diverged); empty when untrained."""
    validation_nll: float
    """Of the mixer returned, nats."""
    test: Accuracy
    """On test chunks, against the labels of the run."""
    test_domains: Accuracy
    """On test chunks, against the true domains (equal to `test` unless labels are shuffled)."""
    domains: tuple[int, ...]
    """True domain of each test chunk."""

    def record(self) -> dict[str, Any]:
        """Return everything but the weights, JSON-ready; what `mixer_report` reads."""
        return {
            "config": plain(self.mixer.config),
            "width": self.mixer.width,
            "vocab": self.mixer.vocab,
            "history": self.history,
            "tried": self.tried,
            "validation_nll": self.validation_nll,
            "test": plain(self.test),
            "test_domains": plain(self.test_domains),
            "test_chunk_domains": list(self.domains),
        }


def calibrate(
    data: Mapping[str, Tensor],
    config: MixerConfig,
    settings: CalibrationConfig,
    *,
    domains: Sequence[str],
    generator: torch.Generator,
    device: torch.device,
    start: Mapping[str, Tensor] | None = None,
) -> CalibrationResult:
    """Calibrate one mixer.

    Parameters
    ----------
    data : mapping of str to Tensor
        `<domain>.<part>` states (N, T, D) and `<domain>.<part>.ids` (N, T) for the parts
        calibration, validation and test; `vocab`, the backbone's number of token ids.
    config, settings
        Mixer and calibration.
    domains : sequence of str
        Names in the order of the K gates.
    generator : torch.Generator
        CPU generator. Draws, in this order: weights, order of chunks, shuffled labels; so under
        one seed an untrained and a shuffled mixer start from the very weights of the real one.
    device : torch.device
        Where to compute.
    start : mapping of str to Tensor, optional
        Weights to continue from; needed exactly when `config.init` is `continue`.

    Returns
    -------
    CalibrationResult

    Raises
    ------
    ValueError
        Missing material, `start` at odds with `config.init`, or every learning rate diverged.

    References
    ----------
    Khosla et al. (2020), Supervised contrastive learning, equation 2 (see `supervised_contrast`).
    """
    mixer, orders, (train, validation, test) = _start(data, config, domains, generator, device)
    _continue_from(mixer, start, config.init)
    history, tried = [], []
    if orders and any(True for _ in mixer.parameters()):
        mixer, history, tried = _best(mixer, train, validation, settings, orders)
    mixer = mixer.eval().requires_grad_(False)
    truth = dataclasses.replace(test, labels=test.domains)
    return CalibrationResult(
        history=history,
        tried=tried,
        validation_nll=measure_accuracy(mixer, validation, recency=settings.recency).nll,
        test=measure_accuracy(mixer, test, recency=settings.recency),
        test_domains=measure_accuracy(mixer, truth, recency=settings.recency),
        domains=tuple(test.domains.tolist()),
        mixer=mixer.cpu(),
    )


def _start(
    data: Mapping[str, Tensor],
    config: MixerConfig,
    domains: Sequence[str],
    generator: torch.Generator,
    device: torch.device,
) -> tuple[TimeMixer, list[Tensor], list[Chunks]]:
    """Return the fresh mixer, the order of chunks in each epoch, and the labelled parts."""
    parts = [read_chunks(data, domains, part, device=device) for part in _PARTS]
    train = parts[0]
    mixer = build_mixer(
        config,
        domains=len(domains),
        width=train.states.shape[-1],
        vocab=int(tensor_of(data, "vocab")),
        generator=generator,
    ).to(device)
    mixer.set_standardisation(train.states)
    chunks = len(train.labels)
    orders = [torch.randperm(chunks, generator=generator) for _ in range(config.epochs)]
    if config.labels == "shuffled":
        parts = [shuffle_labels(part, generator=generator) for part in parts]
    return mixer, orders, parts


def _best(
    fresh: TimeMixer,
    train: Chunks,
    validation: Chunks,
    settings: CalibrationConfig,
    orders: Sequence[Tensor],
) -> tuple[TimeMixer, list[dict[str, float]], list[dict[str, float | None]]]:
    """Train a copy at each learning rate, same start and order; keep the best on validation."""
    best: tuple[float, TimeMixer, list[dict[str, float]]] | None = None
    tried: list[dict[str, float | None]] = []
    for rate in settings.learning_rates:
        mixer = copy.deepcopy(fresh)
        history = list(_train(mixer, train, validation, settings, orders, rate))
        nll = history[-1]["validation_nll"]
        finite = all(math.isfinite(value) for value in history[-1].values())
        tried.append({"learning_rate": rate, "validation_nll": nll if finite else None})
        if finite and (best is None or nll < best[0]):
            best = nll, mixer, history
    if best is None:
        raise ValueError(
            "calibration diverged at every one of learning_rates "
            f"{list(settings.learning_rates)}: add a smaller one"
        )
    return best[1], best[2], tried


def _train(
    mixer: TimeMixer,
    train: Chunks,
    validation: Chunks,
    settings: CalibrationConfig,
    orders: Sequence[Tensor],
    rate: float,
) -> Iterator[dict[str, float]]:
    """Train in place and yield one history entry an epoch; stop after one that is not finite."""
    sparse = [p for name, p in mixer.named_parameters() if name.endswith("table.weight")]
    dense = [p for name, p in mixer.named_parameters() if not name.endswith("table.weight")]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(dense, lr=rate, weight_decay=0.0),
        *([torch.optim.SparseAdam(sparse, lr=rate)] if sparse else []),
    ]
    for epoch, order in enumerate(orders, start=1):
        sums = torch.zeros(4)
        for index in order.split(settings.batch):
            nll, contrast, right_BT = _terms(mixer.train(), train.rows(index), settings)
            loss = nll + settings.contrast_weight * contrast
            mixer.zero_grad()
            loss.backward()
            for optimiser in optimisers:
                optimiser.step()
            terms = torch.stack([loss, nll, contrast, right_BT.float().mean()])
            sums += len(index) / len(order) * terms.detach().cpu()
        names = ("loss", "nll", "contrast", "training_token_accuracy")
        held_out = measure_accuracy(mixer, validation, recency=settings.recency)
        yield {
            "epoch": epoch,
            **dict(zip(names, sums.tolist(), strict=True)),
            "validation_nll": held_out.nll,
            "validation_token_accuracy": held_out.token,
            "validation_chunk_accuracy": held_out.chunk,
        }
        if not (torch.isfinite(sums).all() and math.isfinite(held_out.nll)):
            return  # diverged: the caller sees it in this last entry


def _terms(
    mixer: TimeMixer, chunks: Chunks, settings: CalibrationConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Return pooled NLL, contrastive term (0 without a hidden layer) and right tokens (B, T)."""
    log_p_BTK, features_BTH = _read(mixer, chunks)
    nll = F.nll_loss(pool(log_p_BTK, recency=settings.recency), chunks.labels)
    contrast = torch.zeros_like(nll)
    if features_BTH is not None:
        contrast = supervised_contrast(
            pool(features_BTH, recency=settings.recency),
            chunks.labels,
            temperature=settings.contrast_temperature,
        )
    return nll, contrast, log_p_BTK.argmax(-1) == chunks.labels[:, None]


def _read(mixer: TimeMixer, chunks: Chunks) -> tuple[Tensor, Tensor | None]:
    labels_BT = chunks.labels[:, None].expand_as(chunks.ids)
    logits_BTK, features_BTH, _ = mixer.forward_features(
        chunks.ids, chunks.states, labels_BT=labels_BT
    )
    return logits_BTK.log_softmax(-1), features_BTH


@torch.no_grad()
def measure_accuracy(mixer: TimeMixer, chunks: Chunks, *, recency: float) -> Accuracy:
    """Measure pooled NLL and accuracy on chunks, against their `labels`."""
    nll, token, chunk = [], [], []
    for low in range(0, len(chunks.labels), _EVALUATION_BATCH):
        batch = chunks.rows(slice(low, low + _EVALUATION_BATCH))
        log_p_BTK, _ = _read(mixer.eval(), batch)
        pooled_BK = pool(log_p_BTK, recency=recency)
        nll.append(F.nll_loss(pooled_BK, batch.labels, reduction="none"))
        token.append((log_p_BTK.argmax(-1) == batch.labels[:, None]).double().mean(1))
        chunk.append((pooled_BK.argmax(-1) == batch.labels).long())
    return Accuracy(
        nll=float(torch.cat(nll).double().mean()),
        tokens=tuple(torch.cat(token).tolist()),
        chunks=tuple(torch.cat(chunk).tolist()),
    )


def _continue_from(
    mixer: TimeMixer, start: Mapping[str, Tensor] | None, init: Literal["fresh", "continue"]
) -> None:
    """Load the weights to continue from, standardisation included; never silently."""
    if init == "continue" and start is None:
        raise ValueError("init is continue but there are no weights to continue from: pass start")
    if init == "fresh" and start is not None:
        raise ValueError("init is fresh but weights to continue from were given: set init continue")
    if start is None:
        return
    try:
        mixer.load_state_dict(start)
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise ValueError(
            f"the weights to continue from belong to another kind of mixer ({line}): "
            "give this one the strategy and sizes of mixer 'ours'"
        ) from None
