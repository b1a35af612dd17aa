"""Hysteresis and fatigue readings on equal texts: shared passes against one sequence at a time.

The plain side runs the whole model once for every text, context and dwell length and gates the
states of layer 10. The sides between add one saving each, so that every saving has its own share.
"""

from __future__ import annotations

from collections.abc import Callable

import harness
import numpy as np
import subjects
import torch

from mneme.core.seeds import numpy_generator
from mneme.nn.split import lower
from mneme.routing.config import ProtocolConfig
from mneme.routing.sequences import Family, fatigue_families
from mneme.routing.trace import gate, trace_batch

TEXTS, SEGMENT, DWELLS, ROUNDS = 2, 64, (16, 64, 256), 3
CPU = torch.device("cpu")
CONTEXTS = ("real", "same_domain", "other", "swapped", "shuffled", "blocked", "reset")
TARGET = harness.Target(name="protocol / sequential", ours="ours", against="plain", at_least=5.0)
STEPS = [
    harness.Target(name="stop at layer k", ours="stopped", against="plain", at_least=1.0),
    harness.Target(name="batch the texts", ours="batched", against="stopped", at_least=1.0),
    harness.Target(name="share the prefix", ours="shared", against="batched", at_least=1.0),
    harness.Target(name="oneDNN linears", ours="ours", against="shared", at_least=1.0),
]


def main() -> None:
    options = harness.arguments(__doc__ or "")
    torch.set_grad_enabled(False)
    dwells = (16, 24, 64) if options.quick else DWELLS
    model, mixer = subjects.backbone(), subjects.mixer()
    half = lower(model, subjects.GATE_LAYER)
    families = make_families(dwells)

    def whole(ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        out = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, output_hidden_states=True
        )
        return out.hidden_states[subjects.GATE_LAYER]

    def cut(ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return half(ids, attention_mask=mask, position_ids=positions)[0]

    def shared(fast: bool) -> dict[str, np.ndarray]:
        wanted = {"ours": set(CONTEXTS)}
        return trace_batch(
            half, families, {"ours": [mixer]}, wanted, slice(0, TEXTS), device=CPU, fast=fast
        )

    sides: dict[str, Callable[[], dict[str, np.ndarray]]] = {
        "plain": lambda: sequential(families, whole, mixer, at_once=1),
        "stopped": lambda: sequential(families, cut, mixer, at_once=1),
        "batched": lambda: sequential(families, cut, mixer, at_once=TEXTS),
        "shared": lambda: shared(False),
        "ours": lambda: shared(True),
    }
    results = {name: side() for name, side in sides.items()}
    for name, weights in results.items():
        assert weights.keys() == results["plain"].keys()
        difference = max(np.abs(weights[k] - results["plain"][k]).max() for k in weights)
        harness.same(name, torch.tensor(difference), torch.tensor(0.0), atol=1e-4)
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    times = harness.take_turns(sides, rounds=rounds, warmup=0)
    facts = {"texts": TEXTS, "segment_tokens": SEGMENT, "dwell_tokens": dwells, "mixers": 1}
    targets = [TARGET, *STEPS]
    harness.report("protocol", times=times, targets=targets, facts=facts, quick=options.quick)


def make_families(dwells: tuple[int, ...]) -> dict[str, Family]:
    generator = numpy_generator(0, "benchmark", "protocol")
    names = ("a1", "a2", "b1", "b2")
    tuples = {n: generator.integers(0, subjects.VOCAB, (TEXTS, SEGMENT)) for n in names}
    for name in ("a_long", "a_other_long", "b_long"):
        tuples[name] = generator.integers(0, subjects.VOCAB, (TEXTS, max(dwells)))
    protocol = ProtocolConfig(
        tuples=TEXTS,
        segment_tokens=SEGMENT,
        mix_piece_tokens=8,
        dwell_tokens=dwells,
        batch=TEXTS,
        threshold=0.9,
        thresholds=(0.9,),
        run_tokens=3,
        gap_tokens=32,
        deep_weight=0.95,
        resamples=100,
    )
    return fatigue_families(tuples, protocol, domains=(0, 1), seed=0)


def sequential(
    families: dict[str, Family], states: Callable, mixer: torch.nn.Module, *, at_once: int
) -> dict[str, np.ndarray]:
    """Read every context at every dwell with a pass of its own, `at_once` texts a pass."""
    out = {}
    for context in CONTEXTS:
        family = families.get(context, families["real"])
        for n in family.lengths:
            parts = [
                one_pass(family, slice(i, i + at_once), context, n, states, mixer)
                for i in range(0, TEXTS, at_once)
            ]
            out[f"ours/{context}/{n}"] = np.concatenate(parts)[None]
    return out


def one_pass(
    family: Family, rows: slice, context: str, n: int, states: Callable, mixer: torch.nn.Module
) -> np.ndarray:
    pieces = (family.first[rows], family.middle[rows, :n], family.last[rows])
    ids = torch.as_tensor(np.concatenate(pieces, axis=1))
    length, entry = ids.shape[1], SEGMENT + n
    positions, allowed = torch.arange(length), torch.ones(length, length, dtype=torch.bool).tril()
    if context == "blocked":
        allowed[entry:, SEGMENT:entry] = False
    if context == "reset":
        ids, positions = ids[:, entry:], positions[entry:]
        allowed = allowed[entry:, entry:]
    mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[None, None]
    states_BTD = states(ids, mask, positions[None].expand(len(ids), -1))
    return gate(mixer, ids, states_BTD, torch.zeros_like(ids))


if __name__ == "__main__":
    main()
