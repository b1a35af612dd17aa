"""Mixed two-adapter forward against PEFT's X-LoRA and against the bare backbone.

Same adapters, placement and gates on both sides, logits equal to 1e-4 first. Adapters sit on all
linears (rank 8) of all layers, with given gates, or of the layers above layer 10, where both
sides ask the same mixer that reads the output of layer 10. `*_onednn` is our forward as the
pipeline runs it, its linear layers through oneDNN; X-LoRA and the bare backbone run plain torch.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import harness
import subjects
import torch

from mneme.core.seeds import torch_generator
from mneme.nn.onednn import OneDNNLinear
from mneme.routing.model import TemporalLora

TOKENS, ROUNDS = 512, 15
TARGETS = [
    harness.Target(name="all layers / X-LoRA", ours="ours_all", against="xlora_all", at_least=2.5),
    harness.Target(name="all layers / bare", ours="ours_all", against="bare", at_least=0.93),
    harness.Target(
        name="above layer 10 / X-LoRA", ours="ours_above", against="xlora_above", at_least=2.3
    ),
    harness.Target(name="above layer 10 / bare", ours="ours_above", against="bare", at_least=0.93),
    harness.Target(
        name="all layers, oneDNN / X-LoRA",
        ours="ours_all_onednn",
        against="xlora_all",
        at_least=2.5,
    ),
    harness.Target(
        name="above layer 10, oneDNN / X-LoRA",
        ours="ours_above_onednn",
        against="xlora_above",
        at_least=2.3,
    ),
]


def main() -> None:
    options = harness.arguments(__doc__ or "")
    torch.set_grad_enabled(False)
    bare = subjects.backbone()
    ids_BT = torch.randint(0, subjects.VOCAB, (1, TOKENS), generator=torch_generator(0, "ids"))
    gates_BTK = torch.rand(1, TOKENS, 2, generator=torch_generator(0, "gates")).softmax(-1)
    mixer = subjects.mixer()

    with tempfile.TemporaryDirectory() as folder:
        everywhere = subjects.write_adapters(Path(folder) / "all", first_layer=0)
        above = subjects.write_adapters(Path(folder) / "above", first_layer=subjects.GATE_LAYER)
        ours_all = TemporalLora(subjects.backbone(), everywhere, mixer=None, gate_layer="last")
        ours_above = TemporalLora(
            subjects.backbone(), above, mixer=mixer, gate_layer=subjects.GATE_LAYER
        )
        xlora_all = subjects.xlora(bare, everywhere, lambda ids, states: gates_BTK)
        xlora_above = subjects.xlora(
            bare, above, lambda ids, states: mixer(ids, states[subjects.GATE_LAYER])[0].softmax(-1)
        )

    def with_onednn(model: TemporalLora, **given: torch.Tensor) -> torch.Tensor:
        with OneDNNLinear():
            return model(ids_BT, **given).logits

    sides = {
        "bare": lambda: bare(ids_BT).logits,
        "ours_all_onednn": lambda: with_onednn(ours_all, gates_BTK=gates_BTK),
        "ours_above_onednn": lambda: with_onednn(ours_above),
        "ours_all": lambda: ours_all(ids_BT, gates_BTK=gates_BTK).logits,
        "xlora_all": lambda: xlora_all(input_ids=ids_BT).logits,
        "ours_above": lambda: ours_above(ids_BT).logits,
        "xlora_above": lambda: xlora_above(input_ids=ids_BT).logits,
    }
    base, facts = sides["bare"](), {"tokens": TOKENS, "dtype": "float32", "rank": subjects.RANK}
    for where in ("all", "above"):
        logits, theirs = sides[f"ours_{where}"](), sides[f"xlora_{where}"]()
        facts[f"difference_{where}"] = harness.same(where, logits, theirs, atol=1e-4)
        fast = sides[f"ours_{where}_onednn"]()
        facts[f"difference_{where}_onednn"] = harness.same(
            f"{where}, oneDNN", fast, theirs, atol=1e-4
        )
        facts[f"effect_{where}"] = (logits - base).abs().max().item()
        assert facts[f"effect_{where}"] > 0.1, "the adapters must change the logits"
    rounds = options.rounds or (3 if options.quick else ROUNDS)
    times = harness.take_turns(sides, rounds=rounds, warmup=1)
    harness.report("mixed_forward", times=times, targets=TARGETS, facts=facts, quick=options.quick)


if __name__ == "__main__":
    main()
