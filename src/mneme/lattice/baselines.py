"""What needs no training by gradient: PCA, random projection, truncation, word counts.

Whatever is fitted is fitted on training vectors or texts only.

Legend: N training vectors, M vectors, D width, S numbers kept, Q questions, A answers, W words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mneme.lattice.retrieval import Floats, VectorError, checked, narrow, unit

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class LinearCodec:
    """A linear map to fewer numbers and back."""

    mean_D: Floats
    """What is taken off before and added after."""
    encode_DS: Floats
    """Map to the numbers kept."""
    decode_SD: Floats
    """Map back."""

    def encode(self, vectors_MD: ArrayLike) -> Floats:
        """Return the numbers kept (M, S); `VectorError` for another width."""
        vectors = checked("vectors", vectors_MD)
        if vectors.shape[1] != len(self.mean_D):
            raise VectorError(
                f"vectors of {vectors.shape[1]} numbers do not fit a codec for {len(self.mean_D)}: "
                "fit one on this teacher's vectors"
            )
        return (vectors - self.mean_D) @ self.encode_DS

    def decode(self, kept_MS: ArrayLike) -> Floats:
        """Return vectors (M, D)."""
        return np.asarray(kept_MS, np.float64) @ self.decode_SD + self.mean_D

    @property
    def parameters(self) -> int:
        """Return the numbers that encoding and decoding need."""
        return self.mean_D.size + self.encode_DS.size + self.decode_SD.size


def fit_pca(train_ND: ArrayLike, size: int) -> LinearCodec:
    """Fit the first `size` principal components.

    Parameters
    ----------
    train_ND : array (N, D)
        Training vectors; more than `size`, or the last components would be arbitrary.
    size : int
        Components S, at most D.

    Raises
    ------
    VectorError
        Too few vectors, or fewer numbers than components.
    """
    train = checked("training vectors", train_ND)
    if len(train) <= size:
        raise VectorError(
            f"PCA with {size} components needs more than {size} training vectors, got "
            f"{len(train)}: add pairs or lower the surface"
        )
    narrow(train.shape[1], size, "PCA")
    mean_D = train.mean(0)
    basis_DS = np.linalg.svd(train - mean_D, full_matrices=False)[2][:size].T
    return LinearCodec(mean_D=mean_D, encode_DS=basis_DS, decode_SD=basis_DS.T)


def fit_scaled_pca(train_ND: ArrayLike, size: int, *, whitening: float) -> LinearCodec:
    """Fit principal components of standardised features, each component scaled down.

    Parameters
    ----------
    train_ND, size
        As for `fit_pca`.
    whitening : float
        Power of its standard deviation that each component is divided by: 0 leaves it, 1 makes all
        components equally large.
    """
    train = checked("training vectors", train_ND)
    scale_D = feature_scale(train)
    plain = fit_pca(train / scale_D, size)
    spread_S = np.maximum(plain.encode(train / scale_D).std(0), 1e-12) ** whitening
    return LinearCodec(
        mean_D=train.mean(0),
        encode_DS=plain.encode_DS / scale_D[:, None] / spread_S,
        decode_SD=plain.decode_SD * scale_D * spread_S[:, None],
    )


def feature_scale(train_ND: Floats) -> Floats:
    """Return the standard deviation of each feature (D,), 1 where it is constant."""
    scale_D = train_ND.std(0)
    return np.where(scale_D > 1e-6 * scale_D.max(), scale_D, 1.0)


def random_projection(width: int, size: int, *, generator: np.random.Generator) -> LinearCodec:
    """Draw a Gaussian random projection that keeps squared lengths on average.

    Decoding is by the pseudo-inverse: the shortest vector with that projection.

    References
    ----------
    Johnson and Lindenstrauss 1984.
    """
    narrow(width, size, "a random projection")
    encode_DS = generator.normal(size=(width, size)) / np.sqrt(size)
    return LinearCodec(
        mean_D=np.zeros(width), encode_DS=encode_DS, decode_SD=np.linalg.pinv(encode_DS)
    )


def truncation(width: int, size: int) -> LinearCodec:
    """Return the codec that keeps the first `size` numbers; the others come back as 0."""
    narrow(width, size, "truncation")
    basis_DS = np.eye(width, size)
    return LinearCodec(mean_D=np.zeros(width), encode_DS=basis_DS, decode_SD=basis_DS.T)


def words(text: str) -> list[str]:
    """Return the words of a text, lower case; names_like_this are split at underscores.

    Examples
    --------
    >>> words("def get_version(self): What's new?")
    ['def', 'get', 'version', 'self', 'what', 's', 'new']
    """
    return _WORD.findall(text.lower().replace("_", " "))


def tfidf_scores(
    questions: Sequence[str], answers: Sequence[str], *, train: Sequence[str]
) -> Floats:
    """Return cosines of TF-IDF vectors (Q, A).

    Parameters
    ----------
    questions, answers : sequence of str
        Texts.
    train : sequence of str
        Training texts, from which document frequencies come: idf = 1 + ln((1 + n) / (1 + df)).
    """
    place = _vocabulary([*questions, *answers])
    seen = (_counts(train, place) > 0).sum(0)
    idf_W = 1 + np.log((1 + len(train)) / (1 + seen))
    first, second = (_counts(texts, place) * idf_W for texts in (questions, answers))
    return unit("questions", first) @ unit("answers", second).T


def bm25_scores(
    questions: Sequence[str], answers: Sequence[str], *, saturation: float, length: float
) -> Floats:
    """Return Okapi BM25 scores (Q, A) of answers as the collection that is searched.

    Parameters
    ----------
    questions, answers : sequence of str
        Texts.
    saturation : float
        k1, above 0: how soon further occurrences of a word stop to count.
    length : float
        b, 0..1: how much long answers are marked down.

    References
    ----------
    Robertson and Zaragoza 2009, The probabilistic relevance framework, section 3.4; idf with 1
    added inside the logarithm, which keeps it above 0.
    """
    place = _vocabulary([*questions, *answers])
    asked_QW, held_AW = _counts(questions, place), _counts(answers, place)
    size_A1 = held_AW.sum(1, keepdims=True)
    relative = 1 - length + length * size_A1 / max(size_A1.mean(), 1)
    seen_W = (held_AW > 0).sum(0)
    idf_W = np.log(1 + (len(answers) - seen_W + 0.5) / (seen_W + 0.5))
    weight_AW = idf_W * held_AW * (saturation + 1) / (held_AW + saturation * relative)
    return asked_QW @ weight_AW.T


def _vocabulary(texts: Sequence[str]) -> dict[str, int]:
    return {word: i for i, word in enumerate(sorted({w for text in texts for w in words(text)}))}


def _counts(texts: Sequence[str], place: dict[str, int]) -> NDArray[np.float64]:
    """Count the words of `place` in each text (M, W)."""
    table = np.zeros((len(texts), max(len(place), 1)))
    for row, text in zip(table, texts, strict=True):
        for word, count in Counter(words(text)).items():
            if word in place:
                row[place[word]] = count
    return table
