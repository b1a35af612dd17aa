"""Prime memory inside one window: phases, nothing outside, nothing later, nothing absolute."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad

from mneme.core.config import ConfigError, build
from mneme.zeta.prime_rows import FIRST
from mneme.zeta.prime_sum import MainSum
from mneme.zeta.prime_window import (
    WindowMemoryConfig,
    WindowRowConfig,
    readers,
    taper_at,
    taper_transform,
    window_data,
    window_phases,
    window_rows,
)
from mneme.zeta.primes import primes_up_to
from mneme.zeta.unfold import level_of, spacings_of
from mneme.zeta.zeros import zeros

CONFIG = build(
    WindowRowConfig,
    {
        "window_memory": {
            "limit": 45,
            "taper": 0.1,
            "shortest": 2.0,
            "longest": 240.0,
            "lengths": 16,
            "noise": 1e-4,
        },
        "sum": {"integers": 46, "cut": 3.0, "anchors": 8},
        "lags": 6,
        "sizes": 5,
    },
    where="primes_window",
)
MEMORY = CONFIG.window_memory


@pytest.fixture(scope="module")
def series():
    heights = zeros(4000, 6700, threads=1, log=lambda _: None).heights
    return heights, spacings_of(heights), level_of(heights)


@pytest.fixture(scope="module")
def tables():
    return readers(MEMORY)


@pytest.fixture(scope="module")
def data(series):
    return window_data(*series, np.arange(10), CONFIG, window=256)


@pytest.mark.parametrize("frequency", [0.0, 0.3, -2.0, np.pi / (0.1 * 50.0)])
def test_transform_of_the_taper(frequency):
    def part(wave):
        value, _ = quad(
            lambda x: taper_at(x / 50.0, MEMORY) * wave(frequency * x), 0, 50, limit=400
        )
        return value

    found = taper_transform(np.array([frequency]), 50.0, MEMORY)[0]
    assert found.real == pytest.approx(part(np.cos), abs=1e-6)
    assert found.imag == pytest.approx(-part(np.sin), abs=1e-6)


def test_a_long_window_tells_the_phases_and_a_short_one_guesses_0(series, tables):
    heights, _, levels = series
    errors, sizes = [], []
    for w in range(10):
        span = slice(256 * w, 256 * w + 256)
        phases_PT = window_phases(heights[span], levels[span][0], tables, MEMORY)
        truth_PT = np.exp(-1j * np.log(primes_up_to(45))[:, None] * heights[span][1:])
        errors.append(np.abs(phases_PT - truth_PT) ** 2)
        sizes.append(np.abs(phases_PT))
    error_PT, size_PT = np.mean(errors, axis=0), np.mean(sizes, axis=0)
    assert error_PT[:, -20:].max() < 0.05  # up to 43, half of what 256 zeros could resolve
    assert error_PT[0, 60] < 0.01
    assert error_PT[-1, 60] > 0.2
    assert size_PT[-1, 20] < 0.5 < 0.9 < size_PT[-1, -1]
    # a shrunken guess is better than none and than a full-sized one
    assert (error_PT.mean(0)[40:] < 1).all()


def test_more_context_is_better(data):
    error_WT = np.abs(data.rows_WTF[..., FIRST] - data.truth_WT)
    means = [np.median(error_WT[:, part]) for part in np.array_split(np.arange(255), 4)]
    assert means[0] > 2 * means[1] > 4 * means[3]
    assert means[3] < 0.01


def test_rows_are_of_the_window_alone(series, data):
    heights, _, levels = series
    row, span = 3, slice(3 * 256, 4 * 256)
    main_sum = MainSum(primes_up_to(MEMORY.limit), CONFIG.sum)
    alone = window_rows(heights[span], levels[span], main_sum, readers(MEMORY), CONFIG)
    np.testing.assert_array_equal(alone, data.rows_WTF[row])
    assert alone.shape == (255, CONFIG.columns)


def test_nothing_later_is_used(series, tables, data):
    heights, _, levels = series
    main_sum = MainSum(primes_up_to(MEMORY.limit), CONFIG.sum)
    for k in (3, 50, 200):
        later, span = heights[:256].copy(), levels[:256].copy()
        later[k + 1 :] += 0.7
        span[k + 1 :] += 0.01
        found = window_rows(later, span, main_sum, tables, CONFIG)
        np.testing.assert_allclose(found[:k], data.rows_WTF[0, :k], rtol=1e-3, atol=1e-4)
        assert np.abs(found[k + 1 :] - data.rows_WTF[0, k + 1 :]).max() > 0.01


def test_shifting_all_heights_at_fixed_level_changes_no_bit(series):
    heights, spacings, levels = series
    coarse = np.round(heights * 2**20) / 2**20
    here, there = (
        window_data(h, spacings, levels, np.array([1, 4]), CONFIG, window=256).rows_WTF
        for h in (coarse, coarse + 54_321)
    )
    np.testing.assert_array_equal(here, there)


def test_columns(series, data):
    heights, spacings, levels = series
    rows = data.rows_WTF[2]
    start = 6 + CONFIG.sum.anchors
    lags = np.diff(heights) * levels[:-1] / (2 * np.pi)
    np.testing.assert_allclose(rows[99, start : start + 6], lags[611:605:-1], rtol=1e-5)
    assert (rows[2, start + 3 : start + 6] == 1).all()  # three spacings are known
    np.testing.assert_allclose(rows[:, start + 7], np.log(np.arange(1, 256)), rtol=1e-5)
    np.testing.assert_array_equal(data.truth_WT[2], spacings[513:768].astype(np.float32))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("limit", 1),
        ("taper", 0.0),
        ("taper", 0.6),
        ("shortest", 300.0),
        ("lengths", 1),
        ("noise", 0.0),
    ],
)
def test_mistakes_name_the_key(key, value):
    with pytest.raises(ConfigError, match=f"{key} must be"):
        replace(MEMORY, **{key: value})
    assert isinstance(MEMORY, WindowMemoryConfig)


@pytest.mark.parametrize(("key", "value"), [("lags", 0), ("sizes", -1)])
def test_row_mistakes_name_the_key(key, value):
    with pytest.raises(ConfigError, match=f"{key} must be"):
        replace(CONFIG, **{key: value})
