"""The lattice's forward and backward pass against two other forms of the same rule, and its size.

64 surfaces, 8 channels, 20 steps through the box of the default configuration, gradients of the
surfaces and of every weight. Output and gradients of all forms are compared first.

`ours` is `Lattice` as the pipeline runs it: a 3 x 3 x 3 convolution with 20 of 27 weights 0, and
layers that can no longer reach the far face dropped. `unfold` is the form of CAX (Faldor and Cully
2024): every cell's neighbourhood is laid out, then a dense rule is applied to all cells at once,
all layers to the last step; `unfold_dropping` drops the same layers as ours. `loop` goes through
the cells one by one, each for all 64 surfaces at once; `loop_alone` takes each surface alone, as a
rule written for one cell does: it is timed on one surface and counted 64 times, since surfaces
know nothing of one another.

`wide` is a training step as the pipeline makes it (two encodings, two decodings, lattice,
gradients, AdamW) at the source's width: hierarchical adapter from 4,096 numbers to 225 and back,
64 pairs. It runs in a process of its own, whose peak memory is the system's figure.
"""

from __future__ import annotations

import gc
import resource
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import harness
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from mneme.core.config import build
from mneme.core.seeds import torch_generator
from mneme.lattice.automaton import SLOTS, Lattice
from mneme.lattice.config import ArmConfig, CellConfig, RecipeConfig
from mneme.lattice.fit import Course
from mneme.lattice.network import Material, build_retriever

CONFIG = Path(__file__).parents[1] / "config" / "config.yaml"
BATCH, STEPS, ROUNDS, WIDE_ROUNDS = 64, 20, 3, 5
WIDTH, WIDE_PARAMETERS = 4096, 45_918_613
RECIPE = "smollm2-135m"
TARGETS = [
    harness.Target(name="ours / loop over cells", ours="ours", against="loop", at_least=50.0),
    harness.Target(
        name="ours / loop over cells, surface by surface",
        ours="ours",
        against="loop_alone",
        at_least=50.0,
    ),
    harness.Target(name="ours / unfold", ours="ours", against="unfold", at_least=1.0),
    harness.Target(
        name="ours / unfold, layers dropped", ours="ours", against="unfold_dropping", at_least=1.0
    ),
]


def settings() -> dict[str, Any]:
    """Return the room's part of the default configuration."""
    return yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["lattice"]


def lattice(steps: int) -> Lattice:
    """Return a lattice with a full-sized random rule, and a gradient for every weight."""
    cell = settings()["recipes"][RECIPE]["cell"] | {"steps": steps}
    made = Lattice(
        build(CellConfig, cell, where="cell"), frozen=True, generator=torch_generator(0, "lattice")
    )
    made.requires_grad_(True)
    made.alpha.data.fill_(0.5)
    return made


def looped(made: Lattice, surface_BS: Tensor) -> Tensor:
    """Run the rule cell by cell."""
    depth, rows, columns = made.config.shape
    cell, silent = made.cell, surface_BS.new_zeros(len(surface_BS), made.config.channels)
    held = {
        (0, y, x): surface_BS[:, y * columns + x, None] * made.inject_C
        for y in range(rows)
        for x in range(columns)
    }
    places = [(z, y, x) for z in range(depth) for y in range(rows) for x in range(columns)]
    around = {
        place: [tuple(a + b for a, b in zip(place, slot, strict=True)) for slot in SLOTS]
        for place in places
    }
    state = {place: held.get(place, silent) for place in places}
    for _ in range(made.config.steps):
        new = dict(held)
        for place in places[rows * columns :]:
            seen = torch.cat([state.get(other, silent) for other in around[place]], dim=1)
            learned = cell.outward(F.gelu(cell.inward(seen)))
            new[place] = state[place] + cell.move(seen) + learned
        state = new
    far = torch.stack([state[place] for place in places[-rows * columns :]], dim=1)
    return shown(made, surface_BS, far)


def unfolded(made: Lattice, surface_BS: Tensor, *, dropping: bool) -> Tensor:
    """Run the rule on all cells at once, on their neighbourhoods laid out."""
    cell, rows = made.cell, made.config.shape[1]
    face_BYXC = surface_BS.unflatten(1, (rows, -1))[..., None] * made.inject_C
    state_BZYXC = F.pad(face_BYXC[:, None], (0, 0) * 3 + (0, made.config.shape[0] - 1))
    for step in range(made.config.steps):
        padded = F.pad(state_BZYXC, (0, 0, 1, 1, 1, 1, 1, 1))
        depth, *sides = state_BZYXC.shape[1:4]
        # slices, not Tensor.unfold: its gradient takes eight times as long
        parts = [
            padded[:, 1 + z : 1 + z + depth, 1 + y : 1 + y + sides[0], 1 + x : 1 + x + sides[1]]
            for z, y, x in SLOTS
        ]
        seen = torch.cat(parts, dim=-1)
        new_BZYXC = state_BZYXC + cell.move(seen) + cell.outward(F.gelu(cell.inward(seen)))
        if new_BZYXC.shape[1] == made.config.shape[0]:
            new_BZYXC = torch.cat([face_BYXC[:, None], new_BZYXC[:, 1:]], dim=1)
        state_BZYXC = new_BZYXC[:, step - made.config.steps :] if dropping else new_BZYXC
    return shown(made, surface_BS, state_BZYXC[:, -1].flatten(1, 2))


