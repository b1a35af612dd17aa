"""Run `original`: the source's own protocol, as it describes it and as its code measures it.

Three prompts joined by spaces, a sampled continuation, switch points read off the weights
themselves (crossings of .5; entering and leaving (.3, .7) for the mixed middle; prompt lengths when
fewer than two are found), windows of the last `tail_tokens` of a segment, a lag of "never" counted
as 0, a "32" tail area over `area_tokens`. None of this is how `ours` measures; it is here so that
the published numbers can be set beside what the same procedure gives on this backbone.

Legend: T position, K domains. Weights are (T, K) over prompt and continuation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mneme.core.headline import run_block
from mneme.routing.config import OriginalConfig
from mneme.routing.measure import dtw, return_gap, switch_lag
from mneme.stats.rows import Row

RUN_TOKENS = 3
TIMING = {"hysteresis": "phase5_hysteresis_sec", "fatigue": "phase6_fatigue_sec"}
"""The source's names of its phases' wall times."""
CONSTANT = (
    "constant over the dwell lengths: undefined (block_found tells what the source's rule took for "
    "the block)"
)
"""Why a correlation of the source has no value."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One generated sequence."""

    kind: str
    """`aba`, `amixba` or `dwell`."""
    seed: int
    """Seed of mixer and sampling."""
    prompt_tokens: list[int]
    """Tokens of the three prompts, each tokenised alone."""
    weights: list[list[float]]
    """Mixing weights, a row a token."""
    text: str
    """Prompts and continuation."""
    seconds: float
    """Wall time of generating it, s."""


