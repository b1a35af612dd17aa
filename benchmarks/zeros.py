"""The first 2,001,052 zeros of zeta, counted against Arb, beside one python-flint process.

python-flint's time a zero is the median over runs of consecutive zeros from n = 1e4, 1e5 and 2e6
at its default 53 bits, times as many zeros as we compute. Ours is the whole series: low zeros from
Arb, the search, the rigorous count of every stretch. A third side stands for the promised 30 s.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from importlib.metadata import version

import harness
import numpy as np
import torch
from flint import acb

from mneme.core.seeds import numpy_generator
from mneme.zeta.arb import difference_to_arb
from mneme.zeta.completeness import verify
from mneme.zeta.zeros import zeros

COUNT, THREADS, ROUNDS, LIMIT_S = 2_001_052, 2, 3, 30.0
PLACES, RUN = (10_000, 100_000, 2_000_000), 50
TARGETS = [
    harness.Target(name="zeros/s, ours / python-flint", ours="ours", against="flint", at_least=800),
    harness.Target(name="30 s / ours", ours="ours", against="limit", at_least=1.0),
]


def main() -> None:
    options = harness.arguments(__doc__ or "")
    count = 200_000 if options.quick else COUNT
    made = zeros(1, count + 1, threads=THREADS, log=print)
    places = [place for place in PLACES if place + RUN <= count]
    generator = numpy_generator(0, "benchmark", "zeros")
    complete = verify(made.heights, first=1, counts=20, generator=generator)
    indices = np.sort(generator.integers(1, count + 1, 100))
    indices = np.concatenate([indices, *(place + np.arange(10) for place in places)])
    difference = torch.from_numpy(difference_to_arb(made.heights[indices - 1], indices))
    facts = {
        "zeros": count,
        "height": float(made.heights[-1]),
        "threads": THREADS,
        "largest_difference_to_arb": harness.same(
            f"{len(indices)} zeros", difference, torch.zeros_like(difference), atol=1e-9
        ),
        "indices_compared": len(indices),
        "stretches_counted_by_arb": made.stretches,
        "largest_block_mean_of_s": float(np.abs(complete.mean_s).max()),
        "python_flint": version("python-flint"),
        "numpy": version("numpy"),
        "flint_run_zeros": RUN,
        "flint_from": list(places),
    }

    sides: dict[str, Callable[[], object]] = {
        str(place): lambda place=place: acb.zeta_zeros(place, RUN) for place in places
    }
    sides["ours"] = lambda: zeros(1, count + 1, threads=THREADS, log=print)
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    spent = harness.take_turns(sides, rounds=rounds, warmup=0)
    facts["flint_zeros_per_second"] = {
        str(place): RUN / statistics.median(wall for wall, _ in spent[str(place)])
        for place in places
    }
    facts["seconds"] = statistics.median(wall for wall, _ in spent["ours"])
    facts["processor_seconds"] = statistics.median(cpu for _, cpu in spent["ours"])
    for name in ("seconds", "processor_seconds", "flint_zeros_per_second"):
        print(f"{name}: {facts[name]}")
    times: dict[str, list[tuple[float, float]]] = {
        "ours": spent["ours"],
        "flint": [flint_series(spent, turn, count) for turn in range(rounds)],
        "limit": [(LIMIT_S * count / COUNT, LIMIT_S * count / COUNT)] * rounds,
    }
    harness.report("zeros", times=times, targets=TARGETS, facts=facts, quick=options.quick)


def flint_series(
    spent: dict[str, list[tuple[float, float]]], turn: int, count: int
) -> tuple[float, float]:
    """Return (wall, processor) seconds of `count` zeros at python-flint's median speed."""
    runs = [seconds[turn] for name, seconds in spent.items() if name != "ours"]
    wall, cpu = (statistics.median(run[k] for run in runs) for k in (0, 1))
    return wall * count / RUN, cpu * count / RUN


if __name__ == "__main__":
    main()
