"""Cached batched rollouts against a loop that runs the whole sequence anew for every step.

Both continue the same windows from context 128 by 100 mean predictions, the loop in batches of
all rows; predictions are compared first, on the first rows. `cut` is the slot ablation's rollout:
nine variants of every window in one batch.
"""

from __future__ import annotations

from collections.abc import Callable

import harness
import torch
from torch import Tensor
from zeta_training import ours

from mneme.core.seeds import torch_generator
from mneme.nn.onednn import OneDNNLinear
from mneme.zeta.memory import Slots
from mneme.zeta.model import SpacingMDN
from mneme.zeta.rollout import rollout

SHAPE, WINDOWS, CONTEXT, HORIZON, ROUNDS = (2, 64, 2), 252, 128, 100, 2
CHECKED = 18
ARMS = ("none", "readout")


def recompute(model: SpacingMDN, context: Tensor, horizon: int, slots: Slots | None) -> Tensor:
    x = context
    for _ in range(horizon):
        with OneDNNLinear():
            mean = model(x, slots=slots).mixture.mean()[:, -1:]
        x = torch.cat([x, mean], dim=1)
    return x[:, context.shape[1] :]


def cached(model: SpacingMDN, context: Tensor, horizon: int, slots: Slots | None) -> Tensor:
    return rollout(model, context, horizon=horizon, mode="mean", generator=None, slots=slots)


def ablation(model: SpacingMDN, context: Tensor) -> tuple[Tensor, Slots]:
    """Return every window nine times: whole, and with each slot cut."""
    count, width = model.config.slots, model.config.width
    keep = torch.cat([torch.ones(1, count), 1 - torch.eye(count)]).bool()
    keep = keep.repeat(len(context), 1)
    zeros = torch.zeros(len(keep), count, width)
    return context.repeat_interleave(count + 1, dim=0), Slots(keep_BM=keep, values_BMD=zeros)


def main() -> None:
    options = harness.arguments(__doc__ or "")
    torch.set_grad_enabled(False)
    windows, horizon = (16, 30) if options.quick else (WINDOWS, HORIZON)
    context = 2 * torch.rand(windows, CONTEXT, generator=torch_generator(0, "context"))
    cases: dict[str, tuple[SpacingMDN, Tensor, Slots | None]] = {
        arm: (ours(SHAPE, arm=arm, position="rope"), context, None) for arm in ARMS
    }
    model = ours(SHAPE, arm="prefix", position="rope")
    cases["cut"] = (model, *ablation(model, context[: windows // (model.config.slots + 1)]))
    sides: dict[str, Callable[[], Tensor]] = {}
    facts = {"windows": windows, "context": CONTEXT, "horizon": horizon, "shape": SHAPE}
    for name, (model, rows, slots) in cases.items():

        def run(how=cached, rows=rows, slots=slots, model=model) -> Tensor:
            return how(model, rows, horizon, slots)

        sides[f"cached {name}"] = run
        sides[f"recompute {name}"] = lambda run=run: run(recompute)
        few = None
        if slots is not None:
            few = Slots(keep_BM=slots.keep_BM[:CHECKED], values_BMD=slots.values_BMD[:CHECKED])
        fast, slow = (how(model, rows[:CHECKED], horizon, few) for how in (cached, recompute))
        facts[f"difference_{name}"] = harness.same(name, fast, slow, atol=1e-3)
    targets = [
        harness.Target(
            name=f"recompute / cached, {name}",
            ours=f"cached {name}",
            against=f"recompute {name}",
            at_least=20.0,
        )
        for name in cases
    ]
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    times = harness.take_turns(sides, rounds=rounds, warmup=0)
    harness.report("zeta_rollout", times=times, targets=targets, facts=facts, quick=options.quick)


if __name__ == "__main__":
    main()
