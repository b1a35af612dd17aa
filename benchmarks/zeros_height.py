"""What a zero costs at greater heights: 400,000 zeros from n = 1e6, 2e7, 1e8 and 6e8, one thread.

Random zeros of every run are compared with Arb's first, within the larger of 1e-9 and one float64
spacing. `docs/scale.md` counts with the processor time a zero.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import harness
import numpy as np
import torch

from mneme.core.seeds import numpy_generator
from mneme.zeta.arb import difference_to_arb
from mneme.zeta.zeros import ZeroRange, zeros

PLACES = (1_000_000, 20_000_000, 100_000_000, 600_000_000)
COUNT, COMPARED, ROUNDS = 400_000, 20, 3


def main() -> None:
    options = harness.arguments(__doc__ or "")
    count = 20_000 if options.quick else COUNT
    generator = numpy_generator(0, "benchmark", "zeros_height")
    facts: dict[str, object] = {"zeros": count, "compared": COMPARED, "threads": 1}
    for place in PLACES:
        heights = stretch(place, count).heights
        chosen = np.sort(generator.choice(count, COMPARED, replace=False))
        allowed = max(1e-9, float(np.spacing(heights[-1])))
        apart = torch.from_numpy(difference_to_arb(heights[chosen], place + chosen))
        facts[f"largest_difference_to_arb_{place}"] = harness.same(
            f"{COMPARED} zeros from {place}", apart, torch.zeros_like(apart), atol=allowed
        )
    sides: dict[str, Callable[[], object]] = {
        str(place): lambda place=place: stretch(place, count) for place in PLACES
    }
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    times = harness.take_turns(sides, rounds=rounds, warmup=0)
    facts["processor_ms_a_zero"] = {
        place: 1000 * statistics.median(cpu for _, cpu in spent) / count
        for place, spent in times.items()
    }
    print(facts["processor_ms_a_zero"])
    harness.report("zeros_height", times=times, targets=[], facts=facts, quick=options.quick)


def stretch(first: int, count: int) -> ZeroRange:
    return zeros(first, first + count, threads=1, log=print)


if __name__ == "__main__":
    main()
