"""Adapting fast weights while reading, B = 8: `inner.read` against three other ways to do it.

All sides read 8 sequences of 1024 tokens with one clipped step of gradient descent per sample and
chunk, on the network of recipe `text` (`ttt.recipes` of the default configuration) with random
weights. `deepcopy` gives every sample a copy of the network and torch's SGD and clip; `vmap` takes
per-sample gradients by `vmap(grad(functional_call))`. Both get the prefix for the whole batch and
cached keys and values, as ours does, so that only the inner loop differs; `deepcopy_plain` runs the
prefix of every sample by itself and lets `backward` find the gradients of all weights, as a copied
network does when nothing is done about it. Losses and final fast weights are compared first.

`titans*` is NeuralMemory of titans-pytorch 0.5.5 with the same chunk. It does not compute the same
thing: it memorises key-value pairs of given vectors by a squared error, with momentum and decay,
and has neither attention nor vocabulary; only its cost is compared. `titans` has as many adapted
parameters as ours and takes each chunk's gradient at the weights that the chunk before left, as
ours does; `titans_at_once`, its default, takes all at the first weights; `titans_total` is
`titans` with as many parameters in all. It is no dependency of the project: `pip install --target
FOLDER titans-pytorch==0.5.5` and PYTHONPATH=FOLDER; without it these rows are null.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import harness
import torch
import yaml
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from mneme.core.config import build
from mneme.core.seeds import torch_generator
from mneme.ttt.config import Arm, InnerConfig, ModelConfig, RecipeConfig, RecipeSettings
from mneme.ttt.inner import read
from mneme.ttt.model import Past, TTTTransformer, build_model

CONFIG = Path(__file__).parents[1] / "config" / "config.yaml"
VOCABULARY = {"text": 1024, "markov": 32}
BATCH, TOKENS, ROUNDS = 8, 1024, 7
TITANS = "0.5.5"
OTHER = "NeuralMemory computes something else than fast weights do: only its cost is compared."
Adapted = tuple[Tensor, dict[str, Tensor]]
"""Losses (B, T) and fast weights (B, out, in) by name."""


def recipe_of(name: str) -> RecipeConfig:
    """Return a recipe of the default configuration."""
    room = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["ttt"]
    written = build(RecipeSettings, room["recipes"][name], where=f"ttt.recipes.{name}")
    size = build(ModelConfig, room["sizes"][written.size], where=f"ttt.sizes.{written.size}")
    return written.sized({written.size: size})


def network(name: str, arm: Arm) -> TTTTransformer:
    """Return a recipe's network with random weights."""
    generator = torch_generator(0, "benchmark", "weights")
    return build_model(recipe_of(name).model, arm, vocabulary=VOCABULARY[name], generator=generator)


def tokens_of(name: str, batch: int, tokens: int) -> Tensor:
    """Return random tokens (batch, tokens + 1) of which `tokens` are predicted."""
    generator = torch_generator(0, "benchmark", "tokens")
    return torch.randint(0, VOCABULARY[name], (batch, tokens + 1), generator=generator)


def ours(model: TTTTransformer, tokens_BT: Tensor, inner: InnerConfig) -> Adapted:
    reading = read(model, tokens_BT, inner)
    assert reading.state.fast is not None
    return reading.nll_BT, dict(reading.state.fast)


