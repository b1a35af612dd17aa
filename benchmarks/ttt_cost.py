"""What test-time training costs: with the length of a text, in training, and token by token.

The networks are those of recipes `text` and `markov` (`ttt.recipes` of the default configuration)
with random weights.

`read N`: one sequence of N tokens, a prefix run once and a suffix that scans over chunks.
`recompute N`: the same losses, but the prefix is run again on all tokens so far for every update,
as the source does; the suffix keeps its keys and values even here. Losses are compared first.

`<order> <recipe>`: one step of training (loss, gradients, clipping, fused AdamW) of the same
network without inner updates (`plain`) and through them, to first and to second order; without an
inner learning rate all losses must be equal. A target of at most 2x is written as at least 1/2.

`decode N`, `full N`: two chunks of tokens one by one behind N tokens, ours with its two updates
and the network with full attention. Logits are compared with those of one call for all tokens.
Flat means that a token behind 4,096 costs at most 1.1 times one behind 256, written as at least
1/1.1; the growth of both is among the facts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import harness
import torch
from torch import Tensor, nn
from ttt_adaptation import network, recipe_of, tokens_of

from mneme.ttt.config import Arm, InnerConfig
from mneme.ttt.decoder import DecodeState, prefill, step
from mneme.ttt.fast import FastWeights
from mneme.ttt.inner import learn, read
from mneme.ttt.meta import meta_loss
from mneme.ttt.model import TTTTransformer

LENGTHS, RECOMPUTED = (1024, 2048, 4096, 8192, 16384), (1024, 2048, 4096, 8192)
COMPARED, ROUNDS = 4096, 5
BEHIND = (256, 4096)
PLAIN: Arm = "two_mlp"
ORDERS: dict[str, Arm] = {"plain": PLAIN, "first": "first", "second": "second"}
Sides = dict[str, Callable[[], Any]]


def recomputed(model: TTTTransformer, tokens_1T: Tensor, inner: InnerConfig) -> Tensor:
    """Return the losses (1, T) of `read`, with the prefix run anew for every update."""
    fast, past, losses = FastWeights.init(model, 1), None, []
    share_1C = torch.full((1, inner.chunk), 1 / inner.chunk)
    for end in range(inner.chunk, tokens_1T.shape[1], inner.chunk):
        with torch.no_grad():
            x_1TD, _ = model.prefix(tokens_1T[:, :end])
        chunk = slice(end - inner.chunk, end)
        x_1CD, targets_1C = x_1TD[:, chunk], tokens_1T[:, 1:][:, chunk]
        made = learn(model, x_1CD, targets_1C, fast, past, inner, share_1C, order="none")
        fast, past = made.fast, made.past
        losses.append(made.nll_BC)
    return torch.cat(losses, dim=1)


def length_sides(facts: dict[str, Any], *, quick: bool) -> Sides:
    """Return what reads texts of several lengths."""
    inner, model = recipe_of("text").inner, network("text", "second").requires_grad_(False)
    sides: Sides = {}
    for tokens in LENGTHS[:2] if quick else LENGTHS:
        text_1T = tokens_of("text", 1, tokens)
        sides[f"read {tokens}"] = lambda text=text_1T: read(model, text, inner).nll_BT
        if tokens in RECOMPUTED:
            again = f"recompute {tokens}"
            sides[again] = lambda text=text_1T: recomputed(model, text, inner)
        if tokens == LENGTHS[0]:
            facts["difference_recompute"] = harness.same(
                "recompute", sides[f"read {tokens}"](), sides[again](), atol=1e-3
            )
    return sides


def training_sides(name: str, facts: dict[str, Any]) -> Sides:
    """Return a training step of each order."""
    recipe = recipe_of(name)
    training = recipe.training
    tokens_BT1 = tokens_of(name, training.micro_batch, training.tokens)
    still = replace(recipe.inner, learning_rate=0.0)
    sides: Sides = {}
    expected = None
    for order, arm in ORDERS.items():
        model = network(name, arm)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

        def loss(inner: InnerConfig, model: TTTTransformer = model, arm: Arm = arm) -> Tensor:
            return meta_loss(model, tokens_BT1, inner, training, arm=arm)

        def train(loss=loss, model=model, optimizer=optimizer) -> None:
            optimizer.zero_grad(set_to_none=True)
            loss(recipe.inner).backward()
            nn.utils.clip_grad_norm_(model.parameters(), training.clip)
            optimizer.step()

        value = loss(still).detach()
        expected = value if expected is None else expected
        facts[f"difference_{order}_{name}"] = harness.same(
            f"{order} {name}, inner learning rate 0", value, expected, atol=1e-4
        )
        sides[f"{order} {name}"] = train
    return sides


def decoding_sides(facts: dict[str, Any]) -> Sides:
    """Return decoding of two chunks of tokens behind texts of several lengths."""
    inner = recipe_of("text").inner
    count = 2 * inner.chunk
    facts["decoded_tokens"] = count
    sides: Sides = {}
    for side, arm in (("decode", "second"), ("full", "full")):
        model = network("text", arm).requires_grad_(False)
        for behind in BEHIND:
            tokens_1T = tokens_of("text", 1, behind + count - 1)
            _, begun = prefill(model, tokens_1T[:, :behind], inner)

            def decode(
                model: TTTTransformer = model,
                further_1T: Tensor = tokens_1T[:, behind:],
                state: DecodeState = begun,
            ) -> Tensor:
                logits_1V = None
                for token_1 in further_1T.unbind(1):
                    logits_1V, state = step(model, token_1, state)
                assert logits_1V is not None
                return logits_1V

            name = f"{side} {behind}"
            facts[f"difference_{side}_{behind}"] = harness.same(
                name, decode(), prefill(model, tokens_1T, inner)[0], atol=1e-3
            )
            sides[name] = decode
    return sides


def targets_of(sides: Mapping[str, Any]) -> list[harness.Target]:
    """Return the promises about sides that are run."""

    def target(name: str, ours: str, against: str, at_least: float) -> harness.Target:
        return harness.Target(name=name, ours=ours, against=against, at_least=at_least)

    few, many = BEHIND
    compared, longest = f"recompute {COMPARED}", max(LENGTHS)
    wanted = [
        target(f"read / recompute, {COMPARED} tokens", f"read {COMPARED}", compared, 5.0),
        target(
            f"read, {longest} tokens / 16 x {LENGTHS[0]} (linear: near 1/16)",
            f"read {longest}",
            f"read {LENGTHS[0]}",
            1 / (1.1 * longest / LENGTHS[0]),
        ),
        *(
            target(f"second order / plain, {name} (1/2)", f"second {name}", f"plain {name}", 0.5)
            for name in ("text", "markov")
        ),
        target(f"decode, {many} / {few} (1/1.1)", f"decode {many}", f"decode {few}", 1 / 1.1),
    ]
    return [one for one in wanted if {one.ours, one.against} <= set(sides)]


def slope(medians: Mapping[str, float], side: str) -> float | None:
    """Return the exponent of cost in length over the two longest texts; 1: linear."""
    lengths = sorted(int(n.split()[1]) for n in medians if n.startswith(f"{side} "))
    if len(lengths) < 2:
        return None
    short, long = (medians[f"{side} {tokens}"] for tokens in lengths[-2:])
    return math.log(long / short) / math.log(lengths[-1] / lengths[-2])


def main() -> None:
    options = harness.arguments(__doc__ or "")
    facts: dict[str, Any] = {"batch": 1, "chunk": recipe_of("text").inner.chunk}
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    groups = [length_sides(facts, quick=options.quick)]
    groups += [training_sides(name, facts) for name in ("text", "markov")]
    groups.append(decoding_sides(facts))
    times: dict[str, list[tuple[float, float]]] = {}
    for sides in groups:  # what is compared takes turns
        times |= harness.take_turns(sides, rounds=rounds, warmup=0 if sides is groups[0] else 1)
    medians = {n: statistics.median(wall for wall, _ in spent) for n, spent in times.items()}
    facts["exponent_of_length"] = {side: slope(medians, side) for side in ("read", "recompute")}
    facts["cost_over_plain"] = {
        f"{order} {name}": medians[f"{order} {name}"] / medians[f"plain {name}"]
        for name in ("text", "markov")
        for order in ("first", "second")
    }
    facts["ms_per_token"] = {
        f"{side} {behind}": 1e3 * medians[f"{side} {behind}"] / facts["decoded_tokens"]
        for side in ("decode", "full")
        for behind in BEHIND
    }
    facts["growth"] = {
        side: medians[f"{side} {BEHIND[1]}"] / medians[f"{side} {BEHIND[0]}"]
        for side in ("decode", "full")
    }
    for name in ("exponent_of_length", "cost_over_plain", "ms_per_token", "growth"):
        print(name, facts[name])
    harness.report(
        "ttt_cost", times=times, targets=targets_of(times), facts=facts, quick=options.quick
    )


if __name__ == "__main__":
    main()
