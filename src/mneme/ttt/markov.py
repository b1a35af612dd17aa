"""Documents of random Markov chains, and what the best possible reader would lose on them.

Each row of a document's transition matrix is drawn anew from a symmetric Dirichlet prior. With
that prior the Bayes learner is a count with pseudo-counts, so the achievable loss is known for
any memory. Suffixes: N documents, T predicted positions, V symbols.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def draw_documents(
    documents: int,
    tokens: int,
    *,
    symbols: int,
    concentration: float,
    generator: np.random.Generator,
) -> tuple[Ints, Floats]:
    """Draw documents, each of a chain of its own.

    Parameters
    ----------
    documents, tokens : int
        Documents N and predicted tokens T of each; a document has T + 1 symbols.
    symbols : int
        Symbols V.
    concentration : float
        Of the Dirichlet prior of each row, above 0: small values make few likely successors.
    generator : numpy Generator
        Source of chance.

    Returns
    -------
    ids : ndarray, shape (N, T + 1), int64
        Symbols 0 to V - 1; the first is uniform.
    matrices : ndarray, shape (N, V, V), float64
        Rows are distributions of the next symbol.
    """
    matrices_NVV = generator.dirichlet(np.full(symbols, concentration), (documents, symbols))
    below_NVV = np.cumsum(matrices_NVV, axis=2)
    below_NVV /= below_NVV[:, :, -1:]  # the last is 1 exactly, above every draw
    draws_NT = generator.random((documents, tokens))
    ids = np.empty((documents, tokens + 1), np.int64)
    ids[:, 0] = generator.integers(symbols, size=documents)
    rows = np.arange(documents)
    for t in range(tokens):
        ids[:, t + 1] = np.sum(below_NVV[rows, ids[:, t]] <= draws_NT[:, t, None], axis=1)
    return ids, matrices_NVV


def ideal_nll(ids: ArrayLike, *, symbols: int, concentration: float, memory: int | None) -> Floats:
    """Return the loss of the Bayes learner that knows the prior, not the matrix.

    After the symbol a it expects b with probability (n_ab + c) / (n_a + V c): n_ab counts the
    transitions a to b that it remembers, n_a all remembered ones from a, c is the concentration.

    Parameters
    ----------
    ids : array, shape (..., T + 1)
        Symbols 0 to V - 1.
    symbols : int
        Symbols V.
    concentration : float
        Of the prior, above 0.
    memory : int or None
        How many tokens back it sees from the token it reads (so as many transitions); None: all.
        The receptive field of a sliding-window network is its equal in reach.

    Returns
    -------
    ndarray, shape (..., T), float64
        Nats; position t predicts symbol t + 1 from symbols max(0, t - memory) to t.

    References
    ----------
    Posterior predictive of the Dirichlet-multinomial: Gelman et al. 2013, Bayesian Data
    Analysis, section 3.4.
    """
    tokens = np.asarray(ids, np.int64)
    assert tokens.size == 0 or (tokens.min() >= 0 and tokens.max() < symbols)
    flat_NT = tokens.reshape(-1, tokens.shape[-1])
    rows = np.arange(len(flat_NT))[:, None]
    source_NT = rows * symbols + flat_NT[:, :-1]
    pair_NT = source_NT * symbols + flat_NT[:, 1:]
    seen_pair_NT = _seen_before(pair_NT, memory)
    seen_source_NT = _seen_before(source_NT, memory)
    nll_NT = np.log(seen_source_NT + symbols * concentration)
    nll_NT -= np.log(seen_pair_NT + concentration)
    return nll_NT.reshape(*tokens.shape[:-1], -1)


def _seen_before(key_NT: Ints, memory: int | None) -> Ints:
    """Count, for each position t, the equal keys at positions t - memory to t - 1.

    Keys of different rows must differ. Sorted by (key, position), the count is a difference of
    two ranks.
    """
    length = key_NT.shape[1]
    at_T = np.arange(length)
    first_T = np.zeros_like(at_T) if memory is None else np.maximum(at_T - memory, 0)
    ordered = np.sort((key_NT * length + at_T).ravel())
    last = np.searchsorted(ordered, (key_NT * length + at_T).ravel())
    first = np.searchsorted(ordered, (key_NT * length + first_T).ravel())
    return (last - first).reshape(key_NT.shape)


def known_nll(ids: ArrayLike, matrices: ArrayLike) -> Floats:
    """Return the loss, in nats, of a reader who knows each document's transition matrix.

    Parameters
    ----------
    ids : array, shape (N, T + 1)
        Symbols.
    matrices : array, shape (N, V, V)
        The documents' own matrices.

    Returns
    -------
    ndarray, shape (N, T), float64
        Its mean tends to the entropy rate.
    """
    tokens, chances = np.asarray(ids, np.int64), np.asarray(matrices, np.float64)
    return -np.log(chances[np.arange(len(tokens))[:, None], tokens[:, :-1], tokens[:, 1:]])


def entropy_rate(matrices: ArrayLike) -> Floats:
    """Return the entropy rate of chains, nats a symbol: the least loss that anyone can reach.

    Parameters
    ----------
    matrices : array, shape (..., V, V)
        Irreducible transition matrices.

    Returns
    -------
    ndarray, shape (...), float64
        Between 0 and ln V.

    References
    ----------
    Cover & Thomas 2006, Elements of Information Theory, theorem 4.2.4.
    """
    chances = np.asarray(matrices, np.float64)
    logs = np.log(chances, where=chances > 0, out=np.zeros_like(chances))
    return -np.einsum("...i,...ij,...ij->...", stationary(chances), chances, logs)


def stationary(matrices: ArrayLike) -> Floats:
    """Return the stationary distribution of irreducible chains, shape (..., V).

    Elimination without subtractions, so that nearly separate parts of a chain do no harm.

    References
    ----------
    Grassmann, Taksar & Heyman 1985, Operations Research 33(5), 1107-1116.
    """
    work = np.array(matrices, np.float64)
    symbols = work.shape[-1]
    for k in range(symbols - 1, 0, -1):
        out = work[..., k, :k].sum(axis=-1)
        work[..., :k, k] /= out[..., None]
        work[..., :k, :k] += work[..., :k, k, None] * work[..., k, None, :k]
    shares = np.ones(work.shape[:-1])
    for k in range(1, symbols):
        shares[..., k] = np.einsum("...i,...i->...", shares[..., :k], work[..., :k, k])
    return shares / shares.sum(axis=-1, keepdims=True)
