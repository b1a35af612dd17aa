"""Vectors of a run -> tidy rows: retrieval with intervals over questions, geometry, reconstruction.

Trained arms and codecs are measured by the same functions. Seeds are crossed with questions: each
question is averaged over seeds, then questions are resampled. Every comparison is paired by
question.

Legend: S seeds, N questions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from mneme.lattice.retrieval import (
    METRICS,
    Floats,
    Spread,
    VectorError,
    alignment,
    chance,
    cosines,
    reconstruction,
    retrieval,
    spread,
    uniformity,
)
from mneme.stats.intervals import Resamples, crossed_under
from mneme.stats.rows import Row

EIGHT_METRICS = ("eight_related", "eight_unrelated", "eight_gap", "eight_recall@1")
"""Readings of the eight pairs, one a question: cosine with its own answer, mean cosine with those
of the others, the first less the second, and whether its answer is found among the eight."""
Pairs = tuple[ArrayLike, ArrayLike]


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
    eight: dict[str, Floats] = field(default_factory=dict)
    """`EIGHT_METRICS` -> (8,); empty where there are no such pairs."""


def read_vectors(
    questions_ND: ArrayLike,
    answers_ND: ArrayLike,
    *,
    original_MD: ArrayLike | None,
    made_MD: ArrayLike | None,
    mean_D: ArrayLike | None,
    eight: Pairs | None = None,
) -> Reading:
    """Measure a run's vectors of the held-out pairs.

    Parameters
    ----------
    questions_ND, answers_ND : array (N, D)
        What is compared.
    original_MD, made_MD, mean_D : array, optional
        Held-out embeddings, what the decoder makes of their surfaces, and the training mean; all
        three or none.
    eight : pair of arrays, optional
        Vectors of the eight pairs: questions, answers.

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
        eight={} if eight is None else read_eight(*eight),
    )


def read_eight(questions_ND: ArrayLike, answers_ND: ArrayLike) -> dict[str, Floats]:
    """Return what is said of a few pairs by similarity, `EIGHT_METRICS` -> (N,), N at least 2.

    What the source reports of its pairs is the first. It says something only beside the second: a
    network that makes one vector of everything has 1 for both.
    """
    table_NN = cosines(questions_ND, answers_ND)
    related_N = np.diag(table_NN)
    unrelated_N = (table_NN.sum(1) - related_N) / (len(table_NN) - 1)
    found_N = retrieval(questions_ND, answers_ND)["recall@1"]
    values = (related_N, unrelated_N, related_N - unrelated_N, found_N)
    return dict(zip(EIGHT_METRICS, values, strict=True))


def reading_rows(
    readings: Sequence[Reading],
    *,
    seeds: tuple[int | None, ...],
    control_of: str | None,
    resamples: Resamples,
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
    resamples : Resamples
        Of the questions; runs and rows that share them are resampled alike.

    Returns
    -------
    list of Row
        Retrieval with interval and with the score of guessing as `chance_<metric>`; geometry and
        reconstruction as the mean over seeds and, where there are several, one row a seed;
        `collapsed`, the share of seeds that the gate flags, with the reason.
    """
    count = _same_questions(readings)
    shared = {"seeds": seeds, "control_of": control_of, "resamples": resamples}
    rows: list[Row] = []
    for metric in METRICS:
        values = [reading.scores[metric] for reading in readings]
        rows += _crossed(metric, values, unit="fraction", **shared)
    for metric, value in chance(count).items():
        rows.append(Row(metric=f"chance_{metric}", value=value, n=count, unit="fraction"))
    table = {name: [r.values[name] for r in readings] for name in readings[0].values}
    spreads = [r.spread for r in readings if r.spread is not None]
    if spreads:
        table["effective_rank"] = [found.effective_rank for found in spreads]
        table["negative_cosine"] = [found.negative_cosine for found in spreads]
    for metric, values in table.items():
        named = {"metric": metric, "n": count, "control_of": control_of}
        rows.append(Row(value=float(np.mean(values)), **named))
        if len(seeds) > 1:
            pairs = zip(seeds, values, strict=True)
            rows += [Row(value=value, seed=seed, **named) for seed, value in pairs]
    return [*rows, _verdict(spreads, count, control_of)] if spreads else rows


def eight_rows(
    readings: Sequence[Reading],
    *,
    seeds: tuple[int | None, ...],
    control_of: str | None,
    resamples: Resamples,
) -> list[Row]:
    """Return the rows of `EIGHT_METRICS` with intervals over the eight questions.

    Parameters
    ----------
    readings, seeds, control_of, resamples
        As for `reading_rows`.

    Returns
    -------
    list of Row
        None where those pairs were not read.
    """
    rows: list[Row] = []
    for metric in readings[0].eight:
        rows += _crossed(
            metric,
            [reading.eight[metric] for reading in readings],
            unit="fraction" if metric == "eight_recall@1" else "cosine",
            seeds=seeds,
            control_of=control_of,
            resamples=resamples,
        )
    return rows


def _crossed(
    metric: str,
    values: Sequence[Floats],
    *,
    unit: str,
    seeds: tuple[int | None, ...],
    control_of: str | None,
    resamples: Resamples,
) -> list[Row]:
    """Return the row over all seeds and, where there are several, one a seed."""
    crossed = crossed_under(np.stack(values), resamples)
    known = tuple(seed or 0 for seed in seeds)
    rows = crossed.rows(metric, unit=unit, seeds=known, control_of=control_of)
    return rows if len(seeds) > 1 else rows[:1]


def difference_rows(
    readings: Sequence[Reading],
    others: Sequence[Reading],
    *,
    against: str,
    seeds: tuple[int | None, ...],
    control_of: str | None,
    resamples: Resamples,
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
    seeds : tuple
        Seeds of the side that has several; (None,) where neither has.
    control_of, resamples
        As for `reading_rows`.

    Returns
    -------
    list of Row
        The difference with its interval over questions and, where there are several seeds, one row
        a seed: the interval says nothing of another training, their spread does.

    Raises
    ------
    VectorError
        The two were measured on different numbers of questions or seeds.
    """
    _same_questions([*readings, *others])
    if 1 not in (len(readings), len(others)) and len(readings) != len(others):
        raise VectorError(
            f"{len(readings)} seeds cannot be paired with {len(others)} of {against}: measure both "
            "runs with the same seeds"
        )
    rows: list[Row] = []
    for metric in METRICS:
        one, other = (np.stack([r.scores[metric] for r in side]) for side in (readings, others))
        rows += _crossed(
            difference_name(metric, against),
            list(one - other),
            unit="fraction",
            seeds=seeds,
            control_of=control_of,
            resamples=resamples,
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
