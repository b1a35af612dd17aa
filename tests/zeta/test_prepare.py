"""Series and windows: what trains never tests, surrogates are capped, places are right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from zeta_runs import run_of, series_of

from mneme.zeta.material import reading_material, training_material
from mneme.zeta.prepare import prepare_series
from mneme.zeta.reading_config import PrepareConfig
from mneme.zeta.windows import placed, split_of

WINDOW = 16
ZEROS = series_of(6000)["heights"]
CONFIG = PrepareConfig(surrogate_size=2560, seed=0)


@pytest.fixture(scope="module")
def series():
    return series_of(100 * WINDOW + 5)


def smooth(heights):
    x = np.asarray(heights, np.longdouble) / (2 * np.longdouble(math.pi))
    return x * (np.log(x) - 1)


def test_the_zeros_are_taken_whole():
    found = prepare_series("zeta", ZEROS, CONFIG)
    np.testing.assert_array_equal(found["heights"], ZEROS)
    np.testing.assert_allclose(found["spacings"], np.diff(smooth(ZEROS)).astype(float), rtol=1e-9)


@pytest.mark.parametrize("system", ["gue", "shuffled", "scrambled"])
@pytest.mark.parametrize(("size", "made"), [(2560, 2560), (9999, 6000)])
def test_surrogates_are_as_long_as_asked_but_no_longer_than_the_zeros(system, size, made):
    config = PrepareConfig(surrogate_size=size, seed=0)
    found = prepare_series(system, ZEROS, config)
    assert found["spacings"].shape == (made,)
    assert found["heights"].shape == (made + 1,)
    assert found["heights"][0] == ZEROS[0]
    unfolded = np.diff(smooth(found["heights"])).astype(float)
    np.testing.assert_allclose(unfolded, found["spacings"], rtol=1e-6)
    ours = np.diff(smooth(ZEROS))[:made].astype(float)
    assert not np.allclose(found["spacings"], ours, atol=1e-3)
    permuted = np.allclose(np.sort(found["spacings"]), np.sort(ours), atol=1e-6)
    assert permuted == (system != "gue")


def test_the_seed_decides_a_surrogate():
    one, again = (prepare_series("shuffled", ZEROS, CONFIG)["spacings"] for _ in range(2))
    other = prepare_series("shuffled", ZEROS, PrepareConfig(surrogate_size=2560, seed=1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other["spacings"])


def test_training_holds_no_test_window(series):
    run = run_of("none")
    material, split = training_material(series, run, WINDOW), split_of(series, run, WINDOW)
    assert (len(split.train), split.val.tolist()) == (80, list(range(80, 90)))
    assert split.test.tolist() == list(range(90, 100))
    assert len(material.spacings_WT) == 90
    later = {name: values.copy() for name, values in series.items()}
    later["spacings"][90 * WINDOW :], later["heights"][90 * WINDOW + 1 :] = 7.0, 1e9
    again = training_material(later, run, WINDOW)
    for name in ("spacings_WT", "level_WT", "train", "val"):
        assert getattr(material, name).equal(getattr(again, name))


@pytest.mark.parametrize("split", ["height", "source", "interpolation"])
@pytest.mark.parametrize("make", [training_material, reading_material])
def test_windows_stand_at_their_own_place(series, split, make):
    run = run_of("none", split=split, share=0.25)
    material, told = make(series, run, WINDOW), split_of(series, run, WINDOW)
    assert material.train.tolist() == told.train.tolist()
    assert material.val.tolist() == told.val.tolist()
    assert not set(told.test) & set(told.train)
    for window in (*told.train, *told.val):
        for i in (0, WINDOW - 1):
            place = window * WINDOW + i
            assert material.spacings_WT[window, i] == np.float32(series["spacings"][place])
            level = round(math.log(series["heights"][place] / (2 * math.pi)), 3)
            assert material.level_WT[window, i].item() == pytest.approx(level, abs=1e-6)
    whole = len(material.spacings_WT) == 100
    assert whole or make is training_material
    assert {str(material.spacings_WT.dtype), str(material.level_WT.dtype)} == {"torch.float32"}


def test_shifted_windows_begin_inside_the_others(series):
    run, shift = run_of("none"), 6
    material = reading_material(series, run, WINDOW, shift=shift)
    # 100 windows and 5 spacings more, less 6: the last window is gone
    assert len(material.spacings_WT) == 99
    place = 98 * WINDOW + shift + 3
    assert material.spacings_WT[98, 3] == np.float32(series["spacings"][place])
    level = round(math.log(series["heights"][place] / (2 * math.pi)), 3)
    assert material.level_WT[98, 3].item() == pytest.approx(level, abs=1e-6)
    assert material.val.tolist() == list(range(80, 90))


def test_a_share_thins_what_trains_and_nothing_else(series):
    whole, part = (split_of(series, run_of("none", share=share), WINDOW) for share in (1.0, 0.1))
    assert len(part.train) == 8
    assert set(part.train) < set(whole.train)
    np.testing.assert_array_equal(part.val, whole.val)
    np.testing.assert_array_equal(part.test, whole.test)


def test_tests_are_placed_at_the_height_where_they_begin(series):
    split = split_of(series, run_of("none"), WINDOW)
    found = placed(series, split, WINDOW)
    assert found["windows_W"].tolist() == list(range(90, 100))
    heights = [series["heights"][window * WINDOW] for window in range(90, 100)]
    assert found["heights_W"].tolist() == heights


def test_too_few_zeros_say_what_to_do():
    with pytest.raises(ValueError, match=r"9 windows of 16: ask for more zeros \(zeta.zeros.count"):
        split_of(series_of(159), run_of("none"), WINDOW)
