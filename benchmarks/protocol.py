"""Hysteresis and fatigue readings on equal texts: shared passes against one sequence at a time.

Every side reads what the pipeline reads with one mixer: all contexts of `hysteresis` (the mixed and
the repeated sequences among them) and all contexts and dwell lengths of `fatigue`. The plain side
runs the whole model once for every text, context and dwell length and gates the states of layer 10.
The sides between add one saving each, so that every saving has its own share.
"""

from __future__ import annotations

from collections.abc import Callable

import harness
import numpy as np
import subjects
import torch

from mneme.core.seeds import numpy_generator
from mneme.nn.split import lower
from mneme.routing import sequences
from mneme.routing.config import ProtocolConfig
from mneme.routing.contexts import CONTEXTS_OF_EVERY_MIXER, FURTHER_CONTEXTS
from mneme.routing.sequences import Family
from mneme.routing.trace import gate, trace_batch

TEXTS, SEGMENT, DWELLS, ROUNDS = 2, 64, (16, 64, 256), 3
CPU = torch.device("cpu")
OF_OURS = (*CONTEXTS_OF_EVERY_MIXER, "swapped", "shuffled", "blocked", "reset")
CONTEXTS = {phase: (*OF_OURS, *further) for phase, further in FURTHER_CONTEXTS.items()}
"""Phase -> contexts on which `ours` is read."""
Phases = dict[str, dict[str, Family]]
Weights = dict[str, np.ndarray]
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
    phases = make_phases(dwells)

    def whole(ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        out = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, output_hidden_states=True
        )
        return out.hidden_states[subjects.GATE_LAYER]

    def cut(ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return half(ids, attention_mask=mask, position_ids=positions)[0]

    def shared(fast: bool) -> Weights:
        return {
            f"{phase}/{key}": weights
            for phase, families in phases.items()
            for key, weights in trace_batch(
                half,
                families,
                {"ours": [mixer]},
                {"ours": set(CONTEXTS[phase])},
                slice(0, TEXTS),
                device=CPU,
                fast=fast,
            ).items()
        }

    sides: dict[str, Callable[[], Weights]] = {
        "plain": lambda: sequential(phases, whole, mixer, at_once=1),
        "stopped": lambda: sequential(phases, cut, mixer, at_once=1),
        "batched": lambda: sequential(phases, cut, mixer, at_once=TEXTS),
        "shared": lambda: shared(False),
        "ours": lambda: shared(True),
    }
    results = {name: side() for name, side in sides.items()}
    for name, weights in results.items():
        assert weights.keys() == results["plain"].keys() == readings(phases)
        difference = max(np.abs(weights[k] - results["plain"][k]).max() for k in weights)
        harness.same(name, torch.tensor(difference), torch.tensor(0.0), atol=1e-4)
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    times = harness.take_turns(sides, rounds=rounds, warmup=0)
    facts = {"texts": TEXTS, "segment_tokens": SEGMENT, "dwell_tokens": dwells, "mixers": 1}
    facts["contexts"] = CONTEXTS
    targets = [TARGET, *STEPS]
    harness.report("protocol", times=times, targets=targets, facts=facts, quick=options.quick)


def make_phases(dwells: tuple[int, ...]) -> Phases:
    """Make the families of both phases on the same texts."""
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
    return {
        phase: getattr(sequences, f"{phase}_families")(tuples, protocol, domains=(0, 1), seed=0)
        for phase in CONTEXTS
    }


def family_of(context: str, families: dict[str, Family]) -> Family:
    """Return the sequences of a context; `blocked` and `reset` are readings of the real ones."""
    return families["real" if context in ("blocked", "reset") else context]


def readings(phases: Phases) -> set[str]:
    """Name everything that is read."""
    return {
        f"{phase}/ours/{context}/{n}"
        for phase, families in phases.items()
        for context in CONTEXTS[phase]
        for n in family_of(context, families).lengths
    }


def sequential(
    phases: Phases, states: Callable, mixer: torch.nn.Module, *, at_once: int
) -> Weights:
    """Read every context at every dwell length with a pass of its own, `at_once` texts a pass."""
    out = {}
    for name in sorted(readings(phases)):
        phase, _, context, n = name.split("/")
        family = family_of(context, phases[phase])
        parts = [
            one_pass(family, slice(i, i + at_once), context, int(n), states, mixer)
            for i in range(0, TEXTS, at_once)
        ]
        out[name] = np.concatenate(parts)[None]
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
