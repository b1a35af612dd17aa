"""What a representation is worth: does a question find its answer, and are the vectors spread out?

All of it is NumPy on finished vectors, the same for a teacher, a codec and a trained network. Every
retrieval score is that of each question, so that intervals resample questions. Ties count as the
mean over their orders: a network that says the same of everything scores exactly chance.

Legend: N questions (question n's right answer is answer n), D width, M vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
METRICS = ("recall@1", "recall@5", "mrr", "ndcg@10")
"""Scores of `retrieval`, all 0..1, larger is better."""
LEAST_RANK = 2.5
"""Effective rank below which vectors count as collapsed."""
LARGEST_COSINE = 0.9995
"""Mean cosine of unrelated vectors above which they count as collapsed. Means over the middle
layers of a language model lie in a cone of cosine .999 and effective rank 9 (5 projected) by
themselves; what positives alone leave of a network has rank 1.0 to 1.9."""
TIE_DECIMALS = 9
"""Decimals to which cosines are compared. What is finer is rounding of float32 vectors, and that
depends on a row's place in its batch: vectors that are all one would find their partners by it."""
_TINY = 1e-30


class VectorError(ValueError):
    """Vectors that cannot be measured: which, why, what to do."""


def retrieval(questions_ND: ArrayLike, answers_ND: ArrayLike) -> dict[str, Floats]:
    """Score each question's search for its answer among all answers, by cosine.

    Parameters
    ----------
    questions_ND, answers_ND : array (N, D)
        Vectors; row n of one belongs to row n of the other. N at least 2.

    Returns
    -------
    dict
        `METRICS` -> (N,) float64, 0..1.

    Raises
    ------
    VectorError
        NaN or infinite values, other shapes, or fewer than two pairs.
    """
    return score_retrieval(np.round(cosines(questions_ND, answers_ND), TIE_DECIMALS))


def score_retrieval(scores_NN: ArrayLike) -> dict[str, Floats]:
    """Score a search from its similarities: row n's right answer is column n.

    Returns
    -------
    dict
        `METRICS` -> (N,) float64. With g better answers and e equal ones (the right one included)
        every rank from g + 1 to g + e is as likely; scores are means over them.

    References
    ----------
    Järvelin and Kekäläinen 2002 (nDCG): with one right answer at rank r it is 1 / log2(1 + r).
    """
    scores_NN = checked("similarities", scores_NN)
    if scores_NN.shape[0] != scores_NN.shape[1] or len(scores_NN) < 2:
        raise VectorError(
            f"a search needs as many answers as questions and at least 2, got {scores_NN.shape}"
        )
    own_N1 = np.diagonal(scores_NN)[:, None]
    above_N = (scores_NN > own_N1).sum(1)
    equal_N = (scores_NN == own_N1).sum(1)
    rank = np.arange(1, len(scores_NN) + 1)
    gains = {
        "recall@1": rank <= 1,
        "recall@5": rank <= 5,
        "mrr": 1 / rank,
        "ndcg@10": np.where(rank <= 10, 1 / np.log2(1 + rank), 0.0),
    }
    found = {}
    for name, gain in gains.items():
        total = np.concatenate([[0.0], np.cumsum(gain, dtype=np.float64)])
        tied = (total[above_N + equal_N] - total[above_N]) / equal_N
        # without ties the gain itself, which a difference of sums would round
        found[name] = np.where(equal_N == 1, np.asarray(gain, np.float64)[above_N], tied)
    return found


def chance(count: int) -> dict[str, float]:
    """Return what guessing among `count` answers scores on average, by metric."""
    return {
        name: float(values[0]) for name, values in score_retrieval(np.ones((count,) * 2)).items()
    }


def cosines(first_ND: ArrayLike, second_MD: ArrayLike) -> Floats:
    """Return the cosine of every vector with every other (N, M); that of a zero vector is 0."""
    first, second = unit("questions", first_ND), unit("answers", second_MD)
    if first.shape[1] != second.shape[1]:
        raise VectorError(
            f"questions have {first.shape[1]} numbers a vector and answers {second.shape[1]}: "
            "compare vectors of one network"
        )
    return first @ second.T


def unit(what: str, vectors_MD: ArrayLike) -> Floats:
    """Return vectors of length 1 (a zero vector stays one), checked."""
    vectors_MD = checked(what, vectors_MD)
    return vectors_MD / np.maximum(np.linalg.norm(vectors_MD, axis=1, keepdims=True), _TINY)


def alignment(first_ND: ArrayLike, second_ND: ArrayLike) -> float:
    """Return the mean squared distance of the unit vectors of a pair, 0 (best) to 4.

    References
    ----------
    Wang and Isola 2020, equation 2 with exponent 2.
    """
    first, second = _paired(first_ND, second_ND)
    return float(np.square(unit("questions", first) - unit("answers", second)).sum(1).mean())


def uniformity(vectors_MD: ArrayLike) -> float:
    """Return the log of the mean of exp(-2 d^2) over pairs of unit vectors, 0 (all one) downwards.

    References
    ----------
    Wang and Isola 2020, equation 3 with t = 2.
    """
    vectors = unit("vectors", vectors_MD)
    if len(vectors) < 2:
        raise VectorError("uniformity needs at least two vectors")
    squared = np.maximum(2 - 2 * vectors @ vectors.T, 0)
    apart = squared[np.triu_indices(len(vectors), 1)]
    return float(np.log(np.exp(-2 * apart).mean()))


