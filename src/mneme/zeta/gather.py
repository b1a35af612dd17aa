"""Files of readings -> measured runs, as `mdn` and `statistics` take them.

Legend: W windows, S seeds or samples, H horizon, T targets of a window.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.core.seeds import numpy_generator
from mneme.zeta.config import PHASE_ARMS, SLOT_ARMS, RunConfig
from mneme.zeta.joints import after_joint
from mneme.zeta.mdn import BAYES
from mneme.zeta.partners import partners
from mneme.zeta.references import Reference, ReferenceConfig, kde_reference, reference_readings
from mneme.zeta.scores import MdnConfig, MeasuredRun, Scores, score
from mneme.zeta.sine_process import bayes_nll
from mneme.zeta.windows import Split

Arrays = Mapping[str, NDArray]
Floats = NDArray[np.float64]
_WINDOW = "past spacings in the window, at most 255"
INFORMATION = {
    **dict.fromkeys(("none", *SLOT_ARMS), _WINDOW),
    "carry_reset": "past spacings in the window, at most 255, and the coarse height "
    "log(t / 2 pi) rounded to 1e-3",
    "carry": "past spacings, all from the first zero on as a fading learnt state, and the coarse "
    "height log(t / 2 pi) rounded to 1e-3",
    "primes": "differences of heights of past zeros, faded with age (they fix the phases p^(-it)), "
    "known arithmetic (primes, explicit formula, main sum), and the coarse height log(t / 2 pi) "
    "rounded to 1e-3, refined by the past zeros",
    "primes_window": "differences of heights of past zeros in the window, at most 255, known "
    "arithmetic (primes, explicit formula, main sum), and the coarse height log(t / 2 pi) "
    "rounded to 1e-3",
    "primes_transformer": "past spacings in the window, at most 255, and at each of them what "
    "`primes` reads: differences of heights of past zeros, faded with age, known arithmetic, and "
    "the coarse height log(t / 2 pi) rounded to 1e-3, refined by the past zeros",
    "oracle": "the height t itself: the next zero is then determined and nothing is remembered",
}
"""Arm -> what its likelihood may use."""
BEYOND_ARMS = ("carry", "primes", "oracle")
"""Arms whose memory reaches beyond the window: no target of theirs has a short context."""
LEAST_SPACING = 1e-3
"""Rollouts keep to it, mean spacings: a Gaussian tail may reach below 0, zeros do not."""
KDE = {"zeta": "kde"}
"""System -> its memoryless reference; others are named `kde_<system>`."""


def kde_name(system: str) -> str:
    """Return the name of a system's memoryless reference."""
    return KDE.get(system, f"kde_{system}")