def deepcopied(
    model: TTTTransformer, tokens_BT: Tensor, inner: InnerConfig, *, plainly: bool = False
) -> Adapted:
    with torch.no_grad():
        shared = () if plainly else model.prefix(tokens_BT[:, :-1])[0]
    losses, weights = [], []
    for row, row_1T in enumerate(tokens_BT.split(1)):
        own, past, nll = copy.deepcopy(model).requires_grad_(plainly), None, []
        with torch.no_grad():
            x_1TD = own.prefix(row_1T[:, :-1])[0] if plainly else shared[row : row + 1]
        fast = {name: own.get_parameter(f"{name}.weight") for name in own.fast_names()}
        for w in fast.values():
            w.requires_grad_()
        optimizer = torch.optim.SGD(fast.values(), lr=inner.learning_rate)
        chunks = x_1TD.split(inner.chunk, dim=1), row_1T[:, 1:].split(inner.chunk, dim=1)
        for x_1CD, targets_1C in zip(*chunks, strict=True):
            optimizer.zero_grad()
            logits_1CV, past = own.suffix(x_1CD, None, past)
            nll_C = F.cross_entropy(logits_1CV[0], targets_1C[0], reduction="none")
            nll_C.mean().backward()
            nn.utils.clip_grad_norm_(fast.values(), inner.clip)
            optimizer.step()
            past = past.cut()
            nll.append(nll_C.detach())
        losses.append(torch.cat(nll))
        weights.append(fast)
    names = weights[0]
    return torch.stack(losses), {n: torch.stack([row[n].data for row in weights]) for n in names}