def effective_rank(vectors_MD: ArrayLike) -> float:
    """Return exp(entropy of the singular values' shares) of the unit vectors, from 1 to min(M, D).

    The mean is not taken out: vectors that share one direction have effective rank 1 although what
    little tells them apart may fill the space.

    References
    ----------
    Roy and Vetterli 2007, The effective rank.
    """
    values = np.linalg.svd(unit("vectors", vectors_MD), compute_uv=False)
    share = values / max(values.sum(), _TINY)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def negative_cosine(first_ND: ArrayLike, second_ND: ArrayLike) -> float:
    """Return the mean cosine of a vector with those that are not its partner, -1 to 1."""
    first, second = _paired(first_ND, second_ND)
    if len(first) < 2:
        raise VectorError("the cosine with others needs at least two pairs")
    table = cosines(first, second)
    return float((table.sum() - np.trace(table)) / (len(table) * (len(table) - 1)))


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How far vectors are spread out, and whether they have collapsed."""

    effective_rank: float
    """Of questions and answers together."""
    negative_cosine: float
    """Mean cosine of a question with other questions' answers."""
    collapsed: bool
    """Whether either says so."""
    reason: str | None
    """Which one, in words; None when not collapsed."""


def spread(questions_ND: ArrayLike, answers_ND: ArrayLike) -> Spread:
    """Put vectors through the collapse gate.

    Parameters
    ----------
    questions_ND, answers_ND : array (N, D)
        Paired vectors of a network, N at least 2.

    Returns
    -------
    Spread
        Collapsed when the effective rank of all 2 N vectors is below `LEAST_RANK`, or the mean
        cosine of unrelated ones above `LARGEST_COSINE`.
    """
    questions, answers = _paired(questions_ND, answers_ND)
    rank = effective_rank(np.concatenate([questions, answers]))
    cosine = negative_cosine(questions, answers)
    reasons = []
    if rank < LEAST_RANK:
        reasons.append(f"effective rank {rank:.2f} is below {LEAST_RANK:g}")
    if cosine > LARGEST_COSINE:
        reasons.append(f"unrelated vectors have cosine {cosine:.4f}, above {LARGEST_COSINE:g}")
    return Spread(
        effective_rank=rank,
        negative_cosine=cosine,
        collapsed=bool(reasons),
        reason=" and ".join(reasons) or None,
    )


def reconstruction(
    vectors_MD: ArrayLike, made_MD: ArrayLike, mean_D: ArrayLike
) -> dict[str, float]:
    """Compare vectors with their reconstructions.

    Parameters
    ----------
    vectors_MD, made_MD : array (M, D)
        Held-out vectors and what a codec makes of them.
    mean_D : array (D,)
        Mean of the training vectors: what a codec that knows nothing would answer.

    Returns
    -------
    dict
        `r2`: share of the squared distance from `mean_D` that is explained, 1 at best, below 0 when
        worse than the mean. `cosine`: mean cosine of a vector with its reconstruction; `centred`:
        the same after `mean_D` is taken from both.
    """
    vectors, made = _paired(vectors_MD, made_MD)
    mean = np.asarray(mean_D, np.float64)
    total = np.square(vectors - mean).sum()
    if total <= 0:
        raise VectorError("all vectors equal the training mean: there is nothing to reconstruct")
    return {
        "r2": float(1 - np.square(vectors - made).sum() / total),
        "cosine": _mean_cosine(vectors, made),
        "centred": _mean_cosine(vectors - mean, made - mean),
    }


def bytes_per_vector(size: int, dtype: str) -> int:
    """Return the bytes that a vector of `size` numbers of type `dtype` takes.

    Examples
    --------
    >>> bytes_per_vector(4096, "float32") / bytes_per_vector(225, "float32")
    18.204444444444444
    """
    return size * np.dtype(dtype).itemsize


def checked(what: str, vectors: ArrayLike) -> Floats:
    """Return a float64 table; raises `VectorError` unless it is one, filled with finite numbers."""
    table = np.asarray(vectors, np.float64)
    if table.ndim != 2 or 0 in table.shape:
        raise VectorError(f"{what} must be a table with one vector a row, got shape {table.shape}")
    bad = ~np.isfinite(table).all(1)
    if bad.any():
        raise VectorError(
            f"{what}: {int(bad.sum())} of {len(table)} rows hold NaN or infinity (first: row "
            f"{int(np.argmax(bad))}): make the embeddings again, in float32"
        )
    return table


def narrow(width: int, size: int, what: str) -> None:
    """Raise `VectorError` unless vectors of `width` numbers can be squeezed to `size`."""
    if not 1 <= size <= width:
        raise VectorError(
            f"{what} to {size} numbers needs vectors of at least as many, these have {width}: "
            "choose another teacher or a smaller surface"
        )


def _paired(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    one, other = checked("vectors", first), checked("their partners", second)
    if one.shape != other.shape:
        raise VectorError(f"vectors must be paired, got shapes {one.shape} and {other.shape}")
    return one, other


def _mean_cosine(first_MD: Floats, second_MD: Floats) -> float:
    return float((unit("vectors", first_MD) * unit("partners", second_MD)).sum(1).mean())
