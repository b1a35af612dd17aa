"""One training step of a LoRA adapter against PEFT's own on all layers.

A step is loss, gradients and AdamW on 8 chunks of 128 tokens. `ours_all` has the same adapters on
all layers as `peft_all`: loss and gradients are compared first. `ours_above` trains adapters above
layer 10 from cached states; `ours_above_first` also computes those states, as the first epoch
does. `peft_all_onednn` is PEFT's step inside our oneDNN context, to show that share of the saving.
"""

from __future__ import annotations

from contextlib import ExitStack

import harness
import subjects
import torch

from mneme.core.config import build
from mneme.core.seeds import numpy_generator, torch_generator
from mneme.nn.head import head_weight
from mneme.nn.onednn import OneDNNLinear
from mneme.nn.split import lower, upper
from mneme.routing.fit import ADAMW, Course, Parts
from mneme.routing.lora import adapter_parameters, attached
from mneme.routing.stages import AdapterFitConfig

TOKENS, BATCH, ROUNDS, RATE = 128, 8, 8, 1e-3
TARGETS = [
    harness.Target(name=f"{ours} / PEFT", ours=ours, against="peft_all", at_least=1.0)
    for ours in ("ours_all", "ours_above", "ours_above_first", "peft_all_onednn")
]


def settings(above_gate: bool) -> AdapterFitConfig:
    """Return the default configuration's adapters on the default backbone's shape."""
    backbone = {
        "source": "local",
        "name": "shape",
        "revision": None,
        "init": "random",
        "dtype": "float32",
        "gate_layer": subjects.GATE_LAYER,
        "target_modules": [path.split(".")[-1] for path in subjects.LINEARS],
        "license_url": "",
    }
    adapters = {
        "rank": subjects.RANK,
        "alpha": 2.0 * subjects.RANK,
        "sleep_weight": 0.5,
        "sleep_temperature": 2.0,
        "seeds": [0],
    }
    run = {
        "protect": "none",
        "samples": BATCH,
        "tokens": TOKENS,
        "epochs": 1,
        "batch": BATCH,
        "learning_rate": RATE,
        "above_gate": above_gate,
    }
    content = {"backbone": backbone, "resources": "", "adapters": adapters, "run": run}
    names = {"name": "benchmark", "domains": ["first", "second"]}
    return build(AdapterFitConfig, content | names, where="benchmark")


def course(stack: ExitStack, *, above_gate: bool) -> Course:
    """Attach adapters to a fresh backbone, with weights that change the model."""
    config, base = settings(above_gate), subjects.backbone()
    k = subjects.GATE_LAYER if above_gate else 0
    options = {"targets": config.backbone.target_modules, "first_layer": k, "seed": 0}
    model = stack.enter_context(attached(base, config.adapters, config.domains, **options))
    generator = torch_generator(0, "adapters")
    for parameter in adapter_parameters(model, "first").values():
        parameter.data.normal_(std=0.02, generator=generator)
    halves = lower(base, k), upper(base, k)
    parts = Parts(model, *halves, head_weight(base), BATCH, torch.device("cpu"))
    ids = numpy_generator(0, "ids").integers(0, subjects.VOCAB, (BATCH, TOKENS))
    made = Course(parts, {name: torch.from_numpy(ids) for name in config.domains}, config, seed=0)
    made.begin("first")
    return made


def main() -> None:
    options = harness.arguments(__doc__ or "")
    with ExitStack() as stack:
        everywhere = course(stack, above_gate=False)
        above = course(stack, above_gate=True)
        ids_BT = everywhere.ids["first"]
        model = everywhere.parts.model
        parameters = list(adapter_parameters(model, "first").values())
        optimizer = torch.optim.AdamW(parameters, lr=RATE, **ADAMW)

        def peft() -> torch.Tensor:
            optimizer.zero_grad(set_to_none=True)
            loss = model(ids_BT, labels=ids_BT).loss
            loss.backward()
            return loss.detach()

        def ours(made: Course) -> float:
            made.training.optimizers["first"].zero_grad(set_to_none=True)
            with OneDNNLinear():
                return made.learn(made.h["first"], ids_BT)

        def gradients() -> torch.Tensor:
            return torch.cat([p.grad.flatten() for p in parameters])  # type: ignore[union-attr]

        loss, expected = peft(), gradients()
        facts = {
            "tokens": BATCH * TOKENS,
            "loss_difference": harness.same(
                "loss", torch.tensor(ours(everywhere)), loss, atol=1e-4
            ),
            "gradient_difference_over_largest": harness.same(
                "gradients / largest",
                gradients() / expected.abs().max(),
                expected / expected.abs().max(),
                atol=1e-3,
            ),
        }

        def step(made: Course, *, first: bool = False) -> None:
            if first:
                with OneDNNLinear(), torch.no_grad():
                    made.h["first"] = made.parts.low(ids_BT)
            ours(made)
            made.training.optimizers["first"].step()

        def peft_step() -> None:
            peft()
            optimizer.step()

        def peft_onednn() -> None:
            with OneDNNLinear():
                peft_step()

        sides = {
            "peft_all": peft_step,
            "peft_all_onednn": peft_onednn,
            "ours_all": lambda: step(everywhere),
            "ours_above": lambda: step(above),
            "ours_above_first": lambda: step(above, first=True),
        }
        rounds = options.rounds or (2 if options.quick else ROUNDS)
        times = harness.take_turns(sides, rounds=rounds, warmup=1)
    harness.report("training_step", times=times, targets=TARGETS, facts=facts, quick=options.quick)


if __name__ == "__main__":
    main()
