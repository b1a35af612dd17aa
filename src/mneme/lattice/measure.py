"""Vectors of a run -> tidy rows: retrieval with intervals over questions, geometry, reconstruction.

Trained arms and codecs are measured by the same functions. Seeds are crossed with questions: each
question is averaged over seeds, then questions are resampled. Every comparison is paired by
question.

Legend: S seeds, N questions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mneme.lattice.retrieval import (
    METRICS,
    Floats,
    Spread,
    VectorError,
    alignment,
    chance,
    reconstruction,
    retrieval,
    spread,
    uniformity,
)
from mneme.stats.intervals import crossed_mean
from mneme.stats.rows import Row


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one seed of a run says about the held-out pairs."""

    scores: dict[str, Floats]
    """`METRICS` -> (N,), one score a question."""
    values: dict[str, float]
    """Alignment, uniformity of both sides; reconstruction where there is a decoder."""
    spread: Spread | None
    """Effective rank, cosine of unrelated vectors, and the collapse gate's verdict; None for a
    search by words, which has no vectors."""


def read_vectors(
    questions_ND: ArrayLike,
    answers_ND: ArrayLike,
    *,
    original_MD: ArrayLike | None,
    made_MD: ArrayLike | None,
    mean_D: ArrayLike | None,
) -> Reading:
    """Measure a run's vectors of the held-out pairs.

    Parameters
    ----------
    questions_ND, answers_ND : array (N, D)
        What is compared.
    original_MD, made_MD, mean_D : array, optional
        Held-out embeddings, what the decoder makes of their surfaces, and the training mean; all
        three or none.

    Raises
    ------
    VectorError
        Vectors that cannot be measured.
    """
    given = [x is not None for x in (original_MD, made_MD, mean_D)]
    assert all(given) or not any(given), given
    values = {
        "alignment": alignment(questions_ND, answers_ND),
        "uniformity_questions": uniformity(questions_ND),
        "uniformity_answers": uniformity(answers_ND),
    }
    if original_MD is not None and made_MD is not None and mean_D is not None:
        quality = reconstruction(original_MD, made_MD, mean_D)
        values |= {f"reconstruction_{name}": value for name, value in quality.items()}
    return Reading(
        scores=retrieval(questions_ND, answers_ND),
        values=values,
        spread=spread(questions_ND, answers_ND),
    )


def reading_rows(
    readings: Sequence[Reading],
    *,
    seeds: tuple[int | None, ...],
    control_of: str | None,
    resamples: int,
    generator: np.random.Generator,
) -> list[Row]:
    """Return the rows of one run.

    Parameters
    ----------
    readings : sequence of Reading
        One a seed, of the same questions.
    seeds : tuple
        The seeds; (None,) for a codec that has none.
    control_of : str, optional
        Run that this one is a control of.
    resamples : int
        Bootstrap resamples.
    generator : numpy.random.Generator
        Source of the resamples.

    Returns
    -------
    list of Row
        Retrieval with interval and with the score of guessing as `chance_<metric>`; geometry and
        reconstruction as the mean over seeds and, where there are several, one row a seed;
        `collapsed`, the share of seeds that the gate flags, with the reason.
    """
    count = _same_questions(readings)
    rows: list[Row] = []
    for metric in METRICS:
        values_SN = np.stack([reading.scores[metric] for reading in readings])
        crossed = crossed_mean(values_SN, resamples=resamples, generator=generator)
        found = crossed.rows(
            metric, unit="fraction", seeds=tuple(s or 0 for s in seeds), control_of=control_of
        )
        rows += found if len(seeds) > 1 else found[:1]
    for metric, value in chance(count).items():
        rows.append(Row(metric=f"chance_{metric}", value=value, n=count, unit="fraction"))
    table = {name: [r.values[name] for r in readings] for name in readings[0].values}
    spreads = [r.spread for r in readings if r.spread is not None]
    if spreads:
        table["effective_rank"] = [found.effective_rank for found in spreads]
        table["negative_cosine"] = [found.negative_cosine for found in spreads]
    for metric, values in table.items():
        shared = {"metric": metric, "n": count, "control_of": control_of}
        rows.append(Row(value=float(np.mean(values)), **shared))
        if len(seeds) > 1:
            pairs = zip(seeds, values, strict=True)
            rows += [Row(value=value, seed=seed, **shared) for seed, value in pairs]
    return [*rows, _verdict(spreads, count, control_of)] if spreads else rows


def difference_rows(
    readings: Sequence[Reading],
    others: Sequence[Reading],
    *,
    against: str,
    resamples: int,
    generator: np.random.Generator,
) -> list[Row]:
    """Return the paired differences of one run from another, metric by metric.

    Parameters
    ----------
    readings, others : sequence of Reading
        Both of the same questions; one side may have a single reading (a codec without seeds),
        which then stands against every seed of the other.
    against : str
        Name of the other run; metrics are `<metric>_minus_<against>`, the setting last:
        `recall_minus_pca@1`.

    Raises
    ------
    VectorError
        The two were measured on different numbers of questions or seeds.
    """
    count = _same_questions([*readings, *others])
    if 1 not in (len(readings), len(others)) and len(readings) != len(others):
        raise VectorError(
            f"{len(readings)} seeds cannot be paired with {len(others)} of {against}: measure both "
            "runs with the same seeds"
        )
    rows = []
    for metric in METRICS:
        one, other = (np.stack([r.scores[metric] for r in side]) for side in (readings, others))
        interval = crossed_mean(one - other, resamples=resamples, generator=generator).interval
        rows.append(
            Row(
                metric=difference_name(metric, against),
                value=interval.value,
                low=interval.low,
                high=interval.high,
                n=count,
                unit="fraction",
                reason=interval.reason,
            )
        )
    return rows


def difference_name(metric: str, against: str) -> str:
    """Return the name of a difference.

    Examples
    --------
    >>> difference_name("recall@1", "pca")
    'recall_minus_pca@1'
    """
    name, at, setting = metric.partition("@")
    return f"{name}_minus_{against}{at}{setting}"


def _verdict(spreads: Sequence[Spread], count: int, control_of: str | None) -> Row:
    reasons = [found.reason for found in spreads if found.collapsed]
    share = len(reasons) / len(spreads)
    reason = f"COLLAPSED: {reasons[0]}" if reasons else None
    unit = "fraction of seeds"
    return Row(
        metric="collapsed", value=share, n=count, unit=unit, control_of=control_of, reason=reason
    )


def _same_questions(readings: Sequence[Reading]) -> int:
    counts = {len(reading.scores["mrr"]) for reading in readings}
    if len(counts) != 1:
        raise VectorError(
            f"runs were measured on different numbers of questions ({sorted(counts)}): measure all "
            "of them on the same held-out pairs"
        )
    return counts.pop()
