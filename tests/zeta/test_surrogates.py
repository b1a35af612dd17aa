"""Surrogates: what each keeps of the zeros, what each has lost, and where they lie."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import eigvalsh

from mneme.zeta import surrogates, unfold

START = 1000.0


def autocorrelation(s: np.ndarray, lag: int) -> float:
    return float(np.corrcoef(s[lag:], s[:-lag])[0, 1])


@pytest.fixture(scope="module")
def gue() -> np.ndarray:
    return surrogates.gue_spacings(10 * surrogates.KEPT, generator=np.random.default_rng(3))


@pytest.fixture(scope="module")
def stand_in() -> tuple[np.ndarray, np.ndarray]:
    """A series with a line in its spectrum and a skewed law, in place of the zeros."""
    noise = np.random.default_rng(0).gamma(6.0, 1 / 6, 10_000)
    spacings = 0.5 * noise + 0.5 + 0.2 * np.cos(2 * np.pi * 0.11 * np.arange(10_000))
    return spacings, unfold.heights_of(START, spacings)


def test_gue_moments(gue):
    blocks = gue.reshape(10, -1)  # independent matrices give the standard errors
    for values, exact in (
        (blocks.mean(axis=1), 1.0),
        (blocks.var(axis=1), 0.17999),
        ([autocorrelation(block, 1) for block in blocks], -0.30837),
        ([autocorrelation(block, 2) for block in blocks], -0.07720),
    ):
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        assert error < 0.008
        assert abs(np.mean(values) - exact) < 4 * error


def test_gue_tridiagonal_matrices_have_the_full_matrices_law(monkeypatch):
    monkeypatch.setattr(surrogates, "ORDER", 30)
    monkeypatch.setattr(surrogates, "KEPT", 20)
    generator = np.random.default_rng(5)
    ours = np.concatenate([surrogates._bulk(generator) for _ in range(400)])
    theirs = []
    for _ in range(400):
        z = generator.standard_normal((2, 30, 30))
        full = (z[0] + 1j * z[1]) / np.sqrt(2)
        x = eigvalsh((full + full.conj().T) / np.sqrt(2))[4:25] / (2 * np.sqrt(30))
        theirs.append(np.diff(30 / np.pi * (x * np.sqrt(1 - x**2) + np.arcsin(x))))
    theirs = np.concatenate(theirs)
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    np.testing.assert_allclose(
        np.quantile(ours, levels), np.quantile(theirs, levels), atol=0.03, rtol=0
    )


def test_no_window_of_256_spans_two_matrices():
    assert surrogates.KEPT % 256 == 0
    assert surrogates.BLOCK % 256 == 0
    one = surrogates.gue_spacings(surrogates.KEPT, generator=np.random.default_rng(7))
    two = surrogates.gue_spacings(surrogates.KEPT + 100, generator=np.random.default_rng(7))
    np.testing.assert_array_equal(two[: surrogates.KEPT], one)


def test_shuffled_keeps_the_law_and_no_order(stand_in):
    spacings, heights = stand_in
    made, _ = surrogates.surrogate(
        "shuffled", spacings, heights, size=8192, generator=np.random.default_rng(1)
    )
    np.testing.assert_array_equal(np.sort(made), np.sort(spacings[:8192]))
    assert abs(autocorrelation(spacings, 1)) > 0.2
    assert abs(autocorrelation(made, 1)) < 4 / np.sqrt(8192)


def test_scrambled_keeps_law_and_spectrum_of_every_block(stand_in):
    spacings, heights = stand_in
    made, _ = surrogates.surrogate(
        "scrambled", spacings, heights, size=9000, generator=np.random.default_rng(1)
    )
    for start in range(0, 9000, surrogates.BLOCK):
        block = slice(start, min(start + surrogates.BLOCK, 9000))
        np.testing.assert_array_equal(np.sort(made[block]), np.sort(spacings[block]))
        for lag in (1, 2, 5, 9):
            kept = autocorrelation(made[block], lag), autocorrelation(spacings[block], lag)
            assert abs(kept[0] - kept[1]) < 0.01
        assert abs(np.corrcoef(made[block], spacings[block])[0, 1]) < 0.9


def test_scrambled_loses_what_only_phases_carry():
    generator = np.random.default_rng(2)
    noise = generator.gamma(2.0, 0.5, 4096) + 0.1
    tied = noise.copy()
    tied[2::3] = (noise[::3][: len(tied[2::3])] - 1) * (noise[1::3] - 1) / 3 + 1.5
    made = surrogates.scrambled_spacings(tied, generator=generator)

    def bispectrum(s):
        x = s - s.mean()
        return np.mean(x[:-2] * x[1:-1] * x[2:]) / x.std() ** 3

    assert abs(bispectrum(tied)) > 0.1
    assert abs(bispectrum(made)) < 0.5 * abs(bispectrum(tied))


@pytest.mark.parametrize("system", ["gue", "shuffled", "scrambled"])
def test_surrogates_start_where_the_zeros_start(system, stand_in):
    spacings, heights = stand_in
    made, placed = surrogates.surrogate(
        system, spacings, heights, size=512, generator=np.random.default_rng(1)
    )
    again, _ = surrogates.surrogate(
        system, spacings, heights, size=512, generator=np.random.default_rng(1)
    )
    assert placed[0] == START
    assert made.shape == (512,)
    np.testing.assert_array_equal(made, again)
    np.testing.assert_allclose(unfold.spacings_of(placed), made, atol=1e-9)
    u = unfold.unfold(START) + np.cumsum(made)
    np.testing.assert_allclose(unfold.unfold(placed[1:]), u, atol=1e-9)


def test_mistakes_are_named(stand_in):
    spacings, heights = stand_in
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"shuffled: size must be 1\.\.10000"):
        surrogates.surrogate("shuffled", spacings, heights, size=10_001, generator=generator)
    with pytest.raises(ValueError, match="system must be one of"):
        surrogates.surrogate("primes", spacings, heights, size=10, generator=generator)
