"""Side-by-side timings: equality first, the sides take turns, a ratio with its spread is kept.

The sides of a round run one after another, the order rotates from round to round, and the ratio
is taken within each round, so that a slow minute of the machine hits all sides alike.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mneme.core.artefacts import write_json

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A promised speed-up of one side over another."""

    name: str
    """What is compared."""
    ours: str
    """Side that should be fast."""
    against: str
    """Side it is compared with."""
    at_least: float
    """Promised ratio: time of `against` over time of `ours`."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The measured speed-up and its spread over rounds."""

    target: Target
    ratio: float
    """Median over rounds of wall time of `against` / wall time of `ours`."""
    low: float
    """First quartile over rounds."""
    high: float
    """Third quartile over rounds."""
    cpu_ratio: float
    """The same median for processor time, which other processes disturb less."""
    met: bool
    """Whether `ratio` reaches the target."""


def arguments(description: str) -> argparse.Namespace:
    """Read `--quick`, `--threads` and `--rounds`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="few rounds; written nowhere")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--rounds", type=int, help="rounds instead of the benchmark's own number")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def same(name: str, got: torch.Tensor, expected: torch.Tensor, *, atol: float) -> float:
    """Return the largest difference of two results; a benchmark of unequal results is void.

    Raises
    ------
    SystemExit
        The results differ by more than `atol`.
    """
    difference = (got.double() - expected.double()).abs().max().item()
    if got.shape != expected.shape or not difference <= atol:
        raise SystemExit(f"{name}: results differ by {difference:.3g}, more than {atol:.0e}")
    print(f"{name}: equal within {difference:.1e}")
    return difference


def take_turns(
    sides: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warmup: int,
    processor: Callable[[], float] = time.process_time,
) -> dict[str, list[tuple[float, float]]]:
    """Time every side once a round; returns side -> (wall, processor) seconds of each round.

    `processor` reads a clock of processor time, s; the default is this process's own.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(-warmup, rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            wall, cpu = time.perf_counter(), processor()
            sides[name]()
            spent = (time.perf_counter() - wall, processor() - cpu)
            if turn >= 0:
                times[name].append(spent)
    return times


def compare(times: Mapping[str, list[tuple[float, float]]], target: Target) -> Ratio:
    """Take the ratio of two sides within each round, then its median and quartiles."""
    pairs = list(zip(times[target.against], times[target.ours], strict=True))
    wall = [theirs[0] / ours[0] for theirs, ours in pairs]
    cpu = [theirs[1] / ours[1] for theirs, ours in pairs]
    low, ratio, high = (
        statistics.quantiles(wall, n=4, method="inclusive") if len(wall) > 1 else wall * 3
    )
    return Ratio(
        target=target,
        ratio=ratio,
        low=low,
        high=high,
        cpu_ratio=statistics.median(cpu),
        met=ratio >= target.at_least,
    )


def report(
    name: str,
    *,
    times: Mapping[str, list[tuple[float, float]]],
    targets: list[Target],
    facts: Mapping[str, Any],
    quick: bool,
) -> None:
    """Print every ratio and, unless `quick`, write `benchmarks/results/<name>.json`."""
    ratios = [compare(times, target) for target in targets]
    for side, spent in times.items():
        print(f"{side:>24}: median {statistics.median(wall for wall, _ in spent):.3f} s")
    for r in ratios:
        print(
            f"{r.target.name}: {r.ratio:.2f}x ({r.low:.2f}-{r.high:.2f}, processor time "
            f"{r.cpu_ratio:.2f}x), target {r.target.at_least:.2f}x: {'met' if r.met else 'MISSED'}"
        )
    if quick:
        print("--quick: nothing written")
        return
    write_json(
        RESULTS / f"{name}.json",
        {
            "benchmark": name,
            "environment": environment(),
            "facts": dict(facts),
            "seconds": {
                side: {"wall": [w for w, _ in spent], "cpu": [c for _, c in spent]}
                for side, spent in times.items()
            },
            "ratios": [asdict(ratio) for ratio in ratios],
        },
    )


def environment() -> dict[str, Any]:
    """Name what the numbers depend on, without naming the machine."""
    packages = ("torch", "transformers", "peft")
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
    }