def references_of(
    system: str,
    spacings: Floats,
    split: Split,
    config: ReferenceConfig,
    *,
    window: int,
) -> dict[str, Reference]:
    """Fit and read the references of one system: all of them on the zeros, few on a surrogate.

    Returns
    -------
    dict
        Run name -> Reference. `gue` has the Bayes predictor of the sine process on the same
        windows, which takes the noise of the windows out of every comparison with the floor.
    """
    generator = numpy_generator(0, "references", system)
    if system == "zeta":
        return reference_readings(spacings, split, config, window=window, generator=generator)
    found = {kde_name(system): kde_reference(spacings, split, config, window, generator)}
    if system == "gue":
        windows_WN = spacings[: len(spacings) // window * window].reshape(-1, window)[split.test]
        nll_WT = bayes_nll(windows_WN, context=config.bayes_context).astype(np.float32)
        found[BAYES] = Reference(
            {"spacings_WN": windows_WN.astype(np.float32), "nll_WT": nll_WT},
            f"the last {config.bayes_context} spacings in the window; the process itself is known",
            {"context": config.bayes_context},
        )
    return found


def flatten(references: Mapping[str, Reference]) -> dict[str, NDArray]:
    """Return the readings of all references under `<name>/<array>`."""
    return {
        f"{name}/{key}": values
        for name, reference in references.items()
        for key, values in reference.reading.items()
    }


def measured_references(
    arrays: Arrays, facts: Mapping[str, Any], config: MdnConfig, *, system: str
) -> dict[str, MeasuredRun]:
    """Return the references of one system as runs.

    Parameters
    ----------
    arrays : mapping
        What `flatten` made, with `windows_W` and `heights_W`.
    facts : mapping
        Reference -> `{information, chosen}`.
    """
    runs = {}
    for name, fact in facts.items():
        readings = {
            key.partition("/")[2]: a for key, a in arrays.items() if key.startswith(f"{name}/")
        }
        runs[name] = MeasuredRun(
            scores=(_score(readings, arrays["windows_W"], config, system=system),),
            seeds=None,
            system=system,
            windows=arrays["windows_W"],
            heights_W=arrays["heights_W"],
            information=fact["information"],
            beyond=False,
            control_of=None,
            against=(),
            further={"chosen": fact["chosen"]},
        )
    return runs


def measured_run(
    name: str,
    runs: Mapping[str, RunConfig],
    readings: Iterable[Arrays],
    histories: Iterable[Mapping[str, Any]],
    config: MdnConfig,
    *,
    seeds: tuple[int, ...],
    references: Mapping[str, MeasuredRun],
) -> MeasuredRun:
    """Reduce the readings of one run, seed by seed, and say what it is compared with."""
    scores: list[Scores] = []
    windows: NDArray[np.int64] = np.zeros(0, np.int64)
    heights: Floats = np.zeros(0)
    run = runs[name]
    for arrays in readings:
        windows, heights = arrays["windows_W"], arrays["heights_W"]
        kept = {k: a for k, a in arrays.items() if k not in ("windows_W", "heights_W")}
        scores.append(_score(kept, windows, config, system=run.system))
    told = list(histories)
    return MeasuredRun(
        scores=tuple(scores),
        seeds=seeds,
        system=run.system,
        windows=windows,
        heights_W=heights,
        information=_information(run),
        beyond=run.arm in BEYOND_ARMS,
        control_of=run.control_of,
        against=_against(name, runs, windows, references),
        further={"history": [_kept(history) for history in told]},
    )


def _score(
    readings: Arrays, windows: NDArray[np.int64], config: MdnConfig, *, system: str
) -> Scores:
    """Reduce readings; long contexts are not read where they would reach across a joint."""
    joined_W = after_joint(system, windows, readings["spacings_WN"].shape[1])
    return score(readings, config, joined_W=joined_W)


def _information(run: RunConfig) -> str:
    """Return what a run's likelihood may use; `distance` reads the coarse height besides."""
    told = INFORMATION[run.arm]
    beside = run.position == "distance" and run.arm in ("none", *SLOT_ARMS)
    return f"{told}, and the coarse height log(t / 2 pi) rounded to 1e-3" if beside else told


def _kept(history: Mapping[str, Any]) -> dict[str, Any]:
    frame = ("code", "provenance", "name")
    return {key: value for key, value in history.items() if key not in frame}


def _against(
    name: str,
    runs: Mapping[str, RunConfig],
    windows: NDArray,
    references: Mapping[str, MeasuredRun],
) -> tuple[str, ...]:
    """Return what a run is set against: its partners, and references, same windows."""
    run = runs[name]
    same = [
        other
        for other, reference in references.items()
        if reference.system == run.system and np.array_equal(reference.windows, windows)
    ]
    told = [other for other in same if other.startswith(("kde", "bayes")) or "walk" in other]
    against = [*partners(name, runs), *told]
    base = run.control_of
    if base is not None and base in runs and base not in against and run.arm not in PHASE_ARMS:
        comparable = (runs[base].system, runs[base].split) == (run.system, run.split)
        against += [base] if comparable else []
    return tuple(against)


def sampled_sequences(readings: Iterable[Arrays]) -> tuple[Floats, NDArray[np.int64], float]:
    """Return sampled rollouts of all seeds as sequences, for statistics.

    Returns
    -------
    sequences_SH : array (S, H)
        Spacings, at least `LEAST_SPACING`.
    units_S : int array (S,)
        Window that each continues: its samples depend on one another.
    raised : float
        Share of spacings that a Gaussian tail had put below and that were raised to it, 0..1.
    """
    parts, units = [], []
    for arrays in readings:
        sampled_SWH = arrays["sampled_SWH"].astype(float)
        parts.append(sampled_SWH.reshape(-1, sampled_SWH.shape[-1]))
        units.append(np.tile(arrays["windows_W"], len(sampled_SWH)))
    sequences_SH = np.concatenate(parts)
    raised = float((sequences_SH < LEAST_SPACING).mean())
    return np.maximum(sequences_SH, LEAST_SPACING), np.concatenate(units), raised