def prompts_of(
    config: OriginalConfig,
    pair: tuple[str, str],
    encode: Callable[[str], list[int]],
    decode: Callable[[list[int]], str],
) -> list[tuple[str, tuple[str, str, str]]]:
    """Return (kind, three prompts) of every sequence; the dwell blocks repeat the B prompt."""
    a, b = (config.prompts[name] for name in pair)
    rows = [("aba", (a, b, a)), ("amixba", (a, config.mix_prompt, a))]
    for length in config.dwell_tokens:
        ids = encode(b)
        block = (ids * (length // len(ids) + 1))[:length]
        rows.append(("dwell", (a, decode(block), a)))
    return rows


def switch_points(
    weights_TK: np.ndarray, domains: tuple[int, int], prompt_tokens: Sequence[int], *, mixed: bool
) -> tuple[int, int]:
    """Find the two switch points as the source does: from the weights, else from the prompts."""
    w_a, w_b = weights_TK[:, domains[0]], weights_TK[:, domains[1]]
    if mixed:
        state = (w_a > 0.3) & (w_a < 0.7) & (w_b > 0.3) & (w_b < 0.7)
        state[0] = False
    else:
        state = w_b >= 0.5
    points = np.flatnonzero(state[1:] != state[:-1]) + 1
    if len(points) < 2:
        points = np.cumsum(prompt_tokens)
    return int(points[0]), int(points[1])


def read_generations(content: Sequence[Mapping[str, Any]]) -> dict[int, list[Generation]]:
    """Rebuild generations from JSON records, by seed."""
    by_seed: dict[int, list[Generation]] = {}
    for record in content:
        generation = Generation(**record)
        by_seed.setdefault(generation.seed, []).append(generation)
    return by_seed


def original_block(
    content: Sequence[Mapping[str, Any]],
    domains: tuple[int, int],
    config: OriginalConfig,
    *,
    part: str,
) -> dict[str, Any]:
    """Return run `original` of a headline file.

    Parameters
    ----------
    content : sequence of mapping
        `sequences.json` of rule `routing_original`.
    domains : tuple of int
        Columns of domains A and B.
    config : OriginalConfig
        Its settings.
    part : str
        `hysteresis` or `fatigue`.

    Returns
    -------
    dict
        Rows a seed, `published_keys` of the first seed (a single run, as published), and `never`:
        which addresses in those hold a lag of 0 that stands for "never".
    """
    by_seed = {
        seed: published_keys(sequences, domains, config)
        for seed, sequences in read_generations(content).items()
    }
    first = next(iter(by_seed))
    timing = {TIMING[part]: _seconds(read_generations(content)[first], part)}
    keys = {part: by_seed[first][part], "timing": timing}
    generations = read_generations(content)
    rows = [*rows_of(by_seed, part), *_found_rows(generations, domains, config, part)]
    never = _never_addresses(generations[first], domains, config, part)
    return run_block(rows, published_keys=keys, never=never)


def measure_sequence(
    sequence: Generation, domains: tuple[int, int], config: OriginalConfig
) -> dict[str, float]:
    """Measure one sequence the source's way, under its own key names."""
    weights = np.asarray(sequence.weights)
    a, b = domains
    mixed = sequence.kind == "amixba"
    first, second = switch_points(weights, domains, sequence.prompt_tokens, mixed=mixed)
    lag = {
        name: _lag(weights[start:, domain], config.threshold)
        for name, domain, start in (("AB", b, first), ("BA", a, second))
    }
    middle = weights[first:second]
    tail_1 = weights[:first][-config.tail_tokens :]
    tail_2 = weights[second:][-config.tail_tokens :]
    length = min(len(tail_1), len(tail_2))
    gap = return_gap(tail_1[None, :length], tail_2[None, :length], domain=a)
    accumulated, _ = dtw(tail_1[None], tail_2[None])
    entropy = -(middle * np.log(middle + 1e-10)).sum(axis=1)
    mean_middle = middle.mean(axis=0)
    pair_means = mean_middle[list(domains)]
    values = {
        "switch_lag_AB": lag["AB"],
        "switch_lag_BA": lag["BA"],
        "switching_asymmetry": abs(lag["AB"] - lag["BA"]),
        "return_gap_cosine_distance": gap["cosine"][0],
        "return_gap_euclidean": gap["euclidean"][0],
        "return_gap_dtw": accumulated[0],
        "avg_mix_entropy": entropy.mean(),
        "mix_balance": pair_means.min() / pair_means.max(),
        "deep_crystallization_ratio": (middle[:, b] > 0.95).mean(),
        "avg_python_weight": mean_middle[b],
        "tail_area_32": (1 - weights[second : second + config.area_tokens, a]).sum(),
        "block_tokens": second - first,
        "never_reached": float(_never(weights[second:, a], config.threshold)),
        "never_reached_AB": float(_never(weights[first:, b], config.threshold)),
    }
    return {key: float(value) for key, value in values.items()}


def published_keys(
    sequences: Sequence[Generation], domains: tuple[int, int], config: OriginalConfig
) -> dict[str, Any]:
    """Return one seed's results in the shape and under the keys of the source's result file."""
    aba, mix, *dwell = (measure_sequence(s, domains, config) for s in sequences)
    deep = [d["deep_crystallization_ratio"] for d in dwell]
    mix_keys = ("return_gap_cosine_distance", "avg_mix_entropy", "mix_balance")
    correlations = {
        name: _correlate(config.dwell_tokens, [d[key] for d in dwell])
        for name, key in (
            ("deep_crystallization", "deep_crystallization_ratio"),
            ("switch_lag", "switch_lag_BA"),
            ("tail_area_32", "tail_area_32"),
        )
    }
    aba_keys = ("switch_lag_AB", "switch_lag_BA", "switching_asymmetry")
    gaps = ("return_gap_cosine_distance", "return_gap_euclidean", "return_gap_dtw")
    return {
        "hysteresis": {
            "test_aba": {key: aba[key] for key in (*aba_keys, *gaps)},
            "test_amixba": {
                "switch_lag_mixA": mix["switch_lag_BA"],
                **{key: mix[key] for key in (*mix_keys, *gaps[1:])},
            },
        },
        "fatigue": {
            "correlations": correlations,
            "tests": [
                {"python_block_length": n, **{key: d[key] for key in _DWELL_KEYS}}
                for n, d in zip(config.dwell_tokens, dwell, strict=True)
            ],
            "summary": {
                "num_tests": len(dwell),
                "avg_deep_crystallization": float(np.mean(deep)),
            },
        },
    }


_DWELL_KEYS = (
    "deep_crystallization_ratio",
    "avg_python_weight",
    "tail_area_32",
    "switch_lag_BA",
    "return_gap_cosine_distance",
)


def rows_of(by_seed: Mapping[int, Mapping[str, Any]], part: str) -> list[Row]:
    """Turn `published_keys(...)[part]` of every seed into rows `test.key` with the seed's value."""
    rows = []
    for seed, keys in by_seed.items():
        for name, value in _flatten(keys[part]):
            reason = None if value is not None else CONSTANT
            rows.append(Row(metric=name, value=value, n=1, seed=seed, reason=reason))
    return rows


def _found_rows(
    by_seed: Mapping[int, Sequence[Generation]],
    domains: tuple[int, int],
    config: OriginalConfig,
    part: str,
) -> Iterator[Row]:
    """Say what the source's figures rest on, by sequence.

    `never_reached` and `never_reached_AB` tell which of its lags of 0 stand for "never" (1) and
    which for "at once" (0), `block_found` how many tokens lie between the switch points that its
    rule takes from the weights, `block_true` how many there are.
    """
    for seed, sequences in by_seed.items():
        for index, s in enumerate(_of_part(sequences, part)):
            found = measure_sequence(s, domains, config)
            shown = {
                "never_reached": (found["never_reached"], ""),
                "never_reached_AB": (found["never_reached_AB"], ""),
                "block_found": (found["block_tokens"], "tokens"),
                "block_true": (float(s.prompt_tokens[1]), "tokens"),
            }
            for name, (value, unit) in shown.items():
                yield Row(
                    metric=f"{name}.{s.kind}[{index}]", value=value, n=1, unit=unit, seed=seed
                )


def _never_addresses(
    sequences: Sequence[Generation], domains: tuple[int, int], config: OriginalConfig, part: str
) -> list[str]:
    """Return the addresses in `published_keys` whose 0 stands for "never"."""
    found = [measure_sequence(s, domains, config) for s in _of_part(sequences, part)]
    if part == "fatigue":
        lags = [f"tests.{i}.switch_lag_BA" for i, one in enumerate(found) if one["never_reached"]]
    else:
        aba, mix = found
        told = {
            "test_aba.switch_lag_AB": aba["never_reached_AB"],
            "test_aba.switch_lag_BA": aba["never_reached"],
            "test_aba.switching_asymmetry": aba["never_reached_AB"] or aba["never_reached"],
            "test_amixba.switch_lag_mixA": mix["never_reached"],
        }
        lags = [address for address, never in told.items() if never]
    return [f"{part}.{address}" for address in lags]


def _of_part(sequences: Sequence[Generation], part: str) -> list[Generation]:
    kinds = ("dwell",) if part == "fatigue" else ("aba", "amixba")
    return [s for s in sequences if s.kind in kinds]


def _seconds(sequences: Sequence[Generation], part: str) -> float:
    return round(sum(s.seconds for s in _of_part(sequences, part)), 3)


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, float | None]]:
    if isinstance(value, Mapping):
        pairs = [(f"{prefix}.{k}" if prefix else str(k), v) for k, v in value.items()]
    elif isinstance(value, list):
        pairs = [(f"{prefix}[{i}]", v) for i, v in enumerate(value)]
    else:
        return [(prefix, value)]
    return [row for name, item in pairs for row in _flatten(item, name)]


def _lag(weights_T: np.ndarray, threshold: float) -> int:
    """Lag as the source counts it: 0 when never reached."""
    if _never(weights_T, threshold):
        return 0
    lag, _ = switch_lag(weights_T[None], threshold=threshold, run_tokens=RUN_TOKENS)
    return int(lag[0])


def _never(weights_T: np.ndarray, threshold: float) -> bool:
    if len(weights_T) < RUN_TOKENS:  # a switch point among the very last tokens
        return True
    _, observed = switch_lag(weights_T[None], threshold=threshold, run_tokens=RUN_TOKENS)
    return not observed[0]


def _correlate(lengths: Sequence[int], values: Sequence[float]) -> float | None:
    if len(set(values)) < 2:
        return None
    return float(np.corrcoef(lengths, values)[0, 1])
