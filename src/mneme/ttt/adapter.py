"""Train a dialogue adapter on answers, and read held-out conversations before and after.

The base is frozen and reads without updates while the adapter is trained: what it learns is in the
weights that every reader starts from. Held-out conversations are read both ways, without updates
and with them, as the base is used. What a step reads depends only on the seed and the step, so a
killed training continues bit for bit.

Legend: B batch, T position, C conversations.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mneme.core.checkpoints import Log, Training, run_steps
from mneme.core.seeds import derive, numpy_generator, torch_generator
from mneme.nn.schedule import warm_cosine
from mneme.ttt.adapter_config import AdapterMeasureConfig, AdapterRunConfig, AdapterTrainingConfig
from mneme.ttt.codec import Codec
from mneme.ttt.config import InnerConfig
from mneme.ttt.decoder import generate, prefill
from mneme.ttt.dialogue import Dialogues, Pieces, batch_rows, cut, permuted, trimmed
from mneme.ttt.fit import DivergedError
from mneme.ttt.inner import read
from mneme.ttt.model import TTTTransformer
from mneme.ttt.sampling import sample
from mneme.ttt.tinylora import adapt, deltas_of, merged, trainable

BETAS = (0.9, 0.95)
"""AdamW's, as in the training of the base."""
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class FittedAdapter:
    """What a training leaves."""

    adapter: nn.Module
    """Wrapped network with the last weights, for `tinylora.save_adapter`."""
    model: TTTTransformer
    """The base with the adapter in its weights."""
    history: dict[str, Any]
    """Readings along the training, seconds, trained parameters: JSON-ready."""


def fit_adapter(
    base: TTTTransformer,
    dialogues: Dialogues,
    run: AdapterRunConfig,
    training: AdapterTrainingConfig,
    *,
    seed: int,
    device: torch.device,
    checkpoint: str | Path,
    fingerprint: str,
    log: Log,
    label: str,
) -> FittedAdapter:
    """Train one adapter at one seed.

    Parameters
    ----------
    base : TTTTransformer
        Trained network, left as it is.
    dialogues : Dialogues
        Conversations; those of the test are not looked at.
    run, training : AdapterRunConfig, AdapterTrainingConfig
        Form and control; steps, sizes.
    seed : int
        Decides what of the adapter is drawn, the order of the conversations and, in the control,
        whose answers they get.
    device : torch.device
        Where the network computes.
    checkpoint : path
        File from which a killed training continues; the caller removes it.
    fingerprint : str
        Hash of settings, code, data and base.
    log, label : callable, str
        Takes progress lines, which begin with the label.

    Returns
    -------
    FittedAdapter

    Raises
    ------
    DivergedError
        Loss or gradient is not finite; names the step.
    ValueError
        A conversation without an answer.
    """
    adapter = adapt(base, run, seed=seed).to(device)
    course = Course(adapter, dialogues, run, training, seed=seed)
    run_steps(
        course.step,
        course.training,
        steps=training.steps,
        path=checkpoint,
        fingerprint=f"{fingerprint} seed {seed}",
        log=log,
        label=f"{label} seed {seed}",
    )
    model = merged(base.to(device), deltas_of(adapter))
    return FittedAdapter(adapter=adapter, model=model, history=course.summary())


