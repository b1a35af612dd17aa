"""Readings of all teachers -> the blocks of `results/lattice.json`.

Metrics of a run `<teacher>_<arm>`, over the test questions (each searches all test answers):

======================== ======== ================================================================
name                     unit     meaning
======================== ======== ================================================================
recall@1, recall@5, mrr, fraction how well a question finds its answer; `chance_<metric>`: guessing
ndcg@10
<metric>_minus_<arm>     fraction paired by question and seed: `recall_minus_pca@1`
not_worse_than_pca@.03   fraction recall@1 less PCA's, plus the margin: an interval above 0 means
                                  not worse by more than the margin
alignment, uniformity_.. .        Wang and Isola's, of unit vectors, lower is better
effective_rank, ..       .        of questions and answers; `effective_rank_share`: of PCA's
collapsed                fraction seeds that the collapse gate flags, with its reason
eight_related, ..        cosine   of the eight questions of the source's kind with their answers;
                                  `eight_unrelated`: with those of the other seven; `eight_gap`:
                                  the first less the second; `eight_recall@1`: found among eight
reconstruction_..        .        r2, cosine, and cosine around the training mean, of embeddings
bytes_per_vector, ..     bytes    `compression`: the embedding's bytes over these; `codec_bytes`:
                                  encoder and decoder; `core_bytes`: what stands behind them
configurations_tried     .        compared before the teacher's recipe was fixed; shared by its arms
======================== ======== ================================================================

Teacher `planted` is the positive control. Questions are the same under every seed: seeds are
averaged per question, then questions are resampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from mneme.core.config import plain
from mneme.core.headline import run_block
from mneme.core.seeds import numpy_generator
from mneme.lattice.config import ArmConfig
from mneme.lattice.gather import Json, Measured
from mneme.lattice.measure import difference_rows, eight_rows, reading_rows
from mneme.lattice.paths import run_name
from mneme.lattice.retrieval import bytes_per_vector
from mneme.lattice.stages_measure import LatticeStageConfig
from mneme.stats.intervals import Resamples
from mneme.stats.rows import Row
from mneme.stats.tried import tried_row

REFERENCES = ("raw", "standardised", "pca", "pca_whitened", "projection")
"""Baselines that every trained arm is compared with."""
SQUEEZED_FROM = {
    "pca": ("raw",),
    "pca_standardised": ("raw", "standardised"),
    "pca_whitened": ("raw", "standardised"),
    "projection": ("raw",),
    "truncation": ("raw",),
}
"""Codec -> vectors that it is compared with: what it squeezes, and those as they are."""
Runs = Mapping[str, Mapping[str, Measured]]
"""Teacher -> baseline or arm -> what was measured."""


def lattice_runs(
    measured: Runs, facts: Mapping[str, Json], config: LatticeStageConfig
) -> dict[str, dict[str, Any]]:
    """Report every run of every teacher.

    Parameters
    ----------
    measured : mapping
        Teacher -> run -> readings.
    facts : mapping
        Teacher -> what `lattice_measure` or `lattice_planted` told: `embedding`, `training` by arm.
    config : LatticeStageConfig
        Arms and how they are compared.

    Returns
    -------
    dict
        `<teacher>_<run>` -> block: `rows`, `teacher`, `arm`, `kind`, `settings` (the arm's; None
        for baselines), `compared_with` (run names), `width`, `questions`, `seconds`; `states` where
        there is a lattice, `training` (a list, one a seed) where there was one, `embedding` at the
        raw vectors.
    """
    blocks: dict[str, dict[str, Any]] = {}
    for teacher, runs in measured.items():
        for name, run in runs.items():
            full = run_name(teacher, name)
            blocks[full] = _block(teacher, name, run, runs, facts[teacher], config)
    return blocks


def _block(
    teacher: str,
    name: str,
    run: Measured,
    runs: Mapping[str, Measured],
    facts: Json,
    config: LatticeStageConfig,
) -> dict[str, Any]:
    arms = config.arms[teacher]
    arm = arms.get(name)
    others = [other for other in compared_with(name, arms) if other in runs]
    further: dict[str, Any] = {}
    if run.states is not None:
        further["states"] = [[[float(f"{x:.4g}") for x in r] for r in s] for s in run.states]
    if name in facts["training"]:
        further["training"] = facts["training"][name]
    if name == "raw":
        further["embedding"] = facts["embedding"]
    questions = len(run.readings[0].scores["mrr"])
    rows = [*_rows(teacher, name, run, runs, others, config)]
    if arm is not None and teacher in config.tried:
        rows.append(tried_row(config.tried[teacher], control_of=rows[0].control_of))
    return run_block(
        rows,
        teacher=teacher,
        arm=name,
        kind=run.kind,
        settings=None if arm is None else plain(arm),
        compared_with=[run_name(teacher, other) for other in others],
        width=runs["raw"].numbers,
        questions=questions,
        seconds={
            "encode_a_vector": run.encode_s,
            "reason": None if run.encode_s is not None else f"{run.kind}: nothing is encoded",
        },
        **further,
    )


def compared_with(name: str, arms: Mapping[str, ArmConfig]) -> list[str]:
    """Return what an arm is compared with: baselines, its controls, and other cores than its own.

    An arm with a lattice is compared with the arms that differ from it only in what stands in the
    lattice's place or in its number of steps; and, where it trains as long as its recipe says, with
    the same adapter without a core that trains for another time: what more training gives as well
    takes no lattice. A codec is compared with the vectors that it squeezes: that is what the
    squeeze alone costs, without any training. Other baselines are compared with nothing:
    differences stand with the arms.
    """
    if name not in arms:
        return [*SQUEEZED_FROM.get(name, ())]
    controls = [other for other, arm in arms.items() if arm.control_of == name]
    cores = []
    if arms[name].core == "lattice":
        cores = [o for o, arm in arms.items() if o != name and _stands_in(arm, arms[name])]
    return [*REFERENCES, *dict.fromkeys([*cores, *controls])]


def _stands_in(other: ArmConfig, arm: ArmConfig) -> bool:
    """Whether an arm is `arm` but for its core, or but for core and time where it has none."""
    alike = _without_core(other) == _without_core(arm)
    longer = other.core == "off" and arm.steps is None
    return alike or (longer and _without_core(replace(other, steps=None)) == _without_core(arm))


def _without_core(arm: ArmConfig) -> ArmConfig:
    return replace(arm, core="off", lattice_steps=None, control_of=None)


def _rows(
    teacher: str,
    name: str,
    run: Measured,
    runs: Mapping[str, Measured],
    others: list[str],
    config: LatticeStageConfig,
) -> Iterator[Row]:
    arm = config.arms[teacher].get(name)
    control = None if arm is None else arm.control_of
    control_of = run_name(teacher, control) if control and control in runs else None
    generator = numpy_generator(0, "lattice", "intervals", teacher, name)
    resamples = Resamples(config.measure.resamples, generator)
    shared = {"seeds": run.seeds, "control_of": control_of, "resamples": resamples}
    yield from reading_rows(run.readings, **shared)
    yield from _sizes(run, runs["raw"], control_of)
    share = _mean_rank(run) / _mean_rank(runs["pca"]) if run.numbers else None
    if share is not None:
        yield Row(metric="effective_rank_share", value=share, unit="fraction of PCA's")
    for other in others:
        seeds = run.seeds if len(run.seeds) > 1 else runs[other].seeds
        paired = {**shared, "against": other, "seeds": seeds}
        rows = difference_rows(run.readings, runs[other].readings, **paired)
        yield from rows
        if other == "pca":
            yield _not_worse(rows, config.measure.margin)
    yield from eight_rows(run.readings, **shared)


def _sizes(run: Measured, raw: Measured, control_of: str | None) -> Iterator[Row]:
    """Tell what a vector takes to keep, and what takes it there and back, in float32."""
    if run.numbers is None or run.parameters is None:
        return
    assert raw.numbers is not None
    own, whole = (bytes_per_vector(count, "float32") for count in (run.numbers, raw.numbers))
    sizes = {
        "bytes_per_vector": own,
        "codec_bytes": bytes_per_vector(run.parameters, "float32"),
        "core_bytes": bytes_per_vector(run.core_parameters, "float32"),
    }
    for metric, value in sizes.items():
        yield Row(metric=metric, value=value, unit="bytes", control_of=control_of)
    yield Row(metric="compression", value=whole / own, unit="times", control_of=control_of)


def _mean_rank(run: Measured) -> float:
    ranks = [r.spread.effective_rank for r in run.readings if r.spread is not None]
    return sum(ranks) / len(ranks)


def _not_worse(rows: list[Row], margin: float) -> Row:
    """Shift the difference of recall@1 by the margin: not worse when its interval is above 0."""
    (row,) = (row for row in rows if row.metric == "recall_minus_pca@1" and row.seed is None)
    ends = {
        key: None if getattr(row, key) is None else getattr(row, key) + margin
        for key in ("value", "low", "high")
    }
    return replace(row, metric=f"not_worse_than_pca@{margin:g}", **ends)