def shown(made: Lattice, surface_BS: Tensor, far_BSC: Tensor) -> Tensor:
    """Return what leaves a lattice whose far face ends as given."""
    return surface_BS + made.alpha * made.readout(F.gelu(far_BSC))[..., 0]


def learner(
    way: Callable[[Lattice, Tensor], Tensor], steps: int, surface_BS: Tensor, slope_BS: Tensor
) -> Callable[[], tuple[Tensor, ...]]:
    """Return a pass forward and back: output, gradients of the surface and of every weight."""
    made = lattice(steps)
    given = surface_BS.clone().requires_grad_()

    def learn() -> tuple[Tensor, ...]:
        out_BS = way(made, given)
        found = torch.autograd.grad(out_BS, [given, *made.parameters()], slope_BS)
        return out_BS.detach(), *found

    return learn


WAYS: dict[str, Callable[[Lattice, Tensor], Tensor]] = {
    "ours": lambda made, surface_BS: made(surface_BS),
    "unfold": lambda made, surface_BS: unfolded(made, surface_BS, dropping=False),
    "unfold_dropping": lambda made, surface_BS: unfolded(made, surface_BS, dropping=True),
    "loop": looped,
}


def compared(steps: int, surface_BS: Tensor, slope_BS: Tensor) -> dict[str, float]:
    """Check that all forms have the same output and the same gradients."""
    (out, *found), *others = (learner(way, steps, surface_BS, slope_BS)() for way in WAYS.values())
    facts = {}
    for name, (theirs, *gradients) in zip(list(WAYS)[1:], others, strict=True):
        facts[f"difference_{name}"] = harness.same(f"{name}, output", out, theirs, atol=1e-4)
        sizes = [g.abs().max() for g in found]
        mine, theirs = (
            torch.cat([(g / s).flatten() for g, s in zip(side, sizes, strict=True)])
            for side in (found, gradients)
        )
        facts[f"gradient_difference_{name}_over_largest"] = harness.same(
            f"{name}, gradients / largest", theirs, mine, atol=1e-3
        )
    return facts


def wide(threads: int, rounds: int) -> dict[str, Any]:
    """Time training steps of the hierarchical adapter at width 4096 with the lattice."""
    torch.set_num_threads(threads)
    imported = peak_mib()
    content = settings()
    recipe = content["recipes"][RECIPE]
    fit = {"batch": BATCH, "steps": 1000, "eval_every": 1000}
    recipe = build(RecipeConfig, recipe | {"fit": recipe["fit"] | fit}, where="recipe")
    arm = content["arms"]["lattice"] | {"start": "random"}
    arm = build(ArmConfig, arm, where="arm")
    questions, answers = (
        torch.randn(2 * BATCH, WIDTH, generator=torch_generator(0, name))
        for name in ("questions", "answers")
    )
    material = Material(
        questions_ND=questions,
        answers_ND=answers,
        train=torch.arange(BATCH),
        val=torch.arange(BATCH, 2 * BATCH),
    )
    network = build_retriever(material, arm, recipe, seed=0)
    course = Course(network, material, arm, recipe.fit, seed=0)
    seconds = [course.step(index)["seconds"] for index in range(1 + rounds)][1:]
    return {
        "seconds": statistics.median(seconds),
        "seconds_of_steps": seconds,
        "peak_memory_mib": peak_mib(),
        "peak_memory_mib_before": imported,
        "lattice_steps": recipe.cell.steps,
        "pairs": BATCH,
        **network.sizes(),
    }


def peak_mib() -> float:
    """Return the largest memory that the process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    options = harness.arguments(__doc__ or "")
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    # first: a child's peak begins with what its parent held
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(wide, options.threads, options.rounds or WIDE_ROUNDS).result()
    assert found["adapter_parameters"] == WIDE_PARAMETERS
    print(
        f"4096 <-> 225 with lattice, one step on {BATCH} pairs: {found['seconds']:.2f} s, "
        f"peak {found['peak_memory_mib']:.0f} MiB ({found['peak_memory_mib_before']:.0f} before)"
    )
    batch, steps = (8, 10) if options.quick else (BATCH, STEPS)
    surface_BS, slope_BS = (
        torch.randn(batch, 225, generator=torch_generator(0, name)) for name in ("in", "slope")
    )
    facts = {"batch": batch, "steps": steps, "channels": lattice(steps).config.channels}
    facts |= {"wide": found} | compared(steps, surface_BS[:2], slope_BS[:2])
    gc.collect()
    sides: dict[str, Callable[[], Any]] = {
        name: learner(way, steps, surface_BS, slope_BS) for name, way in WAYS.items()
    }
    sides["loop_alone"] = learner(looped, steps, surface_BS[:1], slope_BS[:1])
    times = harness.take_turns(sides, rounds=rounds, warmup=0)
    times["loop_alone"] = [(batch * wall, batch * cpu) for wall, cpu in times["loop_alone"]]
    harness.report("lattice", times=times, targets=TARGETS, facts=facts, quick=options.quick)


if __name__ == "__main__":
    main()