class Course:
    """A training as numbered steps, so that it can be continued."""

    def __init__(
        self,
        adapter: nn.Module,
        dialogues: Dialogues,
        run: AdapterRunConfig,
        training: AdapterTrainingConfig,
        *,
        seed: int,
    ) -> None:
        self.adapter, self.run, self.config, self.seed = adapter, run, training, seed
        self.device = next(adapter.parameters()).device
        marks, learnt = dialogues.marks, dialogues.train
        if run.control == "permuted":
            learnt = permuted(learnt, marks, numpy_generator(seed, "permuted answers"))
        self.train = cut(learnt, marks, tokens=training.tokens)
        few = dialogues.validation[: training.eval_conversations]
        self.val = cut(few, marks, tokens=training.tokens)
        parameters = trainable(adapter)
        self.optimizer = torch.optim.AdamW(
            list(parameters.values()), lr=0.0, betas=BETAS, weight_decay=0.0
        )
        self.training = Training(tensors=parameters, optimizers={"adamw": self.optimizer})

    def step(self, index: int) -> dict[str, Any]:
        """Make step `index`; returns its loss (nats an answer's token), seconds and readings."""
        record: dict[str, Any] = {} if index else {"before": self.validation_nll()}
        started = time.perf_counter()
        share = warm_cosine(index, steps=self.config.steps, warmup=self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.learning_rate * share
        self.optimizer.zero_grad(set_to_none=True)
        rows_B = batch_rows(
            len(self.train.tokens_NT), batch=self.config.batch, seed=self.seed, step=index
        )
        tokens_BT1, counted_BT = trimmed(self.train, rows_B)
        loss = answer_nll(self.adapter, tokens_BT1, counted_BT, device=self.device).mean()
        loss.backward()
        record["loss"] = loss.item()
        self._check(index, "loss", record["loss"])
        norm = nn.utils.clip_grad_norm_(trainable(self.adapter).values(), self.config.clip)
        self._check(index, "gradient norm", norm.item())
        self.optimizer.step()
        record["seconds"] = time.perf_counter() - started
        if (index + 1) % self.config.eval_every == 0 or index + 1 == self.config.steps:
            record["val_nll"] = self.validation_nll()
            self._check(index, "validation loss", record["val_nll"])
        return record

    def validation_nll(self) -> float:
        """Return the mean over validation conversations of their loss, nats an answer's token."""
        nll_C, _ = dialogue_nll(
            self.adapter, self.val, batch=self.config.batch, device=self.device, inner=None
        )
        return float(nll_C.mean())

    def summary(self) -> dict[str, Any]:
        """Return the readings with the mean training loss since the one before, from step 0 on."""
        records = self.training.history
        points, since = [{"step": 0, "train_loss": None, "val_nll": records[0]["before"]}], []
        for made, record in enumerate(records, 1):
            since.append(record["loss"])
            if "val_nll" in record:
                loss = sum(since) / len(since)
                points.append({"step": made, "train_loss": loss, "val_nll": record["val_nll"]})
                since = []
        return {
            "points": points,
            "seconds": round(sum(record["seconds"] for record in records), 3),
            "trained_parameters": sum(p.numel() for p in trainable(self.adapter).values()),
            "seed": self.seed,
        }

    def _check(self, index: int, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise DivergedError(
                f"the adapter's {what} is {value} at step {index}: lower learning_rate "
                f"({self.run.learning_rate:g}), or lengthen warmup ({self.config.warmup})"
            )


def answer_nll(
    model: nn.Module, tokens_BT1: Ints, counted_BT: NDArray[np.bool_], *, device: torch.device
) -> Tensor:
    """Return the loss of every counted target, nats, in the order of rows and positions (K,)."""
    tokens = torch.from_numpy(tokens_BT1).to(device)
    counted = torch.from_numpy(counted_BT).to(device)
    logits_KV = model(tokens[:, :-1], counted)
    return nn.functional.cross_entropy(logits_KV, tokens[:, 1:][counted], reduction="none")


def _updated_nll(
    model: TTTTransformer,
    tokens_BT1: Ints,
    counted_BT: NDArray[np.bool_],
    inner: InnerConfig,
    *,
    device: torch.device,
) -> Tensor:
    """Return what `answer_nll` does, read with updates; padding follows all counted targets."""
    nll_BT = read(model, torch.from_numpy(tokens_BT1).to(device), inner).nll_BT
    return nll_BT[torch.from_numpy(counted_BT).to(device)]


@torch.no_grad()
def dialogue_nll(
    model: nn.Module,
    chosen: Pieces,
    *,
    batch: int,
    device: torch.device,
    inner: InnerConfig | None,
) -> tuple[Floats, Ints]:
    """Read conversations.

    Parameters
    ----------
    model : Module
        Tokens and counted positions (B, T) -> logits (K, V); with or without adapter.
    chosen : Pieces
        Pieces of C conversations.
    batch : int
        Pieces at a time.
    device : torch.device
        Where the model is.
    inner : InnerConfig or None
        The inner loop, to read each piece with updates from its beginning; None: without.

    Raises
    ------
    InnerLossError
        A loss or an inner gradient is not finite.

    Returns
    -------
    nll_C : float64 array (C,)
        Mean loss of each conversation's answers, nats a token.
    tokens_C : int64 array (C,)
        Tokens that each mean is over.
    """
    conversations = int(chosen.conversation_N[-1]) + 1
    total_C, tokens_C = np.zeros(conversations), np.zeros(conversations, np.int64)
    lengths_N = np.asarray([np.flatnonzero(row)[-1] for row in chosen.counted_NT])
    order_N = np.argsort(lengths_N, kind="stable")  # equal lengths together: less padding
    for start in range(0, len(order_N), batch):
        rows_B = order_N[start : start + batch]
        tokens_BT1, counted_BT = trimmed(chosen, rows_B)
        if inner is None:
            told_K = answer_nll(model, tokens_BT1, counted_BT, device=device)
        else:
            assert isinstance(model, TTTTransformer)
            told_K = _updated_nll(model, tokens_BT1, counted_BT, inner, device=device)
        nll_K = told_K.double().cpu().numpy()
        owner_K = np.repeat(chosen.conversation_N[rows_B], counted_BT.sum(axis=1))
        np.add.at(total_C, owner_K, nll_K)
        np.add.at(tokens_C, owner_K, 1)
    return total_C / tokens_C, tokens_C


def measure_adapter(
    base: TTTTransformer,
    adapted: TTTTransformer,
    dialogues: Dialogues,
    training: AdapterTrainingConfig,
    *,
    conversations: int,
    device: torch.device,
    inner: InnerConfig | None,
) -> dict[str, NDArray]:
    """Read test conversations before and after, without updates and, if asked, with them.

    Parameters
    ----------
    base, adapted : TTTTransformer
        Without and with the adapter in the weights.
    dialogues : Dialogues
        Conversations; only those of the test are read.
    training : AdapterTrainingConfig
        Longest piece, and how many are read at a time.
    conversations : int
        The first so many; all where there are fewer.
    device : torch.device
        Where the networks are.
    inner : InnerConfig or None
        The base's inner loop; None: they are not read with updates.

    Returns
    -------
    dict
        `before_C`, `after_C`, with updates `before_ttt_C`, `after_ttt_C` (float64, nats an
        answer's token, a mean a conversation) and `tokens_C` (int64): ready for an `.npz`.
    """
    few = dialogues.test[:conversations]
    chosen = cut(few, dialogues.marks, tokens=training.tokens)
    arrays: dict[str, NDArray] = {}
    ways = {"": None} if inner is None else {"": None, "_ttt": inner}
    for way, loop in ways.items():
        how: dict[str, Any] = {"batch": training.batch, "device": device, "inner": loop}
        arrays[f"before{way}_C"], arrays["tokens_C"] = dialogue_nll(base, chosen, **how)
        arrays[f"after{way}_C"], _ = dialogue_nll(adapted, chosen, **how)
    return arrays


def sample_replies(
    base: TTTTransformer,
    adapted: TTTTransformer,
    codec: Codec,
    config: AdapterMeasureConfig,
    *,
    seed: int,
) -> list[dict[str, str]]:
    """Let both networks answer fixed prompts, without updates, by the same random numbers.

    Returns
    -------
    list of dict
        `prompt`, `base` and `adapter` (texts of the replies), one a prompt.
    """
    told = []
    for place, prompt in enumerate(config.prompts):
        ids, _ = codec.dialogue([prompt], ended=False)
        opened = np.concatenate([ids, codec.marks.assistant]).astype(np.int64)
        texts = {
            name: codec.decode(
                _reply(model, opened, codec.marks.stops, config, seed=derive(seed, str(place)))
            )
            for name, model in (("base", base), ("adapter", adapted))
        }
        told.append({"prompt": prompt, **texts})
    return told


def _reply(
    model: TTTTransformer,
    prompt_T: Ints,
    stops: tuple[int, ...],
    config: AdapterMeasureConfig,
    *,
    seed: int,
) -> list[int]:
    """Return the tokens of a reply, without the one that ends it."""
    generator = torch_generator(seed, "reply")
    device = next(model.parameters()).device
    logits_1V, state = prefill(model, torch.from_numpy(prompt_T)[None].to(device), None)
    drawn: list[int] = []
    for tokens_1, _ in generate(
        model,
        logits_1V,
        state,
        draw=lambda logits: sample(logits, config.sampling, generator=generator),
        limit=config.reply_tokens,
    ):
        if (token := int(tokens_1.item())) in stops:
            break
        drawn.append(token)
    return drawn