class Suffix(nn.Module):
    """The blocks that adapt, of one sample, for `functional_call`."""

    def __init__(self, model: TTTTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_CD: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """Return logits (C, V) and keys and values."""
        logits_1CV, past = self.model.suffix(x_CD[None], None, past)
        return logits_1CV[0], past


def vmapped(model: TTTTransformer, tokens_BT: Tensor, inner: InnerConfig) -> Adapted:
    suffix = Suffix(model)

    def loss(
        fast: Mapping[str, Tensor], x_CD: Tensor, targets_C: Tensor, seen: Any, at: Any
    ) -> tuple[Tensor, Any]:
        past = None if at is None else Past(*seen, *at)
        logits_CV, past = functional_call(suffix, fast, (x_CD, past))
        nll_C = F.cross_entropy(logits_CV, targets_C, reduction="none")
        return nll_C.mean(), (nll_C, (past.keys, past.values))

    step = vmap(grad(loss, has_aux=True), in_dims=(0, 0, 0, 0, None))
    own = {
        f"model.{name}.weight": model.get_parameter(f"{name}.weight") for name in model.fast_names()
    }
    fast = {name: w.detach().expand(len(tokens_BT), -1, -1) for name, w in own.items()}
    losses, seen, at = [], ((), ()), None
    with torch.no_grad():
        x_BTD, _ = model.prefix(tokens_BT[:, :-1])
        chunks = x_BTD.split(inner.chunk, dim=1), tokens_BT[:, 1:].split(inner.chunk, dim=1)
        for x_BCD, targets_BC in zip(*chunks, strict=True):
            found, (nll_BC, seen) = step(fast, x_BCD, targets_BC, seen, at)
            read_to = targets_BC.shape[1] + (0 if at is None else at[1])
            at = seen[0][0].shape[3], read_to
            norm_B = torch.stack([g.square().sum((1, 2)) for g in found.values()]).sum(0).sqrt()
            rate_B11 = inner.learning_rate * (inner.clip / norm_B).clamp(max=1)[:, None, None]
            fast = {name: w - rate_B11 * found[name] for name, w in fast.items()}
            losses.append(nll_BC)
    names = {f"model.{name}.weight": name for name in model.fast_names()}
    return torch.cat(losses, dim=1), {names[name]: w for name, w in fast.items()}


def titans(chunk: int, adapted: int, total: int) -> dict[str, Any] | str:
    """Return name -> NeuralMemory, or one sentence saying why there is none."""
    try:
        found = version("titans-pytorch")
        from titans_pytorch import NeuralMemory
    except (PackageNotFoundError, ImportError) as error:
        return f"titans-pytorch {TITANS} is not installed ({error})."
    if found != TITANS:
        return f"titans-pytorch {found} is installed, the comparison is with {TITANS}."

    def memory(width: int, *, batch_size: int | None) -> Any:
        return NeuralMemory(dim=width, chunk_size=chunk, batch_size=batch_size)

    # a memory of width d adapts 8 d^2 + d numbers; its three projections have 3 d^2 more
    width, wide = round(math.sqrt(adapted / 8)), round(math.sqrt(total / 11))
    return {
        "titans": memory(width, batch_size=chunk),
        "titans_at_once": memory(width, batch_size=None),
        "titans_total": memory(wide, batch_size=chunk),
    }


def counted(memory: Any) -> dict[str, int]:
    """Return the parameters of a NeuralMemory; it holds the adapted ones twice."""
    adapted = sum(p.numel() for p in memory.memory_model_parameters)
    return {"adapted": adapted, "total": sum(p.numel() for p in memory.parameters()) - adapted}


def main() -> None:
    options = harness.arguments(__doc__ or "")
    inner, model = recipe_of("text").inner, network("text", "second").requires_grad_(False)
    tokens_BT = tokens_of("text", BATCH, 256 if options.quick else TOKENS)
    predicted = tokens_BT.shape[1] - 1
    ways: dict[str, Callable[..., Adapted]] = {
        "ours": ours,
        "deepcopy": deepcopied,
        "deepcopy_plain": partial(deepcopied, plainly=True),
        "vmap": vmapped,
    }
    adapted = sum(model.get_parameter(f"{n}.weight").numel() for n in model.fast_names())
    total = sum(p.numel() for p in model.parameters())
    facts: dict[str, Any] = {"batch": BATCH, "tokens": predicted, "chunk": inner.chunk}
    facts["parameters"] = {"ours": {"adapted": adapted, "total": total}}
    nll_BT, fast = ours(model, tokens_BT, inner)
    facts["effect"] = (nll_BT - read(model, tokens_BT, inner, update=False).nll_BT).abs().max()
    facts["effect"] = facts["effect"].item()
    assert facts["effect"] > 0.05, "the updates must change the losses"
    for name in list(ways)[1:]:
        theirs, weights = ways[name](model, tokens_BT, inner)
        difference = harness.same(f"{name}, losses", nll_BT, theirs, atol=1e-3)
        facts[f"difference_{name}"] = difference
        facts[f"difference_{name}_weights"] = max(
            harness.same(f"{name}, {n}", fast[n], weights[n], atol=1e-3) for n in fast
        )
    sides: dict[str, Callable[[], Any]] = {
        name: lambda way=way: way(model, tokens_BT, inner) for name, way in ways.items()
    }
    targets = [
        *(
            harness.Target(name=f"ours / {name}", ours="ours", against=name, at_least=4.0)
            for name in ("deepcopy", "deepcopy_plain")
        ),
        harness.Target(name="ours / vmap(grad)", ours="ours", against="vmap", at_least=1.3),
    ]
    memories = titans(inner.chunk, adapted, total)
    if isinstance(memories, str):
        print(memories)
        facts["titans"] = {"tokens_per_s": None, "reason": memories}
        memories = {}
    else:
        facts["titans"] = {"version": TITANS, "equality": None, "reason": OTHER}
        print(OTHER)
    for name, memory in memories.items():
        width = memory.store_norm.weight.numel()
        x_BTD = torch.randn(BATCH, predicted, width, generator=torch_generator(0, name))
        facts["parameters"][name] = counted(memory) | {"width": width}

        def memorise(memory=memory, x_BTD=x_BTD) -> Any:
            with torch.no_grad():
                return memory(x_BTD)

        sides[name] = memorise
        targets.append(
            harness.Target(name=f"ours / {name}", ours="ours", against=name, at_least=2.0)
        )
    rounds = options.rounds or (2 if options.quick else ROUNDS)
    times = harness.take_turns(sides, rounds=rounds, warmup=1)
    facts["tokens_per_s"] = {
        side: round(BATCH * predicted / statistics.median(wall for wall, _ in spent))
        for side, spent in times.items()
    }
    print("tokens/s:", facts["tokens_per_s"])
    harness.report("ttt_adaptation", times=times, targets=targets, facts=facts, quick=options.quick)


if __name__ == "__main__":
    main()
