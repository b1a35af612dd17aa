"""Traces with planted behaviour: step gates of known lag, and noisy gates for pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mneme.routing.config import ProtocolConfig, RunConfig
from mneme.routing.sharing import PIECES, pieces_of
from mneme.routing.works import PREFIX

PAIR = (0, 1)
DOMAINS = {
    "same_domain": (0, 0, 0),
    "other": (0, 0, 0),
    "swapped": (1, 0, 1),
    "repeated_aa": (0, 0, 0),
}
HYSTERESIS = ("mixed", "repeated", "repeated_aa")
MIXERS = (
    "ours",
    "attention",
    "ema",
    "ema_oracle",
    "token",
    "untrained",
    "shuffled_labels",
    "probe",
)
CONTEXTS = {
    "aa": "same_domain",
    "bab": "swapped",
    "blocked": "blocked",
    "reset": "reset",
    "shuffled_b": "shuffled",
}


def protocol_of(**changes) -> ProtocolConfig:
    """Small protocol; `changes` replace its values."""
    values = {
        "tuples": 6,
        "segment_tokens": 64,
        "mix_piece_tokens": 8,
        "dwell_tokens": (16, 24, 40, 64, 112),
        "batch": 2,
        "threshold": 0.9,
        "thresholds": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
        "run_tokens": 3,
        "gap_tokens": 32,
        "deep_weight": 0.95,
        "resamples": 200,
    }
    return ProtocolConfig(**{**values, **changes})


def runs_of(*names: str) -> dict[str, RunConfig]:
    """Return the named runs of the default config, all of them when none is named."""
    runs = {
        name: RunConfig(
            mixer=name,
            context="real",
            control_of={"attention": None, "ema": None, "ema_oracle": "ema"}.get(name, "ours"),
        )
        for name in MIXERS
    }
    runs["ours"] = RunConfig(mixer="ours", context="real", control_of=None)
    for name, context in CONTEXTS.items():
        runs[name] = RunConfig(mixer="ours", context=context, control_of="ours")
    return {name: runs[name] for name in names or runs}


def trace_of(
    runs: dict[str, RunConfig],
    protocol: ProtocolConfig,
    weights: Callable[[str, str, int], np.ndarray],
    *,
    phase: str,
) -> dict[str, np.ndarray]:
    """Build a trace: `weights(mixer, context, n)` gives w_A of whole sequences, (S, N, T).

    Every text is of works of its own.
    """
    size = protocol.segment_tokens
    trace = {}
    for run in runs.values():
        contexts = {"real", "same_domain", "other", run.context}
        contexts |= set(HYSTERESIS) if phase == "hysteresis" else set()
        for context in contexts:
            for n in (size,) if phase == "hysteresis" else protocol.dwell_tokens:
                a = weights(run.mixer, context, n)
                if context == "reset":
                    a = a[:, :, -size:]
                both = np.stack([a, 1 - a], axis=-1)
                trace[f"{run.mixer}/{context}/{n}"] = both.astype(np.float32)
    return trace | own_works(next(iter(trace.values())).shape[1])


def own_works(texts: int) -> dict[str, np.ndarray]:
    """Return the works of texts that share none."""
    pieces = set().union(*map(pieces_of, PIECES))
    return {
        f"{PREFIX}{piece}": np.array([f"{piece} {i}" for i in range(texts)]) for piece in pieces
    }


def targets(context: str, n: int, protocol: ProtocolConfig) -> np.ndarray:
    """Domain of every token, 0 for A, 1 for B (mixed: alternating pieces, the last of B)."""
    size = protocol.segment_tokens
    first, middle, last = DOMAINS.get(context, (0, 1, 0))
    if context == "mixed":
        piece = (np.arange(n)[::-1] // protocol.mix_piece_tokens + 1) % 2
    else:
        piece = np.full(n, middle)
    return np.concatenate([np.full(size, first), piece, np.full(size, last)])


def step_gate(
    protocol: ProtocolConfig,
    lag: Callable[[str, int], int],
    *,
    entry: int = 0,
    seeds: int = 2,
    texts: int = 6,
) -> Callable[[str, str, int], np.ndarray]:
    """Gate that holds .999, `entry` tokens late into the middle, `lag(...)` into the last."""

    def weights(mixer: str, context: str, n: int) -> np.ndarray:
        del mixer
        size = protocol.segment_tokens
        domain = targets(context, n, protocol)
        if context != "mixed":
            late = min(entry, n)
            domain[size : size + late] = domain[size - 1]
        late = lag(context, n)
        # Out of the way whatever was before: also A -> A' -> A can be given a lag.
        domain[size + n : size + n + late] = 1 - domain[-1]
        a = np.where(domain == 0, 0.999, 0.001)
        return np.broadcast_to(a, (seeds, texts, len(a))).copy()

    return weights


TAU = {"attention": 14.0, "ema": 9.0, "ema_oracle": 9.5, "shuffled_labels": 3.0, "probe": 3.5}


def noisy_gate(
    protocol: ProtocolConfig, *, seeds: int, texts: int, seed: int = 0
) -> Callable[[str, str, int], np.ndarray]:
    """Leaky gate whose memory of B grows with the time spent there; scatter by text and token."""

    def weights(mixer: str, context: str, n: int) -> np.ndarray:
        generator = np.random.default_rng([seed, MIXERS.index(mixer), n])
        target = targets(context, n, protocol)
        tokens = len(target)
        if mixer == "token":  # depends on the token alone: the same text, the same weight
            generator = np.random.default_rng([seed, 99])
            size = protocol.segment_tokens
            noise = generator.normal(size=(seeds, texts, 2 * size + 2048))
            noise = np.concatenate([noise[..., : tokens - size], noise[..., -size:]], axis=-1)
            return _sigmoid(4.0 * (1 - 2 * target) + 2.2 * noise)
        if mixer in ("untrained", "shuffled_labels"):
            return _sigmoid(0.3 * generator.normal(size=(seeds, texts, tokens)))
        scale = {"blocked": 0.35, "reset": 0.1, "shuffled": 0.6}.get(context, 1.0)
        text = np.exp(0.25 * generator.normal(size=(1, texts)))
        by_seed = np.exp(0.06 * generator.normal(size=(seeds, 1)))
        size = protocol.segment_tokens
        tau = TAU.get(mixer, 5.0) * text * by_seed
        late = tau * scale * (0.5 + 0.12 * np.log2(1 + n / 8))
        z = np.zeros((seeds, texts))
        out = np.empty((seeds, texts, tokens))
        for t in range(tokens):
            keep = np.exp(-1 / (late if t >= size + n else tau))
            z = keep * z + (1 - keep) * 5.0 * (1 - 2 * target[t])
            out[..., t] = z
        return _sigmoid(out + 0.5 * generator.normal(size=out.shape))

    return weights


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
