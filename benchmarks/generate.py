"""Generate 128 tokens with the mix: one-token steps on a KV cache against X-LoRA, which has none.

Same adapters above layer 10, same mixer on the output of layer 10, same greedy tokens first.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import harness
import subjects
import torch

from mneme.core.seeds import torch_generator
from mneme.routing.model import TemporalLora

PROMPT, ROUNDS = 32, 5
TARGET = harness.Target(name="generate / X-LoRA", ours="ours", against="xlora", at_least=5.0)


def main() -> None:
    options = harness.arguments(__doc__ or "")
    torch.set_grad_enabled(False)
    new_tokens = 16 if options.quick else 128
    model, mixer = subjects.backbone(), subjects.mixer()
    ids_BT = torch.randint(0, subjects.VOCAB, (1, PROMPT), generator=torch_generator(0, "ids"))
    with tempfile.TemporaryDirectory() as folder:
        above = subjects.write_adapters(Path(folder), first_layer=subjects.GATE_LAYER)
        ours = TemporalLora(model, above, mixer=mixer, gate_layer=subjects.GATE_LAYER)
        xlora = subjects.xlora(
            subjects.backbone(),
            above,
            lambda ids, states: mixer(ids, states[subjects.GATE_LAYER])[0].softmax(-1),
        )
    sides = {
        "ours": lambda: (
            ours.generate(
                ids_BT, new_tokens=new_tokens, temperature=0.0, top_p=1.0, generator=None
            ).ids
        ),
        "xlora": lambda: xlora.generate(
            input_ids=ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            pad_token_id=0,
        ),
    }
    harness.same("generated ids", sides["ours"](), sides["xlora"](), atol=0)
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    times = harness.take_turns(sides, rounds=rounds, warmup=0)
    facts = {"prompt_tokens": PROMPT, "new_tokens": new_tokens, "dtype": "float32"}
    harness.report("generate", times=times, targets=[TARGET], facts=facts, quick=options.quick)


if __name__ == "__main__":
    main()
