"""What needs no training by gradient, measured on the test pairs like every trained arm.

Codecs are fitted on training vectors only, whitening is chosen on validation pairs; BM25 counts
words over the answers it searches, as a search engine does.

Legend: N pairs, M vectors, D width of the embedding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mneme.core.seeds import numpy_generator
from mneme.lattice.baselines import (
    LinearCodec,
    bm25_scores,
    feature_scale,
    fit_pca,
    fit_scaled_pca,
    random_projection,
    tfidf_scores,
    truncation,
)
from mneme.lattice.config import BASELINES
from mneme.lattice.gather import Measured
from mneme.lattice.measure import Reading, read_vectors
from mneme.lattice.own_pairs import EIGHT
from mneme.lattice.retrieval import Floats, retrieval, score_retrieval
from mneme.lattice.stages_measure import ReadConfig

Texts = Mapping[str, Sequence[Sequence[str]]]
"""Split -> [group, question, answer] of each pair."""
WHITENINGS = (0.5, 1.0)
"""Powers that `pca_whitened` tries; the one with the highest validation MRR is taken."""


def baseline_runs(
    vectors: Mapping[str, NDArray],
    texts: Texts | None,
    read: ReadConfig,
    *,
    surface: int,
    seeds: tuple[int, ...],
) -> dict[str, Measured]:
    """Measure every one of `BASELINES`.

    Parameters
    ----------
    vectors : mapping
        `<split>_questions`, `<split>_answers` (N, D) for train, val, test and, where there are
        such pairs, `EIGHT`.
    texts : mapping, optional
        Texts of the same pairs; None where they have none, and then no search by words.
    read : ReadConfig
        Constants of BM25, repetitions of the timing.
    surface : int
        Numbers that codecs keep.
    seeds : tuple of int
        Seeds of the random projections.

    Returns
    -------
    dict
        Baseline -> what was measured.

    Raises
    ------
    VectorError
        Vectors that cannot be measured, too few or too narrow for a codec.
    """
    train_MD = _train(vectors)
    sides = _sides(vectors)
    mean_D, scale_D = train_MD.mean(0), feature_scale(train_MD)
    scaled = [(side - mean_D) / scale_D for side in sides]
    width = train_MD.shape[1]
    drawn = [
        random_projection(width, surface, generator=numpy_generator(seed, "lattice", "projection"))
        for seed in seeds
    ]
    fitted = fitted_codecs(vectors, surface=surface)
    measured = {
        "raw": _plain(sides),
        "standardised": _plain(scaled),
        "projection": _codec(drawn, sides, mean_D, seeds=seeds, read=read),
        **{n: _codec([c], sides, mean_D, seeds=(None,), read=read) for n, c in fitted.items()},
        **({} if texts is None else _words(texts, read)),
    }
    return {name: measured[name] for name in BASELINES if name in measured}


def fitted_codecs(vectors: Mapping[str, NDArray], *, surface: int) -> dict[str, LinearCodec]:
    """Fit every codec without looking at the test pairs: training vectors, and val to choose one.

    Parameters
    ----------
    vectors : mapping
        `train_questions`, `train_answers`, `val_questions`, `val_answers` (N, D).
    surface : int
        Numbers that codecs keep.

    Raises
    ------
    VectorError
        Too few vectors, or too narrow ones.
    """
    train_MD = _train(vectors)
    return {
        "pca": fit_pca(train_MD, surface),
        "pca_standardised": fit_scaled_pca(train_MD, surface, whitening=0.0),
        "pca_whitened": _whitened(train_MD, vectors, surface),
        "truncation": truncation(train_MD.shape[1], surface),
    }


def _train(vectors: Mapping[str, NDArray]) -> Floats:
    """Return questions, then answers of the training pairs."""
    return np.concatenate([vectors["train_questions"], vectors["train_answers"]]).astype(float)


def _sides(vectors: Mapping[str, NDArray]) -> list[Floats]:
    """Return questions and answers of the test pairs, then of the eight if there are any."""
    names = [f"{split}_{side}" for split in ("test", EIGHT) for side in ("questions", "answers")]
    return [vectors[name].astype(float) for name in names if name in vectors]


def _eight(sides: Sequence[Floats]) -> tuple[Floats, Floats] | None:
    return (sides[2], sides[3]) if len(sides) > 2 else None


def _whitened(train_MD: Floats, vectors: Mapping[str, NDArray], surface: int) -> LinearCodec:
    """Return the codec whose whitening finds the most validation answers."""
    asked, right = (vectors[f"val_{side}"].astype(float) for side in ("questions", "answers"))
    codecs = [fit_scaled_pca(train_MD, surface, whitening=power) for power in WHITENINGS]
    found = [retrieval(c.encode(asked), c.encode(right))["mrr"].mean() for c in codecs]
    return codecs[int(np.argmax(found))]


def _plain(sides: Sequence[Floats]) -> Measured:
    none = {"original_MD": None, "made_MD": None, "mean_D": None}
    reading = read_vectors(sides[0], sides[1], **none, eight=_eight(sides))
    return Measured(
        kind="raw",
        seeds=(None,),
        readings=(reading,),
        numbers=sides[0].shape[1],
        parameters=0,
        core_parameters=0,
        encode_s=None,
    )


def _codec(
    codecs: Sequence[LinearCodec],
    sides: Sequence[Floats],
    mean_D: Floats,
    *,
    seeds: tuple[int | None, ...],
    read: ReadConfig,
) -> Measured:
    both = np.concatenate(sides[:2])
    readings = []
    for codec in codecs:
        kept = [codec.encode(side) for side in sides]
        reading = read_vectors(
            kept[0],
            kept[1],
            original_MD=both,
            made_MD=codec.decode(codec.encode(both)),
            mean_D=mean_D,
            eight=_eight(kept),
        )
        readings.append(reading)
    few = sides[0][: read.shown]
    return Measured(
        kind="codec",
        seeds=seeds,
        readings=tuple(readings),
        numbers=codecs[0].encode_DS.shape[1],
        parameters=codecs[0].parameters,
        core_parameters=0,
        encode_s=fastest(lambda: codecs[0].encode(few), times=read.timings) / len(few),
    )


def fastest(action: Callable[[], object], *, times: int) -> float:
    """Return the least seconds that an action takes."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return min(taken)


def _words(texts: Texts, read: ReadConfig) -> dict[str, Measured]:
    """Search by the words that question and answer share."""
    questions, answers = ([pair[place] for pair in texts["test"]] for place in (1, 2))
    train = [text for pair in texts["train"] for text in pair[1:]]
    found = {
        "tfidf": tfidf_scores(questions, answers, train=train),
        "bm25": bm25_scores(questions, answers, saturation=read.saturation, length=read.length),
    }
    return {
        name: Measured(
            kind="words",
            seeds=(None,),
            readings=(Reading(scores=score_retrieval(scores), values={}, spread=None),),
            numbers=None,
            parameters=None,
            core_parameters=0,
            encode_s=None,
        )
        for name, scores in found.items()
    }
